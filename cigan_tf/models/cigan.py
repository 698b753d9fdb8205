"""ciGAN's training: its losses, and the paper's alternation of generator and discriminator."""

import enum
from collections.abc import Sequence

import keras
import tensorflow as tf

from cigan_tf import accelerators, losses, masks, randomness
from cigan_tf.config import FEATURE_LAYERS, LOSS_TERMS, Config, TrainingConfig
from cigan_tf.errors import UserError
from cigan_tf.models.augmentation import NUM_DRAWS, augment_view
from cigan_tf.models.discriminator import Discriminator
from cigan_tf.models.feature_loss import FeatureLoss
from cigan_tf.models.infilling_model import (
    InfillingModel,
    arguments_of,
    as_batch,
    inner_optimizer,
)
from cigan_tf.models.precision import POLICIES, default_policy
from cigan_tf.models.replicated import AgreedMean
from cigan_tf.models.vgg_features import build_vgg_features


class Turn(enum.IntEnum):
    """The network trained in a step. The values are stored in checkpoints."""

    PRETRAINING = 0
    DISCRIMINATOR = 1
    GENERATOR = 2


class Shown(enum.IntEnum):
    """The role of a patch shown to the discriminator; each role has its own random draws."""

    REAL = 0
    INFILLED = 1
    OPPOSITE = 2  # infilled as the opposite class
    WRONG_CLASS = 3  # real, with the opposite class given


# Terms measured in a step, by the names of the metrics.
TERMS = (*LOSS_TERMS, "discriminator_accuracy_real", "discriminator_accuracy_fake")
_GRADIENTS = ("generator_gradient", "discriminator_gradient")
_CHECKED = (*TERMS, "diversity_loss", "r1_penalty", *_GRADIENTS)
# Share of the replicas whose half-precision gradients have overflowed; not a metric.
_OVERFLOW = "overflow"


