"""Meaning of the pixels and the label of a stored patch."""

CLASS_NAMES = ("non_malignant", "malignant")  # of labels 0 and 1
WHITE = 65535.0  # the brightest grey level; networks get patches divided by it
