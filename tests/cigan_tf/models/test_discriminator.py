"""The discriminator, compared with section 2.1 of the paper."""

import cv2
import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from cigan_tf import input_pipeline, losses, masks
from cigan_tf.models.discriminator import Discriminator


def test_parameter_count_of_the_paper():
    assert Discriminator(256, sees_class=False).count_params() == 1_600_769


def test_the_class_costs_two_more_input_channels():
    assert Discriminator(256).count_params() == 1_600_769 + 2 * 9 * 32


@pytest.mark.parametrize("patch_size", [32, 64, 512])
def test_one_logit_per_patch(patch_size):
    image = np.random.default_rng(0).random((2, patch_size, patch_size, 1), dtype=np.float32)
    logits = Discriminator(patch_size)({"image": image, "label": np.array([0, 1])})
    assert logits.shape == (2, 1)


def test_the_class_changes_the_answer():
    image = np.random.default_rng(0).random((1, 32, 32, 1), dtype=np.float32)
    discriminator = Discriminator(32)
    benign = discriminator({"image": image, "label": np.array([0])})
    malignant = discriminator({"image": image, "label": np.array([1])})
    assert float(benign[0, 0]) != float(malignant[0, 0])


def test_the_lesion_view_reads_half_the_patch_and_four_more_channels():
    patch, lesion = Discriminator(64), Discriminator(64, view="lesion")
    assert set(lesion.input) == {"image", "mask", "label"}
    first = lesion.get_layer("conv1")
    assert first.kernel.shape[2] == patch.get_layer("conv1").kernel.shape[2] + 4
    see, _ = lesion.parts()
    assert see.output[0].shape == (None, 32, 32, 5)
    rng = np.random.default_rng(0)
    image, mask = rng.random((1, 64, 64, 1), dtype=np.float32), np.zeros((1, 64, 64, 1))
    mask[:, :10, :10] = 1
    far_off = image.copy()
    far_off[:, 60:, 60:] = 0  # outside the window and the filters' reach
    logits = [lesion({"image": i, "mask": mask, "label": np.array([1])}) for i in (image, far_off)]
    np.testing.assert_array_equal(*logits)


def test_the_lesion_view_shows_a_step_at_the_masks_edge():
    """The means of detail inside and outside the mask have opposite signs, whatever the grain."""
    see, _ = Discriminator(64, view="lesion").parts()
    rng = np.random.default_rng(0)
    mask = np.zeros((1, 64, 64, 1), np.float32)
    mask[:, 24:40, 24:40] = 1
    for step, direction in ((0.02, 1), (-0.02, -1)):
        image = 0.4 + step * mask + 0.01 * rng.standard_normal(mask.shape).astype(np.float32)
        view, _ = see({"image": image, "mask": mask, "label": np.array([1])})
        _, inside, outside, _, in_mask = np.moveaxis(view.numpy(), -1, 0)
        assert direction * inside[in_mask == 1].mean() > 0.1
        assert direction * outside[in_mask == 0].mean() < -0.05
        assert (inside[in_mask == 0] == 0).all()
        assert (outside[in_mask == 1] == 0).all()


def test_the_lesion_view_shows_brightness_relative_to_the_ring_around_the_mask():
    see, _ = Discriminator(64, view="lesion").parts()
    mask = np.zeros((1, 64, 64, 1), np.float32)
    mask[:, 24:40, 24:40] = 1
    for tissue in (0.2, 0.6):
        inputs = {"image": tissue + 0.05 * mask, "mask": mask, "label": np.array([1])}
        brightness, _, _, _, in_mask = np.moveaxis(see(inputs)[0].numpy(), -1, 0)
        np.testing.assert_allclose(brightness, 0.5 * in_mask, atol=1e-5)


