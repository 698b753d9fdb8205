"""Whole films: reading, infilling, writing derived DICOM images."""
