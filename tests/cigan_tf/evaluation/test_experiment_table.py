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
        # Patches of a patient are correlated here, which the bootstrap allows for and DeLong does
        # not.
        widths = [high - low for low, high in (arm.bootstrap_interval, arm.delong_interval)]
        assert widths[0] > 1.2 * widths[1]
        assert arm.operating_points[0.9].sensitivity >= arm.operating_points[0.95].sensitivity
        assert arm.brier == roc.brier_score(label, arm.probability)
        assert arm.calibration_error == roc.expected_calibration_error(label, arm.probability)
        assert arm.counts == roc.Counts(240, 120, 60, 80, 20)
        assert arm.subgroups == {}


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
        # The threshold was chosen on other patches, so the specificities differ.
        assert point.specificity != chosen.specificity

    del validation["traditional"]
    with pytest.raises(
        UserError, match="of baseline, cigan and test scores of baseline, traditional, cigan"
    ):
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
    # By construction, ciGAN's scores separate the classes best and the other two arms are equal.
    assert table.comparisons[1].bootstrap_p_holm < 0.05 < table.comparisons[0].bootstrap_p_holm


def test_one_seed_has_no_spread_and_one_arm_no_comparison(synthetic_scores):
    scores = synthetic_scores({"only": 1.0}, seeds=(4,))
    table = compare_arms(scores, scores, [], 50, 0)
    assert np.isnan(table.arms["only"].auc_sd)
    assert table.arms["only"].auc == table.arms["only"].auc_mean
    assert table.comparisons == []


def test_films_and_patients_have_their_highest_score(scores):
    arm = compare_arms(scores, scores, [], 50, 0).arms["cigan"]
    of = scores["cigan"][0]
    for level, ids in (("film", of.film_id), ("patient", of.patient_id)):
        units = np.unique(ids)
        highest = [arm.probability[ids == unit].max() for unit in units]
        malignant = [of.label[ids == unit].max() for unit in units]
        found = arm.levels[level]
        assert found.auc == pytest.approx(roc.auc(malignant, highest))
        assert found.interval.low < found.auc < found.interval.high
        assert (found.counts.patches, found.counts.patients) == (units.size, 60)
        assert found.counts.malignant_patches == sum(malignant)


def test_films_of_different_patients_may_share_an_id(scores):
    of = scores["cigan"][0]
    number = np.char.add("film_", (np.arange(240) % 2).astype(str))  # two films per patient
    changed = of_all(scores, film_id=number)
    levels = compare_arms(changed, changed, [], 50, 0).arms["cigan"].levels
    assert levels["film"].counts.patches == 120
    assert levels["patient"].counts.patches == np.unique(of.patient_id).size


def described(scores):
    """Returns the scores with descriptions; lesions of every second patient are masses."""
    malignant, number = scores["cigan"][0].label == 1, np.arange(240) // 4
    return of_all(
        scores,
        lesion_type=np.where(malignant, np.where(number % 2, "mass", "calcification"), "none"),
        lesion_area_px=np.where(malignant, 10 + np.arange(240), 0),
        subtlety=np.where(malignant, np.where(number == 0, 1, 4), -1),
        density=1 + number % 3 // 2,
        scanner=np.where(number % 5 < 2, "lumisys", np.where(number % 5 < 4, "howtek", "unknown")),
    )


def test_subgroups_of_lesions_are_compared_with_all_non_malignant_patches(scores):
    known = described(scores)
    of = known["cigan"][0]
    arm = compare_arms(known, known, [], 50, 0).arms["cigan"]
    malignant = of.label == 1

    assert list(arm.subgroups["lesion type"]) == ["calcification", "mass"]
    masses = (of.lesion_type == "mass") | ~malignant
    mass = arm.subgroups["lesion type"]["mass"]
    assert mass.auc == roc.auc(of.label[masses], arm.probability[masses])
    assert mass.interval.low < mass.auc < mass.interval.high
    assert mass.counts.malignant_patches == 40
    assert mass.counts.patches == 40 + 160

    sizes = arm.subgroups["lesion size"]
    assert sum(group.counts.malignant_patches for group in sizes.values()) == 80
    assert {group.counts.malignant_patches for group in sizes.values()} <= {26, 27}
    assert [name.endswith(" px") for name in sizes] == [True] * 3

    # A density or digitiser selects patches of both classes.
    assert list(arm.subgroups["digitiser"]) == ["howtek", "lumisys"]
    lumisys = of.scanner == "lumisys"
    found = arm.subgroups["digitiser"]["lumisys"]
    assert found.auc == roc.auc(of.label[lumisys], arm.probability[lumisys])
    assert found.counts.patches == np.count_nonzero(lumisys)


