"""Settings of the classifier and of the experiment that compares ways of training it."""

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
# Names of arms and generators are used as folder names.
_NAME = r"[A-Za-z0-9][\w.-]*"
REAL_SHARE_READINGS = ("share_x1.2", "synthetic_x0.8", "plus_20_points")


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """The malignancy classifier and its training data (paper section 3.2)."""

    classifier_network: str = setting("resnet50", "Network of the classifier: resnet50 or vgg16.")
    classifier_trainable: str = setting(
        "all",
        "Layers trained in addition to the output layer: 'all'; 'last', the last stage "
        "(ResNet-50's conv5, VGG-16's block5); 'none'.",
    )
    classifier_weights: str = setting(
        "imagenet",
        "Initial weights of the classifier: 'imagenet', 'random', or the path of a weights file "
        "(.npz, .h5).",
    )
    classifier_steps: int = setting(10_000, "Number of training steps of a classifier.")
    classifier_batch_size: int = setting(
        32, "Patches per step: an even number, half from each class."
    )
    classifier_learning_rate: float = setting(1e-5, "Adam's initial learning rate.")
    classifier_decay_rate: float = setting(
        0.9,
        "Factor by which the learning rate is multiplied after every classifier_decay_steps steps; "
        "1: no decay.",
    )
    classifier_decay_steps: int = setting(
        2000, "Steps between multiplications of the learning rate by classifier_decay_rate."
    )
    traditional_augmentation: bool = setting(
        False, "Randomly rotate, mirror and scale training patches."
    )
    max_rotation_degrees: float = setting(30.0, "Largest rotation in either direction.")
    min_scale: float = setting(0.75, "Smallest magnification of a lesion.")
    max_scale: float = setting(1.25, "Largest magnification of a lesion.")
    synthetic_use: str = setting(
        "none",
        "Use of synthetic patches: 'none'; 'mixed', mixed with real patches by real_share_reading; "
        "'on_the_fly', also mixed, but generated during training, different in each pass and not "
        "stored; 'pretraining', only synthetic patches first, then only real ones; 'only', no real "
        "patches.",
    )
    real_share_reading: str = setting(
        "share_x1.2",
        "Growth of the share of real patches from one half, every real_share_steps: 'share_x1.2', "
        "the share x 1.2, up to 0.9; 'synthetic_x0.8', the weight of synthetic patches x 0.8; "
        "'plus_20_points', 0.5, 0.7, 0.9.",
    )
    real_share_steps: int = setting(
        1000, "Number of steps between increases of the share of real patches."
    )
    synthetic_pretraining_share: float = setting(
        0.5, "Share of the steps on synthetic patches if synthetic_use is 'pretraining'."
    )
    synthetic_per_real: float = setting(
        1.0,
        "Number of infills used per training patch of the generator; the share of synthetic "
        "patches in a step still follows real_share_reading. A value above 1 needs a set with at "
        "least that many --infills_per_patch. With a fraction, infills are chosen at random with "
        "the classifier's seed.",
    )
    confirmed_by: str = setting(
        "",
        "Arm without synthetic patches whose classifier of the same seed must confirm the class of "
        "an infill; other infills are not used. Empty: use all infills.",
    )
    synthetic_dir: str = setting(
        "",
        "Folder of the synthetic set written by --mode=infill; empty: WORKDIR/synthetic. If "
        "synthetic_use is 'on_the_fly', folder of the exported generator; empty: "
        "WORKDIR/saved_model.",
    )
    patient_share: float = setting(
        1.0,
        "Share of the training patients used, chosen by a hash of their ids; smaller shares are "
        "subsets of larger ones.",
    )
    validation_every_steps: int = setting(
        500, "Number of steps between validation AUCs and checkpoints."
    )
    validation_patches: int = setting(
        2000,
        "Number of validation patches scored at each validation, half from each class, drawn from "
        "all patients; the whole split is scored after training.",
    )

    def validate(self) -> None:
        """Raises UserError if a value is invalid."""
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
            "classifier_batch_size must be a positive even number, half of it from each class.",
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
            "max_rotation_degrees must be in [0, 180].",
            max_rotation_degrees=self.max_rotation_degrees,
        )
        require(
            0.1 <= self.min_scale <= 1 <= self.max_scale <= 10,
            "Required: 0.1 <= min_scale <= 1 <= max_scale <= 10.",
            min_scale=self.min_scale,
            max_scale=self.max_scale,
        )
        require_choice("classifier_network", self.classifier_network, CLASSIFIER_NETWORKS)
        require_choice("classifier_trainable", self.classifier_trainable, TRAINABLE_PARTS)
        require_choice("synthetic_use", self.synthetic_use, SYNTHETIC_USES)
        require_choice("real_share_reading", self.real_share_reading, REAL_SHARE_READINGS)
        require(
            0 < self.synthetic_pretraining_share < 1,
            "synthetic_pretraining_share must be in (0, 1).",
            synthetic_pretraining_share=self.synthetic_pretraining_share,
        )
        require(
            0 < self.patient_share <= 1,
            "patient_share must be in (0, 1].",
            patient_share=self.patient_share,
        )

        require(
            not self.infills_on_the_fly or (self.synthetic_per_real == 1 and not self.confirmed_by),
            "synthetic_per_real and confirmed_by select stored infills; omit them with "
            "synthetic_use=on_the_fly.",
            synthetic_per_real=self.synthetic_per_real,
            confirmed_by=self.confirmed_by,
        )

    @property
    def needs_synthetic(self) -> bool:
        """Whether the training data includes infilled patches."""
        return self.synthetic_use != "none"

    @property
    def infills_on_the_fly(self) -> bool:
        """Whether infills are generated during training instead of read from a stored set."""
        return self.synthetic_use == "on_the_fly"

    @property
    def infills_folder(self) -> str:
        """Name of the subfolder of a run's workdir from which infills are read."""
        return "saved_model" if self.infills_on_the_fly else "synthetic"

    @property
    def confirming_arm(self) -> str | None:
        """The arm whose classifier must be trained before this one, or None."""
        return self.confirmed_by if self.needs_synthetic and self.confirmed_by else None


