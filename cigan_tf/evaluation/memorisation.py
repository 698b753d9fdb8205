"""Does the generator copy its training set? Compares infills with their nearest training patches.

The correlation with the nearest training patch decides whether an infill is a copy. The audit also
reports its own accuracy, on planted copies that it must find and on patches from unseen patients
that it must not count as copies. It does not find copies of a lesion that are more than 3 px from
the lesion's place in the training patch.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from cigan_tf.errors import UserError
from cigan_tf.evaluation import fidelity
from cigan_tf.evaluation.nearest_patch import (
    ORIENTATIONS,
    SHIFT_PX,
    Nearest,
    chunks,
    nearest_training_patch,
    oriented,
)

FALSE_ALARMS = 0.01
# Standard deviation of the noise in planted copies, as a share of that of the copied region.
_NOISE = 0.1
# Held-out patches used for planted copies of each kind.
_MAX_PLANTED = 100

PLANTED = ("plain", "flipped", "shifted", "noisy")


class Calibration(NamedTuple):
    """Results of searches for which the truth is known, and the resulting threshold.

    Attributes:
        held_out: nearest training patch of each held-out real patch.
        threshold: correlation above which a patch counts as a copy, chosen on half of the held-out
            patients for 1 % false alarms.
        false_alarms: share of the held-out patches of the other half that are above the threshold.
        num_tested: number of held-out patches of the other half.
        recall: share of the planted copies above the threshold, by kind (`PLANTED`).
        num_planted: number of planted copies of each kind.
        num_training: number of training patches searched.
    """

    held_out: Nearest
    threshold: float
    false_alarms: float
    num_tested: int
    recall: dict[str, float]
    num_planted: int
    num_training: int


class Audit(NamedTuple):
    """Result of `audit`, by name of the set of infills.

    Attributes:
        nearest: nearest training patch of each infill.
        share_copied: share of the infills above the calibration's threshold.
    """

    nearest: dict[str, Nearest]
    share_copied: dict[str, float]


def calibrate(
    held_out: Mapping[str, np.ndarray], training: Iterable[Mapping[str, np.ndarray]], seed: int
) -> Calibration:
    """Determines when a patch counts as a copy, and how well the search finds copies.

    Copies are planted in held-out patches: the pixels inside the mask are replaced by those of a
    training patch, which is unchanged, turned or mirrored, shifted by up to 3 px, or has added
    noise of 0.1 SD.

    Args:
        held_out: real patches from patients outside the training split, with masks of about the
            same sizes as those of the infills: `image`, `mask`, `patient_id`.
        training: see `nearest_training_patch`.
        seed: seed of the halves and of the planted copies.

    Raises:
        UserError: see `nearest_training_patch`; no held-out patch, or only one patient.
    """
    if not len(held_out["image"]):
        raise UserError("there must be held-out patches; received none.")
    of_held_out = nearest_training_patch(held_out["image"], held_out["mask"], training)
    calibrating = fidelity.first_half(held_out["patient_id"], seed)
    threshold = _threshold(of_held_out.correlation[calibrating])
    hosts = np.random.default_rng(seed).permutation(len(held_out["image"]))[:_MAX_PLANTED]
    images, masks = held_out["image"][hosts], held_out["mask"][hosts]
    recall = {}
    for kind in PLANTED:
        copies = planted_copies(images, masks, training, kind, seed)
        found = nearest_training_patch(copies, masks, training)
        recall[kind] = float(np.mean(found.correlation > threshold))
    return Calibration(
        of_held_out,
        threshold,
        false_alarms=float(np.mean(of_held_out.correlation[~calibrating] > threshold)),
        num_tested=int(np.count_nonzero(~calibrating)),
        recall=recall,
        num_planted=len(hosts),
        num_training=sum(len(chunk["image"]) for chunk in training),
    )


def audit(
    infills: Mapping[str, Mapping[str, np.ndarray]],
    training: Iterable[Mapping[str, np.ndarray]],
    calibration: Calibration,
) -> Audit:
    """Finds the infills that are copies of training patches.

    Args:
        infills: sets of infills by name, each with `image` and `mask`. A set of infills in training
            patches also has `group` [n]; such an infill is not compared with training patches of
            its own group.
        training: see `nearest_training_patch`; the same as for the calibration.
        calibration: result of `calibrate` for masks of about the same sizes.

    Raises:
        UserError: see `nearest_training_patch`; a set without patches.
    """
    counts = {name: len(patches["image"]) for name, patches in infills.items()}
    if not all(counts.values()):
        raise UserError(f"every set must have patches; received {counts}.")
    nearest = {
        name: nearest_training_patch(
            patches["image"], patches["mask"], training, patches.get("group")
        )
        for name, patches in infills.items()
    }
    return Audit(
        nearest,
        {
            name: float(np.mean(found.correlation > calibration.threshold))
            for name, found in nearest.items()
        },
    )


def _threshold(correlation: np.ndarray) -> float:
    """Returns the value that at most 1 % of new patches of the same kind exceed.

    Fewer than 99 patches are too few for that. The result is then their largest correlation, which
    a new patch exceeds with a probability of 1 / (n + 1), where n is the number of patches.

    References:
        Vovk, Gammerman, Shafer. Algorithmic Learning in a Random World. 2005 (conformal quantile).
    """
    rank = int(np.ceil((len(correlation) + 1) * (1 - FALSE_ALARMS)))
    return float(np.sort(correlation)[min(rank, len(correlation)) - 1])


def planted_copies(
    images: np.ndarray,
    masks: np.ndarray,
    training: Iterable[Mapping[str, np.ndarray]],
    kind: str,
    seed: int,
) -> np.ndarray:
    """Returns images with part of a training patch pasted into each mask, changed as `kind` says.

    Args:
        images: [n, p, p, 1].
        masks: {0, 1}, [n, p, p, 1].
        training: see `nearest_training_patch`.
        kind: one of `PLANTED`.
        seed: seed of the choice of training patches, the orientations, the shifts and the noise.
    """
    rng = np.random.default_rng(seed)
    num_training = sum(len(chunk["image"]) for chunk in training)
    chosen = rng.integers(num_training, size=len(images))
    copies = np.array(images, np.float32)
    for first, chunk, _ in chunks(training, copies.shape[1:]):
        for i in np.flatnonzero((chosen >= first) & (chosen < first + len(chunk))):
            source, inside = chunk[chosen[i] - first], np.asarray(masks[i, ..., 0]) != 0
            if kind == "flipped":
                source = oriented(source, int(rng.integers(1, ORIENTATIONS)))
            elif kind == "shifted":
                down, right = rng.integers(-SHIFT_PX, SHIFT_PX + 1, size=2)
                padded = np.pad(source, SHIFT_PX, mode="edge")
                rows, columns = SHIFT_PX - down, SHIFT_PX - right
                source = padded[rows : rows + len(source), columns : columns + len(source)]
            elif kind == "noisy":
                source = source + rng.normal(0, _NOISE * source[inside].std(), source.shape)
            copies[i, ..., 0] = np.where(inside, source, copies[i, ..., 0])
    return copies
