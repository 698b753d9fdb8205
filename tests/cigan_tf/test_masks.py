"""Corruption, input stack, compositing and the boundary weight."""

import numpy as np
import pytest
import scipy.ndimage

from cigan_tf import masks
from cigan_tf.config import ModelConfig


@pytest.fixture
def patch():
    rng = np.random.default_rng(0)
    image = rng.random((2, 32, 32, 1), dtype=np.float32)
    mask = np.zeros((2, 32, 32, 1), np.float32)
    mask[0, 8:20, 10:25] = 1
    mask[1, 0:12, 20:32] = 1  # reaches the corner of the patch
    return image, mask


def test_corrupt_replaces_the_lesion_and_nothing_else(patch):
    image, mask = patch
    noise = np.random.default_rng(1).random(image.shape, dtype=np.float32)
    context = np.asarray(masks.corrupt(image, mask, noise))
    np.testing.assert_array_equal(context[mask == 0], image[mask == 0])
    np.testing.assert_array_equal(context[mask == 1], noise[mask == 1])


def test_composite_keeps_the_context_bit_for_bit(patch):
    image, mask = patch
    filled = np.asarray(masks.composite(image, mask, 1 - image))
    np.testing.assert_array_equal(filled[mask == 0], image[mask == 0])
    np.testing.assert_array_equal(filled[mask == 1], (1 - image)[mask == 1])


def test_input_stack_has_context_mask_and_one_hot_class(patch):
    image, mask = patch
    stack = np.asarray(masks.input_stack(image, mask, np.array([0, 1])))
    assert stack.shape == (2, 32, 32, 4)
    np.testing.assert_array_equal(stack[..., :1], image)
    np.testing.assert_array_equal(stack[..., 1:2], mask)
    assert (stack[0, ..., 2:] == [1, 0]).all()
    assert (stack[1, ..., 2:] == [0, 1]).all()


def test_match_rim_removes_a_step_in_brightness(patch):
    image, mask = patch
    image = 0.25 + 0.5 * image
    matched = np.asarray(masks.match_rim(image, mask, image - 0.2))
    np.testing.assert_allclose(matched, image, atol=1e-5)


def test_match_rim_keeps_the_interior():
    """A blob in the middle stays; only the level at the edge follows the surrounding tissue."""
    rows, columns = np.mgrid[:64, :64].astype(np.float32)
    distance = np.hypot(rows - 32, columns - 32)[None, ..., None]
    mask = (distance < 14).astype(np.float32)
    image = np.broadcast_to(0.3 + 0.004 * columns[None, ..., None], mask.shape)
    blob = 0.2 * np.exp(-((distance / 5) ** 2))
    matched = np.asarray(masks.match_rim(image, mask, 0.6 + blob))
    edge = (distance >= 13) & (distance < 14)
    np.testing.assert_allclose(matched[edge], image[edge], atol=0.02)
    np.testing.assert_allclose(matched[0, 32, 32, 0], image[0, 32, 32, 0] + 0.2, atol=0.02)


@pytest.mark.parametrize("reach_px", [2, 4, 7])
def test_the_reach_is_the_distance_of_half_the_shift(reach_px):
    mask = np.zeros((1, 64, 64, 1), np.float32)
    mask[:, :, 20:] = 1
    image, generated = np.full_like(mask, 0.6), np.full_like(mask, 0.4)
    shift = np.asarray(masks.match_rim(image, mask, generated, reach_px) - generated)[0, 32, 19:, 0]
    assert shift[1] > 0.75 * 0.2
    np.testing.assert_allclose(shift[reach_px], 0.1, atol=0.005)
    assert (np.diff(shift[:40]) < 0).all()
    assert shift[30] < 0.03


def test_match_rim_does_not_depend_on_the_original_lesion(patch):
    image, mask = patch
    other = np.where(mask > 0, 1 - image, image)
    np.testing.assert_array_equal(
        masks.match_rim(image, mask, np.full_like(image, 0.5)),
        masks.match_rim(other, mask, np.full_like(image, 0.5)),
    )


def test_match_rim_does_not_change_a_patch_that_is_all_mask(patch):
    image, mask = patch
    for reach_px in (0, 3, 32):
        matched = masks.match_rim(image, np.ones_like(mask), 1 - image, reach_px)
        np.testing.assert_array_equal(matched, 1 - image)


def test_inner_rim_is_one_pixel_wide_and_open_at_the_patch_edge(patch):
    _, mask = patch
    rim = np.asarray(masks.inner_rim(mask))[..., 0]
    assert rim[0].sum() == 2 * 12 + 2 * 15 - 4
    assert rim[0, 8, 10:25].all()
    assert not rim[0, 9:19, 11:24].any()
    # The second mask touches the top and right edges of the patch, so it has no rim there.
    assert rim[1].sum() == 12 + 12 - 1
    assert not rim[1, 0, 21:].any()


