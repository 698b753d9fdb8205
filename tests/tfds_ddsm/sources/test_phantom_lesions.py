import numpy as np
import pytest
from scipy import ndimage

from tfds_ddsm.sources import phantom_lesions, phantom_shapes

PIXEL_MM = 0.3


def _film(seed=0, shape=(400, 360)):
    """Returns a small film of noisy tissue surrounded by air."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[: shape[0], : shape[1]]
    tissue = np.hypot((y - shape[0] / 2) / shape[0], (x - shape[1] / 2) / shape[1]) < 0.45
    noise = phantom_shapes.power_law_noise(shape, PIXEL_MM, rng)
    image = np.where(tissue, 26000 + 4000 * noise, 0).astype(np.uint16)
    return image, tissue, np.zeros(shape, bool)


def _insert(film, seed=0, num_lesions=5, difficulty=0.5, pixel_size_mm=PIXEL_MM):
    return phantom_lesions.insert_lesions(
        *film,
        num_lesions=num_lesions,
        pixel_size_mm=pixel_size_mm,
        difficulty=difficulty,
        rng=np.random.default_rng(seed),
    )


def _plan(lesion_type, malignant, suspicion, diameter_mm=14.0, contrast=0.7):
    return phantom_shapes.LesionPlan(lesion_type, malignant, diameter_mm, suspicion, contrast)


def test_same_seed_draws_the_same_lesions_and_does_not_change_the_arguments():
    film = _film()
    before = [array.copy() for array in film]
    image_a, lesions_a = _insert(film, seed=3)
    image_b, lesions_b = _insert(film, seed=3)
    image_c, _ = _insert(film, seed=4)
    np.testing.assert_array_equal(image_a, image_b)
    for a, b in zip(lesions_a, lesions_b, strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)
    assert (image_a != image_c).any()
    for array, copy in zip(film, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("seed", range(6))
def test_lesions_are_entirely_in_tissue_and_apart_from_each_other(seed):
    image, tissue, occupied = _film(seed)
    occupied[180:220, 150:200] = True
    _, lesions = _insert((image, tissue, occupied), seed)
    assert len(lesions) >= 3
    taken = occupied
    gap_px = phantom_lesions.GAP_MM / PIXEL_MM
    for lesion in lesions:
        assert lesion.simulated
        assert lesion.mask.dtype == bool
        assert lesion.mask.shape == image.shape
        assert tissue[lesion.mask].all()
        assert ndimage.distance_transform_edt(~taken)[lesion.mask].min() >= gap_px - 1
        taken = taken | lesion.mask


@pytest.mark.parametrize("seed", range(4))
def test_masks_are_single_blobs_without_holes_of_the_promised_size(seed):
    _, lesions = _insert(_film(seed), seed)
    for lesion in lesions:
        assert ndimage.label(lesion.mask)[1] == 1
        assert (ndimage.binary_fill_holes(lesion.mask) == lesion.mask).all()
        rows, columns = np.nonzero(lesion.mask)
        extent_mm = max(np.ptp(rows), np.ptp(columns)) * PIXEL_MM
        assert 3.0 < extent_mm < 2 * 22.0
        assert lesion.mask.sum() > 0.3 * (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_first_lesion_is_malignant_and_classes_alternate():
    _, lesions = _insert(_film(), num_lesions=4)
    assert [lesion.malignant for lesion in lesions] == [True, False, True, False]


@pytest.mark.parametrize("seed", range(4))
def test_the_masks_hold_the_change_and_the_rest_of_the_film_is_untouched(seed):
    film = _film(seed)
    image, lesions = _insert(film, seed, num_lesions=3)
    assert image.dtype == np.uint16
    change = image.astype(float) - film[0]
    inside = np.any([lesion.mask for lesion in lesions], axis=0)
    assert (change[inside] ** 2).sum() > 0.8 * (change**2).sum()
    far = ndimage.distance_transform_edt(~inside) * PIXEL_MM > 22
    assert far.any()
    assert (change[far] == 0).all()


@pytest.mark.parametrize("brightness", [4000, 20000, 45000, 65000])
@pytest.mark.parametrize("lesion_type", ["mass", "calcification"])
def test_lesions_show_at_any_brightness_and_never_clip(lesion_type, brightness):
    image = np.full((200, 200), brightness, np.uint16)
    tissue = np.ones(image.shape, bool)
    plan = _plan(lesion_type, malignant=True, suspicion=0.8, contrast=2.0)
    changed, (lesion,) = phantom_lesions.insert_planned(
        image, tissue, ~tissue, [plan], 0.2, np.random.default_rng(0)
    )
    assert brightness < changed.max() < 65535
    assert changed[lesion.mask].astype(float).mean() > brightness


def test_black_air_stays_black_under_spicules():
    image, tissue, occupied = _film()
    plans = [_plan("mass", malignant=True, suspicion=0.99, diameter_mm=20.0)] * 4
    changed, lesions = phantom_lesions.insert_planned(
        image, tissue, occupied, plans, PIXEL_MM, np.random.default_rng(0)
    )
    assert lesions
    assert (changed[image == 0] == 0).all()


def test_contrast_falls_with_difficulty():
    film = _film()
    change = []
    for difficulty in (0.0, 0.5, 1.0):
        image, lesions = _insert(film, num_lesions=6, difficulty=difficulty)
        masks = [lesion.mask for lesion in lesions]
        change.append(np.mean([(image[m].astype(float) - film[0][m]).mean() for m in masks]))
    assert change[0] > change[1] > change[2] > 0


def test_classes_overlap_more_with_difficulty():
    rng = np.random.default_rng(0)

    def auroc(difficulty):
        malignant, benign = (
            np.array(
                [phantom_lesions.plan_lesion(kind, difficulty, rng).suspicion for _ in range(1500)]
            )
            for kind in (True, False)
        )
        return (malignant[:, None] > benign).mean()

    assert auroc(0.0) > 0.98
    assert auroc(0.5) == pytest.approx(0.94, abs=0.02)
    assert auroc(1.0) == pytest.approx(0.74, abs=0.03)


def test_lesions_that_do_not_fit_are_skipped():
    image, tissue, occupied = _film()
    unchanged, lesions = _insert((image, tissue, ~occupied), num_lesions=3)
    assert lesions == ()
    np.testing.assert_array_equal(unchanged, image)
    assert len(_insert((image, tissue, occupied), num_lesions=60)[1]) < 60
    tiny = (image[:1, :2], tissue[:1, :2], occupied[:1, :2])
    assert _insert(tiny)[1] == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image": np.zeros((20, 20), np.uint8)},
            r"image must be uint16 .* received uint8 \[20, 20\]",
        ),
        ({"image": np.zeros((20, 20, 1), np.uint16)}, r"received uint16 \[20, 20, 1\]"),
        ({"tissue": np.ones((20, 21), bool)}, r"tissue must be bool \[20, 20\].*\[20, 21\]"),
        ({"occupied": np.ones((20, 20))}, r"occupied must be bool .* received float64"),
        ({"num_lesions": -1}, r"num_lesions must be 0 or more; received -1"),
        ({"pixel_size_mm": 0.0}, r"pixel_size_mm must be in \[0.01, 1\]; received 0.0"),
        ({"pixel_size_mm": float("nan")}, r"pixel_size_mm .* received nan"),
        ({"difficulty": 1.5}, r"difficulty must be in \[0, 1\].* received 1.5"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(change, message):
    arguments = {
        "image": np.zeros((20, 20), np.uint16),
        "tissue": np.ones((20, 20), bool),
        "occupied": np.zeros((20, 20), bool),
        "num_lesions": 1,
        "pixel_size_mm": 0.2,
        "difficulty": 0.5,
        "rng": np.random.default_rng(0),
    } | change
    with pytest.raises(ValueError, match=message) as error:
        phantom_lesions.insert_lesions(**arguments)
    assert "\n" not in str(error.value)