@keras.saving.register_keras_serializable("cigan_tf")
class CiGAN(InfillingModel):
    """The conditional infilling GAN (paper section 2).

    `train_step` first trains the generator on the feature loss only, then one network at a time. A
    turn ends when the loss of the network being trained falls below a threshold, or after
    `max_steps_per_turn`. Only that network's gradient is computed and applied. A step with a loss
    or gradient that is not finite updates nothing.

    Args:
        generator: a network from the inputs of `Generator` to [N, p, p, 1].
        discriminator: a network from the inputs of `Discriminator` to one logit.
        composite: keep the image's pixels outside the mask.
        match_grain: scale every infill's detail to the grain of the tissue around its mask
            (`masks.match_grain`).
        match_rim: adjust every infill's grey levels to the tissue at its mask's rim
            (`masks.match_rim`).
        rim_reach_px: distance from the rim at which half of the adjustment is made; 0: the whole
            adjustment everywhere.
        vgg_weights: weights of the feature loss's VGG-19, as for `build_vgg_features`. They are
            loaded when training or `evaluate` begins, and are not saved with the model.
        feature_layers: the VGG-19 maps compared by the feature loss.
        name: name of the model.
        settings: fields of `LossConfig` and `TrainingConfig` by name, such as `feature_weight`,
            `learning_rate`, `pretraining_steps` and `seed`. The defaults are those of the paper.
            Fields for a whole run, such as `adversarial_steps` and `init_from`, have no effect.

    A batch is a dict: `image` float [N, p, p, 1] in [0, 1], `mask` [N, p, p, 1] in {0, 1}, `label`
    int [N] in {0, 1}.

    Raises:
        UserError: a setting does not exist, its value is invalid, or the networks do not fit.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        *,
        composite: bool = True,
        match_grain: bool = False,
        match_rim: bool = False,
        rim_reach_px: float = 0.0,
        vgg_weights: str = "imagenet",
        feature_layers: Sequence[str] = FEATURE_LAYERS,
        name: str = "cigan",
        **settings,
    ):
        super().__init__(
            generator,
            discriminator,
            composite=composite,
            match_grain=match_grain,
            match_rim=match_rim,
            rim_reach_px=rim_reach_px,
            vgg_weights=vgg_weights,
            feature_layers=feature_layers,
            name=name,
            **settings,
        )
        divided = self.loss_config.r1_weight > 0 or self.training_config.augment_discriminator
        if divided and not isinstance(discriminator, Discriminator):
            raise UserError(
                "r1_weight and augment_discriminator need a Discriminator of cigan_tf.models; "
                f"received a {type(discriminator).__name__}."
            )
        self.boundary_sigma_px = masks.sigma_for_patch(
            self.loss_config.boundary_sigma_px, self.patch_size
        )
        self.feature_loss = None
        pretrains = self.training_config.pretraining_steps > 0
        self._first_turn = Turn.PRETRAINING if pretrains else Turn.DISCRIMINATOR
        self.turn = self.counter("turn", "int32", self._first_turn)
        self.steps_in_turn = self.counter("steps_in_turn", "int32")
        self.turns_taken = self.counter("turns_taken", "int32")
        self.skipped_steps = self.counter("skipped_steps", "int64")
        self._nonfinite_step = self.counter("nonfinite_step", "int64")
        self._nonfinite_term = self.counter("nonfinite_term", "int32")
        # Also those with a weight of 0: a run can resume from a checkpoint of the same structure
        # with a weight switched on or off.
        self.term_means = [AgreedMean(name) for name in (*TERMS, "diversity_loss", "r1_penalty")]
        self.built = True

    def compile(
        self,
        generator_optimizer=None,
        discriminator_optimizer=None,
        *,
        jit_compile: bool = False,
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
    ):
        """Sets one optimizer per network; by default Adam with the model's settings.

        There is no `optimizer` attribute whose learning rate a Keras callback could set; use
        optimizers with a schedule.

        Args:
            generator_optimizer: an optimizer of keras.optimizers, or the name of one.
            discriminator_optimizer: the same for the discriminator.
            jit_compile: compile losses and gradients with XLA.
            steps_per_execution: maximum number of steps per call into TensorFlow.
            run_eagerly: run without graphs, for debugging.

        Raises:
            UserError: the model has a `generator_ema`, but the generator's optimizer has no moving
                average.
        """
        # With its default optimizer, super() would add an unused one to every checkpoint.
        super().compile(
            optimizer=None,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )
        defaults = build_optimizers(self.training_config)
        given = generator_optimizer or defaults[0], discriminator_optimizer or defaults[1]
        self.generator_optimizer, self.discriminator_optimizer = (
            _scaled_for(network, keras.optimizers.get(optimizer))
            for network, optimizer in zip((self.generator, self.discriminator), given, strict=True)
        )
        ema = self.training_config.generator_ema
        if ema and not inner_optimizer(self.generator_optimizer).use_ema:
            raise UserError(
                f"The model has generator_ema={ema:g}: give compile a generator_optimizer with "
                f"use_ema=True and ema_momentum={ema:g}, or create the model with generator_ema=0."
            )
        self.generator_optimizer.build(self.generator.trainable_variables)
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            "generator_optimizer": keras.optimizers.serialize(self.generator_optimizer),
            "discriminator_optimizer": keras.optimizers.serialize(self.discriminator_optimizer),
            "jit_compile": self.jit_compile,
            "steps_per_execution": self.steps_per_execution,
            "run_eagerly": self.run_eagerly,
        }

    def compile_from_config(self, config):
        """Compiles the model with the result of `get_compile_config`."""
        optimizers = {
            name: keras.optimizers.deserialize(config[name])
            for name in ("generator_optimizer", "discriminator_optimizer")
        }
        self.compile(**{**config, **optimizers})

    def load_features(self) -> None:
        """Loads the VGG-19 of the feature loss, needed for training and `evaluate`.

        Raises:
            UserError: its weights cannot be loaded or do not fit.
        """
        if self.feature_loss is not None:
            return
        seed = self.training_config.seed
        with randomness.seeded(seed), default_policy(self.generator.dtype_policy):
            features = build_vgg_features(self.vgg_weights, seed, self.feature_layers)
        self.feature_loss = FeatureLoss(
            features,
            self.patch_size,
            # If the context's pixels are not kept, patches differ everywhere.
            windows=self.loss_config.windowed_feature_loss and self.composite,
            reach_px=self.loss_config.feature_reach_px,
        )

    def make_train_function(self, force=False):
        """Prepares training and loads VGG-19."""
        with self.strategy.scope():
            self.load_features()
        super().make_train_function(force)

    def make_test_function(self, force=False):
        """Prepares `evaluate` and loads VGG-19."""
        with self.strategy.scope():
            self.load_features()
        super().make_test_function(force)

    @property
    def metrics(self):
        weights = {
            "diversity_loss": self.loss_config.diversity_weight,
            "r1_penalty": self.loss_config.r1_weight,
        }
        return [mean for mean in self.term_means if weights.get(mean.name, 1)]

    def train_step(self, batch):
        """Trains the current network on the batch, or on this worker's part of it."""
        batch = as_batch(batch)
        # The noise is drawn for the whole batch, so that results do not depend on the number of
        # workers.
        whole = tf.shape(batch["mask"]) * (self.num_batch_parts, 1, 1, 1)
        batch["noise"] = self.noise(whole, self.step)
        if self.training_config.augment_discriminator:
            batch["draws"] = self._augmentation_draws(whole[0])
        branches = {
            Turn.PRETRAINING: lambda: self._train_generator(batch, adversarially=False),
            Turn.DISCRIMINATOR: lambda: self._train_discriminator(batch),
            Turn.GENERATOR: lambda: self._train_generator(batch, adversarially=True),
        }
        # Tracing a branch takes seconds, so without pre-training there is no branch for it.
        branches = [branches[turn] for turn in Turn if turn >= self._first_turn]
        number = tf.maximum(tf.convert_to_tensor(self.turn) - self._first_turn, 0)
        adversarial_loss = tf.switch_case(number, branches)
        self._end_step(adversarial_loss)

    def test_step(self, batch):
        """Measures each of `TERMS` on a batch of held-out patches, without training."""
        batch = as_batch(batch)
        measured = self.measure(batch)
        # The last batch may be smaller than the others.
        self._record(measured, weight=tf.cast(tf.shape(batch["label"])[0], tf.float32))
        means = self.get_metrics_result()
        return {name: mean for name, mean in means.items() if name in measured}

    def measure(self, batch) -> dict[str, tf.Tensor]:
        """Returns each of `TERMS` for a batch; the noise is the same in every call."""
        noise = self.noise(tf.shape(batch["mask"]), -1)
        batch = {**batch, "noise": noise}
        infilled, opposite = self._infill_batch(batch), self._opposite_infill(batch)
        _, of_generator = self._generator_loss(batch, infilled, True, opposite)
        _, of_discriminator = self._discriminator_loss(batch, infilled, opposite)
        return of_generator | of_discriminator

    def take_nonfinite(self) -> tuple[int, str] | None:
        """Returns the first step skipped since the last call, and the term that was not finite.

        A step is skipped if a loss term, or the gradient of the network being trained, is NaN or
        infinite. Returns None if no step was skipped.
        """
        step = int(self._nonfinite_step.numpy())
        self._nonfinite_step.assign(0)
        return (step, _CHECKED[int(self._nonfinite_term.numpy())]) if step else None

    def _train_generator(self, batch, adversarially: bool):
        """Trains the generator; returns the adversarial loss, or infinity in pre-training."""

        def loss(part):
            infilled = self._infill_batch(part, training=True)
            if not adversarially:
                return self._generator_loss(part, infilled, adversarially)
            opposite = self._opposite_infill(part, training=True)
            loss, terms = self._generator_loss(part, infilled, adversarially, opposite)
            if self.loss_config.diversity_weight:
                label = part["label"]
                asked = (infilled, label) if opposite is None else (opposite, 1 - label)
                diversity = self._diversity_loss(part, *asked)
                loss += self.loss_config.diversity_weight * diversity
                terms = {**terms, "diversity_loss": diversity}
            return loss, terms

        terms = self._update("generator", loss, batch)
        return terms.get("adversarial_generator_loss", tf.constant(float("inf")))

    def _train_discriminator(self, batch):
        """Trains the discriminator; returns the adversarial loss."""

        def loss(part):
            infilled, opposite = self._infill_batch(part), self._opposite_infill(part)
            loss, terms = self._discriminator_loss(part, infilled, opposite)
            if self.loss_config.r1_weight:
                penalty = self._r1_penalty(part)
                loss, terms = loss + penalty, {**terms, "r1_penalty": penalty}
            return loss, terms

        terms = self._update("discriminator", loss, batch)
        return terms["adversarial_discriminator_loss"]

    def _update(self, network: str, loss, batch) -> dict[str, tf.Tensor]:
        """Updates a network with the gradient of `loss(part) -> loss, terms` if both are finite.

        Args:
            network: 'generator' or 'discriminator'.
            loss: called with each replica's part of the batch.
            batch: the batch, with the noise.

        Returns:
            The terms, averaged over the whole batch.
        """
        optimizer = getattr(self, f"{network}_optimizer")
        scales_loss = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        weights = getattr(self, network).trainable_variables

        def gradients(part):
            # The tape watches only these weights, so it computes no gradients of the other
            # network's weights and keeps no feature maps of real patches.
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([weight.value for weight in weights])
                whole, terms = loss(part)
                # The optimizer sums gradients over replicas. Only here is a loss divided for that.
                share = optimizer.scale_loss(whole / self.num_replicas)
            moves = tape.gradient(share, weights)
            finite = _all_finite(moves)
            # The optimizer lowers its loss scale for gradients that overflow. At a scale of 1 or
            # less, the gradients themselves are infinite.
            overflow = ~finite & (optimizer.dynamic_scale > 1) if scales_loss else False
            check = tf.where(finite | overflow, 0.0, float("nan"))
            checks = {f"{network}_gradient": check, _OVERFLOW: tf.cast(overflow, tf.float32)}
            return moves, terms | checks

        moves, terms = self.run_on_parts(gradients, batch)
        terms = self.mean_over_replicas(terms)
        overflowed = terms.pop(_OVERFLOW) > 0

        def apply(moves):
            if scales_loss:
                # The optimizer looks at the gradients of one replica, but sums those of all.
                moves = [tf.where(overflowed, float("inf"), move) for move in moves]
            optimizer.apply(moves, weights)

        def move():
            self.on_replicas(apply, moves)
            self._record(terms)
            return True

        def skip():
            self._remember_nonfinite(terms)
            return False

        tf.cond(_all_finite(list(terms.values())), move, skip)
        return terms

    def _record(self, terms, weight=None):
        for metric in self.metrics:
            if metric.name in terms:
                metric.update_state(terms[metric.name], weight)

    def _remember_nonfinite(self, terms):
        nonfinite = [name in terms and ~tf.math.is_finite(terms[name]) for name in _CHECKED]
        earlier_step, earlier_term = self._nonfinite_step.value, self._nonfinite_term.value
        first = tf.equal(earlier_step, 0)
        term = tf.argmax(tf.cast(tf.stack(nonfinite), tf.int32), output_type=tf.int32)
        self._nonfinite_term.assign(tf.where(first, term, earlier_term))
        self._nonfinite_step.assign(tf.where(first, self.step.value + 1, earlier_step))
        self.skipped_steps.assign_add(1)

    def _augmentation_draws(self, num_patches):
        """Returns uniform draws for every patch in every role."""
        seed = [(self.training_config.seed + 1) % 2**31, tf.cast(self.step, tf.int32)]
        shape = (num_patches, len(Shown), NUM_DRAWS)
        return tf.random.stateless_uniform(shape, seed, alg="philox")

    def _infill_batch(self, batch, training=False):
        inputs = (batch[name] for name in ("image", "mask", "label", "noise"))
        return self.infill(*inputs, training=training)

    def _opposite_infill(self, batch, training=False):
        """Returns the batch infilled as the opposite class, or None if training does not use it."""
        if not self.loss_config.opposite_class_weight:
            return None
        return self._infill_batch({**batch, "label": 1 - batch["label"]}, training)

    def _generator_loss(self, batch, infilled, adversarially: bool, opposite=None):
        """Returns the weighted sum of the terms, and the unweighted terms.

        Args:
            batch: real patches.
            infilled: the patches infilled as their own class.
            adversarially: whether to compute the terms other than the feature loss.
            opposite: the patches infilled as the opposite class, or None.
        """
        features = self.feature_loss(batch["image"], infilled, batch["mask"])
        if not adversarially:
            return self.loss_config.feature_weight * features, {"feature_loss": features}

        boundary_map = masks.boundary_map(batch["mask"], self.boundary_sigma_px)

        def without_features(shown, infilled):
            logits = self._discriminate(shown, infilled, batch)
            return (
                losses.boundary_loss(batch["image"], infilled, boundary_map),
                losses.adversarial_generator_loss(logits),
            )

        boundary, adversarial = without_features(Shown.INFILLED, infilled)
        if opposite is not None:
            weight = self.loss_config.opposite_class_weight
            of_opposite = without_features(Shown.OPPOSITE, opposite)
            boundary = losses.weighted_mean(boundary, of_opposite[0], weight)
            adversarial = losses.weighted_mean(adversarial, of_opposite[1], weight)
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

    def _diversity_loss(self, part, infilled, label):
        """Returns the diversity loss of infills of these classes and of new ones."""
        # Half a patch away, the noise is independent, and no additional draws are needed.
        noise = tf.roll(part["noise"], self.patch_size // 2, axis=1)
        again = self._infill_batch({**part, "label": label, "noise": noise}, training=True)
        return losses.diversity_loss(infilled, again, part["mask"])

    def _discriminator_loss(self, batch, infilled, opposite=None):
        """Returns the adversarial loss and the terms; arguments as in `_generator_loss`."""
        real_logits = self._discriminate(Shown.REAL, batch["image"], batch)
        fake_logits = self._discriminate(Shown.INFILLED, infilled, batch)
        wrong_class_weight = self.loss_config.wrong_class_weight
        wrong_class_logits = (
            self._discriminate(Shown.WRONG_CLASS, batch["image"], batch)
            if wrong_class_weight
            else None
        )
        opposite_logits = (
            self._discriminate(Shown.OPPOSITE, opposite, batch) if opposite is not None else None
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

    def _discriminate(self, shown: Shown, image, batch):
        """Returns the discriminator's logits for `image` with the masks and labels of a batch."""
        if "draws" not in batch:
            return self.discriminator(self._inputs(shown, image, batch))
        _, judge = self.discriminator.parts()
        return judge(self._seen(shown, image, batch))

    def _inputs(self, shown: Shown, image, batch):
        label = batch["label"] if shown in (Shown.REAL, Shown.INFILLED) else 1 - batch["label"]
        inputs = {"image": image, "mask": batch["mask"], "label": label}
        return {name: inputs[name] for name in self.discriminator.input}

    def _seen(self, shown: Shown, image, batch) -> list:
        """Returns the input of the discriminator's second part: the view, and the label if used."""
        see, _ = self.discriminator.parts()
        view, *label = see(self._inputs(shown, image, batch))
        if "draws" in batch:
            view = augment_view(view, batch["draws"][:, shown])
        return [view, *label]

    def _r1_penalty(self, batch):
        view, *label = self._seen(Shown.REAL, batch["image"], batch)
        _, judge = self.discriminator.parts()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(view)
            logits = judge([view, *label])
        gradient = tape.gradient(logits, view)
        return losses.r1_penalty(tf.cast(gradient, tf.float32), self.loss_config.r1_weight)

    def _end_step(self, adversarial_loss):
        """Counts the step, and ends the turn if it is over (section 2.2, Training details)."""
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
    """Returns the compiled model of a configuration, with weights drawn with its seed."""
    model = CiGAN(**arguments_of(config, POLICIES[config.hardware.mixed_precision]))
    model.compile(
        jit_compile=config.hardware.jit_compile,
        steps_per_execution=accelerators.steps_per_execution(config.hardware),
    )
    model.load_features()
    return model


def _scaled_for(network: keras.Model, optimizer: keras.optimizers.Optimizer):
    """Returns an optimizer with loss scaling if the network's gradients are float16."""
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if scales or network.compute_dtype != "float16":
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)


def _all_finite(tensors) -> tf.Tensor:
    return tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(t)) for t in tensors]))


def build_optimizers(config: TrainingConfig) -> list[keras.optimizers.Optimizer]:
    """Returns two Adam optimizers, for the generator and for the discriminator.

    The generator's optimizer also keeps the moving average of its weights, if configured.
    """
    # Always a schedule, even if it is constant. A number would be an additional variable in
    # checkpoints, and a run could not resume with decay switched on or off.
    learning_rate = keras.optimizers.schedules.ExponentialDecay(
        config.learning_rate, config.learning_rate_decay_steps, config.learning_rate_decay_rate
    )
    adam = (learning_rate, config.adam_beta_1, config.adam_beta_2, config.adam_epsilon)
    averages = {"use_ema": config.generator_ema > 0, "ema_momentum": config.generator_ema}
    return [keras.optimizers.Adam(*adam, **averages), keras.optimizers.Adam(*adam)]