@pytest.mark.parametrize("sigma_px", [0.5, 2, 32, 100])
def test_gaussian_blur_is_scipys(sigma_px):
    image = np.random.default_rng(0).random((2, 128, 128, 1), dtype=np.float32)
    found = np.asarray(masks.gaussian_blur(image, sigma_px))
    expected = scipy.ndimage.gaussian_filter(image, sigma_px, axes=(1, 2), mode="constant")
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_boundary_map_is_the_gaussian_of_the_rim(patch):
    _, mask = patch
    found = np.asarray(masks.boundary_map(mask, sigma_px=2.5))
    for w, rim in zip(found[..., 0], np.asarray(masks.inner_rim(mask))[..., 0], strict=True):
        expected = scipy.ndimage.gaussian_filter(rim, 2.5, mode="constant")
        np.testing.assert_allclose(w, expected, atol=1e-6)


def test_boundary_map_of_an_empty_mask_is_zero():
    found = np.asarray(masks.boundary_map(np.zeros((1, 32, 32, 1), np.float32), 1.25))
    assert (found == 0).all()


@pytest.mark.parametrize(("patch_size", "scales"), [(32, 4), (64, 5), (256, 7), (512, 8)])
def test_num_scales(patch_size, scales):
    assert masks.num_scales(patch_size) == scales


def test_sigma_follows_the_patch():
    assert masks.sigma_for_patch(10.0, 256) == 10.0
    assert masks.sigma_for_patch(10.0, 64) == 2.5


def test_bounding_box_is_where_the_mask_begins_and_ends():
    mask = np.zeros((2, 8, 8, 1), np.float32)
    mask[0, 2:5, 1:8] = 1
    mask[1, 0, 3] = mask[1, 6, 4] = 1
    first, last = masks.bounding_box(mask)
    np.testing.assert_array_equal(first, [[2, 1], [0, 3]])
    np.testing.assert_array_equal(last, [[4, 7], [6, 4]])


def test_the_bounding_box_of_no_mask_is_the_whole_patch():
    first, last = masks.bounding_box(np.zeros((1, 8, 8, 1), np.float32))
    np.testing.assert_array_equal(first, [[0, 0]])
    np.testing.assert_array_equal(last, [[7, 7]])


def test_lesion_window_is_the_half_patch_around_each_mask():
    images = np.arange(2 * 16 * 16 * 2, dtype=np.float32).reshape(2, 16, 16, 2)
    mask = np.zeros((2, 16, 16, 1), np.float32)
    mask[0, 6:8, 9:12] = 1  # middle (6.5, 10): rows 3 to 10, columns 6 to 13
    mask[1, 15, 0] = 1  # at the corner: the window stays inside
    window = np.asarray(masks.lesion_window(images, mask))
    np.testing.assert_array_equal(window[0], images[0, 3:11, 6:14])
    np.testing.assert_array_equal(window[1], images[1, 8:, :8])


def grainy(strength, seed=0):
    """Returns a patch with noise of this standard deviation, and a mask in its middle."""
    noise = np.random.default_rng(seed).standard_normal((1, 64, 64, 1)).astype(np.float32)
    mask = np.zeros_like(noise)
    mask[:, 22:42, 20:44] = 1
    return 0.4 + strength * noise, mask


def test_grain_is_the_detail_of_the_tissue_around_the_mask():
    (fine, mask), (coarse, _) = grainy(0.006), grainy(0.018)
    of_fine, of_coarse = (masks.grain(image, mask).numpy().item() for image in (fine, coarse))
    assert 0.0035 < of_fine < 0.0055
    assert of_coarse == pytest.approx(3 * of_fine, rel=0.02)
    lesion = np.where(mask > 0, 1 - fine, fine)
    assert masks.grain(lesion, mask).numpy().item() == of_fine
    noise = np.random.default_rng(3).random(mask.shape, dtype=np.float32)
    assert masks.grain(noise, mask).numpy().item() == pytest.approx(0.02)
    everywhere = np.ones_like(mask)
    assert 0 < masks.grain(fine, everywhere).numpy().item() < 0.01


def test_match_grain_continues_the_noise_of_the_film():
    """The detail is scaled to each film's grain; shading and brightness stay."""
    generated = 0.2 + 2.0 * (grainy(0.01, seed=1)[0] - 0.4)
    shading = np.linspace(0, 0.3, 64, dtype=np.float32)[None, :, None, None]
    for strength in (0.005, 0.02):
        image, mask = grainy(strength)
        matched, smooth = (
            masks.match_grain(image, mask, patch).numpy()
            for patch in (generated + shading, np.full_like(mask, 0.2) + shading)
        )
        middle = np.s_[:, 16:48, 16:48]
        np.testing.assert_allclose(smooth[middle], (0.2 + shading + 0 * mask)[middle], atol=1e-3)
        # Noise with a standard deviation of 0.02 has 2.8 times the usual grain.
        assert 2.1 * strength < (matched - smooth)[middle].std() < 3.4 * strength


