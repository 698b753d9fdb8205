"""Every setting of a run: frozen dataclasses with units in their names.

The defaults are the paper's (section 2.2). `flags.py` turns each field into a command-line flag of
the same name, so a field's help text below is the flag's help text too.
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
EXACT_REACH_PX = 22  # VGG-19's convolutions up to pool3 carry a difference no further
WEIGHT_SOURCES = "'imagenet', 'random', or the path of a weights file (.h5, .weights.h5 or .npz)"


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which patches are read, and how they are batched."""

    dataset: str = setting(
        "ddsm_patches/cbis_ddsm", "TFDS dataset and config, e.g. ddsm_patches/sample."
    )
    data_dir: str = setting(
        "~/tensorflow_datasets", "Folder in which `tfds build` has put the dataset."
    )
    train_split: str = setting("train", "Split that the networks are trained on.")
    validation_split: str = setting("validation", "Split of the pictures and of model selection.")
    train_patient_share: float = setting(
        1.0,
        "Share of the training patients that ciGAN sees, chosen by a hash of their ids; a smaller "
        "share is part of every larger one.",
    )
    batch_size: int = setting(8, "Patches per step, over all replicas; even: half of each class.")
    random_flips: bool = setting(
        False, "Mirror and transpose patch and mask at random: 8 orientations of every lesion."
    )
    max_random_gamma: float = setting(
        1.0,
        "Raise the grey levels of a training patch to a power drawn between 1/this and this: "
        "films of few patients stand for more. 1: as they are.",
    )

    def validate(self) -> None:
        """Raises UserError for a value that no run can use."""
        require(
            0 < self.train_patient_share <= 1,
            "train_patient_share must lie in (0, 1].",
            train_patient_share=self.train_patient_share,
        )
        require(
            1 <= self.max_random_gamma <= 10,
            "max_random_gamma must lie in [1, 10].",
            max_random_gamma=self.max_random_gamma,
        )
        require(
            self.batch_size >= 2 and self.batch_size % 2 == 0,
            "batch_size must be an even number of patches, half of each class.",
            batch_size=self.batch_size,
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The networks (paper section 2.1)."""

    patch_size: int = setting(256, "Side of a patch in pixels: a power of two from 32 to 512.")
    composite: bool = setting(
        True, "Keep the context's own pixels outside the lesion mask; off: the generator's output."
    )
    match_rim: bool = setting(
        False,
        "Shift every infill to the tissue at its mask's outer rim, so that no edge shows. Off: "
        "paper.",
    )
    discriminator_sees_class: bool = setting(
        True, "Give the discriminator the class, D(c, .); off: the image alone."
    )
    discriminator_view: str = setting(
        "patch",
        "What the discriminator looks at: patch, the whole patch (paper); lesion, the half of the "
        "patch around the lesion with its local contrast and mask, which it learns to judge much "
        "sooner.",
    )
    vgg_weights: str = setting("imagenet", f"VGG-19 of the feature loss: {WEIGHT_SOURCES}.")
    feature_layers: tuple[str, ...] = setting(
        FEATURE_LAYERS,
        f"Maps of VGG-19 that the feature loss compares, any of {','.join(FEATURE_LAYERS)}.",
    )

    def validate(self) -> None:
        """Raises UserError for a value that no run can use."""
        require(
            32 <= self.patch_size <= 512 and _is_power_of_two(self.patch_size),
            "patch_size must be a power of two from 32 to 512.",
            patch_size=self.patch_size,
        )
        require(
            self.composite or not self.match_rim,
            "match_rim needs --composite; without it there is no rim to match.",
            match_rim=self.match_rim,
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
        "Train adversarially, and on the boundary loss, on infills of the opposite class as well, "
        "at this weight beside those of a patch's own class: the synthetic set asks for them, and "
        "no other loss sees them. 0: paper.",
    )
    wrong_class_weight: float = setting(
        0.0,
        "Show the discriminator real patches with the wrong class as fakes, too, at this weight "
        "beside the infilled ones: the class asked for counts more (Reed et al. 2016). 0: paper.",
    )
    r1_weight: float = setting(
        0.0,
        "Weight of the R1 penalty, the squared gradient of the discriminator's logit at real "
        "patches (Mescheder et al. 2018). 0: paper.",
    )
    boundary_sigma_px: float = setting(
        10.0, "Gaussian width of the boundary weight in pixels of a 256 px patch."
    )
    windowed_feature_loss: bool = setting(
        True,
        "Compute the feature loss in a window around each lesion mask: the same value and "
        "gradient for less arithmetic. Without --composite it is computed everywhere.",
    )
    feature_reach_px: int = setting(
        EXACT_REACH_PX,
        "Pixels beyond a lesion mask's bounding box up to which differences of feature maps are "
        "followed; as many again are computed around them. "
        f"Exact from {EXACT_REACH_PX} on at pool3, 6 at pool2, 2 at pool1.",
    )

    def validate(self) -> None:
        """Raises UserError for a value that no run can use."""
        for name in (
            "adversarial_weight",
            "feature_weight",
            "boundary_weight",
            "wrong_class_weight",
            "opposite_class_weight",
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


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, how fast, how often (paper section 2.2, Training details)."""

    pretraining_steps: int = setting(10_000, "Steps of the generator on the feature loss alone.")
    adversarial_steps: int = setting(100_000, "Steps of either network after that, together.")
    init_from: str = setting(
        "",
        "Preset whose weights training starts from: a name, a folder, or hf://OWNER/REPOSITORY; "
        "its architecture is taken with them. Empty: random weights.",
    )
    learning_rate: float = setting(1e-4, "Adam's step size, both networks.")
    learning_rate_decay_rate: float = setting(
        1.0, "Factor on the step size after every learning_rate_decay_steps updates of a network."
    )
    learning_rate_decay_steps: int = setting(500, "Updates of a network per decay, continuous.")
    adam_beta_1: float = setting(0.9, "Adam's decay of the first moment.")
    adam_beta_2: float = setting(0.999, "Adam's decay of the second moment.")
    adam_epsilon: float = setting(1e-8, "Adam's epsilon.")
    generator_ema: float = setting(
        0.0,
        "Momentum of a moving average of the generator's weights, such as 0.999; infills that are "
        "shown, measured and exported are the average's. 0: none (paper).",
    )
    augment_discriminator: bool = setting(
        False,
        "Change contrast, brightness, place, a square and the orientation of what the "
        "discriminator sees, real and infilled alike (DiffAugment, Zhao et al. 2020). Off: paper.",
    )
    switch_threshold: float = setting(
        0.3, "The turn passes when the adversarial loss of the network in training is below this."
    )
    max_steps_per_turn: int = setting(100, "The turn passes after so many steps in any case.")
    seed: int = setting(0, "Seed of every random draw: weights, noise, order of patches.")
    log_every_steps: int = setting(50, "Steps between scalars in TensorBoard.")
    picture_every_steps: int = setting(1000, "Steps between picture grids in TensorBoard.")
    checkpoint_every_steps: int = setting(1000, "Steps between checkpoints.")
    checkpoints_to_keep: int = setting(3, "Checkpoints kept on disk, the newest ones.")
    best_term: str = setting(
        "",
        "Term on held-out patches by which the best checkpoint is kept, too: "
        f"{', '.join(LOSS_TERMS)}; with --evaluated_patches, {' or '.join(HELD_OUT_TERMS)}. Empty: "
        "kid with --evaluated_patches; without them none is kept, since the losses reward blur.",
    )
    held_out_per_kind: int = setting(
        16,
        "Validation patches of each kind (malignant lesion, benign lesion, no lesion) on which "
        "best_term is measured.",
    )
    evaluated_patches: int = setting(
        0,
        "Held-out patches that are infilled as the opposite class at every checkpoint, for the "
        "curves held_out/kid and held_out/class_auc, in the features of --quality_features; 0: "
        "none. 200 of 64 px take 10 to 15 s on 2 CPU cores.",
    )
    on_nonfinite: str = setting(
        "stop", "Where a loss or gradient is NaN or infinite: stop the run, or skip the step."
    )
    profile_steps: str = setting(
        "", "Steps to profile for TensorBoard, FIRST:LAST, e.g. 20:25; empty: none."
    )

    def validate(self) -> None:
        """Raises UserError for a value that no run can use."""
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
            require(0 <= value < 1, f"{name} must lie in [0, 1).", **{name: value})
        require(0 <= self.seed < 2**31, "seed must lie in [0, 2**31).", seed=self.seed)
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
        """The term by which the best checkpoint is kept, or None where none is."""
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
        """Returns itself; raises UserError for a value that no run can use."""
        for group in (self.data, self.model, self.loss, self.training, self.hardware):
            group.validate()
        self.classifier.validate()
        self.experiment.validate(self.classifier)
        for name in ("wrong_class_weight", "opposite_class_weight"):
            weight = getattr(self.loss, name)
            require(
                self.model.discriminator_sees_class or not weight,
                f"{name} needs a discriminator that sees the class.",
                **{name: weight},
                discriminator_sees_class=self.model.discriminator_sees_class,
            )
        return self

    def to_json(self) -> str:
        """Returns the configuration as indented JSON text, a group per section."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Returns the configuration that `to_json` wrote; raises UserError if it is none."""
        try:
            groups = json.loads(text)
            if set(groups) != {field.name for field in dataclasses.fields(cls)}:
                raise KeyError(f"its groups are {sorted(groups)}")
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise UserError(
                f"This is not a saved configuration of this version: {error}."
            ) from None
        return cls.from_groups(groups)

    @classmethod
    def from_groups(cls, groups: dict[str, dict]) -> "Config":
        """Returns the configuration of some groups' settings; the others have their defaults.

        Args:
            groups: by name, settings by their names, as JSON holds them.

        Raises:
            UserError: a name or value is none of this version.
        """
        makers = {field.name: field.default_factory for field in dataclasses.fields(cls)}
        try:
            return cls(
                **{
                    # JSON knows no tuples.
                    group: makers[group](
                        **{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
                    )
                    for group, values in groups.items()
                }
            ).validate()
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"This is not a saved configuration of this version: {error}."
            ) from None
