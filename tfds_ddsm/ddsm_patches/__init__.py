"""The dataset `ddsm_patches`, in the folder layout of TensorFlow Datasets."""
