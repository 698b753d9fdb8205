"""Tests of the page's four answers, each with a good case and a bad one."""

import pytest

from cigan_tf.config import Config
from cigan_tf.evaluation import answers
from cigan_tf.evaluation.experiment_table import compare_arms
from cigan_tf.experiment_config import ExperimentConfig

SHA256 = "40e32ec66070" + "0" * 52
RECORD = {
    "dataset": {
        "name": "ddsm_patches/small",
        "version": "1.1.0",
        "fingerprint": "54edc2" + "0" * 58,
        "recipe": {"source": "phantom"},
    },
    "patients": ["ann", "bea", "cia"],
    "num_patches": 3721,
    "package_version": "0.1.0",
    "synthetic": {"weights_sha256": SHA256, "step": 2700, "patients": ["ann"], "seed": 3},
}


def config(generators=()):
    arms = (
        "baseline:",
        "traditional: traditional_augmentation=true",
        "cigan: synthetic_use=mixed",
        "cigan_few: synthetic_use=mixed patient_share=0.25",
    )
    return Config(
        experiment=ExperimentConfig(arm=arms, classifier_seeds=(0, 1, 2), generators=generators)
    )


@pytest.fixture
def ask(synthetic_scores):
    """Returns a function that makes the four cards from separations by arm and infill measures."""

    def cards(separations, measures=None, records=None, **options):
        scores = synthetic_scores(separations)
        arms = list(separations)
        pairs = [(arm, other) for i, arm in enumerate(arms) for other in arms[:i]]
        table = compare_arms(scores, scores, pairs, 300, 0)
        qualities = {"": {"measures": measures}} if measures else {}
        qualities = options.get("qualities", qualities)
        return answers.cards(config(), table, records or {"cigan": RECORD}, qualities)

    return cards


def entry(measure, value, real=None, of_class="malignant", **n):
    def side(value):
        return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": n}

    return {
        "measure": measure,
        "of_class": of_class,
        "infills": side(value),
        "real": None if real is None else side(real),
    }


def judged(**changes):
    """Returns measures of faultless infills, changed by measure=(value, value of real patches)."""
    values = {
        "feature_auc": (0.52, 0.5),
        "texture_auc": (0.55, 0.5),
        "kernel_distance": (0.01, 0.012),
        "seam_ratio": (1.1, None),
        "class_auc": (0.7, 0.75),
    }
    return [
        entry(name, *sides, "both" if name == "class_auc" else "malignant")
        for name, sides in {**values, **changes}.items()
    ]


def audit(share=0.01, recall=1.0, in_training=0.0):
    return [
        entry("nearest_training_patch", 0.6, 0.6, "both", infills=40, training=3721),
        entry("share_copied", share, 0.01, "both"),
        entry("share_copied_in_training_tissue", in_training, 0.01, "both"),
        entry("recall_plain", 1.0, None, "both"),
        entry("recall_flipped", recall, None, "both"),
    ]


def test_the_training_data_of_the_arms(ask):
    trained, *_ = ask({"baseline": 1.0, "cigan": 1.0})
    assert trained.answer == "3,721 patches from 3 patients"
    facts = {line.name: line.value for line in trained.lines}
    assert facts["data"] == "ddsm_patches/small 1.1.0, simulated films, 256 px"
    assert facts["generator"] == "40e32ec66070, 2,700 steps"
    assert facts["tested on"] == "240 patches from 60 other patients"
    without, *_ = ask({"baseline": 1.0, "cigan": 1.0}, records={"cigan": None})
    assert (without.answer, without.tone) == ("Origin not recorded", "open")


@pytest.mark.parametrize(
    ("cigan", "answer", "tone"),
    [
        (3.0, "Yes: +0.", "good"),
        (1.05, "Not shown: ", "open"),
        (0.0, "No, the classifier became worse: −0.", "bad"),
    ],
)
def test_infilled_patches_are_compared_with_the_best_arm_without_them(cigan, answer, tone, ask):
    _, helped, *_ = ask({"baseline": 0.3, "traditional": 1.0, "cigan": cigan})
    assert helped.answer.startswith(answer)
    assert helped.answer.endswith("cigan − traditional")
    assert helped.tone == tone
    first, *others = helped.lines
    assert first.name == "cigan − traditional"
    assert {line.name for line in others} == {"traditional − baseline", "cigan − baseline"}
    assert ", p\N{NO-BREAK SPACE}" in first.value
    for line in helped.lines:
        assert 0 <= line.bar.low <= line.bar.value <= line.bar.high <= 100
        assert 0 <= line.bar.zero <= 100
        # The interval contains 0 exactly if the bar does.
        low, high = (
            float(end.replace("−", "-"))
            for end in line.value.split("(")[1].split(")")[0].split(" to ")
        )
        assert (low <= 0 <= high) == (line.bar.low <= line.bar.zero <= line.bar.high)


@pytest.mark.parametrize(("cigan", "tone"), [(3.0, "good"), (0.0, "bad")])
def test_the_order_of_the_arms_does_not_change_the_answer(cigan, tone, ask):
    _, helped, *_ = ask({"cigan": cigan, "traditional": 1.0})
    assert helped.answer.endswith("cigan − traditional")
    assert helped.tone == tone
    low, high = helped.lines[0].bar.low, helped.lines[0].bar.high
    assert (low > helped.lines[0].bar.zero) if tone == "good" else (high < helped.lines[0].bar.zero)


