"""Worker processes of this machine read films into the cache, ahead of the one that writes."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import cv2

from tfds_ddsm.dataset_config import DatasetError, DdsmPatchesConfig
from tfds_ddsm.film_cache import FilmCache
from tfds_ddsm.mammogram import Film, Source

_VARIABLE = "DDSM_PATCHES_WORKERS"
_MAX_WORKERS = 256

_shipped: tuple[FilmCache, Source, DdsmPatchesConfig]  # in a worker process


def num_workers() -> int:
    """Returns how many worker processes the environment asks for; 1 for none besides this one.

    Raises:
        DatasetError: the environment asks for something else.
    """
    text = os.environ.get(_VARIABLE, "1")
    if not (text.isdecimal() and 1 <= int(text) <= _MAX_WORKERS):
        raise DatasetError(
            f"{_VARIABLE} must be a whole number from 1 to {_MAX_WORKERS}; received {text!r}."
        )
    return int(text)


@contextlib.contextmanager
def reading_ahead(
    cache: FilmCache,
    source: Source,
    shares: Sequence[tuple[Film, tuple[int, int, int]]],
    config: DdsmPatchesConfig,
    num_workers: int,
) -> Iterator[Callable[[Film], None]]:
    """Lets worker processes read films, in their order, until the context ends.

    Args:
        cache: where they leave the patches.
        source: its index has been read; each worker receives it once.
        shares: films, each with its share of the plan.
        config: patch size, film size and seed.
        num_workers: processes besides this one.

    Yields:
        A function that waits until a film is in the cache. It raises StorageError as the source
        does, and DatasetError where a worker ended.
    """
    executor = concurrent.futures.ProcessPoolExecutor(
        num_workers,
        multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(cache, source, config),
    )
    with _without_main_module():  # the workers start with the first films
        futures = {film.film_id: executor.submit(_keep, film, counts) for film, counts in shares}

    def wait_for(film: Film) -> None:
        try:
            futures.pop(film.film_id).result()
        except BrokenProcessPool as error:
            raise DatasetError(
                "A worker process was ended, perhaps for want of memory: run the same command "
                f"again to go on, perhaps with {_VARIABLE} less than {num_workers}."
            ) from error

    try:
        yield wait_for
    finally:
        executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Lets processes start without the imports of the running command.

    `tfds build` imports TensorFlow and Beam, 0.7 GB and 8 seconds that no worker needs. Scripts
    without a guard of `__name__` would start themselves again.
    """
    main_module = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main_module


def _start(*shipped) -> None:
    global _shipped
    _shipped = shipped
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launching process, too
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed: it would wait for films for ever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _keep(film: Film, counts: tuple[int, int, int]) -> None:
    cache, source, config = _shipped
    cache.keep(source, film, counts, config)
