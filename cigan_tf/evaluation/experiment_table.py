"""The experiment's table: every arm's AUC with intervals, and tests of pairs of arms.

The runs of a row differ only in their seed. An arm has one row for each of its generators, or a
single row. Each run is evaluated separately, which shows the variation between runs. Intervals and
tests use the mean probability over the runs of a row, and show the uncertainty from the test
patients.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cigan_tf.errors import UserError, prefix_errors
from cigan_tf.evaluation import roc
from cigan_tf.evaluation.score_file import Scores
from cigan_tf.evaluation.seed_variance import SeedVariance, split_variance

SPECIFICITIES = (0.9, 0.95)
# A group with fewer patients of a class has no AUC, because its interval would be meaningless.
LEAST_PATIENTS = 5
_UNKNOWN = ("", "unknown")
# Facts of a patch that must agree between runs. Facts of its lesion may be missing in some runs.
_FACTS = ("label", "patient_id", "film_id", "scanner")


class GroupAuc(NamedTuple):
    """AUC of some of the patches, or of films or patients.

    Attributes:
        auc: None if a class has fewer than `LEAST_PATIENTS` patients.
        interval: 95 % interval from resampled patients, or None.
        counts: numbers from which it was computed; for an AUC of films or patients, `patches`
            counts these.
    """

    auc: float | None
    interval: roc.Interval | None
    counts: roc.Counts


class ArmResult(NamedTuple):
    """One row of the table: an arm, with one of its generators, on the test split.

    Attributes:
        auc_of_seed: AUC of each run, by seed.
        auc_mean: mean of the runs' AUCs.
        auc_sd: standard deviation of the runs' AUCs (n - 1); NaN for a single run.
        probability: mean of the runs' probabilities for each patch, [n]; all following values are
            computed from it.
        auc: AUC of `probability`, usually slightly above `auc_mean`, like that of an ensemble.
        delong_interval: DeLong's 95 % interval.
        bootstrap_interval: 95 % interval from resampled patients.
        operating_points: for each of `SPECIFICITIES`, the rates at the threshold that has at least
            this specificity on the validation patches.
        brier: Brier score.
        calibration_error: expected calibration error, 15 bins.
        levels: AUC per 'film' and per 'patient'. The score of a film or patient is the maximum over
            its patches, and it is malignant if one of these is. Detectors are evaluated in this way
            per image (Ribli et al., Scientific Reports 8:4165, 2018): one lesion makes a film
            malignant, and a mean would dilute it. The maximum grows with the number of patches.
        subgroups: AUC by kind ('lesion type', 'lesion size', 'subtlety', 'density', 'digitiser')
            and group, for each kind with two groups or more. A group of lesions compares its
            malignant patches with all non-malignant patches; a group of films has all patches of
            its films.
        counts: numbers of patches, films and patients in the test split.
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
    levels: dict[str, GroupAuc]
    subgroups: dict[str, dict[str, GroupAuc]]
    counts: roc.Counts


class Comparison(NamedTuple):
    """Two arms, or rows of the table, on the same patches; differences are `arm` minus `other`.

    Attributes:
        arm: the first arm or row.
        other: the arm or row with which it is compared.
        bootstrap: difference, its 95 % interval and p, from resampled patients.
        delong: z and p, assuming independent patches.
        bootstrap_p_holm: the bootstrap's p, adjusted for all compared pairs.
        delong_p_holm: DeLong's p, adjusted in the same way.
        difference_of_seed: by seed, the difference in AUC between the two runs with that seed.
    """

    arm: str
    other: str
    bootstrap: roc.PairedBootstrap
    delong: roc.DeLongTest
    bootstrap_p_holm: float
    delong_p_holm: float
    difference_of_seed: dict[int, float]


class ExperimentTable(NamedTuple):
    """The experiment's numbers.

    Attributes:
        arms: results by row, in order; an arm has one row, or one per generator if it has several.
        comparisons: pairs of rows.
        pooled: pairs of arms, with AUCs averaged over generators; empty if no arm has several.
        variances: by arm, the variance of its AUC, split between generators and classifier seeds.
        label: labels of the patches, [n].
    """

    arms: dict[str, ArmResult]
    comparisons: list[Comparison]
    pooled: list[Comparison]
    variances: dict[str, SeedVariance]
    label: np.ndarray

    @property
    def of_arms(self) -> list[Comparison]:
        """The comparisons of arms, averaged over their generators if they have several."""
        return self.pooled or self.comparisons


