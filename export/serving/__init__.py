"""Files next to a SavedModel (version, model card, server files), and the client's protocols."""
