"""ciGAN: inserts lesions into patches of mammograms, and removes them, by infilling."""

__version__ = "0.1.0"
