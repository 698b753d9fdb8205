"""A step of the whole model: in loops, in other precisions, and compiled by XLA."""

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf.config import Config, ModelConfig, TrainingConfig
from cigan_tf.hardware_config import HardwareConfig
from cigan_tf.models import feature_window
from cigan_tf.models.cigan import build_cigan
from cigan_tf.models.replicated import AgreedMean

PATCH = 32


@pytest.fixture(scope="module", autouse=True)
def two_windows():
    """Two windows of the feature loss are enough to choose between; each one is traced."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(feature_window, "_MAX_SIZES", 1)
        yield


def make_model(training=None, **hardware):
    return build_cigan(
        Config(
            model=ModelConfig(PATCH, vgg_weights="random", feature_layers=("input", "pool1")),
            training=TrainingConfig(
                pretraining_steps=1,
                max_steps_per_turn=1,
                switch_threshold=1e-9,
                **(training or {}),
            ),
            hardware=HardwareConfig(**hardware),
        )
    )


def batches(count):
    rng = np.random.default_rng(0)
    mask = np.zeros((2 * count, PATCH, PATCH, 1), np.float32)
    mask[:, 8:24, 10:22] = 1
    patches = {
        "image": rng.random((2 * count, PATCH, PATCH, 1), np.float32),
        "mask": mask,
        "label": np.arange(2 * count, dtype=np.int32) % 2,
    }
    return tf.data.Dataset.from_tensor_slices(patches).batch(2, drop_remainder=True)


def train(model, steps):
    model.make_train_function()
    iterator = iter(batches(steps))
    for _ in range(steps):
        model.run_steps(iterator, 1)
    return model


@pytest.fixture(scope="module")
def eager_run():
    """A model after a pre-training step, a discriminator step and an adversarial generator step."""
    model = make_model()
    model.run_eagerly = True
    return train(model, 3)


def test_the_whole_step_compiles_under_xla_and_trains_the_same_weights():
    # Adam normalises gradients: with its default epsilon, a gradient that should be zero but is
    # changed by rounding moves a weight as far as any other.
    plain = {"learning_rate": 0.1, "adam_epsilon": 1.0}
    model, twin = make_model(plain, jit_compile=True), make_model(plain)
    noise = tf.random.stateless_uniform((2, PATCH, PATCH, 1), (0, 1))
    for each in (model, twin):
        each.noise = lambda like, step: noise  # XLA would draw different noise
    start = model.generator.get_weights()
    twin.run_eagerly = True
    train(twin, 3)

    @tf.function(jit_compile=True, autograph=False)
    def step(batch):
        model.train_step(batch)

    for batch in batches(3):
        step(batch)
    assert int(model.step.numpy()) == 3
    assert int(model.turns_taken.numpy()) == 3
    for metric, expected in zip(model.metrics, twin.metrics, strict=True):
        assert float(metric.result()) == pytest.approx(float(expected.result()), rel=1e-4)
    for network in ("generator", "discriminator"):
        weights, expected = (getattr(each, network).get_weights() for each in (model, twin))
        for one, other in zip(weights, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    now = model.generator.get_weights()
    assert max(np.abs(new - old).max() for new, old in zip(now, start, strict=True)) > 1e-3


@pytest.mark.parametrize("mixed_precision", ["bfloat16", "float16"])
def test_mixed_precision_trains_about_the_same(eager_run, mixed_precision):
    model = make_model(mixed_precision=mixed_precision)
    model.run_eagerly = True
    train(model, 3)
    assert model.generator.layers[-2].compute_dtype == mixed_precision
    assert model.generator.layers[-1].compute_dtype == "float32"
    assert {weight.dtype for weight in model.generator.weights} == {"float32"}
    for metric, twin in zip(model.metrics, eager_run.metrics, strict=True):
        # float16 may use its first step to find a loss scale.
        assert float(metric.result()) == pytest.approx(float(twin.result()), rel=0.25)
    assert make_model().generator.layers[-2].compute_dtype == "float32"


def test_overflowing_gradients_lower_the_loss_scale_and_are_not_a_failure():
    model = make_model(mixed_precision="float16")
    model.run_eagerly = True
    optimizer = model.generator_optimizer
    optimizer.dynamic_scale.assign(2.0**120)
    train(model, 1)
    assert float(optimizer.dynamic_scale.numpy()) == 2.0**119
    assert int(optimizer.iterations) == 0
    assert model.take_nonfinite() is None


def test_a_mean_on_which_replicas_agree_equals_keras_mean():
    metric = AgreedMean("mean")
    for value in (1.0, 2.0, 6.0):
        metric.update_state(value)
    assert float(metric.result()) == 3
    assert len(metric.variables) == 2
    metric.reset_state()
    assert float(metric.count) == 0
