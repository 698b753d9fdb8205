"""Many workers read films, by Apache Beam, before one process writes the records."""

from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from tfds_ddsm.dataset_config import DdsmPatchesConfig
from tfds_ddsm.film_cache import FilmCache
from tfds_ddsm.mammogram import Film, Source


class _Keep(beam.DoFn):
    def __init__(self, cache: FilmCache, source: Source, config: DdsmPatchesConfig):
        self._cache = cache
        self._source = source
        self._config = config

    def process(self, element: tuple[Film, tuple[int, int, int]]) -> None:
        film, counts = element
        self._cache.keep(self._source, film, counts, self._config)


def keep_films(
    cache: FilmCache,
    source: Source,
    films: Sequence[tuple[Film, tuple[int, int, int]]],
    config: DdsmPatchesConfig,
    runner: beam.runners.PipelineRunner | str | None,
    options: PipelineOptions | None,
) -> None:
    """Leaves the patches of all films in the cache; returns when the last film is there.

    The patches go straight to files: a patch handed from worker to worker costs more than its
    making, and Beam's local runner would hold all of them in memory.

    Args:
        cache: in a folder that every worker can write to.
        source: picklable; each worker reads films through its copy.
        films: each with its share of the plan.
        config: patch size, film size and seed.
        runner: as `beam.Pipeline` takes it.
        options: the same.
    """
    with beam.Pipeline(runner=runner, options=options) as pipeline:
        _ = (
            pipeline
            | "Films" >> beam.Create(films)
            | "Spread" >> beam.Reshuffle()
            | "Keep" >> beam.ParDo(_Keep(cache, source, config))
        )
