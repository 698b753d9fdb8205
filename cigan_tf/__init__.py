"""ciGAN: lesions infilled into, and out of, patches of mammograms."""

__version__ = "0.1.0"