@pytest.mark.parametrize(
    "separations",
    [{"baseline": 0.3, "traditional": 1.0}, {"baseline": 0.3, "cigan_few": 3.0}],
    ids=["no infills", "another share of the patients"],
)
def test_the_question_is_open_without_the_right_pair(separations, ask):
    _, helped, *_ = ask(separations)
    assert helped.tone == "open"
    assert helped.answer == "No arm with infills was compared with one without, for equal patients"
    assert len(helped.lines) == 1


def test_of_many_pairs_three_are_shown(ask):
    arms = {"baseline": 0.3, "traditional": 1.0, "cigan": 1.8, "cigan (a)": 1.0}
    _, helped, *_ = ask(arms)
    assert len(helped.lines) == 4
    assert helped.lines[-1].value == "3 pairs, in the table below"


def test_a_single_arm_is_not_compared(ask):
    _, helped, *_ = ask({"cigan": 1.0})
    assert (helped.answer, helped.lines) == ("No arms were compared", [])


@pytest.mark.parametrize(
    ("measures", "answer", "tone"),
    [
        (judged(), "Yes: no fault found", "good"),
        (judged(feature_auc=(0.86, 0.5)), "No: they differ from real lesions, AUC 0.86", "bad"),
        (judged(texture_auc=(0.7, None)), "No: they differ from real lesions, AUC 0.70", "bad"),
        # Real patches of two groups of patients are distinguished just as well.
        (judged(texture_auc=(0.7, 0.72)), "Yes: no fault found", "good"),
        (
            judged(kernel_distance=(0.03, -0.001)),
            "No: they are farther from real lesions than other real lesions are, KID 0.03",
            "bad",
        ),
        (judged(seam_ratio=(1.4, None)), "No: the edge is visible, seam ratio 1.40", "bad"),
        (judged(seam_ratio=(0.5, None)), "No: the edge is visible, seam ratio 0.50", "bad"),
        (judged(class_auc=(0.5, 0.75)), "No: their class is hardly recognised, AUC 0.50", "bad"),
        (judged()[1:], "No fault found, but some measures are missing", "open"),
        (audit(), "Not evaluated", "open"),
    ],
)
def test_are_the_infills_good(measures, answer, tone, ask):
    *_, good, _ = ask({"baseline": 1.0, "cigan": 1.0}, measures)
    assert (good.answer, good.tone) == (answer, tone)
    is_judged = answer != "Not evaluated"
    assert len(good.lines) == (len(measures) if is_judged else 0)


@pytest.mark.parametrize(
    ("measures", "answer", "tone"),
    [
        (audit(share=0.0), "No copies found, recall 100%", "good"),
        (audit(share=0.01), "No more than false alarms, recall 100%", "good"),
        (audit(share=0.3), "Copies of training patches", "bad"),
        (audit(in_training=0.3), "Copies of training patches", "bad"),
        (audit(recall=0.7), "None found, but the search misses 30%", "open"),
        (audit()[:3], "Not audited", "open"),
    ],
)
def test_is_anything_copied(measures, answer, tone, ask):
    *_, copied = ask({"baseline": 1.0, "cigan": 1.0}, measures)
    assert (copied.answer, copied.tone) == (answer, tone)
    if copied.lines:
        facts = {line.name: line.value for line in copied.lines}
        assert facts["searched"] == "3,721 training patches, at shifts of up to 3 px"
        assert "plain, flipped" in facts["planted copies found"]


def test_training_data_that_were_not_searched_are_named(ask):
    qualities = {"a": {"measures": audit()}, "b": {"measures": audit(), "not_searched": ["mass"]}}
    *_, copied = ask({"baseline": 1.0, "cigan": 1.0}, qualities=qualities)
    assert copied.answer == "None found, but not all training data were searched"
    assert copied.tone == "open"
    assert copied.lines[-1] == ("not searched", "mass", None)
    qualities["a"]["measures"] = audit(share=0.3)
    *_, copied = ask({"baseline": 1.0, "cigan": 1.0}, qualities=qualities)
    assert copied.tone == "bad"


def test_of_several_generators_the_worst_answers(ask):
    qualities = {
        "a": {"measures": [*judged(), *audit()]},
        "b": {"measures": [*judged(feature_auc=(0.7, 0.5)), *audit(share=0.5)]},
    }
    *_, good, copied = ask({"baseline": 1.0, "cigan": 1.0}, qualities=qualities)
    assert good.answer == "No: they differ from real lesions, AUC 0.70"
    assert good.lines[0].value == "0.52 to 0.7 (real 0.5)"
    assert copied.tone == "bad"
    assert copied.lines[0].value == "1.0% to 50.0% (real 1.0%)"


def test_without_measures_there_is_no_answer(ask):
    *_, good, copied = ask({"baseline": 1.0, "cigan": 1.0})
    assert (good.answer, copied.answer) == ("Not evaluated", "Not audited")
    assert good.tone == copied.tone == "open"
