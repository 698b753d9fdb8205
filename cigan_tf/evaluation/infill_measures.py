"""Measures of infills; most are also computed for real patches from unseen patients.

They answer five questions. Are infills as close to real lesions as other real lesions are? Does a
classifier trained on real patches recognise the requested class? Are infills copies of training
patches? Are the edges of infills visible? Does an infill of its own class change a patch?
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cigan_tf.errors import UserError, prefix_errors
from cigan_tf.evaluation import (
    checks,
    counterfactual,
    fidelity,
    memorisation,
    nearest_patch,
    seam,
    two_sample,
)
from cigan_tf.evaluation.class_consistency import class_consistency
from cigan_tf.evaluation.prdc import prdc
from cigan_tf.patch_format import CLASS_NAMES

# Patches [n, p, p, 1] -> [n, d].
Features = Callable[[np.ndarray], np.ndarray]
# Patches with their masks -> [n].
PatchProbability = Callable[[Mapping[str, np.ndarray]], np.ndarray]

# Maximum number of patches of each kind in the search for training patches, which is the slowest
# part.
MAX_SEARCHED = 400


def judge_infills(
    real: Mapping[str, np.ndarray],
    infills: Mapping[str, np.ndarray],
    training: Iterable[Mapping[str, np.ndarray]],
    features: Features,
    probability: PatchProbability,
    threshold: float,
    seed: int,
    calibration: memorisation.Calibration,
    in_training: Mapping[str, np.ndarray] | None = None,
) -> dict:
    """Returns every measure of the infills and of real patches, ready for JSON.

    Args:
        real: held-out patches: `image`, `mask` float32 [n, p, p, 1], `label` and `patient_id` [n];
            the mask is that of the patch's lesion, or of another patch if it has no lesion. Each
            class has patches from at least two patients.
        infills: the same for infills, where `label` is the requested class and `patient_id` the
            patient of the surrounding tissue. Also `context`, the patch before infilling, whose
            class is the opposite of `label`, and `composed`, that patch infilled as its own class,
            both like `image`.
        training: training patches of the generator, in chunks as for
            `nearest_patch.nearest_training_patch`; with `group` if `in_training` is given.
        features: function from patches [n, p, p, 1] to features [n, d]; it receives lesion windows.
        probability: function from `real` or `infills` to the probability of malignancy, [n], given
            by a classifier trained only on real patches.
        threshold: threshold of that classifier, chosen on validation patches.
        seed: seed of all random draws.
        calibration: calibration of the search for copies, from `memorisation.calibrate`.
        in_training: infills of training patches: `image`, `mask` and `group`, such as the film,
            [n]. They are used only in the search for copies, and compared only with training
            patches of other groups.

    Returns:
        `window_px`, `threshold`, `seed` and `measures`, a list for `evaluation.quality_table`. Each
        entry has `measure`, `of_class`, `infills` and `real`. The last two have `value` and `n`,
        and some also `sd`, or `low` and `high`; `real` may be None. For medians, low and high are
        the 5 % and 95 % quantiles; for AUCs and agreement, the ends of the 95 % interval from
        resampled patients.

    Raises:
        UserError: a class has patches from fewer than two patients, or fewer than four patches in
            one of its halves; sizes or lengths differ; a mask is empty; features or probabilities
            are not finite.
    """
    for name, patches in (("real patches", real), ("infills", infills)):
        lengths = {key: len(values) for key, values in patches.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"{name}: arrays must have one entry per patch; received {lengths}.")
    for name, patches in (("real patches", real), ("infills", infills)):
        with prefix_errors(name):
            checks.check_labels(patches["label"], at_least=2)
    return {
        "window_px": int(np.shape(real["image"])[1]),
        "threshold": float(threshold),
        "seed": seed,
        "measures": [
            *_comparisons(real, infills, features, seed),
            *_consistency(real, infills, probability, threshold, seed),
            *_memorisation(infills, in_training, training, calibration, seed),
            *_seams(infills),
            *_changes(infills, seed),
        ],
    }


def compare(
    real: Mapping[str, np.ndarray],
    infills: Mapping[str, np.ndarray],
    features: Features,
    probability: PatchProbability,
    seed: int,
) -> list[dict]:
    """Returns the measures of `judge_infills` that need no training patches and no threshold.

    These are the comparisons of features and texture, `class_auc`, and the seams.
    """
    consistency = _consistency(real, infills, probability, 0.5, seed)
    return [
        *_comparisons(real, infills, features, seed),
        *(entry for entry in consistency if entry["measure"] == "class_auc"),
        *_seams(infills),
    ]


def searched_patches(patches: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Returns at most `MAX_SEARCHED` patches, drawn with the seed, for the search for copies."""
    drawn = np.random.default_rng(seed).permutation(len(patches["image"]))[:MAX_SEARCHED]
    return {name: np.asarray(values)[np.sort(drawn)] for name, values in patches.items()}


