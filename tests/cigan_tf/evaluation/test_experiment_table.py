"""Tests of the table of arms."""

import dataclasses

import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.evaluation import roc
from cigan_tf.evaluation.experiment_table import compare_arms

ARMS = {"baseline": 0.8, "traditional": 0.8, "cigan": 2.2}
PAIRS = [("traditional", "baseline"), ("cigan", "baseline"), ("cigan", "traditional")]


@pytest.fixture
def scores(synthetic_scores):
    return synthetic_scores(ARMS)


def with_change(scores, arm="cigan", seed=1, **changes):
    changed = dataclasses.replace(scores[arm][seed], **changes)
    return {**scores, arm: {**scores[arm], seed: changed}}


def test_each_arm_is_judged_run_by_run_and_as_the_mean_of_its_runs(scores):
    table = compare_arms(scores, scores, PAIRS, num_resamples=200, seed=5)

    assert list(table.arms) == list(ARMS)
    for name, arm in table.arms.items():
        runs, label = scores[name], scores[name][0].label
        aucs = [roc.auc(label, run.probability) for run in runs.values()]
        assert list(arm.auc_of_seed.items()) == list(zip(runs, aucs, strict=True))
        assert arm.auc_mean == pytest.approx(np.mean(aucs))
        assert arm.auc_sd == pytest.approx(np.std(aucs, ddof=1))
        mean = (runs[0].probability + runs[1].probability + runs[2].probability) / 3
        np.testing.assert_allclose(arm.probability, mean)
        assert arm.auc == roc.auc(label, arm.probability)
        assert arm.delong_interval == roc.auc_confidence_interval(label, arm.probability)
        assert arm.bootstrap_interval.low < arm.auc < arm.bootstrap_interval.high
        # A woman's patches resemble each other here: DeLong does not know, the bootstrap does.
        widths = [high - low for low, high in (arm.bootstrap_interval, arm.delong_interval)]
        assert widths[0] > 1.2 * widths[1]
        assert arm.operating_points[0.9].sensitivity >= arm.operating_points[0.95].sensitivity
        assert arm.brier == roc.brier_score(label, arm.probability)
        assert arm.calibration_error == roc.expected_calibration_error(label, arm.probability)
        assert arm.counts == roc.Counts(240, 120, 60, 80, 20)
        assert arm.scanners == {}


def test_thresholds_come_from_the_validation_patches(scores, synthetic_scores):
    validation = synthetic_scores(ARMS, num_patients=30)
    arm = compare_arms(scores, validation, [], 50, 0).arms["cigan"]

    of_validation = [run.probability for run in validation["cigan"].values()]
    label = validation["cigan"][0].label
    for specificity, point in arm.operating_points.items():
        chosen = roc.sensitivity_at_specificity(label, np.mean(of_validation, 0), specificity)
        assert point.threshold == chosen.threshold
        called = arm.probability >= chosen.threshold
        malignant = scores["cigan"][0].label == 1
        assert point.sensitivity == called[malignant].mean()
        assert point.specificity == 1 - called[~malignant].mean()
        # Neither side was chosen to reach it.
        assert point.specificity != chosen.specificity

    del validation["traditional"]
    with pytest.raises(UserError, match="of baseline, cigan for baseline, traditional, cigan"):
        compare_arms(scores, validation, [], 50, 0)


def test_pairs_are_tested_with_holms_correction(scores):
    table = compare_arms(scores, scores, PAIRS, num_resamples=200, seed=5)

    assert [(pair.arm, pair.other) for pair in table.comparisons] == PAIRS
    for pair in table.comparisons:
        arm, other = table.arms[pair.arm], table.arms[pair.other]
        patients = scores["cigan"][0].patient_id
        both = table.label, arm.probability, other.probability
        assert pair.delong == roc.delong_test(*both)
        assert pair.bootstrap == roc.paired_bootstrap(*both, patients, 200, 5)
        assert pair.bootstrap.difference == pytest.approx(arm.auc - other.auc)
        assert pair.bootstrap.interval_a == arm.bootstrap_interval
        for seed in (0, 1, 2):
            difference = arm.auc_of_seed[seed] - other.auc_of_seed[seed]
            assert pair.difference_of_seed[seed] == pytest.approx(difference)
    for adjusted, plain in (
        ([p.bootstrap_p_holm for p in table.comparisons], [p.bootstrap for p in table.comparisons]),
        ([p.delong_p_holm for p in table.comparisons], [p.delong for p in table.comparisons]),
    ):
        np.testing.assert_array_equal(adjusted, roc.holm([test.p_value for test in plain]))
    # The truth: ciGAN's scores part the classes better than the others', which are alike.
    assert table.comparisons[1].bootstrap_p_holm < 0.05 < table.comparisons[0].bootstrap_p_holm


