"""ciGAN: generator, discriminator and feature network with the paper's alternating training."""

import enum

import keras
import tensorflow as tf

from cigan_tf import losses, masks
from cigan_tf.config import Config, LossConfig, TrainingConfig
from cigan_tf.models.discriminator import Discriminator
from cigan_tf.models.feature_loss import FeatureLoss
from cigan_tf.models.generator import Generator
from cigan_tf.models.vgg_features import build_vgg_features


class Turn(enum.IntEnum):
    """Whose step it is. The values are kept in checkpoints."""

    PRETRAINING = 0
    DISCRIMINATOR = 1
    GENERATOR = 2


class CiGAN(keras.Model):
    """The conditional infilling GAN (paper section 2).

    `train_step` first trains the generator on the feature loss alone, then one network at a time:
    the turn passes when the loss of the network in training falls below a threshold, or after
    `max_steps_per_turn`. Only the network whose turn it is is computed and updated.

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
        self.feature_metric = keras.metrics.Mean("feature_loss")
        self.boundary_metric = keras.metrics.Mean("boundary_loss")
        self.generator_metric = keras.metrics.Mean("adversarial_generator_loss")
        self.discriminator_metric = keras.metrics.Mean("adversarial_discriminator_loss")
        self.real_accuracy = keras.metrics.Mean("discriminator_accuracy_real")
        self.fake_accuracy = keras.metrics.Mean("discriminator_accuracy_fake")
        self.built = True

    def _counter(self, name: str, dtype: str, start: int = 0):
        return self.add_weight(
            name=name,
            shape=(),
            dtype=dtype,
            trainable=False,
            initializer=keras.initializers.Constant(start),
        )

    def compile(self, generator_optimizer=None, discriminator_optimizer=None, **kwargs):
        """Takes one optimizer per network; Adam as configured where none is given."""
        # super() would otherwise make an optimizer of its own and keep it in every checkpoint.
        super().compile(optimizer=None, **kwargs)
        self.generator_optimizer = generator_optimizer or _adam(self.training_config)
        self.discriminator_optimizer = discriminator_optimizer or _adam(self.training_config)
        self.generator_optimizer.build(self.generator.trainable_variables)
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)

    @property
    def metrics(self):
        return [
            self.feature_metric,
            self.boundary_metric,
            self.generator_metric,
            self.discriminator_metric,
            self.real_accuracy,
            self.fake_accuracy,
        ]

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

    def train_step(self, batch):
        batch = {**batch, "noise": self._step_noise(batch["mask"])}
        adversarial_loss = tf.switch_case(
            tf.convert_to_tensor(self.turn),
            {
                Turn.PRETRAINING: lambda: self._train_generator(batch, adversarially=False),
                Turn.DISCRIMINATOR: lambda: self._train_discriminator(batch),
                Turn.GENERATOR: lambda: self._train_generator(batch, adversarially=True),
            },
        )
        self._end_step(adversarial_loss)
        return self.get_metrics_result()

    def test_step(self, batch):
        """Measures every term on a batch of held-out patches; changes nothing."""
        noise = tf.random.stateless_uniform(
            tf.shape(batch["mask"]), [self.training_config.seed, -1]
        )
        infilled = self.infill(batch["image"], batch["mask"], batch["label"], noise)
        self._generator_loss(batch, infilled, adversarially=True)
        self._discriminator_loss(batch, infilled)
        return self.get_metrics_result()

    def _step_noise(self, like):
        seed = [self.training_config.seed, tf.cast(self.step, tf.int32)]
        return tf.random.stateless_uniform(tf.shape(like), seed)

    def _train_generator(self, batch, adversarially: bool):
        weights = self.generator.trainable_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([weight.value for weight in weights])
            infilled = self.infill(**batch, training=True)
            loss, adversarial_loss = self._generator_loss(batch, infilled, adversarially)
        self.generator_optimizer.apply(tape.gradient(loss, weights), weights)
        return adversarial_loss

    def _train_discriminator(self, batch):
        infilled = self.infill(**batch)
        weights = self.discriminator.trainable_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([weight.value for weight in weights])
            loss = self._discriminator_loss(batch, infilled)
        self.discriminator_optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    def _generator_loss(self, batch, infilled, adversarially: bool):
        """Returns the weighted sum and the adversarial term, unweighted."""
        features = self.feature_loss(batch["image"], infilled, batch["mask"])
        self.feature_metric.update_state(features)
        if not adversarially:
            return self.loss_config.feature_weight * features, tf.constant(float("inf"))

        boundary = losses.boundary_loss(
            batch["image"],
            infilled,
            masks.boundary_weight(batch["mask"], self.boundary_sigma_px),
        )
        adversarial = losses.adversarial_generator_loss(
            self._discriminate(infilled, batch["label"])
        )
        self.boundary_metric.update_state(boundary)
        self.generator_metric.update_state(adversarial)
        total = (
            self.loss_config.adversarial_weight * adversarial
            + self.loss_config.feature_weight * features
            + self.loss_config.boundary_weight * boundary
        )
        return total, adversarial

    def _discriminator_loss(self, batch, infilled):
        real_logits = self._discriminate(batch["image"], batch["label"])
        fake_logits = self._discriminate(infilled, batch["label"])
        loss = losses.adversarial_discriminator_loss(real_logits, fake_logits)
        self.discriminator_metric.update_state(loss)
        self.real_accuracy.update_state(real_logits > 0)
        self.fake_accuracy.update_state(fake_logits < 0)
        return loss

    def _discriminate(self, image, label):
        inputs = {"image": image}
        if self.discriminator.sees_class:
            inputs["label"] = label
        return self.discriminator(inputs)

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
    keras.utils.set_random_seed(config.training.seed)
    model = CiGAN(
        Generator(config.model.patch_size),
        Discriminator(config.model.patch_size, config.model.discriminator_sees_class),
        build_vgg_features(
            config.model.patch_size,
            config.model.vgg_weights,
            config.training.seed,
            config.model.feature_layers,
        ),
        config.loss,
        config.training,
        keep_context=config.model.composite,
        name="cigan",
    )
    model.compile(jit_compile=config.training.jit_compile)
    return model


def _adam(config: TrainingConfig) -> keras.optimizers.Optimizer:
    learning_rate = config.learning_rate
    if config.learning_rate_decay_rate != 1:
        learning_rate = keras.optimizers.schedules.ExponentialDecay(
            learning_rate, config.learning_rate_decay_steps, config.learning_rate_decay_rate
        )
    return keras.optimizers.Adam(
        learning_rate, config.adam_beta_1, config.adam_beta_2, config.adam_epsilon
    )
