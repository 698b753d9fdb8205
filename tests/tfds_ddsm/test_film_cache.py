import dataclasses

import numpy as np
import pytest

from tfds_ddsm import film_cache, film_examples
from tfds_ddsm.dataset_config import DdsmPatchesConfig
from tfds_ddsm.film_cache import FilmCache
from tfds_ddsm.mammogram import Film, Lesion, Mammogram, UnreadableFilmError

FILM = Film("P_1_LEFT_CC", "P_1", "LEFT", "CC", "unknown", 1, 0)
CONFIG = DdsmPatchesConfig(name="test", patch_size=32, film_size=(200, 150))
COUNTS = (3, 0, 4)


class CountingSource:
    """A source of one film that counts how often it is read."""

    def __init__(self, left_out=(), error="", files="1000 bytes"):
        self.num_reads = 0
        self._files = files
        self._left_out, self._error = left_out, error

    def fingerprint(self, film):
        return f"{film.film_id} {self._files}"

    def read(self, film):
        self.num_reads += 1
        if self._error:
            raise UnreadableFilmError(self._error)
        rows, columns = np.ogrid[:200, :150]
        breast = (rows - 100) ** 2 + columns**2 < 95**2
        image = np.where(breast, 30_000 + 5 * rows * columns, 500).astype(np.uint16)
        mask = (rows - 100) ** 2 + (columns - 40) ** 2 < 8**2
        return Mammogram(film, image, (Lesion("mass", True, mask),), self._left_out)


def cache_in(folder, recipe=CONFIG.recipe(), manual_dir="/films"):  # noqa: B008
    return FilmCache(folder, recipe, manual_dir)


def read(cache, source, film=FILM, counts=COUNTS):
    report, examples = cache.examples(source, film, counts, CONFIG)
    return report, list(examples)


def test_a_finished_film_is_not_read_again_and_gives_the_same_examples(tmp_path):
    source = CountingSource()
    report, examples = film_examples.encoded_examples(source, FILM, COUNTS, CONFIG)
    expected = list(examples)

    first = read(cache_in(tmp_path), source)
    second = read(cache_in(tmp_path), source)

    assert source.num_reads == 2
    assert first[0] == second[0] == report
    for found in (first[1], second[1]):
        assert len(found) == len(expected) == 7
        for (key, example), (expected_key, expected_example) in zip(found, expected, strict=True):
            assert key == expected_key
            assert list(example) == list(expected_example)
            for name, value in expected_example.items():
                np.testing.assert_array_equal(example[name], value)
                assert np.asarray(example[name]).dtype == np.asarray(value).dtype


@pytest.mark.parametrize(
    "other",
    [
        {"recipe": CONFIG.recipe() | {"seed": 1}},
        {"recipe": CONFIG.recipe() | {"version": "1.1.0"}},
        {"manual_dir": "/other"},
    ],
)
def test_another_recipe_or_folder_shares_no_films(tmp_path, other):
    source = CountingSource()
    read(cache_in(tmp_path), source)
    read(cache_in(tmp_path, **other), source)

    assert source.num_reads == 2


def test_another_share_of_the_plan_is_drawn_again(tmp_path):
    source = CountingSource()
    assert len(read(cache_in(tmp_path), source)[1]) == 7
    assert len(read(cache_in(tmp_path), source, counts=(2, 0, 1))[1]) == 3


def test_changed_files_or_index_lines_are_read_again(tmp_path):
    read(cache_in(tmp_path), CountingSource())
    source = CountingSource(files="1001 bytes")
    read(cache_in(tmp_path), source)
    read(cache_in(tmp_path), source, dataclasses.replace(FILM, density=3))
    read(cache_in(tmp_path), source)
    assert source.num_reads == 2


def test_another_version_of_the_code_shares_no_films(tmp_path, monkeypatch):
    read(cache_in(tmp_path), CountingSource())
    monkeypatch.setattr(film_cache, "_rules", lambda: "other rules")
    source = CountingSource()
    read(cache_in(tmp_path), source)
    assert source.num_reads == 1


