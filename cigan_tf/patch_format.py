"""What the pixels and the label of a stored patch stand for."""

CLASS_NAMES = ("non_malignant", "malignant")  # of labels 0 and 1
WHITE = 65535.0  # the brightest grey level; a patch is divided by it before it meets a network