def compare_arms(
    scores: Mapping[str, Mapping[int, Scores]],
    validation: Mapping[str, Mapping[int, Scores]],
    pairs: Sequence[tuple[str, str]],
    num_resamples: int,
    seed: int,
    rows: Mapping[str, Mapping[str | None, str]] | None = None,
) -> ExperimentTable:
    """Computes the experiment's table from the scores of every run on the test patches.

    Args:
        scores: by row and seed of the run, all of the same patches in the same order.
        validation: scores of the same classifiers on the validation patches, from which thresholds
            are chosen.
        pairs: the pairs of arms to test.
        num_resamples: resamples of the test patients, at least 1.
        seed: seed of the resamples, which are the same for every arm and pair.
        rows: by arm and generator, the row in `scores`; by default each row is an arm. Two arms
            with generators are compared generator by generator. If an arm has several generators,
            the pairs are also compared with AUCs averaged over them.

    Raises:
        UserError: no arm; arms with different seeds or without validation scores; runs that scored
            different patches; a pair with an unknown arm; a class with fewer than two patches or
            patients; num_resamples below 1.
    """
    first, first_validation = _same_patches(scores), _same_patches(validation)
    if set(validation) != set(scores):
        raise UserError(
            f"every arm must have validation scores; received validation scores of "
            f"{', '.join(validation)} and test scores of {', '.join(scores)}."
        )
    rows = rows or {name: {None: name} for name in scores}
    unknown = [name for pair in pairs for name in pair if name not in rows]
    if unknown:
        raise UserError(
            f"{unknown[0]!r} cannot be compared; the arms with scores are {', '.join(rows)}."
        )
    arms = {}
    for arm, runs in scores.items():
        with prefix_errors(f"Arm {arm!r}"):
            thresholds = _thresholds(validation[arm], first_validation)
            arms[arm] = _judge(runs, thresholds, first, num_resamples, seed)

    of_rows = [
        ((row,), (other_row,))
        for arm, other in pairs
        for generator, row in rows[arm].items()
        for other_generator, other_row in rows[other].items()
        if None in (generator, other_generator) or generator == other_generator
    ]
    pooled = []
    if any(len(of_arm) > 1 for of_arm in rows.values()):
        pooled = [tuple(tuple(rows[arm].values()) for arm in pair) for pair in pairs]
    names = {tuple(of_arm.values()): arm for arm, of_arm in rows.items()}
    names |= {(row,): row for row in scores}
    return ExperimentTable(
        arms=arms,
        comparisons=_compare(arms, of_rows, names, first, num_resamples, seed),
        pooled=_compare(arms, pooled, names, first, num_resamples, seed),
        variances={
            arm: split_variance([list(arms[row].auc_of_seed.values()) for row in of_arm.values()])
            for arm, of_arm in rows.items()
        },
        label=first.label,
    )


def _compare(
    arms: Mapping[str, ArmResult],
    pairs: Sequence[tuple[tuple[str, ...], tuple[str, ...]]],
    names: Mapping[tuple[str, ...], str],
    first: Scores,
    num_resamples: int,
    seed: int,
) -> list[Comparison]:
    """Tests pairs of arms, each with one or several rows, with Holm's correction for all pairs."""
    bootstraps, delongs = [], []
    for pair in pairs:
        with prefix_errors(f"Arm {names[pair[0]]!r} against {names[pair[1]]!r}"):
            both = [np.stack([arms[row].probability for row in side]) for side in pair]
            bootstraps.append(
                roc.paired_bootstrap(first.label, *both, first.patient_id, num_resamples, seed)
            )
            delongs.append(roc.delong_test(first.label, *both))
    bootstrap_p_holm = roc.holm([test.p_value for test in bootstraps])
    delong_p_holm = roc.holm([test.p_value for test in delongs])

    def auc_of_seed(side: tuple[str, ...], run: int) -> float:
        return float(np.mean([arms[row].auc_of_seed[run] for row in side]))

    return [
        Comparison(
            arm=names[side],
            other=names[other_side],
            bootstrap=bootstraps[i],
            delong=delongs[i],
            bootstrap_p_holm=float(bootstrap_p_holm[i]),
            delong_p_holm=float(delong_p_holm[i]),
            difference_of_seed={
                run: auc_of_seed(side, run) - auc_of_seed(other_side, run)
                for run in arms[side[0]].auc_of_seed
            },
        )
        for i, (side, other_side) in enumerate(pairs)
    ]


def _mean_probability(runs: Mapping[int, Scores]) -> np.ndarray:
    return np.mean([scores.probability for scores in runs.values()], axis=0)


def _thresholds(validation: Mapping[int, Scores], first: Scores) -> dict[float, float]:
    """Returns the thresholds at which the runs' mean has `SPECIFICITIES` on validation patches."""
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
        levels=_by_level(first, probability, num_resamples, seed),
        subgroups=_by_subgroup(first, probability, num_resamples, seed),
        counts=roc.count(label, first.film_id, patients),
    )


