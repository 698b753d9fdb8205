"""Tests of the ROC statistics."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from cigan_tf.errors import UserError
from cigan_tf.evaluation import roc

# 43 patients with ovarian cancer and an obstructed bowel: albumin, total protein, K-G score, and
# the outcome of surgery (0 is the positive class). Data of DeLong, DeLong, Clarke-Pearson
# (Biometrics 44:837, 1988) as printed in the SAS/STAT User's Guide, PROC LOGISTIC, "Comparing
# Receiver Operating Characteristic Curves".
OVARIAN = np.fromstring(
    """
3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0
2.5 5.7  8 0   1.6 5.6  5 1   3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1
4.1 6.6  5 1   3.6 5.7  5 1   4.3 7.0  4 1   3.6 6.7  4 0   2.3 4.4  6 1   4.2 7.6  4 0
4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1   3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1
3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1   3.2 5.1  5 1   2.6 4.7  6 1
3.3 6.8  6 0   1.7 4.0  7 0   3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1   3.5 6.2  5 1
2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1   3.3 5.7  6 1   3.7 6.9  5 1
3.6 6.6  5 1
""",
    sep=" ",
).reshape(-1, 4)
OVARIAN_LABELS = 1 - OVARIAN[:, 3]
ALBUMIN, PROTEIN, KG_SCORE = -OVARIAN[:, 0], -OVARIAN[:, 1], OVARIAN[:, 2]


def random_scores(rng, num_malignant, num_others, num_levels):
    """Returns labels and two correlated scores with many ties."""
    y_true = rng.permutation(np.repeat([1, 0], [num_malignant, num_others]))
    shared = y_true + rng.normal(size=y_true.size)
    scores = shared[:, None] + rng.normal(size=(y_true.size, 2))
    return y_true, *np.round(scores.T * num_levels / 6)


def slow_delong(y_true, scores_a, scores_b):
    """Computes equations (2) to (5) of DeLong et al. 1988, pair by pair."""
    malignant, others = np.flatnonzero(y_true == 1), np.flatnonzero(y_true == 0)
    aucs, by_malignant, by_others = [], [], []
    for scores in (scores_a, scores_b):
        psi = np.zeros((malignant.size, others.size))
        for i, x in enumerate(scores[malignant]):
            for j, y in enumerate(scores[others]):
                psi[i, j] = 1.0 if x > y else 0.5 if x == y else 0.0
        aucs.append(psi.mean())
        by_malignant.append(psi.mean(axis=1))
        by_others.append(psi.mean(axis=0))
    covariance = np.cov(by_malignant) / malignant.size + np.cov(by_others) / others.size
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    z = (aucs[0] - aucs[1]) / np.sqrt(variance)
    return (*aucs, z, 2 * stats.norm.cdf(-abs(z))), np.sqrt(np.diag(covariance))


@pytest.mark.parametrize("num_levels", [3, 10, 1000])
@pytest.mark.parametrize("sizes", [(4, 5), (30, 70), (81, 40)])
def test_delong_agrees_with_the_pairwise_computation(sizes, num_levels):
    rng = np.random.default_rng(num_levels + sizes[0])
    y_true, scores_a, scores_b = random_scores(rng, *sizes, num_levels)

    expected, standard_errors = slow_delong(y_true, scores_a, scores_b)

    np.testing.assert_allclose(roc.delong_test(y_true, scores_a, scores_b), expected, atol=1e-9)
    interval = roc.auc_confidence_interval(y_true, scores_a, level=0.9)
    half_width = stats.norm.isf(0.05) * standard_errors[0]
    ends = np.clip([expected[0] - half_width, expected[0] + half_width], 0, 1)
    if 0 < expected[0] < 1:
        np.testing.assert_allclose(interval, ends, atol=1e-9)


@pytest.mark.parametrize(
    ("scores_a", "scores_b", "expected"),
    [
        (ALBUMIN, KG_SCORE, (0.736559139784946, 0.725806451612903, 0.112778269044526, 0.910206347)),
        (
            PROTEIN,
            KG_SCORE,
            (0.647849462365591, 0.725806451612903, -0.745218389657994, 0.456139708),
        ),
        (ALBUMIN, PROTEIN, (0.736559139784946, 0.647849462365591, 1.590029258320722, 0.111828210)),
    ],
)
def test_delong_agrees_with_proc_on_the_data_of_the_paper(scores_a, scores_b, expected):
    # roc.test(..., method="delong") of the R package pROC 1.18.0.
    result = roc.delong_test(OVARIAN_LABELS, scores_a, scores_b)
    np.testing.assert_allclose(result, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (ALBUMIN, (0.554881559952, 0.918236719618)),
        (KG_SCORE, (0.524279801180, 0.927333102046)),
        (PROTEIN, (0.451760209474, 0.843938715257)),
    ],
)
def test_interval_agrees_with_proc_on_the_data_of_the_paper(scores, expected):
    # ci.auc(..., method="delong") of the R package pROC 1.18.0.
    interval = roc.auc_confidence_interval(OVARIAN_LABELS, scores)
    np.testing.assert_allclose(interval, expected, atol=1e-9)


def test_auc_counts_ties_as_half():
    assert roc.auc([0, 1, 0, 1], [1.0, 2.0, 2.0, 3.0]) == 0.875


def test_identical_rankings_do_not_differ():
    y_true, scores, _ = random_scores(np.random.default_rng(0), 20, 30, 10)
    result = roc.delong_test(y_true, scores, np.exp(scores))
    assert (result.z, result.p_value) == (0.0, 1.0)
    resampled = roc.paired_bootstrap(y_true, scores, scores, np.arange(50), 100, seed=0)
    assert (resampled.difference, resampled.interval, resampled.p_value) == (0, (0, 0), 1.0)


def test_perfect_and_constant_scores_differ_significantly():
    result = roc.delong_test([0, 0, 0, 1, 1], [0, 1, 2, 3, 4], np.zeros(5))
    assert result == (1.0, 0.5, np.inf, 0.0)


def test_interval_at_full_separation_is_not_empty():
    y_true, scores = np.repeat([0, 1], [12, 8]), np.arange(20)

    low, high = roc.auc_confidence_interval(y_true, scores)

    assert high == 1.0
    # Newcombe's variance of an AUC a, with both (m - 1) and (n - 1) set to (m + n) / 2 - 1.
    variance = low * (1 - low) / (12 * 8) * (1 + 9 * (1 - low) / (2 - low) + 9 * low / (1 + low))
    assert 1 - low == pytest.approx(1.959963985 * np.sqrt(variance))
    assert roc.auc_confidence_interval(y_true, -scores) == pytest.approx((0.0, 1 - low))


def test_interval_is_cut_at_one():
    y_true, scores = np.repeat([0, 1], 10), np.arange(20.0)
    scores[9] = 10.5
    low, high = roc.auc_confidence_interval(y_true, scores)
    assert low < roc.auc(y_true, scores) == 0.99
    assert high == 1.0


def test_bootstrap_is_the_plain_resampling_of_patients():
    rng = np.random.default_rng(3)
    y_true, scores_a, scores_b = random_scores(rng, 20, 28, 10)
    groups = np.array([f"patient-{i}" for i in rng.integers(0, 9, size=48)])
    result = roc.paired_bootstrap(y_true, scores_a, scores_b, groups, 100, seed=5)

    patients = np.unique(groups)
    rng = np.random.default_rng(5)
    aucs = []
    for times in rng.multinomial(
        patients.size, np.full(patients.size, 1 / patients.size), size=100
    ):
        drawn = np.repeat(patients, times)
        patches = np.concatenate([np.flatnonzero(groups == patient) for patient in drawn])
        aucs.append(
            [metrics.roc_auc_score(y_true[patches], s[patches]) for s in (scores_a, scores_b)]
        )
    differences = np.subtract(*np.transpose(aucs))

    np.testing.assert_allclose(result.interval, np.quantile(differences, [0.025, 0.975]))
    np.testing.assert_allclose(
        result.interval_a, np.quantile(np.transpose(aucs)[0], [0.025, 0.975])
    )
    np.testing.assert_allclose(
        result.interval_b, np.quantile(np.transpose(aucs)[1], [0.025, 0.975])
    )
    assert result.auc_a == pytest.approx(metrics.roc_auc_score(y_true, scores_a), abs=1e-12)
    assert result.auc_a == roc.auc(y_true, scores_a)
    assert result.difference == result.auc_a - result.auc_b
    one_side = min((differences <= 0).sum(), (differences >= 0).sum())
    assert result.p_value == pytest.approx(min(1, 2 * (1 + one_side) / 101))
    assert (result.num_resamples, result.num_redrawn) == (100, 0)


def test_bootstrap_without_redraws_does_not_depend_on_the_chunk_size(monkeypatch):
    y_true, scores_a, scores_b = random_scores(np.random.default_rng(4), 30, 30, 100)
    arguments = (y_true, scores_a, scores_b, np.arange(60) // 3, 50)
    whole = roc.paired_bootstrap(*arguments, seed=1)
    monkeypatch.setattr(roc, "_WEIGHTS_AT_A_TIME", 60 * 7)
    assert roc.paired_bootstrap(*arguments, seed=1) == whole
    assert roc.paired_bootstrap(*arguments, seed=2) != whole


def test_resamples_without_a_class_are_drawn_again():
    # With 2 malignant patients of 20, a draw misses both with 12 % probability.
    y_true = np.repeat([1, 0], [2, 18])
    scores = np.random.default_rng(0).normal(size=(2, 20))
    result = roc.paired_bootstrap(y_true, *scores, np.arange(20), 500, seed=0)
    assert result.num_resamples == 500
    assert 30 < result.num_redrawn < 120
    assert np.isfinite(result.interval).all()


def test_p_value_of_the_bootstrap_is_never_zero():
    y_true = np.repeat([0, 1], 30)
    noise = np.random.default_rng(0).normal(size=60)
    result = roc.paired_bootstrap(y_true, y_true + 0.01 * noise, noise, np.arange(60), 99, seed=0)
    assert result.p_value == pytest.approx(0.02)


def rejections(make_scores, groups, num_trials, seed):
    """Returns the shares of null experiments that DeLong's test and the bootstrap reject at 5 %."""
    rng = np.random.default_rng(seed)
    rejected = np.zeros(2)
    for trial in range(num_trials):
        y_true, scores_a, scores_b = make_scores(rng)
        rejected[0] += roc.delong_test(y_true, scores_a, scores_b).p_value <= 0.05
        bootstrap = roc.paired_bootstrap(y_true, scores_a, scores_b, groups, 199, seed=trial)
        rejected[1] += bootstrap.p_value <= 0.05
    return rejected / num_trials


