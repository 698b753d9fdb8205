"""The experiment's table: every arm's AUC with its intervals, and the arms tested in pairs.

An arm's runs differ by their seed alone. Each run is judged by itself, which shows the chance of
training; intervals and tests are of the mean of its runs' probabilities for each patch, and show
the chance of who was tested.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cigan_tf.errors import UserError, concerning
from cigan_tf.evaluation import roc
from cigan_tf.evaluation.scores import Scores

SPECIFICITIES = (0.9, 0.95)
_UNKNOWN_SCANNERS = ("", "unknown")
_LEAST_OF_A_CLASS = 2


class ScannerAuc(NamedTuple):
    """AUC on the patches of one make of digitizer, DeLong's 95 % interval, and what they are."""

    auc: float
    delong_interval: roc.Interval
    counts: roc.Counts


class ArmResult(NamedTuple):
    """One arm on the test split.

    Attributes:
        auc_of_seed: AUC of each run by itself.
        auc_mean: their mean.
        auc_sd: their standard deviation (n - 1); NaN where there is one run.
        probability: mean of the runs' probabilities for each patch, [n]; what follows is of it.
        auc: its AUC, usually a little above `auc_mean`, as a committee's is.
        delong_interval: DeLong's 95 % interval.
        bootstrap_interval: 95 % interval from resampled patients.
        operating_points: by the specificity asked for (`SPECIFICITIES`), what is reached at the
            threshold that has it on the validation patches.
        brier: Brier score.
        calibration_error: expected calibration error, 15 bins.
        scanners: by make of digitizer, where the patches name two or more and this one has two
            patches of each class; empty otherwise.
        counts: what all of it was computed on.
    """

    auc_of_seed: dict[int, float]
    auc_mean: float
    auc_sd: float
    probability: np.ndarray
    auc: float
    delong_interval: roc.Interval
    bootstrap_interval: roc.Interval
    operating_points: dict[float, roc.OperatingPoint]
    brier: float
    calibration_error: float
    scanners: dict[str, ScannerAuc]
    counts: roc.Counts


class Comparison(NamedTuple):
    """Two arms on the same patches; differences are `arm` less `other`.

    Attributes:
        arm: the first.
        other: what it is compared with.
        bootstrap: patients resampled: the difference, its 95 % interval, p.
        delong: z and p that take every patch as independent.
        bootstrap_p_holm: the bootstrap's p, adjusted for all pairs compared.
        delong_p_holm: DeLong's p, likewise.
        difference_of_seed: difference of the AUCs of the two runs of each seed.
    """

    arm: str
    other: str
    bootstrap: roc.PairedBootstrap
    delong: roc.DeLongTest
    bootstrap_p_holm: float
    delong_p_holm: float
    difference_of_seed: dict[int, float]


class ExperimentTable(NamedTuple):
    """All arms in order, the pairs compared, and the labels of the patches, [n]."""

    arms: dict[str, ArmResult]
    comparisons: list[Comparison]
    label: np.ndarray


def compare_arms(
    scores: Mapping[str, Mapping[int, Scores]],
    validation: Mapping[str, Mapping[int, Scores]],
    pairs: Sequence[tuple[str, str]],
    num_resamples: int,
    seed: int,
) -> ExperimentTable:
    """Computes the experiment's table from what every run said of the test patches.

    Args:
        scores: by arm and by the run's seed, of the same patches in the same order throughout.
        validation: likewise, what the same classifiers said of the validation patches; thresholds
            are chosen on them.
        pairs: the arms to test against each other.
        num_resamples: resamples of the test patients, at least 1.
        seed: of the resamples; every arm and pair sees the same ones.

    Raises:
        UserError: no arm, arms with other seeds or without validation scores, runs that scored
            other patches, a pair of an unknown arm, fewer than two patches or patients of a class,
            num_resamples below 1.
    """
    first, first_validation = _same_patches(scores), _same_patches(validation)
    if set(validation) != set(scores):
        raise UserError(
            f"every arm needs validation scores; received those of {', '.join(validation)} for "
            f"{', '.join(scores)}."
        )
    unknown = [name for pair in pairs for name in pair if name not in scores]
    if unknown:
        raise UserError(
            f"{unknown[0]!r} cannot be compared; the arms with scores are {', '.join(scores)}."
        )
    arms = {}
    for arm, runs in scores.items():
        with concerning(f"Arm {arm!r}"):
            thresholds = _thresholds(validation[arm], first_validation)
            arms[arm] = _judge(runs, thresholds, first, num_resamples, seed)

    bootstraps, delongs = [], []
    for arm, other in pairs:
        with concerning(f"Arm {arm!r} against {other!r}"):
            both = first.label, arms[arm].probability, arms[other].probability
            bootstraps.append(roc.paired_bootstrap(*both, first.patient_id, num_resamples, seed))
            delongs.append(roc.delong_test(*both))
    bootstrap_p_holm = roc.holm([test.p_value for test in bootstraps])
    delong_p_holm = roc.holm([test.p_value for test in delongs])
    comparisons = [
        Comparison(
            arm=arm,
            other=other,
            bootstrap=bootstraps[i],
            delong=delongs[i],
            bootstrap_p_holm=float(bootstrap_p_holm[i]),
            delong_p_holm=float(delong_p_holm[i]),
            difference_of_seed={
                seed: auc - arms[other].auc_of_seed[seed]
                for seed, auc in arms[arm].auc_of_seed.items()
            },
        )
        for i, (arm, other) in enumerate(pairs)
    ]
    return ExperimentTable(arms, comparisons, first.label)


