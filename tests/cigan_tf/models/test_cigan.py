"""Turns, updated weights, and learning with real networks."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from cigan_tf.config import Config, LossConfig, ModelConfig, TrainingConfig
from cigan_tf.errors import UserError
from cigan_tf.models.cigan import CiGAN, Shown, Turn, build_cigan

PATCH = 32


def make_model(**training):
    settings = {"pretraining_steps": 1, "adversarial_steps": 10, **training}
    config = Config(
        model=ModelConfig(PATCH, vgg_weights="random", feature_layers=("input", "pool1")),
        loss=LossConfig(windowed_feature_loss=False),
        training=TrainingConfig(**settings),
    )
    model = build_cigan(config)
    # Tracing takes seconds and a step at this size milliseconds; the test of fit runs graphs.
    model.run_eagerly = True
    return model


def make_batch(seed=0, count=4):
    rng = np.random.default_rng(seed)
    mask = np.zeros((count, PATCH, PATCH, 1), np.float32)
    mask[:, 8:24, 10:22] = 1
    return {
        "image": tf.constant(rng.random((count, PATCH, PATCH, 1)), tf.float32),
        "mask": tf.constant(mask),
        "label": tf.constant(np.arange(count) % 2, tf.int32),
    }


def snapshot(model):
    """Returns the full state of one network: weights, Adam slots, iteration count."""
    groups = {
        "generator": [*model.generator.weights, *model.generator_optimizer.variables],
        "discriminator": [*model.discriminator.weights, *model.discriminator_optimizer.variables],
    }
    return {name: [np.array(v.value) for v in variables] for name, variables in groups.items()}


def train_one_step(model, batch):
    model.make_train_function()
    model.train_function(iter(tf.data.Dataset.from_tensors(batch)))


@pytest.mark.parametrize(
    ("turn", "trained", "resting"),
    [
        (Turn.PRETRAINING, "generator", "discriminator"),
        (Turn.GENERATOR, "generator", "discriminator"),
        (Turn.DISCRIMINATOR, "discriminator", "generator"),
    ],
)
def test_only_the_network_in_turn_changes(turn, trained, resting):
    model = make_model(pretraining_steps=5)
    model.turn.assign(turn)
    before = snapshot(model)
    train_one_step(model, make_batch())
    after = snapshot(model)
    for old, new in zip(before[resting], after[resting], strict=True):
        np.testing.assert_array_equal(old, new)
    weights = getattr(model, trained).trainable_variables
    for weight, old, new in zip(weights, before[trained], after[trained], strict=False):
        assert np.abs(old - new).max() > 0, f"{weight.path} did not move"
    optimizer = getattr(model, f"{trained}_optimizer")
    assert int(optimizer.iterations) == 1


def test_the_feature_network_never_changes():
    model = make_model()
    features = model.feature_loss.features
    before = features.get_weights()
    for _ in range(3):
        train_one_step(model, make_batch())
    for old, new in zip(before, features.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def turns(model, steps):
    model.make_train_function()
    train = model.train_function
    batches = iter(tf.data.Dataset.from_tensors(make_batch()).repeat())
    seen = []
    for _ in range(steps):
        seen.append(Turn(int(model.turn.numpy())))
        train(batches)
    return seen


def test_pretraining_comes_first_then_the_discriminator():
    seen = turns(make_model(pretraining_steps=2, switch_threshold=1e-9), 3)
    assert seen == [Turn.PRETRAINING, Turn.PRETRAINING, Turn.DISCRIMINATOR]


def test_the_turn_passes_at_the_cap():
    model = make_model(pretraining_steps=0, switch_threshold=1e-9, max_steps_per_turn=2)
    d, g = Turn.DISCRIMINATOR, Turn.GENERATOR
    assert turns(model, 6) == [d, d, g, g, d, d]
    assert int(model.turns_taken.numpy()) == 3


def test_the_turn_passes_below_the_threshold():
    model = make_model(pretraining_steps=0, switch_threshold=1e9)
    d, g = Turn.DISCRIMINATOR, Turn.GENERATOR
    assert turns(model, 4) == [d, g, d, g]


def test_infill_keeps_the_context_unless_compositing_is_off():
    model, batch = make_model(), make_batch()
    noise = tf.zeros_like(batch["image"])
    outside = batch["mask"].numpy() == 0
    kept = model.infill(**batch, noise=noise).numpy()
    np.testing.assert_array_equal(kept[outside], batch["image"].numpy()[outside])
    model.composite = False
    raw = model.infill(**batch, noise=noise).numpy()
    assert np.abs(raw - batch["image"].numpy())[outside].max() > 0


def test_keras_fit_and_evaluate_run_as_graphs_and_pretraining_fills_a_flat_patch():
    model = make_model(pretraining_steps=30, learning_rate=5e-4)
    # The data end within the steps of a call.
    model.compile(model.generator_optimizer, model.discriminator_optimizer, steps_per_execution=4)
    batch = {**make_batch(), "image": tf.fill((4, PATCH, PATCH, 1), 0.25)}
    batches = tf.data.Dataset.from_tensors(batch).repeat(30)
    history = model.fit(batches, epochs=1, shuffle=False, verbose=0)
    assert set(history.history) == {metric.name for metric in model.metrics}
    assert int(model.step.numpy()) == 30
    before = snapshot(model)
    measured = model.evaluate(batches.take(1), verbose=0, return_dict=True)
    assert measured["feature_loss"] > 0
    for name, values in snapshot(model).items():
        for old, new in zip(before[name], values, strict=True):
            np.testing.assert_array_equal(old, new)
    filled = model.infill(**batch, noise=tf.random.stateless_uniform((4, PATCH, PATCH, 1), (0, 1)))
    inside = filled.numpy()[batch["mask"].numpy() == 1]
    assert np.abs(inside - 0.25).mean() < 0.03


def test_optimizers_follow_the_configuration():
    model = make_model(learning_rate=2e-4, adam_beta_1=0.5)
    for optimizer in (model.generator_optimizer, model.discriminator_optimizer):
        assert isinstance(optimizer, keras.optimizers.Adam)
        assert float(optimizer.learning_rate) == pytest.approx(2e-4)
        assert optimizer.beta_1 == 0.5


def test_the_largest_seed_is_allowed():
    model = make_model(seed=2**31 - 1, augment_discriminator=True)
    assert model._augmentation_draws(2).shape[0] == 2


def test_a_setting_of_the_infills_is_checked():
    model = make_model()
    with pytest.raises(UserError, match="needs --match_rim"):
        CiGAN(model.generator, model.discriminator, rim_reach_px=3)


def test_a_discriminator_without_parts_is_refused():
    model = make_model()
    with pytest.raises(
        UserError, match=r"need a Discriminator of cigan_tf\.models; received a Sequential"
    ):
        CiGAN(model.generator, keras.Sequential(), r1_weight=1.0)


def test_loss_weights_are_applied():
    base = make_model(pretraining_steps=0)
    batch = {**make_batch(), "noise": tf.zeros((4, PATCH, PATCH, 1))}
    infilled = base.infill(**batch)

    def total(**weights):
        base.loss_config = dataclasses.replace(LossConfig(), **weights)
        return float(base._generator_loss(batch, infilled, adversarially=True)[0])

    zero = {"adversarial_weight": 0.0, "feature_weight": 0.0, "boundary_weight": 0.0}
    assert total(**zero) == 0
    parts = sum(total(**{**zero, name: getattr(LossConfig(), name)}) for name in zero)
    assert total() == pytest.approx(parts, rel=1e-5)


def test_the_generator_can_be_used_with_the_average_of_its_weights():
    model = make_model(pretraining_steps=9, generator_ema=0.75, learning_rate=1e-2)
    weight = model.generator.trainable_variables[0]
    initial = np.array(weight)
    with model.averaged_generator():  # there is no average before the first step
        np.testing.assert_array_equal(weight, initial)
    values = []
    for seed in range(3):
        train_one_step(model, make_batch(seed))
        values.append(np.array(weight))
    expected = values[0]
    for value in values[1:]:
        expected = 0.75 * expected + 0.25 * value
    with model.averaged_generator():
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(weight, values[-1])


def classes_judged(opposite_class_weight):
    """Returns the class given for each set of malignant patches in the discriminator's loss."""
    model = make_model()
    model.loss_config = LossConfig(opposite_class_weight=opposite_class_weight)
    batch = {**make_batch(), "label": tf.ones(4, tf.int32)}
    noise = tf.zeros_like(batch["image"])
    seen = []
    model._discriminate = lambda shown, image, batch: (
        seen.append(model._inputs(shown, image, batch)["label"]) or tf.reduce_mean(image, (1, 2))
    )
    infilled = model.infill(**batch, noise=noise)
    opposite = model._opposite_infill({**batch, "noise": noise})
    model._discriminator_loss(batch, infilled, opposite)
    return [int(label[0]) for label in seen]


