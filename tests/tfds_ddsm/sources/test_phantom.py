import pickle
import re

import numpy as np
import pytest

from tfds_ddsm.sources import phantom


@pytest.fixture(scope="module")
def read_films():
    """A few films with lesions, of both sides and both views, read once."""
    source = phantom.PhantomSource(num_patients=12, seed=5)
    chosen = {}
    for film in source.index():
        if film.num_malignant + film.num_benign:
            chosen.setdefault((film.laterality, film.view), film)
    return source, [source.read(film) for film in chosen.values()]


def test_index_lists_four_films_of_every_patient_in_order():
    films = phantom.PhantomSource(num_patients=13).index()
    assert len(films) == 13 * 4
    assert films[0].film_id == "phantom_000000_LEFT_CC"
    assert [film.film_id for film in films] == sorted({film.film_id for film in films})
    assert len({film.patient_id for film in films}) == 13
    for film in films:
        assert film.film_id == f"{film.patient_id}_{film.laterality}_{film.view}"
        assert re.fullmatch(r"[A-Za-z0-9._-]+", film.film_id)
        assert film.scanner == "phantom"


def test_index_shows_lesions_in_both_views_and_the_promised_share_of_patients():
    films = phantom.PhantomSource(num_patients=1000).index()
    patients = {}
    for film in films:
        breast = patients.setdefault(film.patient_id, {}).setdefault(film.laterality, {})
        breast[film.view] = (film.num_malignant, film.num_benign)
    malignant = benign_only = 0
    for breasts in patients.values():
        for views in breasts.values():
            assert views["CC"] == views["MLO"]
        num_malignant = [views["CC"][0] for views in breasts.values()]
        assert sum(number > 0 for number in num_malignant) <= 1
        malignant += any(num_malignant)
        benign_only += not any(num_malignant) and any(v["CC"][1] for v in breasts.values())
    assert malignant == pytest.approx(400, abs=50)
    assert benign_only == pytest.approx(400, abs=50)


def test_read_agrees_with_the_index(read_films):
    source, mammograms = read_films
    assert len(mammograms) == 4
    for mammogram in mammograms:
        assert mammogram.film in source.index()
        assert mammogram.image.dtype == np.uint16
        assert mammogram.left_out == ()
        malignant = [lesion.malignant for lesion in mammogram.lesions]
        assert sum(malignant) == mammogram.film.num_malignant
        assert len(malignant) - sum(malignant) == mammogram.film.num_benign
        for lesion in mammogram.lesions:
            assert lesion.simulated
            assert lesion.mask.shape == mammogram.image.shape
            assert (mammogram.image[lesion.mask] > 1500).all()  # on the breast and not in the air


def test_films_look_like_films(read_films):
    _, mammograms = read_films
    for mammogram in mammograms:
        image = mammogram.image
        assert np.median(image) < 3000  # most of the film is air
        assert len(np.unique(image)) > 5000  # more than 8 bits
        assert (image == 65535).mean() == 0
        # The chest wall is at the left edge for left breasts and at the right edge for right ones.
        middle = image[700:1000]
        left, right = middle[:, 50:150].mean(), middle[:, -150:-50].mean()
        assert (left > right) == (mammogram.film.laterality == "LEFT")


def test_the_same_seed_and_film_give_the_same_pixels(read_films):
    source, (first, *_) = read_films
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    again = copy.read(first.film)
    np.testing.assert_array_equal(again.image, first.image)
    for a, b in zip(again.lesions, first.lesions, strict=True):
        assert a.malignant == b.malignant
        np.testing.assert_array_equal(a.mask, b.mask)
    other_seed = phantom.PhantomSource(num_patients=12, seed=6).read(first.film)
    assert (other_seed.image != first.image).mean() > 0.1


def test_pixels_do_not_depend_on_how_many_patients_there_are(read_films):
    source, _ = read_films
    more = phantom.PhantomSource(num_patients=40, seed=source.seed)
    assert list(more.index())[:48] == list(source.index())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_patients": 0}, "num_patients must be 1 or more; received 0"),
        ({"num_patients": 1, "difficulty": -0.1}, r"difficulty must be in \[0, 1\]"),
        ({"num_patients": 1, "seed": -1}, "seed must be 0 or more; received -1"),
    ],
)
def test_bad_fields_are_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        phantom.PhantomSource(**fields)
    assert "\n" not in str(error.value)
