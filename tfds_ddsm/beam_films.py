"""Many workers read films, by Apache Beam, before one process writes the records."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_datasets.core.utils import tqdm_utils

from tfds_ddsm.dataset_config import DdsmPatchesConfig
from tfds_ddsm.film_cache import FilmCache
from tfds_ddsm.mammogram import Film, Source

_PROGRESS_EVERY_S = 2.0


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
    with _progress_bar(cache, len(films)), beam.Pipeline(runner, options) as pipeline:
        _ = (
            pipeline
            | "Films" >> beam.Create(films)
            | "Spread" >> beam.Reshuffle()
            | "Keep" >> beam.ParDo(_Keep(cache, source, config))
        )


@contextlib.contextmanager
def _progress_bar(cache: FilmCache, num_films: int) -> Iterator[None]:
    """Shows how many films lie in the cache: Beam's runners tell nothing before the last one."""
    over = threading.Event()
    at_first = min(cache.num_finished(), num_films)

    def follow(bar):
        shown, last = at_first, False
        while not last:
            last = over.wait(_PROGRESS_EVERY_S)
            finished = min(cache.num_finished(), num_films)
            bar.update(finished - shown)
            shown = finished

    with tqdm_utils.tqdm(
        initial=at_first, total=num_films, desc="Reading films", unit=" films"
    ) as bar:
        follower = threading.Thread(target=follow, args=(bar,), daemon=True)
        follower.start()
        try:
            yield
        finally:
            over.set()
            follower.join()
