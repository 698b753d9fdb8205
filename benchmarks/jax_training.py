"""Trains ciGAN's networks on one accelerator with Keras' JAX backend, without TensorFlow.

The networks, masks and losses are those of `cigan_tf`. The training loop is compiled, and the
patches are in the device's memory. The preset `cbis_mass_128` was trained in this way, before it
was fine-tuned with `cigan`. There are two commands, of which the first needs TensorFlow and the
dataset:

    python -m benchmarks.jax_training pack PATCHES.npz --flagfile=FLAGS --dataset=DATASET ...
    KERAS_BACKEND=jax python -m benchmarks.jax_training train PATCHES.npz OUT

PATCHES.npz contains the configuration and the training patches, rounded to 8 bits. OUT receives
generator.weights.h5 (the moving average, if there is one), discriminator.weights.h5 and run.json,
which has the settings, steps, seconds and loss terms.

This training differs from `cigan_tf.training`: JAX draws the batches and the noise; exposure is not
varied at random (max_random_gamma is ignored); all arithmetic is float32; the learning rate does
not decay; a run stops if a gradient is not finite, and cannot be resumed.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import sys
import time

import numpy as np

from cigan_tf import losses, masks
from cigan_tf.config import LOSS_TERMS, Config
from cigan_tf.models.augmentation import NUM_DRAWS, augment_view

_CANDIDATE_MASKS = 8
_STEPS_AT_ONCE = 200
# Loss terms are shown as moving means.
_TERM_MOMENTUM = 0.98


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser(
        "pack", help="write PATCHES.npz; needs TensorFlow; takes cigan_tf's flags"
    )
    packing.add_argument("patches", type=pathlib.Path)
    training = commands.add_parser(
        "train", help="train on PATCHES.npz; needs JAX and KERAS_BACKEND=jax"
    )
    training.add_argument("patches", type=pathlib.Path)
    training.add_argument("out", type=pathlib.Path)
    training.add_argument(
        "--seconds", type=float, default=float("inf"), help="time limit; default: none"
    )
    training.add_argument("--seed", type=int, help="seed instead of the configuration's")
    given, flags = parser.parse_known_args()
    if flags and given.command == "train":
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    if given.command == "pack":
        pack(given.patches, flags)
    else:
        train(given.patches, given.out, given.seconds, given.seed)


def pack(path: pathlib.Path, flags: list[str]) -> None:
    """Writes a configuration and its training patches."""
    from absl import flags as absl_flags

    from cigan_tf import flags as cigan_flags
    from cigan_tf import input_pipeline

    absl_flags.FLAGS([sys.argv[0], *flags])
    config = cigan_flags.config_from_flags()
    builder = input_pipeline.open_dataset(config.data, config.model.patch_size)
    patches = input_pipeline.encoded_patches(
        builder, config.data.train_split, config.data.train_patient_share
    )
    columns = {name: [] for name in ("image", "mask", "label", "has_lesion", "tissue_fraction")}
    for patch in patches:
        example = input_pipeline.decode(patch, config.model.patch_size)
        columns["image"].append(np.rint(example["image"].numpy()[..., 0] * 255).astype(np.uint8))
        columns["mask"].append(example["mask"].numpy()[..., 0].astype(bool))
        for name in ("label", "has_lesion", "tissue_fraction"):
            columns[name].append(patch[name].numpy())
    arrays = {name: np.stack(values) for name, values in columns.items()}
    np.savez_compressed(path, config=config.to_json(), **arrays)
    print(f"{len(arrays['label'])} patches of {config.data.dataset} in {path}")


def _load(path: pathlib.Path):
    """Returns the configuration, and the arrays from which `_draw` makes batches."""
    with np.load(path) as packed:
        config = Config.from_json(str(packed["config"]))
        image, mask = packed["image"], packed["mask"]
        label, has_lesion = packed["label"], packed["has_lesion"]
        tissue = packed["tissue_fraction"]
    # The darkest part of a patch is not tissue, as in masks.tissue_share.
    levels = np.sort(image.reshape(len(image), -1), axis=1).astype(np.int16)
    num_air = np.rint((1 - tissue) * levels.shape[1]).astype(int)
    brightest_air = levels[np.arange(len(levels)), np.maximum(num_air - 1, 0)]
    return config, {
        "image": image,
        "mask": mask.astype(np.uint8),
        "has_lesion": has_lesion,
        "brightest_air": np.where(num_air > 0, brightest_air, -1).astype(np.int16),
        "lesions": np.flatnonzero(has_lesion),
        "non_malignant": np.flatnonzero(label == 0),
        "malignant": np.flatnonzero(label == 1),
    }


def train(path: pathlib.Path, out: pathlib.Path, seconds: float, seed: int | None = None) -> None:
    """Trains, and writes the weights of both networks.

    Trains for the configured number of steps or the given number of seconds, whichever ends first;
    this is checked every `_STEPS_AT_ONCE` steps.
    """
    import jax
    import jax.numpy as jnp
    import keras

    from cigan_tf.models.discriminator import Discriminator
    from cigan_tf.models.generator import Generator
    from cigan_tf.models.vgg_features import build_vgg_features

    if keras.config.backend() != "jax":
        sys.exit(f"Set KERAS_BACKEND=jax. Received: {keras.config.backend()!r}.")
    config, arrays = _load(path)
    if seed is not None:
        config = dataclasses.replace(
            config, training=dataclasses.replace(config.training, seed=seed)
        )
    if not config.model.composite or config.training.init_from:
        sys.exit(
            "This script supports only composite=True without init_from. Received: "
            f"composite={config.model.composite}, init_from={config.training.init_from!r}."
        )
    settings = config.training
    patch_size = config.model.patch_size
    keras.utils.set_random_seed(settings.seed)
    generator = Generator(patch_size)
    discriminator = Discriminator(
        patch_size, config.model.discriminator_sees_class, config.model.discriminator_view
    )
    features = build_vgg_features(
        config.model.vgg_weights, settings.seed, config.model.feature_layers
    )
    steps = _Steps(config, generator, discriminator, features)
    bank = {name: jnp.asarray(values) for name, values in arrays.items()}

    @functools.partial(jax.jit, donate_argnums=1)
    def many_steps(bank, state):
        step = functools.partial(steps.step, bank)
        return jax.lax.scan(step, state, None, length=_STEPS_AT_ONCE)[0]

    state = steps.first_state()
    compiled = many_steps.lower(bank, state).compile()
    began, history = time.monotonic(), []
    while (passed := time.monotonic() - began) < seconds:
        if int(state["step"]) >= settings.total_steps:
            break
        state = compiled(bank, state)
        if not bool(state["finite"]):
            sys.exit(f"A gradient was NaN or infinite before step {int(state['step'])}.")
        terms = dict(zip(_Steps.TERMS, map(float, state["terms"]), strict=True))
        history.append({"step": int(state["step"]), **terms})
        print(f"\r{passed:5.0f} s, step {history[-1]['step']}: {terms}", end="", flush=True)
    print()

    out.mkdir(parents=True, exist_ok=True)
    shown = state["average"] if settings.generator_ema else state["generator"]
    for network, values in ((generator, shown), (discriminator, state["discriminator"])):
        for variable, value in zip(network.trainable_variables, values, strict=True):
            variable.assign(value)
        network.save_weights(out / f"{network.name}.weights.h5")
    record = {
        "config": json.loads(config.to_json()),
        "device": jax.devices()[0].device_kind,
        "steps": int(state["step"]),
        "seconds": time.monotonic() - began,
        "history": history,
    }
    (out / "run.json").write_text(json.dumps(record, indent=2) + "\n")


class _Steps:
    """The training step of `cigan_tf.models.CiGAN`, as a function of the training state."""

    TERMS = (*LOSS_TERMS, "discriminator_accuracy_real", "discriminator_accuracy_fake")

    def __init__(self, config, generator, discriminator, features):
        import jax

        self._jax, self._np = jax, jax.numpy
        self._config = config
        self._generator, self._discriminator, self._features = generator, discriminator, features
        self._sigma_px = masks.sigma_for_patch(
            config.loss.boundary_sigma_px, config.model.patch_size
        )

    def first_state(self):
        jnp = self._np
        weights = {
            name: [jnp.array(variable.value) for variable in network.trainable_variables]
            for name, network in (
                ("generator", self._generator),
                ("discriminator", self._discriminator),
            )
        }

        def optimizer(of):
            zeros = [jnp.zeros_like(value) for value in weights[of]]
            return {"mean": zeros, "square": zeros, "updates": jnp.zeros(())}

        pretrains = self._config.training.pretraining_steps > 0
        state = {
            **weights,
            "average": weights["generator"],
            "generator_optimizer": optimizer("generator"),
            "discriminator_optimizer": optimizer("discriminator"),
            "terms": jnp.zeros(len(self.TERMS)),
            "step": jnp.int32(0),
            "turn": jnp.int32(0 if pretrains else 1),
            "steps_in_turn": jnp.int32(0),
            "finite": jnp.bool_(True),
        }
        # Buffers donated to a compiled call must not appear twice.
        return self._jax.tree.map(jnp.array, state)

    def step(self, bank, state, _):
        """Trains the network whose turn it is: 0 pre-training, 1 discriminator, 2 generator."""
        jax, jnp, settings = self._jax, self._np, self._config.training
        key = jax.random.fold_in(jax.random.key(settings.seed), state["step"])
        of_batch, of_losses = jax.random.split(key)
        batch = self._draw(bank, of_batch)
        turns = [
            lambda state: self._train_generator(state, batch, of_losses, adversarially=False),
            lambda state: self._train_discriminator(state, batch, of_losses),
            lambda state: self._train_generator(state, batch, of_losses, adversarially=True),
        ]
        turn = state["turn"]
        state, adversarial_loss = jax.lax.switch(turn, turns, state)
        step, steps_in_turn = state["step"] + 1, state["steps_in_turn"] + 1
        over = jnp.where(
            turn == 0,
            step >= settings.pretraining_steps,
            (adversarial_loss < settings.switch_threshold)
            | (steps_in_turn >= settings.max_steps_per_turn),
        )
        return {
            **state,
            "step": step,
            "turn": jnp.where(over, jnp.where(turn == 1, 2, 1), turn),
            "steps_in_turn": jnp.where(over, 0, steps_in_turn),
        }, None

    def _draw(self, bank, key):
        """Returns a batch like those of `input_pipeline.training_batches`."""
        jax, jnp, data = self._jax, self._np, self._config.data
        keys = jax.random.split(key, 4)
        half = data.batch_size // 2
        index = jnp.concatenate(
            [
                jax.random.choice(key, bank[name], (half,))
                for name, key in zip(("non_malignant", "malignant"), keys, strict=False)
            ]
        )
        image, mask = bank["image"][index], bank["mask"][index]

        def borrowed(key, image, brightest_air):
            candidates = bank["mask"][jax.random.choice(key, bank["lesions"], (_CANDIDATE_MASKS,))]
            on_tissue = candidates * (image.astype(jnp.int16) > brightest_air)
            share = on_tissue.sum((1, 2)) / candidates.sum((1, 2))
            return candidates[jnp.argmax(jnp.minimum(share, masks.MIN_TISSUE_SHARE))]

        others = jax.vmap(borrowed)(
            jax.random.split(keys[2], data.batch_size), image, bank["brightest_air"][index]
        )
        mask = jnp.where(bank["has_lesion"][index][:, None, None], mask, others)
        if data.random_flips:

            def orient(square, orientation):
                square = jnp.where(orientation & 1, square[:, ::-1], square)
                square = jnp.where(orientation & 2, square[::-1], square)
                return jnp.where(orientation & 4, square.T, square)

            orientation = jax.random.randint(keys[3], (data.batch_size,), 0, 8)
            image, mask = (jax.vmap(orient)(squares, orientation) for squares in (image, mask))
        return {
            "image": image[..., None].astype(jnp.float32) / 255.0,
            "mask": mask[..., None].astype(jnp.float32),
            "label": jnp.repeat(jnp.arange(2, dtype=jnp.int32), half),
        }

    def _infill(self, generator, batch, label, noise):
        context = masks.corrupt(batch["image"], batch["mask"], noise)
        inputs = {"context": context, "mask": batch["mask"], "label": label}
        generated, _ = self._generator.stateless_call(generator, [], inputs, training=True)
        return masks.place(batch["image"], batch["mask"], generated, self._config.model)

    def _logits(self, discriminator, image, batch, label, key):
        return self._judge(discriminator, self._seen(image, batch, label, key))

    def _seen(self, image, batch, label, key):
        see, _ = self._discriminator.parts()
        inputs = {"image": image, "mask": batch["mask"], "label": label}
        view, *label = see({name: inputs[name] for name in self._discriminator.input})
        if self._config.training.augment_discriminator:
            view = augment_view(view, self._jax.random.uniform(key, (len(view), NUM_DRAWS)))
        return [view, *label]

    def _judge(self, discriminator, seen):
        _, judge = self._discriminator.parts()
        return judge.stateless_call(discriminator, [], seen, training=True)[0]

    def _generator_loss(self, generator, discriminator, batch, key, adversarially):
        jax, jnp, config = self._jax, self._np, self._config.loss
        keys = jax.random.split(key, 3)
        noise = jax.random.uniform(keys[0], batch["image"].shape)
        label = batch["label"]
        infilled = self._infill(generator, batch, label, noise)
        of_features = losses.feature_loss(self._features(batch["image"]), self._features(infilled))
        if not adversarially:
            return config.feature_weight * of_features, jnp.stack([of_features, 0.0, jnp.inf])
        boundary_map = masks.boundary_map(batch["mask"], self._sigma_px)

        def terms_of(infilled, label, key):
            logits = self._logits(discriminator, infilled, batch, label, key)
            return (
                losses.boundary_loss(batch["image"], infilled, boundary_map),
                losses.adversarial_generator_loss(logits),
            )

        boundary, adversarial = terms_of(infilled, label, keys[1])
        one, asked = infilled, label
        if config.opposite_class_weight:
            one, asked = self._infill(generator, batch, 1 - label, noise), 1 - label
            of_opposite = terms_of(one, asked, keys[2])
            boundary, adversarial = (
                losses.weighted_mean(own, other, config.opposite_class_weight)
                for own, other in zip((boundary, adversarial), of_opposite, strict=True)
            )
        total = (
            config.adversarial_weight * adversarial
            + config.feature_weight * of_features
            + config.boundary_weight * boundary
        )
        if config.diversity_weight:
            shifted = jnp.roll(noise, noise.shape[1] // 2, axis=1)
            again = self._infill(generator, batch, asked, shifted)
            total += config.diversity_weight * losses.diversity_loss(one, again, batch["mask"])
        return total, jnp.stack([of_features, boundary, adversarial])

    def _discriminator_loss(self, discriminator, generator, batch, key):
        jax, jnp, config = self._jax, self._np, self._config.loss
        keys = jax.random.split(key, 6)
        noise = jax.random.uniform(keys[0], batch["image"].shape)
        label = batch["label"]
        real = self._logits(discriminator, batch["image"], batch, label, keys[1])
        infilled = self._infill(generator, batch, label, noise)
        fake = self._logits(discriminator, infilled, batch, label, keys[2])
        opposite = wrong_class = None
        if config.opposite_class_weight:
            infilled = self._infill(generator, batch, 1 - label, noise)
            opposite = self._logits(discriminator, infilled, batch, 1 - label, keys[3])
        if config.wrong_class_weight:
            wrong_class = self._logits(discriminator, batch["image"], batch, 1 - label, keys[4])
        loss = losses.adversarial_discriminator_loss(
            real,
            fake,
            wrong_class,
            config.wrong_class_weight,
            opposite,
            config.opposite_class_weight,
        )
        total = loss
        if config.r1_weight:
            view, *given = self._seen(batch["image"], batch, label, keys[5])

            def sum_of_logits(view):
                return self._judge(discriminator, [view, *given]).sum()

            total += losses.r1_penalty(jax.grad(sum_of_logits)(view), config.r1_weight)
        return total, jnp.stack([loss, (real > 0).mean(), (fake < 0).mean()])

    def _train_generator(self, state, batch, key, adversarially):
        value_and_gradient = self._jax.value_and_grad(self._generator_loss, has_aux=True)
        (_, terms), gradient = value_and_gradient(
            state["generator"], state["discriminator"], batch, key, adversarially
        )
        state = self._moved(state, "generator", gradient, slice(0, 3), terms)
        momentum = self._config.training.generator_ema
        average = [
            momentum * mean + (1 - momentum) * weight
            for mean, weight in zip(state["average"], state["generator"], strict=True)
        ]
        return {**state, "average": average}, terms[2]

    def _train_discriminator(self, state, batch, key):
        value_and_gradient = self._jax.value_and_grad(self._discriminator_loss, has_aux=True)
        (_, terms), gradient = value_and_gradient(
            state["discriminator"], state["generator"], batch, key
        )
        return self._moved(state, "discriminator", gradient, slice(3, 6), terms), terms[0]

    def _moved(self, state, name, gradient, which_terms, terms):
        """Returns the state after one step of Adam, with updated moving means of the loss terms."""
        jnp, settings = self._np, self._config.training
        optimizer = state[f"{name}_optimizer"]
        updates = optimizer["updates"] + 1
        beta_1, beta_2 = settings.adam_beta_1, settings.adam_beta_2
        mean = [
            beta_1 * old + (1 - beta_1) * new
            for old, new in zip(optimizer["mean"], gradient, strict=True)
        ]
        square = [
            beta_2 * old + (1 - beta_2) * new**2
            for old, new in zip(optimizer["square"], gradient, strict=True)
        ]
        rate = settings.learning_rate * jnp.sqrt(1 - beta_2**updates) / (1 - beta_1**updates)
        weights = [
            weight - rate * m / (jnp.sqrt(v) + settings.adam_epsilon)
            for weight, m, v in zip(state[name], mean, square, strict=True)
        ]
        old = state["terms"][which_terms]
        shown = jnp.where(jnp.isfinite(terms), terms, old)
        shown = _TERM_MOMENTUM * old + (1 - _TERM_MOMENTUM) * shown
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(of)) for of in gradient]))
        return {
            **state,
            "finite": state["finite"] & finite,
            name: weights,
            f"{name}_optimizer": {"mean": mean, "square": square, "updates": updates},
            "terms": state["terms"].at[which_terms].set(shown),
        }


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "jax")
    main()
