"""The examples of many films on many workers, by Apache Beam: the same records as on one."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam
from etils import epath

from tfds_ddsm import film_examples
from tfds_ddsm.dataset_config import DdsmPatchesConfig
from tfds_ddsm.mammogram import Film, Source


class _DrawPatches(beam.DoFn):
    """Turns a film and its share of the plan into examples, and a report as a side output."""

    def __init__(self, source: Source, config: DdsmPatchesConfig):
        self._source = source
        self._config = config

    def process(self, element: tuple[Film, tuple[int, int, int]]) -> Iterator:
        film, counts = element
        report, examples = film_examples.encoded_examples(self._source, film, counts, self._config)
        yield beam.pvalue.TaggedOutput("reports", dataclasses.asdict(report))
        yield from examples


@beam.ptransform_fn
def film_patches(
    pipeline: beam.Pipeline,
    source: Source,
    films: Sequence[Film],
    plan: Mapping[str, tuple[int, int, int]],
    config: DdsmPatchesConfig,
    reports_path: epath.Path,
) -> beam.PCollection:
    """Returns (key, example) of all films, and writes the films' reports to one file.

    Args:
        pipeline: what the films are fed into.
        source: picklable; each worker reads films through its copy.
        films: those to read.
        plan: by film_id, malignant, benign and background patches.
        config: patch size, film size and seed.
        reports_path: JSON file for `read_reports`, where all workers can write.
    """
    outputs = (
        pipeline
        | "Films" >> beam.Create([(film, plan[film.film_id]) for film in films])
        | "Spread" >> beam.Reshuffle()
        | "Draw" >> beam.ParDo(_DrawPatches(source, config)).with_outputs("reports", main="patches")
    )
    _ = (
        outputs.reports
        | "Collect" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
        | "WriteReports" >> beam.Map(_write_json, str(reports_path))
    )
    return outputs.patches


def _write_json(reports: list[dict], path: str) -> None:
    epath.Path(path).write_text(json.dumps(reports))


def read_reports(path: epath.Path) -> list[film_examples.FilmReport]:
    """Returns the reports in the order of the films."""
    reports = map(film_examples.FilmReport.from_json, json.loads(path.read_text()))
    return sorted(reports, key=lambda report: report.film.film_id)
