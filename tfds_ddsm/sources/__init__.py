"""One module for each distribution of the data, and its parsers."""
