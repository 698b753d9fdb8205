"""Runs worker processes on this machine that read films into the cache, ahead of the writing."""

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
    """Returns the number of worker processes set in the environment; 1: only this process.

    Raises:
        DatasetError: the environment has another value.
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
        num_workers: processes in addition to this one.

    Yields:
        A function that makes them read films, each with its share of the plan, in order. It returns
        a function that waits until a film is in the cache, and raises StorageError like the source,
        or DatasetError if a worker was killed.
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
            "A worker process was killed, perhaps for lack of memory: run the same command "
            f"again to resume, if necessary with {_VARIABLE} below {num_workers}."
        ) from error


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Makes processes start without the imports of the running command.

    `tfds build` imports TensorFlow and Beam, 0.7 GB and 8 seconds that workers do not need. Scripts
    that do not check `__name__` would run themselves again.
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
