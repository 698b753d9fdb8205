"""Whole films: read, infilled, written as derived DICOM images."""
