"""Settings of the classifier and of the experiment that compares ways to train it."""

import dataclasses
import itertools
import pathlib
import re
from typing import NamedTuple

from cigan_tf.errors import UserError
from cigan_tf.settings import require, require_choice, require_positive, setting

CLASSIFIER_NETWORKS = ("resnet50", "vgg16")
TRAINABLE_PARTS = ("all", "last", "none")
SYNTHETIC_USES = ("none", "mixed", "on_the_fly", "pretraining", "only")
# Names of arms and generators become names of folders.
_NAME = r"[A-Za-z0-9][\w.-]*"
REAL_SHARE_READINGS = ("share_x1.2", "synthetic_x0.8", "plus_20_points")


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """The malignancy classifier and what it is trained on (paper section 3.2)."""

    classifier_network: str = setting("resnet50", "Network of a classifier: resnet50 or vgg16.")
    classifier_trainable: str = setting(
        "all",
        "What of the network is trained beside the output layer: 'all'; 'last', its last stage "
        "(ResNet-50's conv5, VGG-16's block5); 'none'.",
    )
    classifier_weights: str = setting(
        "imagenet",
        "The classifier's network before training: 'imagenet', 'random', or the path of a weights "
        "file (.npz, .h5).",
    )
    classifier_steps: int = setting(10_000, "Training steps of a classifier.")
    classifier_batch_size: int = setting(32, "Patches per step; even: half of each class.")
    classifier_learning_rate: float = setting(1e-5, "Adam's first step size.")
    classifier_decay_rate: float = setting(0.9, "Factor on the step size at every decay.")
    classifier_decay_steps: int = setting(2000, "Steps from one decay to the next.")
    traditional_augmentation: bool = setting(
        False, "Rotate, mirror and scale training patches at random."
    )
    max_rotation_degrees: float = setting(30.0, "Rotations are drawn between minus this and this.")
    min_scale: float = setting(0.75, "Least magnification of a lesion.")
    max_scale: float = setting(1.25, "Largest magnification of a lesion.")
    synthetic_use: str = setting(
        "none",
        "Infilled patches: 'none'; 'mixed' with real ones by real_share_reading; 'on_the_fly', "
        "likewise, but made while the classifier is trained, others in each pass through the "
        "patches, and not stored; 'pretraining', they alone first and then real ones alone; 'only',"
        " and no real ones.",
    )
    real_share_reading: str = setting(
        "share_x1.2",
        "How the share of real patches grows from a half, once every real_share_steps: "
        "'share_x1.2', itself x 1.2, at most 0.9; 'synthetic_x0.8', the weight of synthetic "
        "patches x 0.8; 'plus_20_points', 0.5, 0.7, 0.9.",
    )
    real_share_steps: int = setting(1000, "Steps from one share of real patches to the next.")
    synthetic_pretraining_share: float = setting(
        0.5, "Share of the steps on synthetic patches alone where synthetic_use is 'pretraining'."
    )
    synthetic_per_real: float = setting(
        1.0,
        "Infills that are used per training patch of the generator; the share of each step stays "
        "that of real_share_reading. More than 1 needs a set of as many --infills_per_patch; of a "
        "fraction the patches are drawn with the classifier's seed.",
    )
    confirmed_by: str = setting(
        "",
        "Name of an arm without synthetic patches: of the infills only those are used whose class "
        "its classifier of the same seed confirms. Empty: all.",
    )
    synthetic_dir: str = setting(
        "",
        "Synthetic set that --mode=infill wrote; empty: WORKDIR/synthetic. Where synthetic_use is "
        "'on_the_fly', the exported generator; empty: WORKDIR/saved_model.",
    )
    patient_share: float = setting(
        1.0,
        "Share of the training patients whose patches are used, chosen by a hash of their ids; a "
        "smaller share is part of every larger one.",
    )
    validation_every_steps: int = setting(500, "Steps between validation AUCs and checkpoints.")
    validation_patches: int = setting(
        2000,
        "Validation patches whose AUC is taken then, half of each class, drawn over all patients; "
        "a finished classifier scores the whole split.",
    )

    def validate(self) -> None:
        """Raises UserError for a value that no run can use."""
        require_positive(
            self,
            "classifier_steps",
            "classifier_learning_rate",
            "classifier_decay_rate",
            "classifier_decay_steps",
            "real_share_steps",
            "synthetic_per_real",
            "validation_every_steps",
        )
        require(
            self.classifier_batch_size >= 2 and self.classifier_batch_size % 2 == 0,
            "classifier_batch_size must be an even number of patches, half of each class.",
            classifier_batch_size=self.classifier_batch_size,
        )
        require(
            self.validation_patches >= 2,
            "validation_patches must be at least 2, one of each class.",
            validation_patches=self.validation_patches,
        )
        require(
            bool(self.classifier_weights),
            "classifier_weights must not be empty.",
            classifier_weights=self.classifier_weights,
        )
        require(
            0 <= self.max_rotation_degrees <= 180,
            "max_rotation_degrees must lie in [0, 180].",
            max_rotation_degrees=self.max_rotation_degrees,
        )
        require(
            0.1 <= self.min_scale <= 1 <= self.max_scale <= 10,
            "0.1 <= min_scale <= 1 <= max_scale <= 10 must hold.",
            min_scale=self.min_scale,
            max_scale=self.max_scale,
        )
        require_choice("classifier_network", self.classifier_network, CLASSIFIER_NETWORKS)
        require_choice("classifier_trainable", self.classifier_trainable, TRAINABLE_PARTS)
        require_choice("synthetic_use", self.synthetic_use, SYNTHETIC_USES)
        require_choice("real_share_reading", self.real_share_reading, REAL_SHARE_READINGS)
        require(
            0 < self.synthetic_pretraining_share < 1,
            "synthetic_pretraining_share must lie in (0, 1).",
            synthetic_pretraining_share=self.synthetic_pretraining_share,
        )
        require(
            0 < self.patient_share <= 1,
            "patient_share must lie in (0, 1].",
            patient_share=self.patient_share,
        )

        require(
            not self.infills_on_the_fly or (self.synthetic_per_real == 1 and not self.confirmed_by),
            "synthetic_per_real and confirmed_by choose among stored infills; with synthetic_use="
            "on_the_fly leave them out.",
            synthetic_per_real=self.synthetic_per_real,
            confirmed_by=self.confirmed_by,
        )

    @property
    def needs_synthetic(self) -> bool:
        """Whether infilled patches are among those trained on."""
        return self.synthetic_use != "none"

    @property
    def infills_on_the_fly(self) -> bool:
        """Whether they are made during the training; otherwise they come from a stored set."""
        return self.synthetic_use == "on_the_fly"

    @property
    def infills_folder(self) -> str:
        """Name of the folder in a run's workdir that infills come from."""
        return "saved_model" if self.infills_on_the_fly else "synthetic"

    @property
    def confirming_arm(self) -> str | None:
        """The arm whose classifier must be trained before this one; None where there is none."""
        return self.confirmed_by if self.needs_synthetic and self.confirmed_by else None


