"""`tfds build ddsm_patches/cbis_ddsm` looks for this file when run in the folder tfds_ddsm."""

from typing import ClassVar

from tfds_ddsm.ddsm_patches import ddsm_patches_dataset_builder


class Builder(ddsm_patches_dataset_builder.Builder):
    """ddsm_patches with the config cbis_ddsm."""

    BUILDER_CONFIGS: ClassVar = [
        ddsm_patches_dataset_builder.Builder.builder_configs["cbis_ddsm"],
    ]
