"""Signs of failed training, computed from known values."""

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf.config import Config, ModelConfig, TrainingConfig
from cigan_tf.errors import DivergedError
from cigan_tf.models.cigan import Shown, Turn, build_cigan
from cigan_tf.training import health

PATCH = 32


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    mask = np.zeros((4, PATCH, PATCH, 1), np.float32)
    mask[:, 8:24, 10:22] = 1
    return {
        "image": rng.random((4, PATCH, PATCH, 1), np.float32),
        "mask": mask,
        "label": np.array([0, 1, 0, 1], np.int32),
    }


def alive(image, mask, label, seed):
    """Infills with noise drawn from the seed, slightly brighter if malignant."""
    rng = np.random.default_rng(seed[0])
    noise = 0.1 * rng.random(image.shape, np.float32) + 0.05 * label[:, None, None, None]
    return np.where(mask > 0.5, noise, image)


def deaf_to_seeds(image, mask, label, seed):
    return alive(image, mask, label, np.zeros_like(seed))


def deaf_to_classes(image, mask, label, seed):
    return alive(image, mask, np.zeros_like(label), seed)


def test_spread_is_measured_in_the_contrast_of_the_lesions(batch):
    seeds, classes = health.infill_spread(alive, batch, seed=0)
    contrast = 1 / np.sqrt(12)  # standard deviation of uniform noise
    assert seeds == pytest.approx(0.1 / np.sqrt(12) / contrast * np.sqrt(3 / 4), rel=0.1)
    assert classes == pytest.approx(0.05 / contrast, rel=0.05)


@pytest.mark.parametrize(
    ("infill", "said"), [(deaf_to_seeds, "seed"), (deaf_to_classes, "two classes")]
)
def test_a_generator_that_ignores_an_input_is_reported_once(batch, infill, said):
    monitor = health.CollapseMonitor(TrainingConfig())
    seeds, classes = health.infill_spread(infill, batch, seed=0)
    signs = {
        "health/infill_spread_over_seeds": seeds,
        "health/infill_spread_over_classes": classes,
    }
    assert monitor.warnings(signs, Turn.PRETRAINING) == []
    (warning,) = monitor.warnings(signs, Turn.GENERATOR)
    assert said in warning
    assert monitor.warnings(signs, Turn.GENERATOR) == []
    assert monitor.warnings(HEALTHY, Turn.GENERATOR) == []
    assert monitor.warnings(signs, Turn.GENERATOR) == []


HEALTHY = {
    "health/infill_spread_over_seeds": 0.1,
    "health/infill_spread_over_classes": 0.1,
    "health/all_turns_at_limit": 0.0,
    "discriminator/accuracy_real": 0.9,
    "discriminator/accuracy_fake": 0.995,
}


@pytest.mark.parametrize(
    ("sign", "value", "said"),
    [
        (None, 0.0, None),
        ("discriminator/accuracy_real", 1.0, "always right"),
        ("health/all_turns_at_limit", 1.0, "limit of 100 steps"),
    ],
)
def test_other_signs(sign, value, said):
    monitor = health.CollapseMonitor(TrainingConfig())
    warnings = monitor.warnings({**HEALTHY, sign: value}, Turn.DISCRIMINATOR)
    assert [said in warning for warning in warnings] == ([] if said is None else [True])


@pytest.mark.parametrize(
    ("settings", "steps_turns_in_turn", "expected"),
    [
        # The end of pre-training at step 10 is not a turn of a network.
        ({}, [(5, 0, 5), (10, 1, 0), (14, 3, 0), (23, 7, 1)], [None, None, None, True]),
        ({}, [(10, 1, 0), (22, 7, 0), (34, 14, 1)], [None, True, False]),
        ({"max_steps_per_turn": 1}, [(10, 1, 0), (30, 21, 0)], [None, None]),
    ],
    ids=["all at the limit", "one ended by the threshold", "a limit of one step"],
)
def test_turns_that_all_end_at_their_limit_are_found(settings, steps_turns_in_turn, expected):
    limits = {"max_steps_per_turn": 2, "pretraining_steps": 10, **settings}
    monitor = health.CollapseMonitor(TrainingConfig(**limits))
    assert [monitor._all_at_limit(*counts) for counts in steps_turns_in_turn] == expected


AT_CHANCE = {
    "loss/adversarial_discriminator_loss": np.log(2) + 0.004,
    "discriminator/accuracy_real": 0.93,
    "discriminator/accuracy_fake": 0.08,
}