class _Side(NamedTuple):
    """Patches of one class for a comparison, with their features."""

    features: np.ndarray
    texture: np.ndarray
    patients: np.ndarray

    def chosen(self, which: np.ndarray) -> "_Side":
        return _Side(*(values[which] for values in self))


def _comparisons(real, infills, features: Features, seed: int) -> list[dict]:
    """Compares infills, and one half of the real patches, with the other half; by class."""
    window_px = np.shape(real["image"])[1]
    all_real, all_infills = (
        _Side(
            features(fidelity.lesion_window(patches["image"], patches["mask"], window_px)),
            two_sample.texture_numbers(patches["image"], patches["mask"]),
            np.asarray(patches["patient_id"]),
        )
        for patches in (real, infills)
    )
    infill_label = np.asarray(infills["label"])
    of_same_class = two_sample.texture_numbers(infills["composed"], infills["mask"])
    entries = []
    for label, name in enumerate(CLASS_NAMES):
        of_class = all_real.chosen(np.asarray(real["label"]) == label)
        with prefix_errors(f"{name.replace('_', '-')} patches"):
            first = fidelity.first_half(of_class.patients, seed)
            against, other = of_class.chosen(~first), of_class.chosen(first)
            # As for the real halves, no patient is on both sides.
            apart = ~np.isin(all_infills.patients, against.patients)
            candidates = np.flatnonzero((infill_label == label) & apart)
            # Distances depend on n: use as many infills as the real half has patches, if available.
            generated = all_infills.chosen(_drawn(candidates, len(other.features), seed))
            of_infills = _compared(generated, against, ("infills", "real"), seed)
            of_real = _compared(other, against, ("real", "other_real"), seed)
            # These have the surroundings of real patches of the class, so only the infill differs.
            chosen = _drawn(
                np.flatnonzero((infill_label != label) & apart), len(other.texture), seed
            )
            same_class = told_apart(
                (of_same_class[chosen], against.texture),
                (all_infills.patients[chosen], against.patients),
                two_sample.texture_classifier(seed),
                seed,
            )
            n = {"infills": len(chosen), "real": len(against.texture)}
        for measure, value in of_infills.items():
            entries.append(_entry(measure, name, value, of_real[measure]))
            if measure == "texture_auc":
                measured = {**same_class, "n": n}
                entries.append(_entry(f"{measure}_same_class", name, measured, of_real[measure]))
    return entries


def _compared(side: _Side, against: _Side, names: Sequence[str], seed: int) -> dict[str, dict]:
    """Returns each measure that compares two sides; `names` are the keys of `n`."""
    n = dict(zip(names, (len(side.features), len(against.features)), strict=True))
    kernel = fidelity.kernel_distance(side.features, against.features, seed)
    frechet = fidelity.frechet_distance(side.features, against.features)
    tests = {
        "texture_auc": ((side.texture, against.texture), two_sample.texture_classifier(seed)),
        "feature_auc": ((side.features, against.features), two_sample.feature_classifier()),
    }
    patients = side.patients, against.patients
    measures = {
        "kernel_distance": {"value": kernel.distance, "sd": kernel.sd},
        "frechet_distance": {"value": frechet.distance},
        **{
            measure: {"value": value}
            for measure, value in prdc(against.features, side.features)._asdict().items()
        },
        **{
            measure: told_apart(values, patients, classifier, seed)
            for measure, (values, classifier) in tests.items()
        },
    }
    return {measure: {**value, "n": n} for measure, value in measures.items()}


