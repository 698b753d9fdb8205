"""Contents of a SavedModel: the generator's graph, input checks, PNG decoding and encoding."""