def test_independent_patches_are_rejected_at_the_level():
    def make_scores(rng):
        return random_scores(rng, 50, 70, 100)

    delong, bootstrap = rejections(make_scores, np.arange(120), num_trials=400, seed=11)

    # Three standard deviations of the binomial around 5 %.
    low, high = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400) * np.array([-1, 1])
    assert low < delong < high
    assert low < bootstrap < high


def test_clustered_patches_need_the_clustered_bootstrap():
    # A classifier's errors are correlated within a patient.
    groups = np.repeat(np.arange(80), 8)
    y_true = np.repeat(np.arange(80) % 2, 8)

    def make_scores(rng):
        of_patient = rng.normal(size=(2, 80))[:, groups]
        return y_true, *(y_true + of_patient + 0.5 * rng.normal(size=(2, y_true.size)))

    delong, bootstrap = rejections(make_scores, groups, num_trials=200, seed=12)

    assert delong > 0.3
    assert abs(bootstrap - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 200)


def test_holm_steps_down():
    # Like R's p.adjust(p, "holm"): 4 x 0.005, 3 x 0.01, 2 x 0.03, then at least the previous value.
    np.testing.assert_allclose(roc.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(roc.holm([0.9, 0.6]), [1.0, 1.0])
    assert roc.holm([]).shape == (0,)


def test_sensitivity_takes_the_conservative_step():
    #      non-malignant 0 0 0 0 0 0 0 0 0 | 5        malignant 1 | 5 5 | 9
    y_true = np.repeat([0, 1], [10, 4])
    scores = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 1, 5, 5, 9])
    # At 90 % one false positive is allowed; at 95 % none is, which excludes the whole tie at 5.
    assert roc.sensitivity_at_specificity(y_true, scores, 0.9) == (1.0, 0.9, 1.0)
    assert roc.sensitivity_at_specificity(y_true, scores, 0.95) == (0.25, 1.0, 9.0)
    # All scores are equal, so only the next float above them calls no patch malignant.
    nothing = roc.sensitivity_at_specificity(y_true, np.zeros(14), 0.9)
    assert nothing[:2] == (0.0, 1.0)
    assert 0 < nothing.threshold < 1e-300


