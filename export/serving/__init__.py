"""What is around a SavedModel: its number, its card, files for servers, ways to reach a server."""