def _by_level(
    first: Scores, probability: np.ndarray, num_resamples: int, seed: int
) -> dict[str, GroupAuc]:
    levels = {}
    for name, ids in (("film", first.film_id), ("patient", first.patient_id)):
        # Film ids may be unique only within a patient.
        ids = np.char.add(np.char.add(first.patient_id, "\n"), ids)
        units, at, unit = np.unique(ids, return_index=True, return_inverse=True)
        label = np.zeros(units.size, np.int64)
        highest = np.zeros(units.size)
        np.maximum.at(label, unit, first.label)
        np.maximum.at(highest, unit, probability)
        levels[name] = _group_auc(label, highest, units, first.patient_id[at], num_resamples, seed)
    return levels


def _by_subgroup(
    first: Scores, probability: np.ndarray, num_resamples: int, seed: int
) -> dict[str, dict[str, GroupAuc]]:
    malignant = first.label == 1

    def of_lesions(chosen: np.ndarray) -> np.ndarray:
        return chosen & malignant | ~malignant

    kinds = {
        "lesion type": {
            name: of_lesions(first.lesion_type == name)
            for name in _known(first.lesion_type[malignant])
            if name != "none"
        },
        "lesion size": {
            name: of_lesions(chosen)
            for name, chosen in _size_terciles(first.lesion_area_px, malignant).items()
        },
        "subtlety": {
            str(level): of_lesions(first.subtlety == level)
            for level in np.unique(first.subtlety[malignant & (first.subtlety > 0)])
        },
        "density": {
            str(level): first.density == level
            for level in np.unique(first.density[first.density > 0])
        },
        "digitiser": {name: first.scanner == name for name in _known(first.scanner)},
    }
    return {
        kind: {
            name: _group_auc(
                first.label[chosen],
                probability[chosen],
                first.film_id[chosen],
                first.patient_id[chosen],
                num_resamples,
                seed,
            )
            for name, chosen in groups.items()
        }
        for kind, groups in kinds.items()
        if len(groups) > 1
    }


def _known(values: np.ndarray) -> list[str]:
    return [str(name) for name in np.unique(values) if name not in _UNKNOWN]


def _size_terciles(area_px: np.ndarray, malignant: np.ndarray) -> dict[str, np.ndarray]:
    """Groups the patches by the size of their lesion, divided at terciles of malignant lesions."""
    known = area_px[malignant & (area_px > 0)]
    if not known.size:
        return {}
    ends = np.unique(np.floor(np.quantile(known, [1 / 3, 2 / 3, 1])).astype(int))
    starts = [0, *ends[:-1]]
    return {
        f"{start + 1} to {end} px": (area_px > start) & (area_px <= end)
        for start, end in zip(starts, ends, strict=True)
    }


def _group_auc(label, probability, films, patients, num_resamples: int, seed: int) -> GroupAuc:
    counts = roc.count(label, films, patients)
    num_patients = [np.unique(patients[label == of_class]).size for of_class in (0, 1)]
    if min(num_patients) < LEAST_PATIENTS:
        return GroupAuc(None, None, counts)
    bootstrap = roc.paired_bootstrap(label, probability, probability, patients, num_resamples, seed)
    return GroupAuc(bootstrap.auc_a, bootstrap.interval_a, counts)


def _same_patches(scores: Mapping[str, Mapping[int, Scores]]) -> Scores:
    """Returns the first run's scores; raises UserError if runs or arms cannot be compared."""
    runs = [(arm, seed, run) for arm, by_seed in scores.items() for seed, run in by_seed.items()]
    if not runs:
        raise UserError("there must be at least one arm with scores; received none.")
    first_arm, first_seed, first = runs[0]
    for arm, by_seed in scores.items():
        if set(by_seed) != set(scores[first_arm]):
            raise UserError(
                f"every arm must have the same seeds; received {sorted(scores[first_arm])} for "
                f"{first_arm!r} and {sorted(by_seed)} for {arm!r}."
            )
    for arm, seed, run in runs:
        difference = _difference(first, run)
        if difference:
            raise UserError(
                f"Arm {arm!r}, seed {seed}: {difference} arm {first_arm!r}, seed {first_seed}; "
                "all arms must be tested on the same patches of one split."
            )
    return first


def _difference(first: Scores, run: Scores) -> str:
    """Returns how a run's patches differ from those of the first run, or an empty text."""
    if run.patch.size != first.patch.size:
        return f"there are scores for {run.patch.size} patches, not for {first.patch.size} as in"
    if not np.array_equal(run.patch, first.patch):
        if np.array_equal(np.sort(run.patch), np.sort(first.patch)):
            return "the patches are in a different order than in"
        at = int(np.argmax(run.patch != first.patch))
        return f"patch {str(run.patch[at])!r} is in the place of {str(first.patch[at])!r} in"
    for name in _FACTS:
        unlike = getattr(run, name) != getattr(first, name)
        if unlike.any():
            patch = str(run.patch[np.argmax(unlike)])
            return f"the {name} of patch {patch!r} differs from that in"
    return ""
