"""One module for each public form of the data, and its parsers."""
