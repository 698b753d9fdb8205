"""The generator, compared with Fig. 2 of the paper."""

import numpy as np
import pytest

from cigan_tf.models.generator import Generator


def inputs(patch_size, count=2):
    rng = np.random.default_rng(0)
    mask = np.zeros((count, patch_size, patch_size, 1), np.float32)
    mask[:, patch_size // 4 : patch_size // 2, patch_size // 4 : patch_size // 2] = 1
    return {
        "context": rng.random((count, patch_size, patch_size, 1), dtype=np.float32),
        "mask": mask,
        "label": np.arange(count, dtype=np.int32) % 2,
    }


def test_parameter_count_of_the_paper():
    assert Generator(256).count_params() == 709_473


@pytest.mark.parametrize("patch_size", [32, 64, 128, 256, 512])
def test_any_power_of_two_and_any_batch(patch_size):
    generator = Generator(patch_size)
    generated = np.asarray(generator(inputs(patch_size)))
    assert generated.shape == (2, patch_size, patch_size, 1)
    assert generated.min() >= 0
    assert generated.max() <= 1
    assert len(generator.layers) > 0
    assert generator.input["context"].shape[0] is None


@pytest.mark.parametrize("name", ["context", "mask", "label"])
def test_every_input_reaches_the_output(name):
    generator, batch = Generator(32), inputs(32)
    before = np.asarray(generator(batch))
    batch[name] = 1 - batch[name]
    assert np.abs(np.asarray(generator(batch)) - before).max() > 0


def test_survives_its_own_config():
    generator = Generator(32)
    clone = Generator.from_config(generator.get_config())
    clone.set_weights(generator.get_weights())
    np.testing.assert_array_equal(generator(inputs(32)), clone(inputs(32)))
