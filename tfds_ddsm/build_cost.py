"""What a build takes of disk and time, told from a few of its films before hours of work."""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from etils import epath

from tfds_ddsm.dataset_config import DatasetError
from tfds_ddsm.mammogram import Film

MIN_FILMS = 64  # fewer are soon read
_NUM_TRIED = 3
_OTHER_FEATURES_BYTES = 600


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a build takes.

    Attributes:
        film_seconds: to read one film in one process.
        records_bytes: of all records.
    """

    film_seconds: float
    records_bytes: int


def measure(
    examples_of: Callable[[Film, tuple[int, int, int]], Iterable[tuple[str, dict[str, Any]]]],
    shares: Sequence[tuple[Film, tuple[int, int, int]]],
) -> Cost:
    """Reads a few films, and infers the cost of all.

    Args:
        examples_of: returns a film's examples, given its share of the plan.
        shares: all films with their share of the plan. The last of them are read: they are the
            last to be finished by a build that was killed.
    """
    tried = shares[:: -max(1, len(shares) // (4 * _NUM_TRIED))][:_NUM_TRIED]
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
    """Prints what a build will take of time and disk.

    Args:
        cost: of all films.
        num_films: films that are still to be read.
        num_workers: processes that read them; 1 where it is not known.
        folder: where the dataset is written.
        cache_bytes: of the films that are kept there already until the dataset is whole; None
            where films are not kept.

    Raises:
        DatasetError: the disk is too small. The room in a bucket is not known.
    """
    seconds, keeps = cost.film_seconds * num_films, cache_bytes is not None
    shared = f", {_duration(seconds / num_workers)} for {num_workers}" if num_workers > 1 else ""
    also = ", the finished films as much until the dataset is whole" if keeps else ""
    print(
        f"To read {num_films:,} films takes one process about {_duration(seconds)}{shared}. "
        f"The records take {_gigabytes(cost.records_bytes)} of disk{also}."
    )
    if "://" in os.fspath(folder):
        return
    needed = cost.records_bytes
    if keeps:
        needed += max(0, cost.records_bytes - cache_bytes)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DatasetError(
            f"{folder} has {_gigabytes(free)} of free disk and the build takes "
            f"{_gigabytes(needed)}: pass --data_dir=DIR with a folder on a larger disk."
        )


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"