@pytest.mark.parametrize("patch_size", [32, 128])
def test_the_lesion_view_hides_the_surroundings(patch_size):
    """Only a band of a sixteenth of the patch's width around the mask is visible."""
    see, _ = Discriminator(patch_size, view="lesion").parts()
    mask = np.zeros((1, patch_size, patch_size, 1), np.float32)
    middle = slice(patch_size * 3 // 8, patch_size * 5 // 8)
    mask[:, middle, middle] = 1
    image = np.random.default_rng(0).random(mask.shape, dtype=np.float32)
    view, _ = see({"image": image, "mask": mask, "label": np.array([1])})
    brightness, inside, outside, strength, in_mask = np.moveaxis(view.numpy()[0], -1, 0)
    band_px = patch_size // 16
    first, last = (np.flatnonzero(in_mask.any(axis=0))[edge] for edge in (0, -1))
    visible = np.zeros_like(in_mask, bool)
    visible[first - band_px : last + band_px + 1, first - band_px : last + band_px + 1] = True
    np.testing.assert_array_equal(brightness != 0, visible)
    np.testing.assert_array_equal(inside + outside != 0, visible)
    np.testing.assert_array_equal(strength != 0, in_mask != 0)


@pytest.mark.parametrize("patch_size", [32, 256])
def test_the_lesion_view_fits_every_patch(patch_size):
    patch = np.ones((2, patch_size, patch_size, 1), np.float32)
    inputs = {"image": patch, "mask": patch, "label": np.array([0, 1])}
    assert Discriminator(patch_size, view="lesion")(inputs).shape == (2, 1)


@pytest.mark.parametrize("view", ["patch", "lesion"])
def test_its_parts_give_the_result_of_the_whole(view, tmp_path):
    discriminator = Discriminator(32, view=view)
    patch = np.random.default_rng(0).random((2, 32, 32, 1), dtype=np.float32)
    inputs = {"image": patch, "mask": (patch > 0.5).astype(np.float32), "label": np.array([0, 1])}
    inputs = {name: inputs[name] for name in discriminator.input}
    see, judge = discriminator.parts()
    np.testing.assert_allclose(judge(see(inputs)), discriminator(inputs), rtol=1e-5)
    # The parts are not saved again: there is one array per weight.
    path = tmp_path / "discriminator.weights.h5"
    discriminator.save_weights(path)
    with h5py.File(path) as file:
        arrays = []
        file.visititems(lambda _, item: arrays.append(item) if hasattr(item, "shape") else None)
        assert len(arrays) == len(discriminator.weights)


def test_it_is_saved_with_its_lesion_view(tmp_path):
    Discriminator(32, view="lesion").save(tmp_path / "discriminator.keras")
    assert keras.models.load_model(tmp_path / "discriminator.keras").view == "lesion"


def mean_loss_of_last_steps(view, blurs, config, steps, last=20):
    """Trains a discriminator on real patches and on infills that a fixed generator blurs."""
    keras.utils.set_random_seed(0)
    discriminator = Discriminator(32, view=view)
    optimizer = keras.optimizers.Adam(5e-4, 0.5)
    optimizer.build(discriminator.trainable_variables)
    batches = input_pipeline.training_batches(config).take(steps)

    @tf.function(autograph=False)
    def train_step(image, infilled, mask, label):
        with tf.GradientTape() as tape:
            real, fake = (
                discriminator({n: v for n, v in inputs.items() if n in discriminator.input})
                for inputs in (
                    {"image": image, "mask": mask, "label": label},
                    {"image": masks.composite(image, mask, infilled), "mask": mask, "label": label},
                )
            )
            loss = losses.adversarial_discriminator_loss(real, fake)
        variables = discriminator.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    found = []
    for batch in batches.as_numpy_iterator():
        image = batch["image"]
        smooth = [cv2.GaussianBlur(patch, (0, 0), 2)[..., None] for patch in image]
        infilled = np.stack(smooth) if blurs else image
        found.append(float(train_step(image, infilled, batch["mask"], batch["label"])))
    return np.mean(found[-last:])


def test_the_lesion_view_learns_to_detect_blurred_infills_within_150_steps(tiny_config, replace):
    config = replace(tiny_config, random_flips=True)
    assert mean_loss_of_last_steps("lesion", True, config, steps=150) < 0.45
    # Without a blur there is nothing to detect, so the loss must stay near chance.
    assert mean_loss_of_last_steps("lesion", False, config, steps=30, last=10) > 0.65
