"""Builds patches from mammograms; importing it registers the TFDS dataset `ddsm_patches`."""

from tfds_ddsm.ddsm_patches import ddsm_patches_dataset_builder as ddsm_patches_dataset_builder