def _mean_probability(runs: Mapping[int, Scores]) -> np.ndarray:
    return np.mean([scores.probability for scores in runs.values()], axis=0)


def _thresholds(validation: Mapping[int, Scores], first: Scores) -> dict[float, float]:
    """Returns the thresholds of the runs' mean that reach `SPECIFICITIES` on validation."""
    probability = _mean_probability(validation)
    return {
        specificity: roc.sensitivity_at_specificity(first.label, probability, specificity).threshold
        for specificity in SPECIFICITIES
    }


def _judge(
    runs: Mapping[int, Scores],
    thresholds: Mapping[float, float],
    first: Scores,
    num_resamples: int,
    seed: int,
) -> ArmResult:
    label, patients = first.label, first.patient_id
    auc_of_seed = {run: roc.auc(label, scores.probability) for run, scores in runs.items()}
    aucs = np.array(list(auc_of_seed.values()))
    probability = _mean_probability(runs)
    return ArmResult(
        auc_of_seed=auc_of_seed,
        auc_mean=float(aucs.mean()),
        auc_sd=float(aucs.std(ddof=1)) if aucs.size > 1 else float("nan"),
        probability=probability,
        auc=roc.auc(label, probability),
        delong_interval=roc.auc_confidence_interval(label, probability),
        bootstrap_interval=roc.paired_bootstrap(
            label, probability, probability, patients, num_resamples, seed
        ).interval_a,
        operating_points={
            specificity: roc.at_threshold(label, probability, threshold)
            for specificity, threshold in thresholds.items()
        },
        brier=roc.brier_score(label, probability),
        calibration_error=roc.expected_calibration_error(label, probability),
        scanners=_by_scanner(first, probability),
        counts=roc.count(label, first.film_id, patients),
    )


def _by_scanner(first: Scores, probability: np.ndarray) -> dict[str, ScannerAuc]:
    known = [str(name) for name in np.unique(first.scanner) if name not in _UNKNOWN_SCANNERS]
    found = {}
    for name in known if len(known) > 1 else ():
        chosen = first.scanner == name
        label = first.label[chosen]
        if np.bincount(label, minlength=2).min() >= _LEAST_OF_A_CLASS:
            found[name] = ScannerAuc(
                roc.auc(label, probability[chosen]),
                roc.auc_confidence_interval(label, probability[chosen]),
                roc.count(label, first.film_id[chosen], first.patient_id[chosen]),
            )
    return found


def _same_patches(scores: Mapping[str, Mapping[int, Scores]]) -> Scores:
    """Returns one run's scores; raises UserError unless all are of the same patches and seeds."""
    runs = [(arm, seed, run) for arm, by_seed in scores.items() for seed, run in by_seed.items()]
    if not runs:
        raise UserError("there must be at least one arm with scores; received none.")
    first_arm, first_seed, first = runs[0]
    for arm, by_seed in scores.items():
        if set(by_seed) != set(scores[first_arm]):
            raise UserError(
                f"every arm must have the same seeds; {first_arm!r} has "
                f"{sorted(scores[first_arm])}, {arm!r} has {sorted(by_seed)}."
            )
    for arm, seed, run in runs:
        difference = _difference(first, run)
        if difference:
            raise UserError(
                f"Arm {arm!r}, seed {seed}: {difference} arm {first_arm!r}, seed {first_seed}; "
                "arms are compared on the same patches of one split."
            )
    return first


def _difference(first: Scores, run: Scores) -> str:
    """Returns how a run's patches differ from the first one's, or an empty text."""
    if run.patch.size != first.patch.size:
        return f"there are scores of {run.patch.size} patches, not of {first.patch.size} as in"
    if not np.array_equal(run.patch, first.patch):
        if np.array_equal(np.sort(run.patch), np.sort(first.patch)):
            return "the patches stand in another order than in"
        at = int(np.argmax(run.patch != first.patch))
        return f"patch {str(run.patch[at])!r} stands where {str(first.patch[at])!r} stands in"
    for name in ("label", "patient_id", "film_id", "scanner"):
        unlike = getattr(run, name) != getattr(first, name)
        if unlike.any():
            patch = str(run.patch[np.argmax(unlike)])
            return f"the {name} of patch {patch!r} is another than in"
    return ""
