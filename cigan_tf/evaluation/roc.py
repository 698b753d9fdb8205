"""Statistics of a malignancy classifier: AUC, intervals and tests, operating points, calibration.

Labels are 0 (non-malignant) or 1 (malignant); a patch with a higher score is more likely malignant.
DeLong's interval and test assume independent patches, but patches of one patient are dependent.
Report DeLong's results together with those of `paired_bootstrap`, which resamples patients.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, stats
from sklearn import metrics

from cigan_tf.errors import UserError
from cigan_tf.evaluation import checks, patient_bootstrap

# Weights kept in memory while resampling: a few dozen MB, whatever the size of the test set.
_WEIGHTS_AT_A_TIME = 2**20


class Interval(NamedTuple):
    """Two-sided confidence interval."""

    low: float
    high: float


class DeLongTest(NamedTuple):
    """Result of `delong_test`; z is positive if auc_a is larger."""

    auc_a: float
    auc_b: float
    z: float
    p_value: float


class PairedBootstrap(NamedTuple):
    """Result of `paired_bootstrap`.

    Attributes:
        auc_a: AUC of the first classifier on the original patches.
        auc_b: AUC of the second classifier.
        difference: auc_a - auc_b.
        interval: interval of the difference.
        interval_a: interval of auc_a.
        interval_b: interval of auc_b.
        p_value: two-sided, for the hypothesis that the AUCs are equal.
        num_resamples: resamples used for intervals and p-value.
        num_redrawn: resamples that lacked a class; they were redrawn and are not in num_resamples.
    """

    auc_a: float
    auc_b: float
    difference: float
    interval: Interval
    interval_a: Interval
    interval_b: Interval
    p_value: float
    num_resamples: int
    num_redrawn: int


class OperatingPoint(NamedTuple):
    """Rates when scores at or above the threshold are classified as malignant."""

    sensitivity: float
    specificity: float
    threshold: float


class Counts(NamedTuple):
    """Numbers of patches, films and patients from which a value was computed."""

    patches: int
    films: int
    patients: int
    malignant_patches: int
    malignant_patients: int


def count(y_true, film_ids, patient_ids) -> Counts:
    """Counts patches, films and patients.

    Args:
        y_true: labels in {0, 1}, [n].
        film_ids: film of each patch, [n].
        patient_ids: patient of each patch, [n].

    Raises:
        UserError: labels outside {0, 1}, unequal lengths.
    """
    malignant = checks.check_labels(y_true)
    film_ids, patient_ids = np.asarray(film_ids), np.asarray(patient_ids)
    checks.check_length("film_ids", film_ids, malignant.size)
    checks.check_length("patient_ids", patient_ids, malignant.size)
    return Counts(
        patches=malignant.size,
        films=np.unique(film_ids).size,
        patients=np.unique(patient_ids).size,
        malignant_patches=int(np.count_nonzero(malignant)),
        malignant_patients=np.unique(patient_ids[malignant]).size,
    )


def auc(y_true, scores) -> float:
    """Returns the area under the ROC curve, in [0, 1].

    It is the share of malignant / non-malignant pairs ranked correctly by the scores, ties counting
    half (Mann-Whitney).

    Args:
        y_true: labels in {0, 1}, [n].
        scores: finite, [n].

    Raises:
        UserError: labels outside {0, 1}, a class missing, unequal lengths, scores not finite.
    """
    malignant = checks.check_labels(y_true, at_least=1)
    area, _, _ = _placements(malignant, checks.check_scores(scores, malignant.size))
    return area


def auc_confidence_interval(y_true, scores, level: float = 0.95) -> Interval:
    """Returns DeLong's interval of the AUC: AUC ± z SE, clipped to [0, 1].

    If the scores separate the classes completely (AUC 0 or 1), DeLong's SE is 0 and the interval
    would claim certainty. In that case, one end is the AUC itself and the other is Newcombe's
    limit: the AUC that is z of its own SEs away from the observed AUC.

    Args:
        y_true: labels in {0, 1}, [n], at least two of each.
        scores: finite, [n].
        level: confidence, in (0, 1).

    Raises:
        UserError: see `auc`; fewer than two patches of a class; a level outside (0, 1).

    References:
        DeLong, DeLong, Clarke-Pearson. Biometrics 44:837, 1988.
        Newcombe. Statistics in Medicine 25:559, 2006, method 5.
    """
    malignant = checks.check_labels(y_true, at_least=2)
    checks.check_share("level", level, ends=False)
    area, others_below, malignant_below = _placements(malignant, scores)
    z = stats.norm.isf((1 - level) / 2)
    if area in (0.0, 1.0):
        limit = _newcombe_limit(others_below.size, malignant_below.size, z)
        return Interval(limit, 1.0) if area == 1.0 else Interval(0.0, 1.0 - limit)
    half_width = z * np.sqrt(_delong_variance(others_below, malignant_below))
    return Interval(float(max(0.0, area - half_width)), float(min(1.0, area + half_width)))


def delong_test(y_true, scores_a, scores_b) -> DeLongTest:
    """Tests whether two classifiers have the same AUC on the same patches (paired, two-sided).

    z = (auc_a - auc_b) / SE. The SE is computed from the patches' paired placements, which are
    obtained from mid-ranks in O(n log n). If the two classifiers give every patch the same
    placement, for instance with identical scores, z is 0 and p is 1. If the placements
    differ, and by the same amount for all patches within each class (for instance, one classifier
    is perfect and the other constant), z is infinite and p is 0.

    Args:
        y_true: labels in {0, 1}, [n], at least two of each.
        scores_a: finite, [n]; or [k, n] for k classifiers, whose mean AUC is compared. Only the
            ranks of the scores matter.
        scores_b: like scores_a, for the same patches in the same order.

    Raises:
        UserError: see `auc`; fewer than two patches of a class.

    References:
        DeLong, DeLong, Clarke-Pearson. Biometrics 44:837, 1988.
        Sun, Xu. IEEE Signal Processing Letters 21:1389, 2014.
    """
    malignant = checks.check_labels(y_true, at_least=2)
    auc_a, others_below_a, malignant_below_a = _placements(malignant, scores_a)
    auc_b, others_below_b, malignant_below_b = _placements(malignant, scores_b)
    difference = auc_a - auc_b
    standard_error = np.sqrt(
        _delong_variance(others_below_a - others_below_b, malignant_below_a - malignant_below_b)
    )
    if standard_error == 0:
        z = float(np.sign(difference) * np.inf) if difference else 0.0
    else:
        z = float(difference / standard_error)
    return DeLongTest(auc_a, auc_b, z, float(2 * stats.norm.sf(abs(z))))


def paired_bootstrap(
    y_true, scores_a, scores_b, groups, num_resamples: int, seed: int, level: float = 0.95
) -> PairedBootstrap:
    """Compares two classifiers' AUCs on the same patches by resampling patients, not patches.

    Each resample draws as many patients as there are, with replacement, takes all their patches,
    and evaluates both classifiers on these; resamples that lack a class are redrawn. The intervals
    are percentile intervals. If d are the B resampled differences,

        p = min(1, 2 (1 + min(#{d <= 0}, #{d >= 0})) / (B + 1)),

    which is the significance level at which the interval just excludes 0. It is never below
    2 / (B + 1).

    Args:
        y_true: labels in {0, 1}, [n].
        scores_a: finite, [n]; or [k, n] for k classifiers, whose mean AUC is compared.
        scores_b: like scores_a, for the same patches in the same order; the same object, if only
            the interval of one classifier is needed.
        groups: the patient of each patch, [n]; each class needs patches from at least two patients.
        num_resamples: B >= 1; 2,000 determine the interval's ends to about 2 % of its width.
        seed: seed of the draws; the same seed gives the same result.
        level: confidence of the intervals, in (0, 1).

    Raises:
        UserError: see `auc`; a class with patches from fewer than two patients; a level outside
            (0, 1); num_resamples below 1.

    References:
        Efron, Tibshirani. An Introduction to the Bootstrap, 1993, chapters 8 and 13.
        Davison, Hinkley. Bootstrap Methods and their Application, 1997, section 4.2 (the 1 + in p).
    """
    malignant = checks.check_labels(y_true, at_least=1)
    is_single = scores_b is scores_a
    scores_a, scores_b = (_several(scores, malignant.size) for scores in (scores_a, scores_b))
    checks.check_length("groups", np.asarray(groups), malignant.size)
    checks.check_share("level", level, ends=False)
    if num_resamples < 1:
        raise UserError(f"num_resamples must be at least 1; received {num_resamples}.")

    _, patient_of_patch = np.unique(np.asarray(groups), return_inverse=True)
    num_patches = patient_bootstrap.patches_by_class(malignant, patient_of_patch)
    of_draws_a, of_draws_b = (
        [patient_bootstrap.WeightedAuc(malignant, s, patient_of_patch) for s in scores]
        for scores in (scores_a, scores_b)
    )
    rng = np.random.default_rng(seed)
    aucs = np.empty((num_resamples, 2))
    num_redrawn = 0
    step = max(1, _WEIGHTS_AT_A_TIME // malignant.size)
    for start in range(0, num_resamples, step):
        part = aucs[start : start + step]
        draws, redrawn = patient_bootstrap.draw_patients(rng, num_patches, len(part))
        for column, of_draws in enumerate((of_draws_a, of_draws_b)):
            if column and is_single:
                part[:, 1] = part[:, 0]
            else:
                part[:, column] = np.mean([aucs_of(draws) for aucs_of in of_draws], axis=0)
        num_redrawn += redrawn

    differences = aucs[:, 0] - aucs[:, 1]
    one_side = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    auc_a, auc_b = (
        float(np.mean([auc(malignant, s) for s in scores])) for scores in (scores_a, scores_b)
    )
    return PairedBootstrap(
        auc_a=auc_a,
        auc_b=auc_b,
        difference=auc_a - auc_b,
        interval=_percentile_interval(differences, level),
        interval_a=_percentile_interval(aucs[:, 0], level),
        interval_b=_percentile_interval(aucs[:, 1], level),
        p_value=min(1.0, 2 * (1 + int(one_side)) / (num_resamples + 1)),
        num_resamples=num_resamples,
        num_redrawn=num_redrawn,
    )


def holm(p_values) -> np.ndarray:
    """Returns Holm's adjusted p-values, [k], in the order given.

    With p_(1) <= ... <= p_(k), the i-th adjusted value is the maximum over j <= i of
    min(1, (k - j + 1) p_(j)). Rejecting the hypotheses with adjusted values of at most 0.05 limits
    the probability of any false rejection to 5 %, whatever the dependence between the tests.

    Raises:
        UserError: a p-value that is not in [0, 1].

    References:
        Holm. Scandinavian Journal of Statistics 6:65, 1979.
    """
    p_values = np.asarray(p_values, np.float64)
    if p_values.ndim != 1 or not np.all((p_values >= 0) & (p_values <= 1)):
        raise UserError(
            f"p_values must be a list of numbers in [0, 1]; received {p_values.tolist()}."
        )
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(p_values.size, 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted


def sensitivity_at_specificity(y_true, scores, specificity: float) -> OperatingPoint:
    """Returns the most sensitive threshold with at least the given specificity.

    Only the existing scores, and a threshold just above the highest one, are considered; nothing is
    interpolated. With few non-malignant patches or tied scores, the specificity may therefore be
    well above the given one. At the threshold above the highest score, the sensitivity is 0.

    Args:
        y_true: labels in {0, 1}, [n].
        scores: finite, [n].
        specificity: share in [0, 1], such as 0.9.

    Raises:
        UserError: see `auc`; a specificity outside [0, 1].
    """
    malignant = checks.check_labels(y_true, at_least=1)
    scores = checks.check_scores(scores, malignant.size)
    checks.check_share("specificity", specificity)
    fall_out, sensitivity, thresholds = metrics.roc_curve(
        malignant, scores, drop_intermediate=False
    )
    # Compares numbers of patches, because 1 - 0.9 is not 0.1 in floating point.
    num_others = np.count_nonzero(~malignant)
    allowed = np.floor((1 - specificity) * num_others + 1e-9)
    best = np.flatnonzero(np.rint(fall_out * num_others) <= allowed)[-1]
    threshold = thresholds[best]
    if np.isinf(threshold):
        # JSON has no infinity; the next larger float also classifies no patch as malignant.
        threshold = np.nextafter(scores.max(), np.inf)
    return OperatingPoint(float(sensitivity[best]), float(1 - fall_out[best]), float(threshold))


def at_threshold(y_true, scores, threshold: float) -> OperatingPoint:
    """Returns the rates when scores at or above a threshold are classified as malignant.

    Args:
        y_true: labels in {0, 1}, [n].
        scores: finite, [n].
        threshold: chosen on other patches, such as those of the validation split.

    Raises:
        UserError: see `auc`.
    """
    malignant = checks.check_labels(y_true, at_least=1)
    called = checks.check_scores(scores, malignant.size) >= threshold
    return OperatingPoint(
        float(called[malignant].mean()), float(1 - called[~malignant].mean()), float(threshold)
    )


def brier_score(y_true, probabilities) -> float:
    """Returns the mean squared error of the probabilities of malignancy, in [0, 1]; 0 is best.

    Args:
        y_true: labels in {0, 1}, [n].
        probabilities: probabilities of malignancy in [0, 1], [n].

    Raises:
        UserError: labels outside {0, 1}, unequal lengths, probabilities outside [0, 1].

    References:
        Brier. Monthly Weather Review 78:1, 1950.
    """
    malignant = checks.check_labels(y_true)
    probabilities = checks.check_probabilities(probabilities, malignant.size)
    return float(metrics.brier_score_loss(malignant, probabilities))


def expected_calibration_error(y_true, probabilities, num_bins: int = 15) -> float:
    """Returns the mean gap between predicted and observed malignancy, in [0, 1]; 0 is best.

    Patches are assigned by probability to bins ((i - 1) / num_bins, i / num_bins] of equal width; a
    probability of 0 is in the first bin. The gap of a bin is |mean probability - share malignant|,
    and its weight is the number of patches in the bin.

    Args:
        y_true: labels in {0, 1}, [n].
        probabilities: probabilities of malignancy in [0, 1], [n].
        num_bins: at least 1.

    Raises:
        UserError: see `brier_score`; num_bins below 1.

    References:
        Guo, Pleiss, Sun, Weinberger. On Calibration of Modern Neural Networks. ICML 2017.
    """
    malignant = checks.check_labels(y_true)
    probabilities = checks.check_probabilities(probabilities, malignant.size)
    if num_bins < 1:
        raise UserError(f"num_bins must be at least 1; received {num_bins}.")
    bins = np.maximum(np.ceil(probabilities * num_bins).astype(int) - 1, 0)
    gaps = np.bincount(bins, weights=probabilities - malignant)
    return float(np.abs(gaps).sum() / malignant.size)


def _several(scores, num_patches: int) -> np.ndarray:
    """Returns the scores of one or several classifiers, float64 [k, n], all finite."""
    rows = scores if np.ndim(scores) == 2 and len(scores) else [scores]
    return np.stack([checks.check_scores(row, num_patches) for row in rows])


def _placements(malignant: np.ndarray, scores) -> tuple[float, np.ndarray, np.ndarray]:
    """Returns the AUC, and how many patches of the opposite class rank below each patch.

    The numbers are those of the malignant patches, then those of the non-malignant patches; a tie
    counts as half a patch. For the scores of several classifiers, [k, n], the AUC and the numbers
    are means over the classifiers.
    """
    scores = _several(scores, malignant.size)
    ranks = stats.rankdata(scores, axis=1)
    # A patch's mid-rank among all patches, minus its mid-rank in its class, is the number of
    # patches of the opposite class below it. Counts are whole or half, so sums are exact and equal
    # counts have a variance of exactly 0.
    within, within_others = (
        stats.rankdata(scores[:, of_class], axis=1) for of_class in (malignant, ~malignant)
    )
    others_below = (ranks[:, malignant] - within).mean(axis=0)
    malignant_below = (ranks[:, ~malignant] - within_others).mean(axis=0)
    area = others_below.sum() / (others_below.size * malignant_below.size)
    return float(area), others_below, malignant_below


def _delong_variance(others_below: np.ndarray, malignant_below: np.ndarray) -> float:
    """Returns DeLong's variance of an AUC, or of a difference in AUC if differences are given."""
    num_malignant, num_others = others_below.size, malignant_below.size
    return (
        np.var(others_below, ddof=1) / num_others**2 / num_malignant
        + np.var(malignant_below, ddof=1) / num_malignant**2 / num_others
    )


def _newcombe_limit(num_malignant: int, num_others: int, z: float) -> float:
    """Returns the lower limit for an observed AUC of 1: the a with 1 - a = z sqrt(V(a))."""
    half_size = (num_malignant + num_others) / 2 - 1

    def distance(a):
        # ((1 - a)^2 - z^2 V(a)) / (1 - a), which has no root at 1.
        spread = 1 + half_size * ((1 - a) / (2 - a) + a / (1 + a))
        return 1 - a - z**2 * a * spread / (num_malignant * num_others)

    return float(optimize.brentq(distance, 0.0, 1.0))


def _percentile_interval(values: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
