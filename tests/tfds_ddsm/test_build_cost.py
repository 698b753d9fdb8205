import collections
import shutil

import pytest
from etils import epath

from tfds_ddsm import build_cost
from tfds_ddsm.dataset_config import DatasetError
from tfds_ddsm.mammogram import Film

Usage = collections.namedtuple("Usage", "total used free")


def shares(count):
    film = Film("", "P_1", "LEFT", "CC", "unknown", 1, 0)
    return [(film, (number, 0, 1)) for number in range(count)]


def test_the_cost_of_all_films_is_inferred_from_few_of_them(monkeypatch):
    read, now = [], [0.0]
    monkeypatch.setattr(build_cost.time, "monotonic", lambda: now[0])

    def examples_of(film, counts):
        read.append(counts[0])
        now[0] += 2.0
        return [("key", {"image": bytes(900), "mask": bytes(100)})] * sum(counts)

    cost = build_cost.measure(examples_of, shares(240))

    assert read == [0, 80, 160]
    assert cost.film_seconds == 2.0
    assert cost.records_bytes == 1600 * (240 * 239 // 2 + 240)


def test_films_without_patches_take_no_disk():
    assert build_cost.measure(lambda film, counts: [], shares(1)).records_bytes == 0


@pytest.mark.parametrize(
    ("cache_bytes", "free", "fits"),
    [
        (None, 20e9, True),
        (None, 19.9e9, False),
        (0, 40e9, True),
        (0, 39.9e9, False),
        (15e9, 25e9, True),
        (15e9, 24.9e9, False),
        (25e9, 20e9, True),
    ],
)
def test_a_disk_that_is_too_small_is_refused(
    monkeypatch, tmp_path, capsys, cache_bytes, free, fits
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free))
    cost = build_cost.Cost(film_seconds=0.5, records_bytes=20_000_000_000)
    arguments = cost, 12_000, 4, epath.Path(tmp_path), cache_bytes
    if fits:
        build_cost.announce(*arguments)
    else:
        with pytest.raises(
            DatasetError, match=r"free disk space, but the build needs .* GB"
        ) as raised:
            build_cost.announce(*arguments)
        assert "\n" not in str(raised.value)
    expected = "One process needs about 1.7 h to read 12,000 films; 4 processes need 25 min. The"
    assert capsys.readouterr().out.startswith(f"{expected} records need 20.0 GB of disk")


def test_the_free_space_of_a_bucket_is_not_checked(capsys):
    cost = build_cost.Cost(film_seconds=0.5, records_bytes=10**18)
    build_cost.announce(cost, 1, 1, epath.Path("gs://bucket/data"), None)
    assert "One process needs about 1 min to read 1 films. The records" in capsys.readouterr().out