class Cell(NamedTuple):
    """One classifier of an experiment.

    Attributes:
        arm: name of the arm.
        generator: name of the generator whose patches the classifier is trained on, one of
            `ExperimentConfig.generator_workdirs`; None where none of them is.
        seed: of the classifier.
    """

    arm: str
    generator: str | None
    seed: int


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """Which classifiers are trained, and how they are compared."""

    arm: tuple[str, ...] = setting(
        (),
        "One arm: 'NAME: setting=value ...', settings of the classifier that differ from the "
        "flags. Once per arm.",
        repeated=True,
    )
    arms: tuple[str, ...] = setting((), "Names of the arms to run; empty: all that are defined.")
    classifier_seeds: tuple[int, ...] = setting(
        (0, 1, 2, 3, 4), "Every arm is trained once per seed: weights, order, augmentation."
    )
    generators: tuple[str, ...] = setting(
        (),
        "Workdirs of ciGAN runs, each with a saved_model and a synthetic set; arms that use "
        "synthetic patches are trained once per generator. Empty: the experiment's own workdir.",
    )
    infills_per_patch: int = setting(
        1,
        "Infills of each training patch that --mode=infill writes, each with its own draw of seed "
        "and mask (a malignant patch keeps its mask).",
    )
    comparisons: tuple[str, ...] = setting(
        (), "Pairs of arms to test, each 'ARM:OTHER'; empty: all pairs."
    )
    test_split: str = setting("test", "Split that the table is made from.")
    quality_features: str = setting(
        "imagenet",
        "Features in which infills are compared with real lesions: VGG-16 with weights 'imagenet', "
        "'random', or of a file (.npz, .h5); or 'classifier', the experiment's own.",
    )
    bootstrap_resamples: int = setting(2000, "Resamples of the test patients.")

    def validate(self, classifier: ClassifierConfig) -> None:
        """Raises UserError for a value that no run can use, arms included."""
        require(
            bool(self.quality_features),
            "quality_features must not be empty.",
            quality_features=self.quality_features,
        )
        require_positive(self, "bootstrap_resamples", "infills_per_patch")
        require(
            len(self.classifier_seeds) > 0
            and len(set(self.classifier_seeds)) == len(self.classifier_seeds)
            and all(0 <= seed < 2**31 for seed in self.classifier_seeds),
            "classifier_seeds must be different whole numbers in [0, 2**31), one at least.",
            classifier_seeds=self.classifier_seeds,
        )
        require(
            len(self.generator_workdirs) == len(self.generators)
            and all(re.fullmatch(_NAME, name) for name in self.generator_workdirs),
            "generators must be folders whose names differ, made of letters, digits, '_', '-', "
            "'.'.",
            generators=",".join(self.generators),
        )
        arms = self.named_arms(classifier)
        for name, settings in arms.items():
            if settings.confirming_arm is not None:
                _require_confirming(name, settings, arms)
        for pair in self.comparisons:
            names = pair.split(":")
            require(
                len(names) == 2 and names[0] != names[1] and set(names) <= set(arms),
                f"comparisons are pairs ARM:OTHER of the arms {', '.join(arms)}.",
                comparisons=pair,
            )

    def named_arms(self, classifier: ClassifierConfig) -> dict[str, ClassifierConfig]:
        """Returns the classifier's settings of every arm to run, by name, in order.

        Args:
            classifier: the settings that an arm keeps where it names no others.

        Raises:
            UserError: an arm that is not defined, is defined twice, or cannot be read.
        """
        defined = {}
        for text in self.arm:
            name, settings = _parse_arm(text, classifier)
            require(name not in defined, f"The arm {name!r} is defined twice.", arm=text)
            defined[name] = settings
        for name in self.arms:
            known = ", ".join(defined) or "none; see cigan_tf/flagfiles/arms.flags"
            require(name in defined, f"arms must be among those defined ({known}).", arms=name)
        return {name: defined[name] for name in self.arms or defined}

    @property
    def generator_workdirs(self) -> dict[str, str]:
        """The workdirs of `generators` by their names, which are their folders' names."""
        return {pathlib.Path(workdir).name: workdir for workdir in self.generators}

    def cells(self, classifier: ClassifierConfig) -> list[Cell]:
        """Returns every classifier of the experiment.

        The seed is the outer loop: an experiment that is interrupted has all arms of its first
        seeds. Arms whose infills another one confirms come last. An arm that names its own
        synthetic_dir does not depend on `generators`.

        Args:
            classifier: the settings that an arm keeps where it names no others.

        Raises:
            UserError: as `named_arms`.
        """
        arms = self.named_arms(classifier)
        arms = dict(sorted(arms.items(), key=lambda item: item[1].confirming_arm is not None))
        return [
            Cell(arm, generator, seed)
            for seed in self.classifier_seeds
            for arm, settings in arms.items()
            for generator in self._generators_of(settings)
        ]

    def _generators_of(self, settings: ClassifierConfig) -> list[str | None]:
        if settings.needs_synthetic and not settings.synthetic_dir:
            return list(self.generator_workdirs) or [None]
        return [None]

    def pairs(self, arms: list[str]) -> list[tuple[str, str]]:
        """Returns the pairs of arms to test, each arm after one that stands before it in `arms`."""
        if self.comparisons:
            return [tuple(pair.split(":")) for pair in self.comparisons]
        return [(arm, other) for other, arm in itertools.combinations(arms, 2)]