def test_one_seed_has_no_spread_and_one_arm_no_comparison(synthetic_scores):
    scores = synthetic_scores({"only": 1.0}, seeds=(4,))
    table = compare_arms(scores, scores, [], 50, 0)
    assert np.isnan(table.arms["only"].auc_sd)
    assert table.arms["only"].auc == table.arms["only"].auc_mean
    assert table.comparisons == []


def test_scanners_are_told_apart_where_two_are_known(synthetic_scores):
    scores = synthetic_scores(ARMS, scanners=("lumisys", "howtek", "unknown"))
    arm = compare_arms(scores, scores, [], 50, 0).arms["cigan"]
    assert list(arm.scanners) == ["howtek", "lumisys"]
    of_lumisys = scores["cigan"][0].scanner == "lumisys"
    label = scores["cigan"][0].label[of_lumisys]
    assert arm.scanners["lumisys"].auc == roc.auc(label, arm.probability[of_lumisys])
    assert arm.scanners["lumisys"].counts.patches == np.count_nonzero(of_lumisys)

    one_known = synthetic_scores(ARMS, scanners=("lumisys", "unknown"))
    assert compare_arms(one_known, one_known, [], 50, 0).arms["cigan"].scanners == {}


def test_a_scanner_that_lacks_a_class_is_left_out(scores):
    scanner = np.where(scores["cigan"][0].label == 1, "lumisys", "howtek")
    scanner[:4] = "howtek"  # one patient's four malignant patches
    changed = {
        arm: {seed: dataclasses.replace(run, scanner=scanner) for seed, run in runs.items()}
        for arm, runs in scores.items()
    }
    assert list(compare_arms(changed, changed, [], 50, 0).arms["cigan"].scanners) == ["howtek"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {name: getattr(s, name)[:-1] for name in vars(s)}, "of 239 patches, not of 240"),
        (lambda s: {name: getattr(s, name)[::-1] for name in vars(s)}, "in another order than in"),
        (lambda s: {"patch": np.char.add(s.patch, "x")}, "'patch_0x' stands where 'patch_0'"),
        (lambda s: {"label": 1 - s.label}, "the label of patch 'patch_0' is another"),
        (lambda s: {"patient_id": s.film_id}, "the patient_id of patch 'patch_0' is another"),
    ],
)
def test_runs_of_other_patches_are_refused_by_name(change, message, scores):
    changed = with_change(scores, **change(scores["cigan"][1]))
    with pytest.raises(UserError, match=rf"^Arm 'cigan', seed 1: .*{message}") as error:
        compare_arms(changed, scores, PAIRS, 50, 0)
    assert "arm 'baseline', seed 0" in str(error.value)


def of_all(scores, **changes):
    return {
        arm: {seed: dataclasses.replace(run, **changes) for seed, run in runs.items()}
        for arm, runs in scores.items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("cigan") and s, "'cigan' cannot be compared; .* baseline, traditional"),
        (lambda s: {**s, "cigan": {0: s["cigan"][0]}}, r"'cigan' has \[0\]"),
        (lambda s: {}, "at least one arm"),
        (lambda s: of_all(s, label=np.ones(240)), "Arm 'baseline': .* 0 non-malignant"),
        (
            lambda s: of_all(s, label=np.arange(240) < 4),
            "Arm 'baseline': .*two patients.* 1 with a malignant",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(change, message, scores):
    changed = change(scores)
    with pytest.raises(UserError, match=message) as error:
        compare_arms(changed, changed, PAIRS, 50, 0)
    assert "\n" not in str(error.value)
