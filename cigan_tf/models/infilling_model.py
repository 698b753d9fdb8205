"""ciGAN for inference: infills, presets and Keras files."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from cigan_tf import infill_inputs, masks, provenance, randomness
from cigan_tf.config import Config, LossConfig, ModelConfig, TrainingConfig
from cigan_tf.errors import UserError
from cigan_tf.hardware_config import HardwareConfig
from cigan_tf.models import presets
from cigan_tf.models.discriminator import Discriminator
from cigan_tf.models.generator import Generator
from cigan_tf.models.precision import POLICIES
from cigan_tf.models.replicated import ReplicatedModel


class InfillingModel(ReplicatedModel):
    """ciGAN without its training, which `CiGAN` adds; the arguments are those of `CiGAN`.

    Attributes:
        step: number of training steps taken.
        preset: the `Preset` that the weights come from, or None.

    Raises:
        UserError: a setting does not exist, its value is invalid, or the networks do not fit.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        *,
        composite: bool,
        match_grain: bool,
        match_rim: bool,
        rim_reach_px: float,
        vgg_weights: str,
        feature_layers: Sequence[str],
        name: str,
        **settings,
    ):
        # The networks have their own policy; 16-bit grey levels need float32.
        super().__init__(name=name, dtype="float32")
        self.generator = generator
        self.discriminator = discriminator
        self.composite = composite
        self.match_grain = match_grain
        self.match_rim = match_rim
        self.rim_reach_px = rim_reach_px
        self.vgg_weights = vgg_weights
        self.feature_layers = tuple(feature_layers)
        self.loss_config = _taken_from(settings, LossConfig)
        self.training_config = _taken_from(settings, TrainingConfig)
        if settings:
            raise UserError(
                f"{type(self).__name__} has no settings with these names: "
                f"{', '.join(sorted(settings))}."
            )
        self.patch_size = generator.outputs[0].shape[1]
        ModelConfig(
            patch_size=self.patch_size,
            composite=composite,
            match_grain=match_grain,
            match_rim=match_rim,
            rim_reach_px=rim_reach_px,
            vgg_weights=vgg_weights,
            feature_layers=self.feature_layers,
        ).validate()
        if isinstance(discriminator, Discriminator):
            self.loss_config.require_class(discriminator.sees_class)
            if discriminator.patch_size != self.patch_size:
                raise UserError(
                    "Both networks must have the same patch size. Received: a generator of "
                    f"{self.patch_size} px and a discriminator of {discriminator.patch_size} px."
                )
        self.generator_optimizer = self.discriminator_optimizer = None
        self.preset = None
        self._preset_records = []  # of the initial preset; None if that preset has no record
        self._infill_of_seed = tf.function(self.call, reduce_retracing=True, autograph=False)
        self.step = self.counter("step", "int64")

    def counter(self, name: str, dtype: str, start: int = 0):
        """Returns a variable that is not trained and is equal on all replicas."""
        return self.add_weight(
            name=name,
            shape=(),
            dtype=dtype,
            trainable=False,
            aggregation="only_first_replica",
            initializer=keras.initializers.Constant(start),
        )

    @classmethod
    def from_preset(cls, preset, *, dtype=None, **settings) -> "InfillingModel":
        """Returns a model with the weights and settings of a preset; compile it for training.

        Training continues with the discriminator's turn: there is no pre-training unless
        `pretraining_steps` is given.

        Args:
            preset: one of `list_presets()`, a folder, or hf://OWNER/REPOSITORY[/FOLDER].
            dtype: dtype policy of the networks, such as 'mixed_bfloat16'; None: that of the preset.
            settings: arguments of `CiGAN` that override those of the preset.

        Raises:
            UserError: the preset does not exist, or its files are damaged.
        """
        found = presets.read(preset)
        policy = dtype or POLICIES[found.config.hardware.mixed_precision]
        settings = {"pretraining_steps": 0, **settings}
        model = cls(**{**arguments_of(found.config, policy), **settings})
        presets.load_weights(found, generator=model.generator, discriminator=model.discriminator)
        model.preset = found
        model._preset_records = [found.record]
        return model

    def save_to_preset(
        self,
        folder,
        *,
        record: dict | None = None,
        card: str | None = None,
        half_precision: bool = False,
    ) -> None:
        """Writes both networks to a preset's folder.

        If the generator has a moving average of its weights, the average is written.

        Args:
            folder: must not exist; its name becomes the name of the preset.
            record: training record of the networks from `provenance.training_record`; the patients
                of the model's initial preset are added. None: the record of the initial preset if
                no step was taken since; otherwise the new preset has no record.
            card: text of README.md; None: a text made from the settings.
            half_precision: store the weights as float16, in half the space.

        Raises:
            UserError: the folder exists or cannot be written, the networks are not a `Generator`
                and a `Discriminator`, their dtype policy is not one of `precision.POLICIES`, or the
                initial preset has no record to add to `record`.
        """
        if not (
            isinstance(self.generator, Generator) and isinstance(self.discriminator, Discriminator)
        ):
            raise UserError(
                "A preset must have a Generator and a Discriminator of cigan_tf.models. Received: "
                f"{type(self.generator).__name__}, {type(self.discriminator).__name__}."
            )
        precisions = {policy: name for name, policy in POLICIES.items()}
        if self.generator.dtype_policy.name not in precisions:
            raise UserError(
                f"A preset's policy must be one of {', '.join(precisions)}. "
                f"Received: {self.generator.dtype_policy.name}."
            )
        config = Config(
            model=ModelConfig(
                patch_size=self.patch_size,
                composite=self.composite,
                match_grain=self.match_grain,
                match_rim=self.match_rim,
                rim_reach_px=self.rim_reach_px,
                discriminator_sees_class=self.discriminator.sees_class,
                discriminator_view=self.discriminator.view,
                vgg_weights=self.vgg_weights,
                feature_layers=self.feature_layers,
            ),
            loss=self.loss_config,
            training=self.training_config,
            hardware=HardwareConfig(mixed_precision=precisions[self.generator.dtype_policy.name]),
        )
        if record is None:
            untouched = self._preset_records and int(self.step.numpy()) == 0
            record = self._preset_records[0] if untouched else None
        else:
            for of_preset in self._preset_records:
                record = provenance.begun_from(record, provenance.of_weights(of_preset))
        with self.averaged_generator():
            networks = {"generator": self.generator, "discriminator": self.discriminator}
            presets.write(folder, config, networks, record, card, half_precision)

    def get_config(self):
        return {
            "generator": keras.saving.serialize_keras_object(self.generator),
            "discriminator": keras.saving.serialize_keras_object(self.discriminator),
            "composite": self.composite,
            "match_grain": self.match_grain,
            "match_rim": self.match_rim,
            "rim_reach_px": self.rim_reach_px,
            "vgg_weights": self.vgg_weights,
            "feature_layers": list(self.feature_layers),
            "name": self.name,
            **dataclasses.asdict(self.loss_config),
            **dataclasses.asdict(self.training_config),
            "preset_records": self._preset_records,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Returns the model described by `get_config`, with new random weights."""
        config = dict(config)
        preset_records = config.pop("preset_records", [])
        networks = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("generator", "discriminator")
        }
        model = cls(**{**config, **networks})
        model._preset_records = preset_records
        return model

    def call(self, inputs, training=False):
        """Returns the infilled patches of a batch, [N, p, p, 1] in [0, 1].

        Args:
            inputs: a batch, optionally with `seed`, int32 [N], for the noise of each patch. Without
                `seed`, the noise of a patch depends on its position in the batch.
            training: set by Keras.
        """
        batch = as_batch(inputs)
        if "seed" in inputs:
            # One draw per patch from its own seed, independent of the rest of the batch.
            noise = tf.map_fn(
                lambda seed: randomness.noise_of_seed(seed, self.patch_size),
                tf.cast(inputs["seed"], tf.int32),
                fn_output_signature=tf.float32,
            )
        else:
            noise = self.noise(tf.shape(batch["mask"]), -1)
        return self.infill(**batch, noise=noise, training=training)

    def generate(self, image, mask, label, seed, batch_size: int = 32) -> np.ndarray:
        """Returns patches with their masks infilled as the given class.

        The result equals that of the exported SavedModel's `serving_default` up to rounding. The
        same seed gives the same infill in every batch. If the generator has a moving average of its
        weights, the average is used.

        Args:
            image: float [N, p, p, 1] in [0, 1].
            mask: [N, p, p, 1] in {0, 1}.
            label: int [N], 0 non-malignant, 1 malignant.
            seed: int [N], any 32-bit values.
            batch_size: number of patches infilled at once.

        Returns:
            float32 [N, p, p, 1] in [0, 1]; identical to the image outside the mask if the model's
            `composite` is True.

        Raises:
            UserError: an input has a wrong shape or range.
        """
        inputs = infill_inputs.check(image, mask, label, seed, self.patch_size)
        parts = []
        with self.averaged_generator():
            for at in range(0, len(inputs["seed"]), batch_size):
                rows = {name: tf.constant(v[at : at + batch_size]) for name, v in inputs.items()}
                parts.append(self._infill_of_seed(rows).numpy())
        return np.concatenate(parts) if parts else np.zeros_like(inputs["image"])

    def predict(self, *args, **kwargs):
        """Like `keras.Model.predict`, with the moving average of the weights if there is one."""
        with self.averaged_generator():
            return super().predict(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        """Like `keras.Model.evaluate`, with the moving average of the weights if there is one."""
        with self.averaged_generator():
            return super().evaluate(*args, **kwargs)

    def infill(self, image, mask, label, noise, training=False):
        """Returns the image with its lesion mask infilled as the class, [N, p, p, 1] in [0, 1]."""
        context = masks.corrupt(image, mask, noise)
        generated = self.generator(
            {"context": context, "mask": mask, "label": label}, training=training
        )
        return masks.place(image, mask, generated, self)

    def noise(self, shape, step):
        """Returns the noise for the batch of a step, uniform in [0, 1).

        Outside training, `step` is -1.
        """
        # The algorithm is named; otherwise it would depend on the device. XLA's draws still differ
        # from TensorFlow's, so this is called outside the code compiled by `jit_compile`.
        seed = [self.training_config.seed, tf.cast(step, tf.int32)]
        return tf.random.stateless_uniform(shape, seed, alg="philox")

    @contextlib.contextmanager
    def averaged_generator(self) -> Iterator[None]:
        """Temporarily sets the generator's weights to their moving average, if there is one.

        Keras keeps the average in the generator's optimizer.
        """
        if self.generator_optimizer is None or not averages_weights(self.generator_optimizer):
            yield
            return
        weights = self.generator.trainable_variables
        before = [keras.ops.convert_to_numpy(weight) for weight in weights]
        self.generator_optimizer.finalize_variable_values(weights)
        try:
            yield
        finally:
            for weight, value in zip(weights, before, strict=True):
                weight.assign(value)


def arguments_of(config: Config, policy) -> dict:
    """Returns the arguments of `CiGAN` for a configuration; the networks have random weights."""
    with randomness.seeded(config.training.seed):
        generator = Generator(config.model.patch_size, dtype=policy)
        discriminator = Discriminator(
            config.model.patch_size,
            config.model.discriminator_sees_class,
            config.model.discriminator_view,
            dtype=policy,
        )
    return {
        "generator": generator,
        "discriminator": discriminator,
        "composite": config.model.composite,
        "match_grain": config.model.match_grain,
        "match_rim": config.model.match_rim,
        "rim_reach_px": config.model.rim_reach_px,
        "vgg_weights": config.model.vgg_weights,
        "feature_layers": config.model.feature_layers,
        **dataclasses.asdict(config.loss),
        **dataclasses.asdict(config.training),
    }


def _taken_from(settings: dict, group: type):
    """Returns a validated `group` with its fields from `settings`, and removes them there."""
    names = [field.name for field in dataclasses.fields(group) if field.name in settings]
    values = group(**{name: settings.pop(name) for name in names})
    values.validate()
    return values


def as_batch(inputs) -> dict[str, tf.Tensor]:
    """Returns the image, mask and label of a batch with the dtypes of a step."""
    dtypes = {"image": tf.float32, "mask": tf.float32, "label": tf.int32}
    if not isinstance(inputs, dict) or not set(dtypes) <= set(inputs):
        names = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        raise UserError(f"A batch must be a dict of image, mask and label. Received: {names}.")
    return {name: tf.cast(inputs[name], dtype) for name, dtype in dtypes.items()}


def averages_weights(optimizer: keras.optimizers.Optimizer) -> bool:
    """Returns whether an optimizer has a moving average of the weights."""
    inner = inner_optimizer(optimizer)
    return inner.use_ema and int(inner.iterations) > 0


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer that keeps the moving average; loss scaling wraps it."""
    return getattr(optimizer, "inner_optimizer", optimizer)