def test_several_classifiers_are_judged_by_their_mean_auc():
    rng = np.random.default_rng(3)
    y_true, groups = np.tile([0, 0, 1], 40), np.repeat(np.arange(30), 4)
    a, b, c = (rng.normal(size=120) + shift * y_true for shift in (0.5, 1.0, 0.2))
    both = roc.paired_bootstrap(y_true, [a, b], c, groups, 100, 0)
    alone = [roc.paired_bootstrap(y_true, scores, c, groups, 100, 0) for scores in (a, b)]
    assert both.difference == pytest.approx(np.mean([one.difference for one in alone]))
    # Repeating a classifier changes nothing.
    twice = roc.paired_bootstrap(y_true, [a, a], [c, c, c], groups, 100, 0)
    assert twice.interval == pytest.approx(alone[0].interval)
    assert roc.delong_test(y_true, [a, a], c) == pytest.approx(roc.delong_test(y_true, a, c))
    mean = np.mean([roc.delong_test(y_true, scores, c).auc_a for scores in (a, b)])
    assert roc.delong_test(y_true, [a, b], c).auc_a == pytest.approx(mean)


def test_rates_at_a_threshold_on_other_patches():
    y_true, scores = [0, 0, 0, 0, 1, 1], [0.1, 0.5, 0.6, 0.2, 0.5, 0.4]
    assert roc.at_threshold(y_true, scores, 0.5) == (0.5, 0.5, 0.5)
    assert roc.at_threshold(y_true, scores, 2.0) == (0.0, 1.0, 2.0)


