import dataclasses
import os
import pathlib
import subprocess
import sys
import time

import psutil
import pytest

from tests.tfds_ddsm.disc_source import CONFIG, DiscSource
from tfds_ddsm import film_examples, worker_processes
from tfds_ddsm.dataset_config import DatasetError
from tfds_ddsm.film_cache import FilmCache
from tfds_ddsm.mammogram import Source, StorageError


@dataclasses.dataclass(frozen=True)
class FailingSource(DiscSource):
    """A source with one film that ends the process reading it."""

    failing: str = ""
    is_killed: bool = False

    def read(self, film):
        if film.film_id == self.failing:
            if self.is_killed:
                os._exit(9)
            raise StorageError(f"{film.film_id}: Input/output error")
        return super().read(film)


@pytest.fixture
def forked(forkserver, monkeypatch):
    """Starts workers that need not import anything, unlike those of a build."""
    monkeypatch.setattr(worker_processes.multiprocessing, "get_context", lambda _: forkserver)


def shares_of(source):
    return [(film, (0, 0, 3)) for film in source.index()]


@pytest.mark.usefixtures("forked")
def test_films_are_cached_in_their_order(tmp_path):
    source = DiscSource(4)
    cache, shares = FilmCache(tmp_path, {}, ""), shares_of(source)
    with worker_processes.started(cache, source, CONFIG, 2) as read_ahead:
        wait_for = read_ahead(shares)
        for number, (film, _) in enumerate(shares, start=1):
            wait_for(film)
            assert cache.num_finished() >= number

    @dataclasses.dataclass(frozen=True)
    class NoSource(Source):
        """A source whose films must not be read."""

    for film, counts in shares:
        _, expected = film_examples.encoded_examples(source, film, counts, CONFIG)
        _, found = cache.examples(NoSource(), film, counts, CONFIG)
        assert [(k, e["image"]) for k, e in found] == [(k, e["image"]) for k, e in expected]


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_failing_worker_stops_the_build_and_finished_films_remain(tmp_path, is_killed):
    source = FailingSource(4, failing="P_00002_LEFT_CC", is_killed=is_killed)
    cache, shares = FilmCache(tmp_path, {}, ""), shares_of(source)
    error, message = (
        (DatasetError, "worker process ended.* run the same command again .* below 1")
        if is_killed
        else (StorageError, "Input/output error")
    )
    with (
        pytest.raises(error, match=message) as raised,
        worker_processes.started(cache, source, CONFIG, 1) as read_ahead,
    ):
        list(map(read_ahead(shares), (film for film, _ in shares)))
    assert "\n" not in str(raised.value)
    assert cache.num_finished() >= 2


@pytest.mark.usefixtures("forked")
def test_films_for_workers_that_have_ended_are_refused_in_one_line(tmp_path):
    source = FailingSource(4, failing="P_00000_LEFT_CC", is_killed=True)
    shares = shares_of(source)
    with worker_processes.started(FilmCache(tmp_path, {}, ""), source, CONFIG, 1) as read_ahead:
        for given in (shares[:1], shares[1:]):
            with pytest.raises(DatasetError, match="worker process ended"):
                read_ahead(given)(given[0][0])


def test_workers_end_with_a_build_that_is_killed(tmp_path):
    program = """
import multiprocessing, pathlib, sys
from tfds_ddsm import worker_processes
from tfds_ddsm.film_cache import FilmCache
from tests.tfds_ddsm.disc_source import CONFIG, DiscSource
from tests.tfds_ddsm.test_worker_processes import shares_of
source = DiscSource(4)
cache, shares = FilmCache(pathlib.Path(sys.argv[1]), {}, ""), shares_of(source)
with worker_processes.started(cache, source, CONFIG, 2) as read_ahead:
    wait_for = read_ahead(shares)
    for film, _ in shares:
        wait_for(film)
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    sys.stdin.read()
"""
    root = pathlib.Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as build:
        workers = [psutil.Process(int(pid)) for pid in build.stdout.readline().split()]
        build.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 300
    while any(map(_is_alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("text", ["0", "two", "-1", "257", ""])
def test_the_number_of_workers_is_checked(monkeypatch, text):
    monkeypatch.setenv("DDSM_PATCHES_WORKERS", text)
    with pytest.raises(DatasetError, match=rf"from 1 to 256; received '{text}'"):
        worker_processes.num_workers()


def test_one_process_builds_by_default(monkeypatch):
    monkeypatch.delenv("DDSM_PATCHES_WORKERS", raising=False)
    assert worker_processes.num_workers() == 1
    monkeypatch.setenv("DDSM_PATCHES_WORKERS", "8")
    assert worker_processes.num_workers() == 8
