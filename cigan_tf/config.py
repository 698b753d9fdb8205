"""All settings of a run, as frozen dataclasses whose fields have units in their names.

The defaults are those of the paper (section 2.2). `flags.py` makes each field a command-line flag
with the same name and help text.
"""

import dataclasses
import json
import re

from cigan_tf.errors import UserError
from cigan_tf.experiment_config import ClassifierConfig, ExperimentConfig
from cigan_tf.hardware_config import HardwareConfig
from cigan_tf.settings import require, require_choice, require_positive, setting

DISCRIMINATOR_VIEWS = ("patch", "lesion")
FEATURE_LAYERS = ("input", "pool1", "pool2", "pool3")
HELD_OUT_TERMS = ("kid", "class_auc")
LOSS_TERMS = (
    "feature_loss",
    "boundary_loss",
    "adversarial_generator_loss",
    "adversarial_discriminator_loss",
)
EXACT_REACH_PX = 22  # how far VGG-19's convolutions up to pool3 propagate a difference
WEIGHT_SOURCES = "'imagenet', 'random', or the path of a weights file (.h5, .weights.h5 or .npz)"
_INVALID = (
    "The saved configuration is not valid in this version: {}. Use the version that saved it, or "
    "restore the file from a copy."
)


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The dataset, and how its patches are batched."""

    dataset: str = setting(
        "ddsm_patches/cbis_ddsm", "TFDS dataset and config, e.g. ddsm_patches/sample."
    )
    data_dir: str = setting(
        "~/tensorflow_datasets", "Folder of the datasets built by `tfds build`."
    )
    train_split: str = setting("train", "Split for training the networks.")
    validation_split: str = setting("validation", "Split for pictures and model selection.")
    train_patient_share: float = setting(
        1.0,
        "Share of the training patients used to train ciGAN, chosen by a hash of their ids; "
        "smaller shares are subsets of larger ones.",
    )
    batch_size: int = setting(
        8, "Patches per step over all replicas: an even number, half from each class."
    )
    random_flips: bool = setting(
        False, "Randomly mirror and transpose patch and mask: 8 orientations of every lesion."
    )
    max_random_gamma: float = setting(
        1.0,
        "Largest exponent of random gamma augmentation: grey levels of training patches are raised "
        "to a power from 1/max_random_gamma to max_random_gamma. 1: off.",
    )

    def validate(self) -> None:
        """Raises UserError if a value is invalid."""
        require(
            0 < self.train_patient_share <= 1,
            "train_patient_share must be in (0, 1].",
            train_patient_share=self.train_patient_share,
        )
        require(
            1 <= self.max_random_gamma <= 10,
            "max_random_gamma must be in [1, 10].",
            max_random_gamma=self.max_random_gamma,
        )
        require(
            self.batch_size >= 2 and self.batch_size % 2 == 0,
            "batch_size must be a positive even number of patches, half from each class.",
            batch_size=self.batch_size,
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The networks (paper section 2.1)."""

    patch_size: int = setting(256, "Side of a patch in pixels: a power of two from 32 to 512.")
    composite: bool = setting(
        True,
        "Keep the context image's pixels outside the lesion mask; off: use the generator's pixels.",
    )
    match_grain: bool = setting(
        False,
        "Scale the detail of every infill to the grain of the tissue around its mask, so that the "
        "film's noise continues inside. Off in the paper.",
    )
    match_rim: bool = setting(
        False,
        "Adjust every infill's grey levels to the tissue at its mask's outer rim, so that no edge "
        "shows. Off in the paper.",
    )
    rim_reach_px: float = setting(
        0.0,
        "Distance from the rim, in pixels, at which match_rim makes half of the adjustment, so "
        "that the generator sets the level inside; 0: the whole adjustment everywhere.",
    )
    discriminator_sees_class: bool = setting(
        True, "Give the class to the discriminator, D(c, .); off: give it only the image."
    )
    discriminator_view: str = setting(
        "patch",
        "Input of the discriminator: patch, the whole patch (paper); lesion, the brightness and "
        "detail in the lesion mask and in a band around it, from which the discriminator learns "
        "sooner.",
    )
    vgg_weights: str = setting(
        "imagenet", f"Weights of the feature loss's VGG-19: {WEIGHT_SOURCES}."
    )
    feature_layers: tuple[str, ...] = setting(
        FEATURE_LAYERS,
        "VGG-19 layers whose feature maps the feature loss compares, one or more of "
        f"{','.join(FEATURE_LAYERS)}.",
    )

    def validate(self) -> None:
        """Raises UserError if a value is invalid."""
        require(
            32 <= self.patch_size <= 512 and _is_power_of_two(self.patch_size),
            "patch_size must be a power of two from 32 to 512.",
            patch_size=self.patch_size,
        )
        for name in ("match_grain", "match_rim"):
            on = getattr(self, name)
            require(self.composite or not on, f"{name} needs --composite.", **{name: on})
        require(
            0 <= self.rim_reach_px <= self.patch_size and (self.match_rim or not self.rim_reach_px),
            "rim_reach_px must be from 0 to patch_size, and needs --match_rim.",
            rim_reach_px=self.rim_reach_px,
        )
        require_choice("discriminator_view", self.discriminator_view, DISCRIMINATOR_VIEWS)
        require(bool(self.vgg_weights), f"vgg_weights must be {WEIGHT_SOURCES}.", vgg_weights="")
        require(
            len(self.feature_layers) > 0 and set(self.feature_layers) <= set(FEATURE_LAYERS),
            f"feature_layers must name one or more of {', '.join(FEATURE_LAYERS)}.",
            feature_layers=",".join(self.feature_layers),
        )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights and computation of the loss terms (paper section 2.2, Training details)."""

    adversarial_weight: float = setting(1.0, "Weight of the generator's adversarial loss.")
    feature_weight: float = setting(10.0, "Weight of the VGG-19 feature loss.")
    boundary_weight: float = setting(10000.0, "Weight of the boundary loss.")
    opposite_class_weight: float = setting(
        0.0,
        "Weight of the adversarial and boundary losses of infills of the opposite class, relative "
        "to infills of the patch's own class. The synthetic set consists of opposite-class "
        "infills, on which no loss is computed without this weight. 0: off (paper).",
    )
    wrong_class_weight: float = setting(
        0.0,
        "Weight of real patches with the wrong class as additional fakes for the discriminator, "
        "relative to the infills; makes the class more visible (Reed et al. 2016). 0: off (paper).",
    )
    diversity_weight: float = setting(
        0.0,
        "Weight of the diversity loss, which decreases with the difference between infills of the "
        "same patch and class with different noise (Yang et al. 2019). 0: off (paper).",
    )
    r1_weight: float = setting(
        0.0,
        "Weight of the R1 penalty, the squared gradient of the discriminator's logit on real "
        "patches (Mescheder et al. 2018). 0: off (paper).",
    )
    boundary_sigma_px: float = setting(
        10.0,
        "Standard deviation of the boundary map's Gaussian, in pixels of a 256 px patch.",
    )
    windowed_feature_loss: bool = setting(
        True,
        "Compute the feature loss in a window around each lesion mask, which gives the same value "
        "and gradient with less arithmetic. Without --composite it is always computed on whole "
        "patches.",
    )
    feature_reach_px: int = setting(
        EXACT_REACH_PX,
        "Distance in pixels from a lesion mask's bounding box up to which differences of feature "
        "maps are included; a margin of the same width is computed around them. "
        f"The loss is exact from {EXACT_REACH_PX} up to pool3, 6 up to pool2, 2 up to pool1.",
    )

    def validate(self) -> None:
        """Raises UserError if a value is invalid."""
        for name in (
            "adversarial_weight",
            "feature_weight",
            "boundary_weight",
            "wrong_class_weight",
            "opposite_class_weight",
            "diversity_weight",
            "r1_weight",
        ):
            value = getattr(self, name)
            require(value >= 0, f"{name} must not be negative.", **{name: value})
        require_positive(self, "boundary_sigma_px")
        require(
            self.feature_reach_px >= 0,
            "feature_reach_px must not be negative.",
            feature_reach_px=self.feature_reach_px,
        )

    def require_class(self, discriminator_sees_class: bool) -> None:
        """Raises UserError if a term needs a discriminator that sees the class."""
        for name in ("wrong_class_weight", "opposite_class_weight"):
            weight = getattr(self, name)
            require(
                discriminator_sees_class or not weight,
                f"{name} needs a discriminator that sees the class.",
                **{name: weight},
                discriminator_sees_class=discriminator_sees_class,
            )


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Optimizers, schedule and logging (paper section 2.2, Training details)."""

    pretraining_steps: int = setting(10_000, "Number of generator steps on the feature loss only.")
    adversarial_steps: int = setting(
        100_000, "Number of steps after pre-training, counted over both networks."
    )
    init_from: str = setting(
        "",
        "Preset whose weights and architecture training starts from: a name, a folder, or "
        "hf://OWNER/REPOSITORY. Empty: random weights.",
    )
    learning_rate: float = setting(1e-4, "Adam's learning rate for both networks.")
    learning_rate_decay_rate: float = setting(
        1.0,
        "Factor by which the learning rate is multiplied per learning_rate_decay_steps updates of "
        "a network; it changes continuously, not in steps. 1: no decay.",
    )
    learning_rate_decay_steps: int = setting(
        500,
        "Updates of a network after which its learning rate has been multiplied by "
        "learning_rate_decay_rate.",
    )
    adam_beta_1: float = setting(0.9, "Adam's decay of the first moment.")
    adam_beta_2: float = setting(0.999, "Adam's decay of the second moment.")
    adam_epsilon: float = setting(1e-8, "Adam's epsilon.")
    generator_ema: float = setting(
        0.0,
        "Momentum of a moving average of the generator's weights, e.g. 0.999; the average is used "
        "for all infills that are shown, evaluated or exported. 0: off (paper).",
    )
    augment_discriminator: bool = setting(
        False,
        "Augment the discriminator's input, real and infilled alike, by contrast, brightness, "
        "translation, cutout and orientation (DiffAugment, Zhao et al. 2020). Off in the paper.",
    )
    switch_threshold: float = setting(
        0.3, "A network's turn ends when its adversarial loss falls below this value."
    )
    max_steps_per_turn: int = setting(
        100, "Maximum number of steps per turn; then the other network trains."
    )
    seed: int = setting(0, "Seed of all random draws: weights, noise, order of patches.")
    log_every_steps: int = setting(50, "Steps between scalars in TensorBoard.")
    picture_every_steps: int = setting(1000, "Steps between picture grids in TensorBoard.")
    checkpoint_every_steps: int = setting(1000, "Steps between checkpoints.")
    checkpoints_to_keep: int = setting(3, "Number of newest checkpoints kept on disk.")
    best_term: str = setting(
        "",
        "Validation measure that selects the best checkpoint: "
        f"{', '.join(LOSS_TERMS)}; with --evaluated_patches, {' or '.join(HELD_OUT_TERMS)}. Empty: "
        "kid with --evaluated_patches, otherwise no selection, because the losses reward blur.",
    )
    held_out_per_kind: int = setting(
        16,
        "Number of validation patches of each kind (malignant lesion, benign lesion, no lesion) "
        "for measuring best_term.",
    )
    evaluated_patches: int = setting(
        0,
        "Number of validation patches to infill as the opposite class at every checkpoint, for the "
        "curves held_out/kid and held_out/class_auc, with the features of --quality_features; 0: "
        "none. 200 patches of 64 px take 10 to 15 s on 2 CPU cores.",
    )
    on_nonfinite: str = setting(
        "stop",
        "Action if a loss or gradient is NaN or infinite: stop the run, or skip the step.",
    )
    profile_steps: str = setting(
        "", "Steps to profile for TensorBoard, FIRST:LAST, e.g. 20:25; empty: none."
    )

    def validate(self) -> None:
        """Raises UserError if a value is invalid."""
        for name in ("pretraining_steps", "adversarial_steps"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must not be negative.", **{name: value})
        require_positive(
            self,
            "learning_rate",
            "learning_rate_decay_rate",
            "learning_rate_decay_steps",
            "adam_epsilon",
            "switch_threshold",
            "max_steps_per_turn",
            "log_every_steps",
            "picture_every_steps",
            "checkpoint_every_steps",
            "checkpoints_to_keep",
            "held_out_per_kind",
        )
        for name in ("adam_beta_1", "adam_beta_2", "generator_ema"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} must be in [0, 1).", **{name: value})
        require(0 <= self.seed < 2**31, "seed must be in [0, 2**31).", seed=self.seed)
        require_choice("best_term", self.best_term, ("", *LOSS_TERMS, *HELD_OUT_TERMS))
        require(
            self.evaluated_patches == 0 or self.evaluated_patches >= 20,
            "evaluated_patches must be 0 or at least 20.",
            evaluated_patches=self.evaluated_patches,
        )
        require(
            self.best_term in ("", *LOSS_TERMS) or self.evaluated_patches > 0,
            f"best_term {self.best_term!r} is measured only with --evaluated_patches.",
            evaluated_patches=self.evaluated_patches,
        )
        require_choice("on_nonfinite", self.on_nonfinite, ("stop", "skip"))
        require(
            not self.profile_steps or self.profiled is not None,
            "profile_steps must be FIRST:LAST with 1 <= FIRST <= LAST.",
            profile_steps=self.profile_steps,
        )

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.pretraining_steps + self.adversarial_steps

    @property
    def selecting_term(self) -> str | None:
        """Measure that selects the best checkpoint, or None."""
        return self.best_term or ("kid" if self.evaluated_patches else None)

    @property
    def profiled(self) -> tuple[int, int] | None:
        """First and last step to profile, or None."""
        match = re.fullmatch(r"(\d+):(\d+)", self.profile_steps)
        first, last = map(int, match.groups()) if match else (0, 0)
        return (first, last) if 1 <= first <= last else None


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    hardware: HardwareConfig = dataclasses.field(default_factory=HardwareConfig)
    classifier: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
    experiment: ExperimentConfig = dataclasses.field(default_factory=ExperimentConfig)

    def validate(self) -> "Config":
        """Returns the configuration itself; raises UserError if a value is invalid."""
        for group in (self.data, self.model, self.loss, self.training, self.hardware):
            group.validate()
        self.classifier.validate()
        self.experiment.validate(self.classifier)
        self.loss.require_class(self.model.discriminator_sees_class)
        return self

    def to_json(self) -> str:
        """Returns the configuration as indented JSON text with one object per group."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Returns the configuration written by `to_json`; raises UserError if it is invalid."""
        try:
            groups = json.loads(text)
            if set(groups) != {field.name for field in dataclasses.fields(cls)}:
                raise TypeError(f"its groups are {sorted(groups)}")
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise UserError(_INVALID.format(error)) from None
        return cls.from_groups(groups)

    @classmethod
    def from_groups(cls, groups: dict[str, dict]) -> "Config":
        """Returns the configuration with the given settings and defaults for all others.

        Args:
            groups: for the name of each group, its settings by name, as read from JSON.

        Raises:
            UserError: a name or value is not valid in this version.
        """
        makers = {field.name: field.default_factory for field in dataclasses.fields(cls)}
        try:
            return cls(
                **{
                    # JSON has no tuples.
                    group: makers[group](
                        **{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
                    )
                    for group, values in groups.items()
                }
            ).validate()
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(_INVALID.format(error)) from None