def _require_confirming(
    name: str, settings: ClassifierConfig, arms: dict[str, ClassifierConfig]
) -> None:
    confirming = arms.get(settings.confirming_arm)
    require(
        confirming is not None and not confirming.needs_synthetic,
        f"confirmed_by of the arm {name!r} must be one of the arms that are run without synthetic "
        f"patches ({', '.join(n for n, s in arms.items() if not s.needs_synthetic) or 'none'}).",
        confirmed_by=settings.confirmed_by,
    )
    require(
        confirming.patient_share <= settings.patient_share,
        f"confirmed_by of the arm {name!r} must be an arm of no larger patient_share than its own, "
        f"{settings.patient_share:g}; {settings.confirmed_by!r} has another.",
        patient_share=confirming.patient_share,
    )


def _parse_arm(text: str, classifier: ClassifierConfig) -> tuple[str, ClassifierConfig]:
    name, colon, rest = text.partition(":")
    require(
        bool(colon) and re.fullmatch(_NAME, name) is not None,
        "An arm is 'NAME: setting=value ...', its name of letters, digits, '_', '-', '.'.",
        arm=text,
    )
    fields = {field.name: field.type for field in dataclasses.fields(ClassifierConfig)}
    values = {}
    for assignment in rest.split():
        key, _, value = assignment.partition("=")
        require(key in fields, f"An arm's settings are among {', '.join(fields)}.", arm=assignment)
        values[key] = _parse_value(fields[key], value, assignment)
    settings = dataclasses.replace(classifier, **values)
    try:
        settings.validate()
    except UserError as error:
        raise UserError(f"Arm {name!r}: {error}") from None
    return name, settings


def _parse_value(kind: type, value: str, assignment: str):
    try:
        return {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError):
        raise UserError(
            f"An arm's {assignment.partition('=')[0]} must be of type {kind.__name__}. "
            f"Received: {assignment!r}."
        ) from None
