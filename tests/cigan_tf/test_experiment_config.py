"""Arms are parsed from text, and errors name the arm."""

import pytest

from cigan_tf.errors import UserError
from cigan_tf.experiment_config import Cell, ClassifierConfig, ExperimentConfig

ARMS = (
    "plain:",
    "turned: traditional_augmentation=true",
    "few: patient_share=0.25 classifier_steps=7",
)


def test_the_defaults_are_the_papers():
    classifier = ClassifierConfig()
    classifier.validate()
    assert (classifier.classifier_steps, classifier.classifier_batch_size) == (10_000, 32)
    assert classifier.classifier_learning_rate == 1e-5
    assert (classifier.classifier_decay_rate, classifier.classifier_decay_steps) == (0.9, 2000)
    assert (classifier.max_rotation_degrees, classifier.min_scale, classifier.max_scale) == (
        30,
        0.75,
        1.25,
    )
    assert (classifier.real_share_reading, classifier.real_share_steps) == ("share_x1.2", 1000)


def test_an_arm_is_defined_by_the_flags_it_changes():
    flags = ClassifierConfig(classifier_batch_size=8)
    arms = ExperimentConfig(arm=ARMS).named_arms(flags)
    assert list(arms) == ["plain", "turned", "few"]
    assert arms["plain"] == flags
    assert arms["turned"].traditional_augmentation is True
    assert (arms["few"].patient_share, arms["few"].classifier_steps) == (0.25, 7)
    assert arms["few"].classifier_batch_size == 8


def test_arms_are_chosen_by_name_in_the_order_given():
    assert list(
        ExperimentConfig(arm=ARMS, arms=("few", "plain")).named_arms(ClassifierConfig())
    ) == ["few", "plain"]


def test_all_arms_are_compared_with_each_other_unless_pairs_are_named():
    assert ExperimentConfig(arm=ARMS).pairs(["plain", "turned", "few"]) == [
        ("turned", "plain"),
        ("few", "plain"),
        ("few", "turned"),
    ]
    named = ExperimentConfig(arm=ARMS, comparisons=("few:turned",))
    assert named.pairs(["plain", "turned", "few"]) == [("few", "turned")]


def cells_of(*arms, **settings):
    return ExperimentConfig(arm=arms, classifier_seeds=(0, 3), **settings).cells(ClassifierConfig())


def test_an_arm_comes_after_the_arm_that_confirms_its_infills():
    cells = cells_of("sure: synthetic_use=mixed confirmed_by=plain", "plain:", "other:")
    assert [cell.arm for cell in cells] == ["plain", "other", "sure"] * 2


@pytest.mark.parametrize(
    ("arms", "named"),
    [
        (("sure: synthetic_use=mixed confirmed_by=absent", "plain:"), r"\(plain\).*'absent'"),
        (("sure: synthetic_use=mixed confirmed_by=sure",), r"\(none\).*'sure'"),
        (
            ("plain:", "sure: synthetic_use=mixed confirmed_by=plain patient_share=0.5"),
            r"patient_share of at most 0\.5; 'plain'",
        ),
    ],
)
def test_infills_are_confirmed_by_an_arm_of_the_same_patients_without_infills(arms, named):
    with pytest.raises(UserError, match=named):
        ExperimentConfig(arm=arms).validate(ClassifierConfig())


def test_arms_with_synthetic_patches_are_trained_once_per_generator_and_seed():
    cells = cells_of("plain:", "cigan: synthetic_use=mixed", generators=("runs/a", "runs/b"))
    assert cells == [
        *(Cell("plain", None, 0), Cell("cigan", "a", 0), Cell("cigan", "b", 0)),
        *(Cell("plain", None, 3), Cell("cigan", "a", 3), Cell("cigan", "b", 3)),
    ]


def test_an_arm_with_its_own_synthetic_set_depends_on_no_generator():
    assert cells_of("few: synthetic_use=only synthetic_dir=there", generators=("a", "b")) == [
        *(Cell("few", None, 0), Cell("few", None, 3))
    ]
    assert cells_of("cigan: synthetic_use=mixed")[0] == Cell("cigan", None, 0)


@pytest.mark.parametrize("generators", [("runs/a", "other/a"), ("runs/a b",)])
def test_generators_must_differ_in_name(generators):
    with pytest.raises(UserError, match="generators must be"):
        ExperimentConfig(generators=generators).validate(ClassifierConfig())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"arm": ("a b:",)}, "arm='a b:'"),
        ({"arm": ("../up:",)}, "arm='../up:'"),
        ({"arm": ("plain",)}, "arm='plain'"),
        ({"arm": ("a: lerning_rate=1",)}, "lerning_rate=1"),
        ({"arm": ("a: classifier_steps=many",)}, "classifier_steps=many"),
        ({"arm": ("a: traditional_augmentation=yes",)}, "traditional_augmentation=yes"),
        ({"arm": ("a: patient_share=2",)}, "Arm 'a': patient_share"),
        ({"arm": ("a:", "a:")}, "defined twice"),
        ({"arm": ARMS, "arms": ("turnd",)}, "plain, turned, few"),
        ({"arm": ARMS, "comparisons": ("plain:turnd",)}, "comparisons='plain:turnd'"),
        ({"arm": ARMS, "comparisons": ("plain:plain",)}, "comparisons='plain:plain'"),
        ({"classifier_seeds": ()}, "classifier_seeds"),
        ({"classifier_seeds": (1, 1)}, "classifier_seeds=(1, 1)"),
        ({"bootstrap_resamples": 0}, "bootstrap_resamples=0"),
    ],
)
def test_a_wrong_experiment_is_named_in_one_line(settings, named):
    with pytest.raises(UserError) as error:
        ExperimentConfig(**settings).validate(ClassifierConfig())
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"classifier_steps": 0}, "classifier_steps=0"),
        ({"classifier_batch_size": 5}, "classifier_batch_size=5"),
        ({"classifier_weights": ""}, "classifier_weights"),
        ({"max_rotation_degrees": 400.0}, "max_rotation_degrees=400.0"),
        ({"min_scale": 1.5}, "min_scale=1.5"),
        ({"synthetic_use": "some"}, "synthetic_use='some'"),
        ({"real_share_reading": "x2"}, "real_share_reading='x2'"),
        ({"synthetic_pretraining_share": 1.0}, "synthetic_pretraining_share=1.0"),
        ({"patient_share": 0.0}, "patient_share=0.0"),
    ],
)
def test_a_wrong_classifier_setting_is_named(settings, named):
    with pytest.raises(UserError, match="Received") as error:
        ClassifierConfig(**settings).validate()
    assert named.split("=")[0] in str(error.value)