def test_calibration_of_known_cases():
    assert roc.brier_score([0, 1, 1, 0], [0.0, 1.0, 0.5, 0.5]) == 0.125
    # Half of the patches at 0.8 are malignant, and none of those at 0: 0.5 x |0.8 - 0.5|.
    y_true, probabilities = [1, 0, 1, 0, 0, 0, 0, 0], [0.8] * 4 + [0.0] * 4
    assert roc.expected_calibration_error(y_true, probabilities) == pytest.approx(0.15)
    # In a single bin only the means matter: |0.4 - 0.25|.
    assert roc.expected_calibration_error(y_true, probabilities, num_bins=1) == pytest.approx(0.15)
    assert roc.expected_calibration_error([0, 1], [1.0, 0.0], num_bins=1) == 0.0
    assert roc.expected_calibration_error([0, 1], [1.0, 0.0], num_bins=2) == 1.0


def test_bins_are_closed_above():
    # 0.5 belongs to (0, 0.5], with 0.1; in the upper bin, the error would be 0.3.
    error = roc.expected_calibration_error([0, 1], [0.1, 0.5], num_bins=2)
    assert error == pytest.approx(0.2)


def test_counts():
    counts = roc.count([1, 1, 0, 0, 1], ["f1", "f1", "f2", "f3", "f4"], ["a", "a", "a", "b", "c"])
    assert counts == (5, 4, 3, 3, 2)
    assert counts.malignant_patients == 2


LABELS, SCORES = [0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: roc.auc([0, 1, 2, 1], SCORES), r"labels must be 0 .* received \[2\]"),
        (lambda: roc.auc(["0", "1"], [1, 2]), "labels must be 0"),
        (lambda: roc.auc([[0], [1]], [1, 2]), r"shape \(2, 1\)"),
        (lambda: roc.auc([], []), r"shape \(0,\)"),
        (lambda: roc.auc([1, 1, 1, 1], SCORES), "received 4 malignant and 0 non-malignant"),
        (lambda: roc.auc(LABELS, SCORES[:3]), r"scores must be of shape \(4,\).* received \(3,\)"),
        (lambda: roc.auc(LABELS, [0.1, np.nan, np.inf, 1]), "2 of 4 are NaN or infinite"),
        (
            lambda: roc.delong_test(LABELS, SCORES, [0.1, np.nan, 1, 2]),
            "1 of 4 are NaN or infinite",
        ),
        (lambda: roc.delong_test([0, 0, 1], [1, 2, 3], [1, 2, 3]), "at least 2 patches"),
        (lambda: roc.auc_confidence_interval(LABELS, SCORES, level=95), "0.9"),
        (lambda: roc.paired_bootstrap(LABELS, SCORES, SCORES, [1, 2, 3, 3], 9, 0), "1 with a mal"),
        (lambda: roc.paired_bootstrap(LABELS, SCORES, SCORES, [1, 1, 2, 3], 9, 0), "1 with a non"),
        (lambda: roc.paired_bootstrap(LABELS, SCORES, SCORES, [1, 2, 3], 9, 0), "groups must be"),
        (lambda: roc.paired_bootstrap(LABELS, SCORES, SCORES, [1, 2, 3, 4], 0, 0), "at least 1"),
        (lambda: roc.sensitivity_at_specificity(LABELS, SCORES, 90), r"share in \[0, 1\].* 90"),
        (lambda: roc.at_threshold([1, 1, 1, 1], SCORES, 0.5), "each class must have at least 1"),
        (lambda: roc.brier_score(LABELS, [0, 1, 2, 1]), "received 0 to 2"),
        (lambda: roc.expected_calibration_error(LABELS, SCORES, 0), "num_bins"),
        (lambda: roc.holm([0.1, np.nan]), r"\[0.1, nan\]"),
        (lambda: roc.count(LABELS, ["f"] * 3, ["p"] * 4), "film_ids"),
    ],
)
def test_wrong_input_gets_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