def test_a_group_of_too_few_patients_has_only_counts(scores):
    known = described(scores)
    subgroups = compare_arms(known, known, [], 50, 0).arms["cigan"].subgroups
    subtle = subgroups["subtlety"]["1"]
    assert (subtle.auc, subtle.interval) == (None, None)
    assert (subtle.counts.malignant_patches, subtle.counts.malignant_patients) == (4, 1)
    assert subgroups["subtlety"]["4"].auc is not None
    # No patient of density 2 has a malignant patch.
    assert subgroups["density"]["2"].auc is None


def test_a_value_shared_by_all_patches_is_not_a_subgroup(scores):
    alike = of_all(scores, scanner=["lumisys"] * 240, density=[2] * 240, subtlety=[3] * 240)
    assert compare_arms(alike, alike, [], 50, 0).arms["cigan"].subgroups == {}


def test_an_arm_is_the_mean_of_its_generators(synthetic_scores):
    scores = synthetic_scores({"baseline": 0.8, "cigan (a)": 1.2, "cigan (b)": 2.0})
    rows = {"baseline": {None: "baseline"}, "cigan": {"a": "cigan (a)", "b": "cigan (b)"}}
    table = compare_arms(scores, scores, [("cigan", "baseline")], 200, 5, rows)

    assert [(p.arm, p.other) for p in table.comparisons] == [
        ("cigan (a)", "baseline"),
        ("cigan (b)", "baseline"),
    ]
    (pooled,) = table.of_arms
    assert (pooled.arm, pooled.other) == ("cigan", "baseline")
    of_rows = [pair.bootstrap.difference for pair in table.comparisons]
    assert pooled.bootstrap.difference == pytest.approx(np.mean(of_rows))
    assert pooled.bootstrap.p_value == pooled.bootstrap_p_holm
    low, high = pooled.bootstrap.interval
    assert low < pooled.bootstrap.difference < high
    for seed in (0, 1, 2):
        of_seed = [pair.difference_of_seed[seed] for pair in table.comparisons]
        assert pooled.difference_of_seed[seed] == pytest.approx(np.mean(of_seed))

    split = table.variances["cigan"]
    assert (split.num_generators, split.num_seeds) == (2, 3)
    # By construction, generators differ and seeds do not.
    assert split.generator > 10 * split.seed
    assert table.variances["baseline"].seed == pytest.approx(table.arms["baseline"].auc_sd ** 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {name: getattr(s, name)[:-1] for name in vars(s)}, "239 patches, not for 240"),
        (
            lambda s: {name: getattr(s, name)[::-1] for name in vars(s)},
            "in a different order than in",
        ),
        (lambda s: {"patch": np.char.add(s.patch, "x")}, "'patch_0x' is in the place of 'patch_0'"),
        (lambda s: {"label": 1 - s.label}, "the label of patch 'patch_0' differs from that in"),
        (
            lambda s: {"patient_id": s.film_id},
            "the patient_id of patch 'patch_0' differs from that in",
        ),
    ],
)
def test_runs_of_different_patches_are_refused_by_name(change, message, scores):
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
        (lambda s: {**s, "cigan": {0: s["cigan"][0]}}, r"and \[0\] for 'cigan'"),
        (lambda s: {}, "at least one arm"),
        (lambda s: of_all(s, label=np.ones(240)), "Arm 'baseline': .* 0 non-malignant"),
        (
            lambda s: of_all(s, label=np.arange(240) < 4),
            "Arm 'baseline': .*two patients.* 1 with a malignant",
        ),
    ],
)
def test_incomparable_scores_are_refused_in_one_line(change, message, scores):
    changed = change(scores)
    with pytest.raises(UserError, match=message) as error:
        compare_arms(changed, changed, PAIRS, 50, 0)
    assert "\n" not in str(error.value)