@pytest.mark.parametrize("covered", [0, 1])
def test_match_grain_does_not_change_a_patch_that_is_all_mask_or_has_none(covered):
    image, mask = grainy(0.02)
    matched = masks.match_grain(image, np.full_like(mask, covered), 1 - image)
    np.testing.assert_array_equal(matched, 1 - image)


def test_the_grain_of_a_little_tissue_stays_near_the_usual_one():
    image, mask = grainy(0.01)
    for tissue in (np.s_[:, :1, :1], np.s_[:, :1]):
        covered = np.ones_like(mask)
        covered[tissue] = 0
        assert 0.002 < masks.grain(image, covered).numpy().item() < 0.01


def test_relative_detail_sees_texture_and_neither_brightness_nor_shading():
    texture, mask = grainy(0.01)
    shading = np.linspace(0, 0.3, 64, dtype=np.float32)[None, :, None, None]
    dark, bright = texture - 0.2, texture + shading + (texture - 0.4)
    middle = np.s_[:, 20:-20, 20:-20]
    details = [masks.relative_detail(image, mask).numpy()[middle] for image in (dark, bright)]
    np.testing.assert_allclose(*details, atol=0.1)
    assert 1 < details[0].std() < 1.5
    smooth = np.where(mask > 0, 0.4, texture)
    assert np.abs(masks.relative_detail(smooth, mask).numpy()[:, 28:36, 28:36]).max() < 0.01


def test_the_strength_of_detail_is_its_local_logarithm():
    texture, mask = grainy(0.01)
    detail = masks.relative_detail(texture, mask)
    strength, twice = (
        masks.detail_strength(each, mask, 4.0).numpy()[mask > 0] for each in (detail, 2 * detail)
    )
    assert abs(np.median(strength)) < 0.2
    np.testing.assert_allclose(twice - strength, np.log(2), atol=0.05)
    outside = masks.detail_strength(detail, mask, 4.0).numpy()[mask == 0]
    assert not outside.any()
    flat = masks.detail_strength(np.zeros_like(mask), mask, 4.0).numpy()[mask > 0]
    np.testing.assert_allclose(flat, np.log(0.05), rtol=1e-5)


def test_a_mean_inside_the_mask_ignores_what_is_outside():
    texture, mask = grainy(0.01)
    values = np.where(mask > 0, np.float32(3), texture)
    mean = np.asarray(masks.mean_inside(values, mask, 2.0))
    np.testing.assert_allclose(mean, 3 * mask, rtol=1e-5)
    assert not np.asarray(masks.mean_inside(values, np.zeros_like(mask), 2.0)).any()


def test_place_applies_what_is_configured(patch):
    image, mask = patch
    generated = np.random.default_rng(2).random(image.shape, dtype=np.float32)
    placed = {
        name: np.asarray(masks.place(image, mask, generated, ModelConfig(**settings)))
        for name, settings in (
            ("paper", {}),
            ("whole", {"composite": False}),
            ("grain", {"match_grain": True}),
            ("both", {"match_grain": True, "match_rim": True}),
        )
    }
    np.testing.assert_array_equal(placed["paper"], masks.composite(image, mask, generated))
    np.testing.assert_array_equal(placed["whole"], generated)
    grain = masks.match_grain(image, mask, generated)
    np.testing.assert_array_equal(placed["grain"], masks.composite(image, mask, grain))
    both = masks.composite(image, mask, masks.match_rim(image, mask, grain))
    np.testing.assert_array_equal(placed["both"], both)


def test_the_share_of_a_mask_on_tissue():
    # A fifth of the patch is air: dark, with film fog.
    image = np.full((10, 10, 1), 0.5, np.float32)
    image[:, :2] = np.linspace(0.01, 0.03, 20).reshape(10, 2, 1)
    inside, half, outside = np.zeros((3, 10, 10, 1), np.float32)
    inside[2:6, 4:8] = 1
    half[2:6, 0:4] = 1
    outside[2:6, 0:2] = 1
    tried = np.stack([inside, half, outside])
    np.testing.assert_allclose(masks.tissue_share(image, tried, 0.8), [1, 0.5, 0])
    np.testing.assert_allclose(masks.tissue_share(image, tried, 1.0), [1, 1, 1])
    # Air may have a single grey level.
    image[:, :2] = 0
    np.testing.assert_allclose(masks.tissue_share(image, half, 0.85), 0.5)


def test_relative_brightness_of_a_mask_over_the_whole_patch_is_relative_to_the_patch():
    image = np.random.default_rng(0).random((2, 16, 16, 1), dtype=np.float32)
    relative = masks.relative_brightness(image, np.ones_like(image)).numpy()
    np.testing.assert_allclose(relative, image - image.mean(axis=(1, 2), keepdims=True), atol=1e-6)