class Cell(NamedTuple):
    """One classifier of an experiment.

    Attributes:
        arm: name of the arm.
        generator: name of the generator of the classifier's synthetic patches, one of
            `ExperimentConfig.generator_workdirs`; None without synthetic patches.
        seed: seed of the classifier.
    """

    arm: str
    generator: str | None
    seed: int


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """The classifiers to train, and how they are compared."""

    arm: tuple[str, ...] = setting(
        (),
        "One arm: 'NAME: setting=value ...', the classifier settings that override the flags. "
        "Repeat the flag for each arm.",
        repeated=True,
    )
    arms: tuple[str, ...] = setting((), "Names of the arms to run; empty: all defined arms.")
    classifier_seeds: tuple[int, ...] = setting(
        (0, 1, 2, 3, 4), "Seeds of every arm; one classifier is trained per seed."
    )
    generators: tuple[str, ...] = setting(
        (),
        "Workdirs of ciGAN runs, each with a saved_model and a synthetic set; arms that use "
        "synthetic patches are trained once per generator. Empty: the experiment's own workdir.",
    )
    infills_per_patch: int = setting(
        1,
        "Number of infills of each training patch written by --mode=infill, each with its own seed "
        "and mask (a malignant patch keeps its mask).",
    )
    comparisons: tuple[str, ...] = setting(
        (), "Pairs of arms to test, each 'ARM:OTHER'; empty: all pairs."
    )
    test_split: str = setting("test", "Split for the results table.")
    quality_features: str = setting(
        "imagenet",
        "Features for comparing infills with real lesions: VGG-16 with weights 'imagenet', "
        "'random', or from a file (.npz, .h5); or 'classifier', those of the experiment's own "
        "classifier.",
    )
    bootstrap_resamples: int = setting(2000, "Number of bootstrap resamples of the test patients.")

    def validate(self, classifier: ClassifierConfig) -> None:
        """Raises UserError if a value or an arm is invalid."""
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
            "classifier_seeds must be one or more distinct integers in [0, 2**31).",
            classifier_seeds=self.classifier_seeds,
        )
        require(
            len(self.generator_workdirs) == len(self.generators)
            and all(re.fullmatch(_NAME, name) for name in self.generator_workdirs),
            "generators must be folders with distinct names that contain only letters, digits, "
            "'_', '-' and '.', and start with a letter or digit.",
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
                f"comparisons must be pairs ARM:OTHER of two arms among {', '.join(arms)}.",
                comparisons=pair,
            )

    def named_arms(self, classifier: ClassifierConfig) -> dict[str, ClassifierConfig]:
        """Returns the classifier settings of every arm to run, by name, in order.

        Args:
            classifier: the settings that an arm overrides.

        Raises:
            UserError: an arm is not defined, is defined twice, or cannot be parsed.
        """
        defined = {}
        for text in self.arm:
            name, settings = _parse_arm(text, classifier)
            require(name not in defined, f"The arm {name!r} is defined twice.", arm=text)
            defined[name] = settings
        for name in self.arms:
            known = ", ".join(defined) or "none; see cigan_tf/flagfiles/arms.flags"
            require(name in defined, f"arms must name defined arms ({known}).", arms=name)
        return {name: defined[name] for name in self.arms or defined}

    @property
    def generator_workdirs(self) -> dict[str, str]:
        """The workdirs in `generators`, by the names of their folders."""
        return {pathlib.Path(workdir).name: workdir for workdir in self.generators}

    def cells(self, classifier: ClassifierConfig) -> list[Cell]:
        """Returns every classifier of the experiment.

        The seed is the outer loop, so an interrupted experiment has all arms of its first seeds.
        Among the arms of a seed, those with a confirming arm come last. An arm with its own
        `synthetic_dir` does not depend on `generators`.

        Args:
            classifier: the settings that an arm overrides.

        Raises:
            UserError: see `named_arms`.
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
        """Returns the pairs of arms to test: `comparisons`, or every arm with each earlier one."""
        if self.comparisons:
            return [tuple(pair.split(":")) for pair in self.comparisons]
        return [(arm, other) for other, arm in itertools.combinations(arms, 2)]


def _require_confirming(
    name: str, settings: ClassifierConfig, arms: dict[str, ClassifierConfig]
) -> None:
    confirming = arms.get(settings.confirming_arm)
    require(
        confirming is not None and not confirming.needs_synthetic,
        f"confirmed_by of the arm {name!r} must be an arm that is run without synthetic "
        f"patches ({', '.join(n for n, s in arms.items() if not s.needs_synthetic) or 'none'}).",
        confirmed_by=settings.confirmed_by,
    )
    require(
        confirming.patient_share <= settings.patient_share,
        f"confirmed_by of the arm {name!r} must be an arm with a patient_share of at most "
        f"{settings.patient_share:g}; {settings.confirmed_by!r} has a larger one.",
        patient_share=confirming.patient_share,
    )


def _parse_arm(text: str, classifier: ClassifierConfig) -> tuple[str, ClassifierConfig]:
    name, colon, rest = text.partition(":")
    require(
        bool(colon) and re.fullmatch(_NAME, name) is not None,
        "An arm is 'NAME: setting=value ...'; the name may contain letters, digits, '_', '-' and "
        "'.', and starts with a letter or digit.",
        arm=text,
    )
    fields = {field.name: field.type for field in dataclasses.fields(ClassifierConfig)}
    values = {}
    for assignment in rest.split():
        key, _, value = assignment.partition("=")
        require(
            key in fields, f"An arm's setting must be one of {', '.join(fields)}.", arm=assignment
        )
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
            f"{assignment.partition('=')[0]} of an arm must be of type {kind.__name__}. "
            f"Received: {assignment!r}."
        ) from None
