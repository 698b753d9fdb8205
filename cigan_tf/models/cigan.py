"""ciGAN: generator, discriminator and feature network with the paper's alternating training."""

import contextlib
import enum
from collections.abc import Iterator

import keras
import tensorflow as tf

from cigan_tf import losses, masks, randomness
from cigan_tf.config import Config, LossConfig, TrainingConfig
from cigan_tf.models.discriminator import Discriminator
from cigan_tf.models.feature_loss import FeatureLoss
from cigan_tf.models.generator import Generator
from cigan_tf.models.replicated import AgreedMean, ReplicatedModel
from cigan_tf.models.vgg_features import build_vgg_features


class Turn(enum.IntEnum):
    """Whose step it is. The values are kept in checkpoints."""

    PRETRAINING = 0
    DISCRIMINATOR = 1
    GENERATOR = 2


# What a step measures, by the names of the metrics.
TERMS = (
    "feature_loss",
    "boundary_loss",
    "adversarial_generator_loss",
    "adversarial_discriminator_loss",
    "discriminator_accuracy_real",
    "discriminator_accuracy_fake",
)
_CHECKED = (*TERMS, "generator_gradient", "discriminator_gradient")
_POLICIES = {"none": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


class CiGAN(ReplicatedModel):
    """The conditional infilling GAN (paper section 2).

    `train_step` first trains the generator on the feature loss alone, then one network at a time:
    the turn passes when the loss of the network in training falls below a threshold, or after
    `max_steps_per_turn`. Only the network whose turn it is is computed and updated; a step whose
    loss or gradient is not finite updates nothing.

    Args:
        generator: from the inputs of `Generator` to [N, p, p, 1].
        discriminator: from the inputs of `Discriminator` to one logit.
        vgg_features: frozen, from [N, p, p, 1] to a dict of feature maps.
        loss: weights of the loss terms, and where the feature loss is computed.
        training: lengths of the phases, threshold, seed.
        keep_context: keep the image's own pixels outside the mask (`ModelConfig.composite`).

    A batch is a dict: `image` float32 [N, p, p, 1] in [0, 1], `mask` float32 [N, p, p, 1] in
    {0, 1}, `label` int32 [N] in {0, 1}.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        vgg_features: keras.Model,
        loss: LossConfig,
        training: TrainingConfig,
        keep_context: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.generator = generator
        self.discriminator = discriminator
        self.vgg_features = vgg_features
        self.loss_config = loss
        self.training_config = training
        self.keep_context = keep_context
        self.feature_loss = FeatureLoss(
            vgg_features,
            generator.patch_size,
            # Without the context's own pixels patches differ everywhere.
            windows=loss.windowed_feature_loss and keep_context,
            reach_px=loss.feature_reach_px,
        )
        self.boundary_sigma_px = masks.sigma_for_patch(loss.boundary_sigma_px, generator.patch_size)
        first_turn = Turn.PRETRAINING if training.pretraining_steps else Turn.DISCRIMINATOR
        self.step = self._counter("step", "int64")
        self.turn = self._counter("turn", "int32", first_turn)
        self.steps_in_turn = self._counter("steps_in_turn", "int32")
        self.turns_taken = self._counter("turns_taken", "int32")
        self.skipped_steps = self._counter("skipped_steps", "int64")
        self._nonfinite_step = self._counter("nonfinite_step", "int64")
        self._nonfinite_term = self._counter("nonfinite_term", "int32")
        self._term_means = [AgreedMean(name) for name in TERMS]
        self.built = True

    def _counter(self, name: str, dtype: str, start: int = 0):
        return self.add_weight(
            name=name,
            shape=(),
            dtype=dtype,
            trainable=False,
            aggregation="only_first_replica",
            initializer=keras.initializers.Constant(start),
        )

    def compile(self, generator_optimizer=None, discriminator_optimizer=None, **kwargs):
        """Takes one optimizer per network; Adam as configured where none is given."""
        # super() would otherwise make an optimizer of its own and keep it in every checkpoint.
        super().compile(optimizer=None, **kwargs)
        defaults = build_optimizers(self.training_config)
        self.generator_optimizer = generator_optimizer or defaults[0]
        self.discriminator_optimizer = discriminator_optimizer or defaults[1]
        self.generator_optimizer.build(self.generator.trainable_variables)
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)

    @property
    def metrics(self):
        return self._term_means

    def call(self, inputs, training=False):
        """Infills a batch that also holds `noise`, [N, p, p, 1] in [0, 1)."""
        return self.infill(
            inputs["image"], inputs["mask"], inputs["label"], inputs["noise"], training
        )

    def infill(self, image, mask, label, noise, training=False):
        """Returns the image with its lesion mask filled for the class, [N, p, p, 1] in [0, 1]."""
        context = masks.corrupt(image, mask, noise)
        generated = self.generator(
            {"context": context, "mask": mask, "label": label}, training=training
        )
        return masks.composite(image, mask, generated) if self.keep_context else generated

    @contextlib.contextmanager
    def averaged_generator(self) -> Iterator[None]:
        """Gives the generator the moving average of its weights, where there is one, for a while.

        The average's place is the optimizer, as Keras keeps it.
        """
        if not averages_weights(self.generator_optimizer):
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

    def train_step(self, batch):
        """Trains the network whose turn it is with the whole batch, spread over all replicas."""
        batch = {**batch, "noise": self._noise(batch["mask"], self.step)}
        adversarial_loss = tf.switch_case(
            tf.convert_to_tensor(self.turn),
            {
                Turn.PRETRAINING: lambda: self._train_generator(batch, adversarially=False),
                Turn.DISCRIMINATOR: lambda: self._train_discriminator(batch),
                Turn.GENERATOR: lambda: self._train_generator(batch, adversarially=True),
            },
        )
        self._end_step(adversarial_loss)

    def test_step(self, batch):
        """Measures every term on a batch of held-out patches; changes nothing."""
        self._record(self.measure(batch))
        return self.get_metrics_result()

    def measure(self, batch) -> dict[str, tf.Tensor]:
        """Returns each of `TERMS` for a batch; the noise is the same whenever it is called."""
        noise = self._noise(batch["mask"], -1)
        infilled = self.infill(batch["image"], batch["mask"], batch["label"], noise)
        _, of_generator = self._generator_loss(batch, infilled, adversarially=True)
        _, of_discriminator = self._discriminator_loss(batch, infilled)
        return of_generator | of_discriminator

    def take_nonfinite(self) -> tuple[int, str] | None:
        """Returns the first step since the last call that moved nothing, and the term to blame.

        A step moves nothing where a loss term, or the gradient of the network in training, is NaN
        or infinite.
        """
        step = int(self._nonfinite_step.numpy())
        self._nonfinite_step.assign(0)
        return (step, _CHECKED[int(self._nonfinite_term.numpy())]) if step else None

    def _noise(self, like, step):
        # Named, or it would depend on the device. XLA's draws differ from TensorFlow's even so:
        # this is called outside of what `jit_compile` compiles.
        seed = [self.training_config.seed, tf.cast(step, tf.int32)]
        return tf.random.stateless_uniform(tf.shape(like), seed, alg="philox")

    def _train_generator(self, batch, adversarially: bool):
        """Returns the adversarial loss, infinite where it is not computed."""

        def loss(part):
            infilled = self.infill(**part, training=True)
            opposite = self._opposite_infill(part, training=True) if adversarially else None
            return self._generator_loss(part, infilled, adversarially, opposite)

        terms = self._update(self.generator, self.generator_optimizer, loss, batch)
        return terms.get("adversarial_generator_loss", tf.constant(float("inf")))

    def _train_discriminator(self, batch):
        """Returns the adversarial loss."""

        def loss(part):
            return self._discriminator_loss(part, self.infill(**part), self._opposite_infill(part))

        terms = self._update(self.discriminator, self.discriminator_optimizer, loss, batch)
        return terms["adversarial_discriminator_loss"]

    def _update(self, network, optimizer, loss, batch) -> dict[str, tf.Tensor]:
        """Moves a network by the gradient of `loss(part) -> loss, terms`, if all of it is finite.

        Returns:
            The terms, means of the whole batch.
        """
        weights = network.trainable_variables

        def gradients(part):
            # The tape keeps what depends on these weights: no other network, no real features.
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([weight.value for weight in weights])
                whole, terms = loss(part)
                # The one place where a loss is divided: the optimizer adds up over replicas.
                share = optimizer.scale_loss(whole / self.num_replicas)
            moves = tape.gradient(share, weights)
            finite = _all_finite(moves)
            if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                # Gradients that overflow tell it to scale less; below 1 they are at fault.
                finite |= optimizer.dynamic_scale > 1
            check = tf.where(finite, 0.0, float("nan"))
            return moves, {**terms, f"{network.name}_gradient": check}

        moves, terms = self.share_out(gradients, batch)
        terms = self.mean_over_replicas(terms)

        def move():
            self.on_replicas(lambda moves: optimizer.apply(moves, weights), moves)
            self._record(terms)
            return True

        def skip():
            self._remember_nonfinite(terms)
            return False

        tf.cond(_all_finite(list(terms.values())), move, skip)
        return terms

    def _record(self, terms):
        for metric in self.metrics:
            if metric.name in terms:
                metric.update_state(terms[metric.name])

    def _remember_nonfinite(self, terms):
        nonfinite = [name in terms and ~tf.math.is_finite(terms[name]) for name in _CHECKED]
        earlier_step, earlier_term = self._nonfinite_step.value, self._nonfinite_term.value
        first = tf.equal(earlier_step, 0)
        term = tf.argmax(tf.cast(tf.stack(nonfinite), tf.int32), output_type=tf.int32)
        self._nonfinite_term.assign(tf.where(first, term, earlier_term))
        self._nonfinite_step.assign(tf.where(first, self.step.value + 1, earlier_step))
        self.skipped_steps.assign_add(1)

    def _opposite_infill(self, batch, training=False):
        """Returns the batch infilled as the opposite class, None where nothing is trained on it."""
        if not self.loss_config.opposite_class_weight:
            return None
        return self.infill(**{**batch, "label": 1 - batch["label"]}, training=training)

    def _generator_loss(self, batch, infilled, adversarially: bool, opposite=None):
        """Returns the weighted sum, and the terms unweighted.

        Args:
            batch: real patches.
            infilled: the same infilled as their own class.
            adversarially: whether to compute more than the feature loss.
            opposite: the same infilled as the opposite class, or None.
        """
        features = self.feature_loss(batch["image"], infilled, batch["mask"])
        if not adversarially:
            return self.loss_config.feature_weight * features, {"feature_loss": features}

        boundary = losses.boundary_loss(
            batch["image"],
            infilled,
            masks.boundary_weight(batch["mask"], self.boundary_sigma_px),
        )
        adversarial = losses.adversarial_generator_loss(self._discriminate(infilled, batch))
        total = (
            self.loss_config.adversarial_weight * adversarial
            + self.loss_config.feature_weight * features
            + self.loss_config.boundary_weight * boundary
        )
        return total, {
            "feature_loss": features,
            "boundary_loss": boundary,
            "adversarial_generator_loss": adversarial,
        }

    def _discriminator_loss(self, batch, infilled, opposite=None):
        """Returns the adversarial loss, and the terms; arguments as of `_generator_loss`."""
        real_logits = self._discriminate(batch["image"], batch)
        fake_logits = self._discriminate(infilled, batch)
        wrong_class_weight = self.loss_config.wrong_class_weight
        wrong_class_logits = (
            self._discriminate(batch["image"], batch, 1 - batch["label"])
            if wrong_class_weight
            else None
        )
        opposite_logits = (
            self._discriminate(opposite, batch, 1 - batch["label"])
            if opposite is not None
            else None
        )
        loss = losses.adversarial_discriminator_loss(
            real_logits,
            fake_logits,
            wrong_class_logits,
            wrong_class_weight,
            opposite_logits,
            self.loss_config.opposite_class_weight,
        )
        return loss, {
            "adversarial_discriminator_loss": loss,
            "discriminator_accuracy_real": tf.reduce_mean(tf.cast(real_logits > 0, "float32")),
            "discriminator_accuracy_fake": tf.reduce_mean(tf.cast(fake_logits < 0, "float32")),
        }

    def _discriminate(self, image, batch, label=None):
        """Returns the discriminator's logits of images in the place of a batch's own."""
        inputs = {"image": image, "mask": batch["mask"], "label": batch["label"]}
        if label is not None:
            inputs["label"] = label
        return self.discriminator({name: inputs[name] for name in self.discriminator.input})

    def _end_step(self, adversarial_loss):
        """Counts the step, and passes the turn where it is over (paper, Training details)."""
        config = self.training_config
        step = tf.convert_to_tensor(self.step) + 1
        turn = tf.convert_to_tensor(self.turn)
        steps_in_turn = tf.convert_to_tensor(self.steps_in_turn) + 1
        over = tf.where(
            turn == Turn.PRETRAINING,
            step >= config.pretraining_steps,
            (adversarial_loss < config.switch_threshold)
            | (steps_in_turn >= config.max_steps_per_turn),
        )
        other = tf.where(turn == Turn.DISCRIMINATOR, int(Turn.GENERATOR), int(Turn.DISCRIMINATOR))
        self.step.assign(step)
        self.turn.assign(tf.where(over, other, turn))
        self.steps_in_turn.assign(tf.where(over, 0, steps_in_turn))
        self.turns_taken.assign_add(tf.cast(over, "int32"))


def build_cigan(config: Config) -> CiGAN:
    """Returns the compiled networks that a configuration describes, weights drawn by its seed."""
    policy = _default_policy(_POLICIES[config.hardware.mixed_precision])
    with randomness.seeded(config.training.seed), policy:
        generator = Generator(config.model.patch_size)
        discriminator = Discriminator(
            config.model.patch_size,
            config.model.discriminator_sees_class,
            config.model.discriminator_view,
        )
        vgg_features = build_vgg_features(
            config.model.vgg_weights, config.training.seed, config.model.feature_layers
        )
    model = CiGAN(
        generator,
        discriminator,
        vgg_features,
        config.loss,
        config.training,
        keep_context=config.model.composite,
        name="cigan",
    )
    optimizers = build_optimizers(config.training)
    if config.hardware.mixed_precision == "float16":
        optimizers = [keras.optimizers.LossScaleOptimizer(adam) for adam in optimizers]
    model.compile(
        *optimizers,
        jit_compile=config.hardware.jit_compile,
        steps_per_execution=config.hardware.steps_per_execution,
    )
    return model


@contextlib.contextmanager
def _default_policy(name: str):
    """Sets the dtype policy of the layers that are made within."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _all_finite(tensors) -> tf.Tensor:
    return tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(t)) for t in tensors]))


def build_optimizers(config: TrainingConfig) -> list[keras.optimizers.Optimizer]:
    """Returns Adam for the generator, which may average its weights, and for the discriminator."""
    # A schedule even where it is constant: a number would be one more variable in checkpoints, and
    # a run could not resume with or without decay.
    learning_rate = keras.optimizers.schedules.ExponentialDecay(
        config.learning_rate, config.learning_rate_decay_steps, config.learning_rate_decay_rate
    )
    adam = (learning_rate, config.adam_beta_1, config.adam_beta_2, config.adam_epsilon)
    averages = {"use_ema": config.generator_ema > 0, "ema_momentum": config.generator_ema}
    return [keras.optimizers.Adam(*adam, **averages), keras.optimizers.Adam(*adam)]


def averages_weights(optimizer: keras.optimizers.Optimizer) -> bool:
    """Returns whether an optimizer holds a moving average of what it has updated."""
    # Loss scaling wraps the optimizer that keeps the average.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner.use_ema and int(inner.iterations) > 0
