"""Runs worker processes on this machine, which read films into the cache.

The launching process meanwhile writes the records of films that are in the cache already.
"""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import tempfile
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

Share = tuple[Film, tuple[int, int, int]]  # a film, and its number of patches of each kind

_shipped: tuple[FilmCache, Source, DdsmPatchesConfig]  # in a worker process


def num_workers() -> int:
    """Returns the number of processes that read films, from the environment variable.

    If it is 1, the default, no worker processes are started, and the building process reads the
    films. A larger number counts the worker processes only.

    Raises:
        DatasetError: the variable is not an integer from 1 to 256.
    """
    text = os.environ.get(_VARIABLE, "1")
    if not (text.isdecimal() and 1 <= int(text) <= _MAX_WORKERS):
        raise DatasetError(
            f"{_VARIABLE} must be an integer from 1 to {_MAX_WORKERS}; received {text!r}."
        )
    return int(text)


@contextlib.contextmanager
def started(
    cache: FilmCache, source: Source, config: DdsmPatchesConfig, num_workers: int
) -> Iterator[Callable[[Sequence[Share]], Callable[[Film], None]]]:
    """Starts worker processes, which run until the context ends.

    Args:
        cache: receives the patches of films.
        source: a source whose index has been read; each worker receives it once.
        config: patch size, film size and seed.
        num_workers: number of worker processes, in addition to this process.

    Yields:
        A function that makes the workers read the given films, in order, each for its share of the
        plan. It returns a second function, which waits until a film is in the cache and raises the
        source's StorageError. Both raise DatasetError if a worker ended unexpectedly.
    """
    # Passed in a file: as an argument, a large catalogue would block this process until each worker
    # has imported this package.
    with tempfile.NamedTemporaryFile(delete=False) as shipped:
        pickle.dump((cache, source, config), shipped)
    executor = concurrent.futures.ProcessPoolExecutor(
        num_workers,
        multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(shipped.name,),
    )

    def read_ahead(shares: Sequence[Share]) -> Callable[[Film], None]:
        # The pool starts no process while one is idle; these tasks start the remaining ones.
        with _without_main_module(), _ended_worker_in_one_line(num_workers):
            futures = {
                film.film_id: executor.submit(_keep, film, counts) for film, counts in shares
            }

        def wait_for(film: Film) -> None:
            with _ended_worker_in_one_line(num_workers):
                futures.pop(film.film_id).result()

        return wait_for

    try:
        with _without_main_module(), _ended_worker_in_one_line(num_workers):
            for _ in range(num_workers):
                executor.submit(os.getpid)  # a worker starts with its first task
        yield read_ahead
    finally:
        executor.shutdown(cancel_futures=True)
        os.unlink(shipped.name)


@contextlib.contextmanager
def _ended_worker_in_one_line(num_workers: int) -> Iterator[None]:
    """Raises DatasetError if a worker process ended, because the pool does not replace it."""
    try:
        yield
    except BrokenProcessPool as error:
        raise DatasetError(
            "A worker process ended unexpectedly, possibly for lack of memory: run the same "
            f"command again to resume, if necessary with {_VARIABLE} below {num_workers}."
        ) from error


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Makes processes start without importing the main module of the running command.

    That of `tfds build` imports TensorFlow and Beam, which take 0.7 GB and 8 seconds and which
    workers do not need. A script that does not check `__name__` would be run again by each worker.
    """
    main_module = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main_module


def _start(shipped_path: str) -> None:
    global _shipped
    with open(shipped_path, "rb") as file:
        _shipped = pickle.load(file)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is also sent to the launching process
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; otherwise it would wait for films forever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _keep(film: Film, counts: tuple[int, int, int]) -> None:
    cache, source, config = _shipped
    cache.keep(source, film, counts, config)