@pytest.mark.parametrize("fields", [{"left_out": ("mask: empty",)}, {"error": "a.dcm: cut short"}])
def test_films_that_may_be_repaired_are_read_again_by_the_next_build(tmp_path, fields):
    tmp_path /= "films [1] *"
    source, whole_film = CountingSource(**fields), dataclasses.replace(FILM, film_id="whole")
    read(cache_in(tmp_path), source)
    report, _ = read(cache_in(tmp_path), source)
    assert source.num_reads == 1
    assert report.left_out == fields.get("left_out", ())
    assert report.error == fields.get("error", "")

    repaired = CountingSource()
    read(cache_in(tmp_path), repaired, whole_film)
    cache_in(tmp_path).begin([(film, COUNTS) for film in (FILM, whole_film)])
    report, examples = read(cache_in(tmp_path), repaired)
    read(cache_in(tmp_path), repaired, whole_film)

    assert repaired.num_reads == 2
    assert report.made == COUNTS
    assert len(examples) == 7


def test_a_partial_film_is_not_mistaken_for_a_complete_one(tmp_path, monkeypatch):
    cache, source = cache_in(tmp_path), CountingSource()
    encoded = []

    def interrupted(image):
        encoded.append(image)
        if len(encoded) == 5:
            raise KeyboardInterrupt
        return b"picture"

    with monkeypatch.context() as patch:
        patch.setattr(film_examples.png_file, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read(cache, source)
    assert not list(tmp_path.glob("*/*.film"))
    assert cache.num_finished() == 0

    assert len(read(cache, source)[1]) == 7
    assert source.num_reads == 2
    assert cache.num_finished() == 1


@pytest.mark.parametrize("fields", [{}, {"left_out": ("mask: empty",)}])
def test_a_truncated_film_is_read_again(tmp_path, fields):
    cache, source = cache_in(tmp_path), CountingSource(**fields)
    expected = read(cache, source)
    (path,) = tmp_path.glob("*/*")
    whole = path.read_bytes()
    damaged = [b"", whole[:40], whole[: len(whole) // 2], whole[:-1], whole + b"\n"]
    damaged += [bytes(len(whole)), whole[: whole.index(b"\n") + 1]]
    for number, content in enumerate(damaged, start=2):
        path.write_bytes(content)
        assert len(read(cache, source)[1]) == len(expected[1])
        assert source.num_reads == number
        assert path.read_bytes() == whole


def test_only_films_of_the_present_plan_are_counted_and_kept(tmp_path):
    cache, other = cache_in(tmp_path), dataclasses.replace(FILM, film_id="P_1_RIGHT_CC")
    read(cache, CountingSource())
    read(cache, CountingSource(), other)
    read(cache, CountingSource(), counts=(2, 0, 1))
    cache.begin([(FILM, (2, 0, 1)), (other, COUNTS)])
    assert cache.num_finished() == 2
    assert cache.num_bytes() == sum(path.stat().st_size for path in tmp_path.glob("*/*"))
    read(cache, CountingSource(files="1001 bytes"), other)  # replaces its film
    assert cache.num_finished() == 2
    source = CountingSource()
    read(cache, source, counts=(2, 0, 1))
    assert source.num_reads == 0


def test_pictures_are_bytes_of_any_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(film_examples.png_file, "encode", lambda image: b"\n[]\n\xff\0")
    _, examples = read(cache_in(tmp_path), CountingSource())

    assert [example["mask"] for _, example in examples] == [b"\n[]\n\xff\0"] * 7


def test_removing_leaves_nothing(tmp_path):
    cache = cache_in(tmp_path)
    cache.begin([(FILM, COUNTS)])
    cache.remove()
    read(cache, CountingSource())
    cache.remove()

    assert not list(tmp_path.iterdir())


def test_a_hostile_film_id_names_no_file(tmp_path):
    film = dataclasses.replace(FILM, film_id="../../outside")
    with pytest.raises(
        ValueError, match=r"film_id must have only letters.*received '\.\./\.\./outside'"
    ):
        read(cache_in(tmp_path), CountingSource(), film)
    assert not list(tmp_path.iterdir())