def test_a_discriminator_that_stays_at_chance_is_reported_once():
    monitor = health.CollapseMonitor(TrainingConfig())
    signs = HEALTHY | AT_CHANCE
    said = [monitor.warnings(signs, Turn.GENERATOR) for _ in range(8)]
    (warning,) = [line for lines in said for line in lines]
    assert "stays at chance" in warning
    assert said[4] == [warning], "at the fifth look in a row"


@pytest.mark.parametrize(
    "better",
    [
        {"loss/adversarial_discriminator_loss": 0.6},
        # The loss is at chance, but the answers differ between patches and are mostly right.
        {"discriminator/accuracy_real": 0.7, "discriminator/accuracy_fake": 0.7},
    ],
)
def test_a_discriminator_that_can_tell_is_not_at_chance(better):
    monitor = health.CollapseMonitor(TrainingConfig())
    signs = HEALTHY | AT_CHANCE | better
    assert all(monitor.warnings(signs, Turn.GENERATOR) == [] for _ in range(20))


def test_a_discriminator_that_recovers_now_and_then_is_not_at_chance():
    monitor = health.CollapseMonitor(TrainingConfig())
    for look in range(20):
        recovered = {"loss/adversarial_discriminator_loss": 0.5} if look % 4 == 3 else {}
        signs = HEALTHY | AT_CHANCE | recovered
        assert monitor.warnings(signs, Turn.DISCRIMINATOR) == []


@pytest.fixture(scope="module")
def model():
    model = build_cigan(
        Config(
            model=ModelConfig(PATCH, vgg_weights="random", feature_layers=("input",)),
            training=TrainingConfig(pretraining_steps=0),
        )
    )
    model.run_eagerly = True
    model.make_train_function()
    return model


def everything_that_moves(model):
    optimizers = (model.generator_optimizer, model.discriminator_optimizer)
    variables = [v for optimizer in optimizers for v in optimizer.variables]
    variables += model.generator.weights + model.discriminator.weights
    return [np.array(variable.numpy()) for variable in variables]


def step_on(model, batch):
    model.run_steps(iter(tf.data.Dataset.from_tensors(batch)), 1)


@pytest.mark.parametrize(
    ("turn", "term"),
    [
        (Turn.GENERATOR, "feature_loss"),
        # A logit may be infinite and right; then only the gradient is not finite.
        (Turn.DISCRIMINATOR, "discriminator_gradient"),
    ],
)
def test_a_non_finite_step_changes_nothing_and_is_named(model, batch, turn, term):
    model.turn.assign(turn)
    before = everything_that_moves(model)
    check = health.FiniteCheck(model, TrainingConfig(on_nonfinite="skip"))
    broken = {**batch, "image": batch["image"].copy()}
    broken["image"][2, 0, 0, 0] = np.inf
    step_on(model, broken)
    step = int(model.step.numpy())
    for old, new in zip(before, everything_that_moves(model), strict=True):
        np.testing.assert_array_equal(old, new)
    warning = check.check("CHECKPOINT")
    assert f"{term} is NaN or infinite at step {step}; skipped 1 of the last 1 steps" in warning
    assert check.check("CHECKPOINT") is None
    assert all(np.isfinite(float(metric.total)) for metric in model.metrics)


def test_a_non_finite_gradient_is_named(model, batch, monkeypatch):
    model.turn.assign(Turn.DISCRIMINATOR)

    def steep(batch, infilled, opposite):
        # At zero, sqrt has a finite value and an infinite slope.
        loss = tf.sqrt(0.0 * tf.reduce_sum(model._discriminate(Shown.INFILLED, infilled, batch)))
        return loss, {"adversarial_discriminator_loss": loss}

    monkeypatch.setattr(model, "_discriminator_loss", steep)
    check = health.FiniteCheck(model, TrainingConfig())
    step_on(model, batch)
    with pytest.raises(DivergedError, match=r"discriminator_gradient .* checkpoint: NEWEST"):
        check.check("NEWEST")


def test_a_run_that_can_only_skip_ends(model, batch, monkeypatch):
    monkeypatch.setattr(health, "_MOST_SKIPPED_IN_A_ROW", 3)
    check = health.FiniteCheck(model, TrainingConfig(on_nonfinite="skip"))
    broken = {**batch, "image": np.full_like(batch["image"], np.nan)}
    for _ in range(3):
        step_on(model, broken)
    with pytest.raises(DivergedError, match="each of the last 3 steps"):
        check.check("NEWEST")
