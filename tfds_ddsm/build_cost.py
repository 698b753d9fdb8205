"""Estimates the disk space and time of a build from a few of its films."""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from etils import epath

from tfds_ddsm.dataset_config import DatasetError
from tfds_ddsm.mammogram import Film

MIN_FILMS = 64  # fewer films are read quickly
_NUM_TRIED = 3
_OTHER_FEATURES_BYTES = 600


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of a build.

    Attributes:
        film_seconds: time to read one film in one process.
        records_bytes: size of all records.
    """

    film_seconds: float
    records_bytes: int


def measure(
    examples_of: Callable[[Film, tuple[int, int, int]], Iterable[tuple[str, dict[str, Any]]]],
    shares: Sequence[tuple[Film, tuple[int, int, int]]],
) -> Cost:
    """Reads a few films and estimates the cost of all.

    Args:
        examples_of: reads a film and returns its examples, given its share of the plan.
        shares: all films with their shares of the plan. Films at equal intervals in this list are
            read.
    """
    tried = shares[:: max(1, len(shares) // _NUM_TRIED)][:_NUM_TRIED]
    start = time.monotonic()
    sizes = [
        len(example["image"]) + len(example["mask"]) + _OTHER_FEATURES_BYTES
        for film, counts in tried
        for _, example in examples_of(film, counts)
    ]
    film_seconds = (time.monotonic() - start) / len(tried)
    num_patches = sum(sum(counts) for _, counts in shares)
    return Cost(film_seconds, num_patches * sum(sizes) // max(1, len(sizes)))


def announce(
    cost: Cost, num_films: int, num_workers: int, folder: epath.Path, cache_bytes: int | None
) -> None:
    """Prints the estimated time and disk space of a build.

    Args:
        cost: cost of all films.
        num_films: number of films still to read.
        num_workers: number of processes that read them; 1 if unknown.
        folder: folder of the dataset.
        cache_bytes: size of finished films already kept there until the dataset is complete; None
            if films are not kept.

    Raises:
        DatasetError: the disk is too small. The free space of a bucket is unknown.
    """
    seconds, keeps = cost.film_seconds * num_films, cache_bytes is not None
    shared = ""
    if num_workers > 1:
        shared = f"; {num_workers} processes need {_duration(seconds / num_workers)}"
    also = ", plus as much for finished films until the dataset is complete" if keeps else ""
    print(
        f"One process needs about {_duration(seconds)} to read {num_films:,} films{shared}. "
        f"The records need {_gigabytes(cost.records_bytes)} of disk space{also}."
    )
    if "://" in os.fspath(folder):
        return
    needed = cost.records_bytes
    if keeps:
        needed += max(0, cost.records_bytes - cache_bytes)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DatasetError(
            f"{folder} has {_gigabytes(free)} of free disk space, but the build needs "
            f"{_gigabytes(needed)}: pass --data_dir=DIR with a folder on a larger disk."
        )


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"
