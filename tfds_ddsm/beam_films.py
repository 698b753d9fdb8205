"""Reads films on Apache Beam's workers, where TFDS then writes the records.

A worker needs access to the folder of films and to the dataset's folder, but not to any other file
of the launching machine. Films are not kept between builds: the engine retries failed steps.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from absl import logging
from apache_beam.metrics import Metrics
from etils import epath
from tensorflow_datasets.core.utils import py_utils

from tfds_ddsm import film_examples, selection
from tfds_ddsm.dataset_config import DatasetError, DdsmPatchesConfig
from tfds_ddsm.film_examples import FilmReport
from tfds_ddsm.mammogram import Film, Source, StorageError

_REPORT = "report"  # in addition to the names of the splits
_COUNTERS = "ddsm_patches"


class BeamFilms:
    """The films of one build, as collections of one pipeline.

    Args:
        source: a source whose index has been read. Every worker receives it once, with its
            catalogue.
        chosen: the films of each split, and the number of patches of each film.
        config: patch size, film size and seed.
        folder: folder of the dataset, writable by every worker.
    """

    def __init__(
        self,
        source: Source,
        chosen: selection.Selection,
        config: DdsmPatchesConfig,
        folder: epath.Path,
    ):
        shares = [
            (split, film, chosen.plan[film.film_id])
            for split, films in chosen.films.items()
            for film in films
        ]
        self._config = config
        self._folder = folder
        self._num_films = len(shares)
        self._reports_path = folder / "film_reports.json"
        self._failures = _Failures(folder / "failed_films", chosen.allowed_failures)
        self._read_film = _ReadFilm(source, config, shares, self._failures)
        self._elements = self._lost_films = None

    def examples(self, split: str) -> beam.PTransform:
        """Returns the transform to a split's examples, pairs of a key and the features."""
        return _Examples(self, split)

    def take_reports(self) -> dict[str, list[FilmReport]]:
        """Returns the reports of each split's films in order; call after the pipeline has run."""
        reports = {}
        for split, fields in json.loads(self._reports_path.read_text()):
            reports.setdefault(split, []).append(FilmReport.from_json(fields))
        self._reports_path.unlink()
        self._failures.remove()
        return reports

    @contextlib.contextmanager
    def errors_in_one_line(self) -> Iterator[None]:
        """Raises DatasetError if the pipeline failed because of the films or the folder."""
        try:
            yield
        except DatasetError:
            raise
        except Exception as error:
            if reason := self._failures.reason(self._config):
                raise reason from error
            if empty := re.search(r"generated examples is 0 for split (\w+)", str(error)):
                raise DatasetError(
                    f"No patch could be drawn for the split {empty[1]!r}; use a smaller patch_size "
                    "or a larger film_size in the config, or more films."
                ) from error
            if isinstance(error, FileNotFoundError) and not self._reports_path.exists():
                raise DatasetError(
                    "--data_dir must be a folder that every worker and this command share, for "
                    f"instance in a bucket; {self._folder} does not contain the workers' files."
                ) from error
            raise

    def elements(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Returns pairs of a split and an example, and pairs of `_REPORT` and a film's report.

        All splits share this collection, so that the films' catalogue is shipped once. The elements
        carry the names of their splits, because Beam's runner for Dask mixes tagged outputs.
        """
        if self._elements is None:
            self._elements = (
                begin
                | "Films" >> beam.Create(range(self._num_films))
                | "Spread" >> beam.Reshuffle()
                | "Read" >> beam.ParDo(self._read_film)
            )
            reports = (
                self._elements
                | "Reports" >> beam.FlatMap(_named, _REPORT)
                | "Combine" >> beam.combiners.ToList()
                | "Check" >> beam.Map(_checked, self._config.source)
            )
            _ = reports | "Write" >> beam.Map(_write, self._reports_path)
            if self._config.source == "films":
                self._lost_films = reports | "Lost films" >> beam.Map(_lost_films)
        return self._elements

    def without_lost_films(self, examples: beam.PCollection) -> beam.PCollection:
        """Removes the examples of films in which `_checked` found another patient's image."""
        if self._lost_films is None:
            return examples
        return examples | beam.Filter(_is_kept, beam.pvalue.AsSingleton(self._lost_films))


class _Examples(beam.PTransform):
    def __init__(self, films: BeamFilms, split: str):
        super().__init__()
        self._films = films
        self._split = split

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        examples = self._films.elements(begin) | "Examples" >> beam.FlatMap(_named, self._split)
        return self._films.without_lost_films(examples)


class _TooManyError(Exception):
    """Too many films cannot be read; stops the pipeline."""


class _ReadFilm(beam.DoFn):
    def __init__(
        self,
        source: Source,
        config: DdsmPatchesConfig,
        shares: Sequence[tuple[str, Film, tuple[int, int, int]]],
        failures: "_Failures",
    ):
        self._source = source
        self._config = config
        self._shares = shares
        self._failures = failures
        self._num_read = Metrics.counter(_COUNTERS, "films read")
        self._num_failed = Metrics.counter(_COUNTERS, "films that cannot be read")

    def process(self, number: int) -> Iterator[tuple[str, Any]]:
        split, film, counts = self._shares[number]
        try:
            report, examples = film_examples.encoded_examples(
                self._source, film, counts, self._config
            )
        except StorageError as error:
            self._failures.stop(error)
            raise
        self._num_read.inc()
        if report.error:
            self._num_failed.inc()
            self._failures.add(number, report)
        yield _REPORT, (number, split, report)
        for example in examples:
            yield split, example


@dataclasses.dataclass(frozen=True)
class _Failures:
    """Counts unreadable films while the pipeline runs, with a file for each.

    Beam's counters are for the engine's display: workers cannot read them, and a film that is
    retried is counted twice.

    Attributes:
        folder: writable by every worker.
        allowed: maximum number of unreadable films; None: no limit.
    """

    folder: epath.Path
    allowed: int | None

    def add(self, number: int, report: FilmReport) -> None:
        """Counts a film; raises _TooManyError if the limit is exceeded."""
        logging.warning("%s: %s", report.film.film_id, report.error)
        self._write(f"{number}.txt", f"{report.film.film_id}: {report.error}")
        if self.allowed is not None and len(self._paths()) > self.allowed:
            raise _TooManyError(f"{len(self._paths())} films cannot be read.")

    def stop(self, error: StorageError) -> None:
        """Records why no more films can be read."""
        self._write("storage.txt", str(error))

    def reason(self, config: DdsmPatchesConfig) -> DatasetError | None:
        """Returns why the pipeline was stopped, or None if it was not stopped by this class."""
        paths = {path.name: path for path in self._paths()}
        if stopped := paths.pop("storage.txt", None):
            return DatasetError(stopped.read_text())
        if self.allowed is None or len(paths) <= self.allowed:
            return None
        return selection.too_many_skipped(paths[max(paths)].read_text(), config)

    def remove(self) -> None:
        """Deletes the files."""
        if self.folder.exists():
            self.folder.rmtree()

    def _write(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with py_utils.incomplete_file(self.folder / name) as path:
            path.write_text(text)

    def _paths(self) -> list[epath.Path]:
        if not self.folder.exists():
            return []
        return [path for path in self.folder.iterdir() if not py_utils.is_incomplete_file(path)]


def _named(element: tuple[str, Any], name: str) -> Iterable[Any]:
    return [element[1]] if element[0] == name else []


def _checked(
    reports: Iterable[tuple[int, str, FilmReport]], source_name: str
) -> list[tuple[str, FilmReport]]:
    """Returns splits and reports in the order of the films, after the check for repeated images."""
    checked = selection.picture_check(source_name)
    return [(split, checked(report)) for _, split, report in sorted(reports, key=lambda r: r[0])]


def _lost_films(reports: Iterable[tuple[str, FilmReport]]) -> frozenset[str]:
    return frozenset(report.film.film_id for _, report in reports if report.error)


def _is_kept(example: tuple[str, dict[str, Any]], lost_films: Collection[str]) -> bool:
    return example[1]["film_id"] not in lost_films


def _write(reports: Iterable[tuple[str, FilmReport]], path: epath.Path) -> None:
    lines = [(split, dataclasses.asdict(report)) for split, report in reports]
    with py_utils.incomplete_file(path) as unfinished:
        unfinished.write_text(json.dumps(lines))