def test_infills_of_the_opposite_class_are_judged_as_that_class():
    assert classes_judged(0.0) == [1, 1]  # real, infilled
    assert classes_judged(1.0) == [1, 1, 0]


def test_the_generator_is_trained_on_infills_of_the_opposite_class():
    model = make_model()
    batch = {**make_batch(), "noise": tf.zeros((4, PATCH, PATCH, 1))}
    own = model.infill(**batch)
    opposite = model._opposite_infill(batch)
    assert opposite is None
    opposite = 0.5 * own

    def boundary_loss(weight, infilled, opposite):
        model.loss_config = LossConfig(opposite_class_weight=weight)
        _, terms = model._generator_loss(batch, infilled, True, opposite)
        return float(terms["boundary_loss"])

    apart = [boundary_loss(0.0, infilled, None) for infilled in (own, opposite)]
    both = boundary_loss(3.0, own, opposite)
    assert both == pytest.approx((apart[0] + 3 * apart[1]) / 4, rel=1e-5)


def test_the_diversity_of_infills_of_the_opposite_class_is_measured():
    model = make_model()
    batch = {**make_batch(), "noise": tf.random.stateless_uniform((4, PATCH, PATCH, 1), (0, 1))}
    model.loss_config = LossConfig(opposite_class_weight=1.0)
    opposite = model._opposite_infill(batch)
    # Noise that repeats after half a patch gives the same infill twice.
    same = {**batch, "noise": tf.repeat(batch["noise"][:, :1], PATCH, axis=1)}
    infilled = model._opposite_infill(same)
    assert float(model._diversity_loss(same, infilled, 1 - same["label"])) == pytest.approx(1)
    assert 0 < float(model._diversity_loss(batch, opposite, 1 - batch["label"])) < 0.9