def _drawn(candidates: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns `count` of the candidates, or all if there are fewer, in random order."""
    return candidates[np.random.default_rng(seed).permutation(len(candidates))[:count]]


def told_apart(values, patients, classifier, seed: int) -> dict:
    """Returns the AUC of a classifier between infills and real patches.

    Args:
        values: what the classifier sees, of the infills [n, d] and of the real patches [m, d].
        patients: their patients, [n] and [m].
        classifier: as for `two_sample.two_sample_test`.
        seed: seed of the folds and resamples.
    """
    generated = np.repeat([True, False], [len(side) for side in values])
    found = two_sample.two_sample_test(
        np.concatenate(values), generated, np.concatenate(patients), classifier, seed
    )
    if found is None:  # too few patients for a test
        return {"value": None}
    return {"value": found.auc, **found.interval._asdict()}


def _consistency(
    real, infills, probability: PatchProbability, threshold: float, seed
) -> list[dict]:
    """Measures how well the class is recognised; infills should not be easier than real lesions."""
    of_infills, of_real = (
        _recognised(patches, probability(patches), threshold, seed) for patches in (infills, real)
    )
    return [
        _entry(measure, of_class, side, of_real[measure, of_class])
        for (measure, of_class), side in of_infills.items()
    ]


def _recognised(patches, probabilities, threshold: float, seed: int) -> dict[tuple, dict]:
    found = class_consistency(
        patches["label"], probabilities, threshold, patches["patient_id"], seed
    )
    counts = {name: getattr(found, f"num_{name}") for name in ("malignant", "non_malignant")}
    return {
        ("class_auc", "both"): {"value": found.auc, **found.interval._asdict(), "n": counts},
        **{
            ("agreement", name): {
                "value": getattr(found, f"agreement_{name}"),
                **getattr(found, f"interval_{name}")._asdict(),
                "n": {name: counts[name]},
            }
            for name in CLASS_NAMES
        },
    }


def _memorisation(
    infills, in_training, training, known: memorisation.Calibration, seed: int
) -> list[dict]:
    sets = {"": searched_patches(infills, seed)}
    if in_training is not None:
        sets["_in_training_tissue"] = searched_patches(in_training, seed)
    found = memorisation.audit(sets, training, known)

    def correlation(nearest: nearest_patch.Nearest, what: str) -> dict:
        n = {what: len(nearest.index), "training": known.num_training}
        return {**_median(nearest.correlation), "n": n}

    false_alarms = {"value": known.false_alarms, "n": {"real": known.num_tested}}
    entries = []
    for name, share in found.share_copied.items():
        nearest = found.nearest[name]
        entries += [
            _entry(
                f"nearest_training_patch{name}",
                "both",
                correlation(nearest, "infills"),
                correlation(known.held_out, "real"),
            ),
            _entry(
                f"share_copied{name}",
                "both",
                {"value": share, "n": {"infills": len(nearest.index)}},
                false_alarms,
            ),
        ]
    return [
        *entries,
        *(
            _entry(
                f"recall_{kind}",
                "both",
                {"value": recall, "n": {"planted_copies": known.num_planted}},
                None,
            )
            for kind, recall in known.recall.items()
        ),
    ]


def _seams(infills) -> list[dict]:
    """Compares the seam of each infill with that of the same mask in the patch before infilling."""
    of_infills, of_real = (
        seam.seam_score(infills[name], infills["mask"]) for name in ("image", "context")
    )
    # A mask without an edge, or with flat tissue around it, has no score.
    scored = np.isfinite(of_infills) & np.isfinite(of_real) & (of_real > 0)
    entries = []
    for label, name in enumerate(CLASS_NAMES):
        chosen = scored & (np.asarray(infills["label"]) == label)
        n = {"infills": int(chosen.sum())}
        entries += [
            _entry(
                "seam_score",
                name,
                {**_median(of_infills[chosen]), "n": n},
                {**_median(of_real[chosen]), "n": {"real": n["infills"]}},
            ),
            _entry(
                "seam_ratio", name, {**_median(of_infills[chosen] / of_real[chosen]), "n": n}, None
            ),
        ]
    return entries


def _changes(infills, seed: int) -> list[dict]:
    """Compares the change by an infill of the same class with that by another patient's patch."""
    own = 1 - np.asarray(infills["label"])
    entries = []
    for label, name in enumerate(CLASS_NAMES):
        of_class = np.flatnonzero(own == label)
        context, mask = (infills[what][of_class] for what in ("context", "mask"))
        paired, partners = counterfactual.of_other_patients(infills["patient_id"][of_class], seed)
        of_real = counterfactual.mean_change(context[paired], context[partners], mask[paired])
        of_infills = counterfactual.mean_change(infills["composed"][of_class], context, mask)
        entries.append(
            _entry(
                "composition",
                name,
                {**_median(of_infills), "n": {"infills": len(of_infills)}},
                {**_median(of_real), "n": {"real": len(of_real)}},
            )
        )
    return entries


def _median(values: np.ndarray) -> dict:
    if not values.size:
        return {"value": None}
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {"value": float(middle), "low": float(low), "high": float(high)}


def _entry(measure: str, of_class: str, infills: dict, real: dict | None) -> dict:
    return {"measure": measure, "of_class": of_class, "infills": infills, "real": real}
