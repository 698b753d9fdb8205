"""Tests of the search for copied training patches."""

import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.evaluation import memorisation


def random_masks(rng, num, size):
    masks = np.zeros((num, size, size, 1), np.uint8)
    for mask in masks:
        top, left = rng.integers(0, size // 2, size=2)
        mask[top : top + size // 3, left : left + size // 2] = 1
    return masks


def test_correlations_are_those_of_the_pixels_inside():
    rng = np.random.default_rng(0)
    patches, training = rng.random((7, 12, 12, 1)), rng.random((5, 12, 12, 1))
    masks = random_masks(rng, 7, 12)

    found = memorisation.nearest_training_patch(patches, masks, training)

    for i, (patch, inside) in enumerate(zip(patches, masks == 1, strict=True)):
        expected = [np.corrcoef(patch[inside], other[inside])[0, 1] for other in training]
        assert found.index[i] == np.argmax(expected)
        assert found.correlation[i] == pytest.approx(max(expected), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_copies_are_found_at_any_brightness(dtype):
    rng = np.random.default_rng(1)
    training = (1000 + 60 * rng.random((40, 16, 16, 1))).astype(dtype)
    masks = random_masks(rng, 30, 16)
    copied = rng.integers(0, 40, size=30)
    # Only what lies inside the mask is copied, with other brightness and contrast.
    patches = np.where(masks == 1, 3.0 * training[copied] + 500, rng.random((30, 16, 16, 1)))

    found = memorisation.nearest_training_patch(patches, masks, training)

    np.testing.assert_array_equal(found.index, copied)
    np.testing.assert_allclose(found.correlation, 1, atol=1e-9)


def test_chunks_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(2)
    arguments = rng.random((9, 8, 8, 1)), random_masks(rng, 9, 8), rng.random((23, 8, 8, 1))
    whole = memorisation.nearest_training_patch(*arguments)
    monkeypatch.setattr(memorisation, "_PATCHES_AT_A_TIME", 4)
    parts = memorisation.nearest_training_patch(*arguments)
    np.testing.assert_array_equal(parts.index, whole.index)
    np.testing.assert_allclose(parts.correlation, whole.correlation)


def test_flat_regions_have_no_correlation():
    rng = np.random.default_rng(3)
    mask = np.zeros((2, 8, 8, 1))
    mask[:, 2:6, 2:6] = 1
    training = rng.random((1, 8, 8, 1))
    patches = np.concatenate([np.full((1, 8, 8, 1), 0.1), training])
    assert memorisation.nearest_training_patch(patches, mask, training).correlation.tolist() == [
        0.0,
        pytest.approx(1.0),
    ]
    training = np.where(mask[:1] == 1, 0.3, training)
    assert memorisation.nearest_training_patch(patches, mask, training).correlation.tolist() == [
        0.0,
        0.0,
    ]


def test_a_generator_that_copies_stands_out_from_new_patients():
    rng = np.random.default_rng(4)
    training, new, held_out = (rng.random((60, 12, 12, 1)) for _ in range(3))
    masks = random_masks(rng, 60, 12)

    honest = memorisation.memorisation(new, masks, held_out, masks, training)
    copying = memorisation.memorisation(
        training + 0.1 * rng.random(training.shape), masks, held_out, masks, training
    )

    assert honest.share_nearer < 0.2
    assert copying.share_nearer == 1.0
    np.testing.assert_array_equal(copying.infills.index, np.arange(60))
    np.testing.assert_array_equal(copying.held_out.correlation, honest.held_out.correlation)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 8, 8, 1), (1, 8, 8, 1), (1, 9, 8, 1)), "of one size"),
        (((1, 8, 8, 1), (2, 8, 8, 1), (1, 8, 8, 1)), "of one size"),
        (((1, 8, 8, 1), (1, 8, 8, 1), (0, 8, 8, 1)), "received none"),
        (((1, 8, 8, 1), (1, 8, 8, 1), (1, 8, 8, 1)), "empty one at 0"),
    ],
)
def test_wrong_input_gets_one_line(shapes, message):
    with pytest.raises(UserError, match=message) as error:
        memorisation.nearest_training_patch(*map(np.zeros, shapes))
    assert "\n" not in str(error.value)


def test_a_set_without_patches_is_refused():
    none, some = np.ones((0, 4, 4, 1)), np.ones((2, 4, 4, 1))
    with pytest.raises(UserError, match="received 2 infills and 0 held-out"):
        memorisation.memorisation(some, some, none, none, some)
