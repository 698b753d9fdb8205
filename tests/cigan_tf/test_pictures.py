"""Grey windows and picture grids."""

import numpy as np

from cigan_tf import pictures
from cigan_tf.randomness import noise_of_seed


def test_the_window_spans_the_tissue():
    image = np.linspace(0.2, 0.4, 32 * 32).reshape(32, 32, 1)
    shown = pictures.to_8_bit(image, pictures.display_window(image))
    assert shown.dtype == np.uint8
    assert 0 < shown.min() < 60
    assert 180 < shown.max() < 255


def test_the_window_includes_a_bright_infill():
    image = np.linspace(0.2, 0.4, 32 * 32).reshape(32, 32, 1)
    infill = image.copy()
    infill[8:16, 8:16] = 0.9
    window = pictures.display_window(image, infill)
    assert window[0] == pictures.display_window(infill)[0]
    assert pictures.to_8_bit(infill, window).max() < 255


def test_a_flat_patch_has_a_window():
    flat = np.full((32, 32, 1), 0.5)
    black, white = pictures.display_window(flat)
    assert black < 0.5 < white


def test_rows_ask_for_both_classes_with_the_same_seeds():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.random((3, 32, 32, 1)).astype(np.float32),
        "mask": np.zeros((3, 32, 32, 1), np.float32),
        "label": np.array([0, 1, 0], np.int32),
    }
    batch["mask"][:, 8:16, 8:16] = 1
    asked = []

    def infill(image, mask, label, seed):
        asked.append((label.tolist(), seed.tolist()))
        noise = np.stack([noise_of_seed(s, 32) for s in seed])
        return np.where(mask > 0.5, noise + label[:, None, None, None], image)

    rows = pictures.comparison_rows(batch, infill, seed=7)
    assert asked == [([0, 1, 0], [7, 8, 9]), ([1, 0, 1], [7, 8, 9])]
    assert len(rows) == 3
    assert all(len(row) == len(pictures.COLUMNS) for row in rows)
    original, corrupted, same, opposite = rows[0]
    outside = batch["mask"][0, ..., 0] == 0
    for column in (corrupted, same, opposite):
        np.testing.assert_array_equal(column[outside], original[outside])
    assert (same[~outside] < opposite[~outside]).all()
    # The picture shows the noise that the infill was made from, within the grey window.
    noise = noise_of_seed(7, 32).numpy()[..., 0][~outside]
    np.testing.assert_allclose(corrupted[~outside], 255 * noise, atol=0.51)


def test_the_infills_before_training_are_the_last_column():
    batch = {
        "image": np.zeros((2, 32, 32, 1), np.float32),
        "mask": np.ones((2, 32, 32, 1), np.float32),
        "label": np.array([0, 1], np.int32),
    }
    infill, before = (
        lambda image, mask, label, seed, level=level: np.full_like(image, level) for level in (0, 1)
    )
    rows = pictures.comparison_rows(batch, infill, 0, before)
    assert [len(row) for row in rows] == [len(pictures.COLUMNS) + 1] * 2
    assert all((row[-1] > row[-2]).all() for row in rows)


def test_grid_places_rows_and_columns():
    rows = [[np.full((8, 8), 10 * r + c, np.uint8) for c in range(4)] for r in range(2)]
    picture = pictures.grid(rows)
    assert picture.shape == (2 * 8 + 4, 4 * 8 + 3 * 4)
    assert picture[0, 0] == 0
    assert picture[-1, -1] == 13
    assert picture[9, 9] == 255
