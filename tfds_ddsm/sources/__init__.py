"""One module for each public form of the data, with its parsers."""
