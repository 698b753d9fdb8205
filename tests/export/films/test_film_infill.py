import re
import shutil

import cv2
import numpy as np
import pytest
from scipy import ndimage
from tensorflow.core.protobuf import saved_model_pb2

from cigan_tf.errors import UserError
from export.films.film_infill import (
    MAX_LESIONS,
    FilmInfiller,
    FilmLesion,
    off_the_breast,
)
from tfds_ddsm import grey_levels, patches


def disc(diameter):
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter)).astype(bool)


@pytest.fixture(scope="module")
def lesion():
    return FilmLesion.centred(disc(281), 2437, 1085, malignant=True)


@pytest.fixture(scope="module")
def infilled(infill, sample_film, lesion):
    film, (part,) = infill(sample_film[1], [lesion], seed=3)
    return film, part


def test_the_change_stays_inside_the_mask(sample_film, lesion, infilled):
    film, _ = infilled
    mask = lesion.on_film(film.shape)
    assert np.count_nonzero(mask) == np.count_nonzero(lesion.mask)
    np.testing.assert_array_equal(film[~mask], sample_film[1][~mask])
    assert (film[mask] != sample_film[1][mask]).mean() > 0.95


def test_the_patch_is_the_generators_infill_of_the_rescaled_film(
    infill, sample_film, lesion, infilled
):
    film, part = infilled
    scale = infill.scale(film.shape)
    places = np.nonzero(patches.rescale(lesion.on_film(film.shape), scale))
    corner = [(place.min() + place.max() + 1 - 32) // 2 for place in places]
    rows, columns = (slice(start, start + 32) for start in corner)
    before = patches.rescale(sample_film[1], scale)[rows, columns]
    outside = ~part.patch_mask
    np.testing.assert_array_equal(part.patch[outside], before[outside])
    # Rescaled to the generator's scale, the new film shows the infill: the difference is small
    # compared with the generator's change, measured before the step at the mask's edge was removed.
    (made,) = infill.generator(
        image=before[None, ..., None].astype(np.float32) / grey_levels.WHITE,
        mask=part.patch_mask[None, ..., None].astype(np.float32),
        label=np.ones(1, np.int32),
        seed=np.array([3], np.int32),
    )
    again = patches.rescale(film, scale)[rows, columns].astype(float)
    inner = ndimage.binary_erosion(part.patch_mask, iterations=2)
    change = np.abs(made[..., 0] * grey_levels.WHITE - before)[inner].mean()
    assert np.abs(again - part.patch)[inner].mean() < 0.05 * change


def test_grain_inside_the_mask_is_the_films_own(sample_film, infilled):
    def grain(film):
        part = film[2437 - 80 : 2437 + 80, 1085 - 80 : 1085 + 80].astype(np.float32)
        return part - cv2.GaussianBlur(part, (0, 0), 3)

    before, after = grain(sample_film[1]), grain(infilled[0])
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9
    assert 0.85 < after.std() / before.std() < 1.1


def test_structures_sharper_than_grain_are_removed(infill, sample_film, lesion):
    def height(film):
        return [
            int(film[row, column]) - np.median(film[row - 9 : row + 10, column - 9 : column + 10])
            for row, column in spots
        ]

    film = sample_film[1].copy()
    spots = [(2400, 1050), (2437, 1085), (2480, 1120)]
    for row, column in spots:
        film[row - 1 : row + 2, column - 1 : column + 2] += 15_000
    after, _ = infill(film, [lesion], seed=0)
    assert min(height(film)) > 10_000
    assert max(height(after)) < 0.3 * min(height(film))


def test_no_step_is_left_at_the_masks_edge(infill, sample_film, lesion, infilled):
    def step(patch):
        """Returns the mean of the mask's outermost pixels minus that of the pixels around it."""
        mask = part.patch_mask
        rim = mask & ~ndimage.binary_erosion(mask)
        around = ndimage.binary_dilation(mask) & ~mask
        return patch[rim].mean() - patch[around].mean()

    _, part = infilled
    as_generated = infill.generator(
        image=part.patch[None, ..., None].astype(np.float32) / 65535,
        mask=part.patch_mask[None, ..., None].astype(np.float32),
        label=np.array([1], np.int32),
        seed=np.array([3], np.int32),
    )[0, ..., 0]
    assert abs(step(65535 * as_generated)) > 1000
    assert abs(step(part.patch.astype(float))) < 0.3 * abs(step(65535 * as_generated))


def test_a_lesion_outside_the_breast_is_reported(infill, sample_film, lesion):
    other = FilmLesion.centred(disc(201), 3000, 2600, malignant=True)
    _, parts = infill(sample_film[1], [lesion, other], seed=0)
    assert off_the_breast(parts[:1]) is None
    assert re.search(r"patch around lesion 2 \(\d%\); .* more than 75%", off_the_breast(parts))


def test_class_and_seed_decide_the_infill(infill, sample_film, lesion, infilled):
    def infilled_again(malignant=True, seed=3):
        asked = FilmLesion(lesion.mask, lesion.row, lesion.column, malignant)
        return infill(sample_film[1], [asked], seed)[0]

    np.testing.assert_array_equal(infilled_again(), infilled[0])
    assert (infilled_again(malignant=False) != infilled[0]).any()
    assert (infilled_again(seed=4) != infilled[0]).any()


def test_a_later_lesion_is_infilled_into_the_result_of_an_earlier_one(
    infill, sample_film, lesion, infilled
):
    other = FilmLesion.centred(disc(201), 2500, 1250, malignant=False)
    together, parts = infill(sample_film[1], [lesion, other], seed=3)
    alone, _ = infill(infilled[0], [other], seed=4)
    np.testing.assert_array_equal(together, alone)
    assert len(parts) == 2


@pytest.mark.parametrize(
    ("mask", "row", "column", "message"),
    [
        (disc(281), 60, 1085, "Lesion 1: .* must be inside the film of 4432 x 2864 .* rows -80 to"),
        (disc(281), 2437, 2800, "columns 2660 to 2940"),
        (np.zeros((9, 9), bool), 2437, 1085, "mask has no bright pixels"),
        (disc(5), 2437, 1085, "too small"),
        (disc(701), 2437, 1085, "at most 32 pixels high and wide .* Received: 5"),
    ],
)
def test_a_lesion_that_does_not_fit_is_named(infill, sample_film, mask, row, column, message):
    with pytest.raises(UserError, match=message):
        infill(sample_film[1], [FilmLesion.centred(mask, row, column, True)], seed=0)


def test_numbers_out_of_range_are_named(infill, sample_film, lesion):
    film = sample_film[1]
    with pytest.raises(UserError, match=r"1 to 16 lesions at a time\. Received: 17"):
        infill(film, [lesion] * (MAX_LESIONS + 1), seed=0)
    with pytest.raises(UserError, match=r"seed must be in .* Received: -1"):
        infill(film, [lesion], seed=-1)


def test_a_film_that_is_too_narrow_at_the_generators_scale_is_named(exported, sample_film):
    infill = FilmInfiller(exported, (64, 32))
    strip = sample_film[1][:, :300]
    with pytest.raises(UserError, match=r"must be at least 32 pixels wide .* Received: 268 x 18 "):
        infill(strip, [FilmLesion.centred(disc(101), 2000, 150, True)], seed=0)


def test_a_film_too_large_at_the_generators_scale_is_named(infill):
    strip = np.ones((4, 100_000), np.uint16)
    with pytest.raises(UserError, match=r"The film cannot be used: .* received 4 x 100000 pixels"):
        infill(strip, [FilmLesion.centred(disc(3), 2, 500, True)], seed=0)


@pytest.mark.parametrize("film_size", [(16, 16), (344, 31)])
def test_a_film_size_below_the_patch_is_named(exported, film_size):
    with pytest.raises(UserError, match="at least the generator's patch size, 32 pixels"):
        FilmInfiller(exported, film_size)


@pytest.fixture
def without_record(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "1")
    (tmp_path / "1" / "assets.extra" / "provenance.json").unlink()
    return tmp_path / "1"


def test_the_id_distinguishes_generators(infill, exported, without_record):
    assert infill.generator_id.startswith("SavedModel ")
    assert infill.generator_id == FilmInfiller(exported.parent, (344, 188)).generator_id
    graph = without_record / "saved_model.pb"
    stored = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
    stored.meta_graphs[0].meta_info_def.meta_graph_version = "another"
    graph.write_bytes(stored.SerializeToString())
    assert infill.generator_id != FilmInfiller(without_record, (344, 188)).generator_id


def test_the_scale_is_that_of_the_training(exported):
    infill = FilmInfiller(exported)
    assert infill.film_size == (344, 188)
    assert infill.scale_warning is None
    assert FilmInfiller(exported, (344, 188)).scale_warning is None


def test_a_scale_that_contradicts_the_training_causes_a_warning(exported):
    infill = FilmInfiller(exported, (688, 376))
    assert infill.scale((4432, 2864)) == 2 * FilmInfiller(exported).scale((4432, 2864))
    assert "344,188; with --film_size=688,376" in infill.scale_warning


def test_an_unrecorded_scale_must_be_given(without_record):
    with pytest.raises(UserError, match="pass --film_size=HEIGHT,WIDTH") as error:
        FilmInfiller(without_record)
    assert "\n" not in str(error.value)
    infill = FilmInfiller(without_record, (688, 376))
    assert infill.film_size == (688, 376)
    assert infill.scale_warning is None


def test_the_preset_works_on_an_unseen_film(sample_film):
    infill = FilmInfiller("cbis_mass_128")
    assert (infill.patch_size, infill.film_size) == (128, (688, 375))
    assert infill.generator_id.startswith("Preset ")
    assert "P_00173" not in infill.generator.provenance["patients"]
    _, pixels, _ = sample_film
    brightness = {}
    for malignant in (False, True):
        lesion = FilmLesion.centred(disc(241), 1900, 900, malignant)
        film, _ = infill(pixels, [lesion], seed=0)
        mask = lesion.on_film(film.shape)
        np.testing.assert_array_equal(film[~mask], pixels[~mask])
        brightness[malignant] = film[mask].mean() / grey_levels.WHITE
    # A malignant mass is denser than an infill without one.
    assert brightness[True] > brightness[False] + 0.005