def test_the_r1_penalty_is_the_gradient_at_real_patches():
    model = make_model()
    model.loss_config = LossConfig(r1_weight=0.5)
    batch = make_batch()
    with tf.GradientTape() as tape:
        tape.watch(batch["image"])
        logits = model.discriminator({name: batch[name] for name in ("image", "label")})
    gradient = tape.gradient(logits, batch["image"]).numpy()
    expected = 0.5 * 0.5 * np.square(gradient).sum((1, 2, 3)).mean()
    assert float(model._r1_penalty(batch)) == pytest.approx(expected, rel=1e-4)
    assert expected > 0


def test_real_and_infilled_patches_are_augmented_separately_and_steps_differ():
    model = make_model(augment_discriminator=True)
    batch = make_batch()
    draws = model._augmentation_draws(4)
    views = [
        model._seen(shown, batch["image"], {**batch, "draws": draws})[0].numpy()
        for shown in (Shown.REAL, Shown.INFILLED)
    ]
    assert np.abs(views[0] - views[1]).max() > 0.05
    np.testing.assert_array_equal(draws, model._augmentation_draws(4))
    model.step.assign_add(1)
    assert np.abs(draws - model._augmentation_draws(4)).max() > 0.1


@pytest.mark.parametrize("turn", [Turn.GENERATOR, Turn.DISCRIMINATOR])
def test_a_step_with_every_technique_trains_one_network(turn):
    config = Config(
        model=ModelConfig(
            patch_size=PATCH,
            vgg_weights="random",
            discriminator_view="lesion",
            match_grain=True,
            match_rim=True,
        ),
        loss=LossConfig(opposite_class_weight=1.0, r1_weight=0.1, diversity_weight=0.5),
        training=TrainingConfig(
            pretraining_steps=0,
            adversarial_steps=4,
            generator_ema=0.9,
            augment_discriminator=True,
        ),
    )
    model = build_cigan(config)
    model.run_eagerly = True
    model.turn.assign(turn)
    before = snapshot(model)
    train_one_step(model, make_batch())
    after = snapshot(model)
    moved = {
        name: any(not np.array_equal(a, b) for a, b in zip(before[name], after[name], strict=True))
        for name in before
    }
    assert moved == {
        "generator": turn == Turn.GENERATOR,
        "discriminator": turn == Turn.DISCRIMINATOR,
    }
