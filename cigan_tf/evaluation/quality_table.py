"""Table of the infill measures in infill_quality.json."""

import json

from etils import epath

from cigan_tf.errors import UserError
from cigan_tf.evaluation.table_text import TextTable

# Description and ideal value of each measure, by its name in the file.
MEASURES = {
    "kernel_distance": ("KID inside the lesion window", "equal to the real floor, about 0"),
    "frechet_distance": ("FID inside the lesion window", "equal to the real floor"),
    "precision": ("share of infills among real lesions (precision)", "equal to real"),
    "recall": ("share of real lesions among infills (recall)", "equal to real"),
    "density": ("density of real lesions around infills (density)", "equal to real"),
    "coverage": ("share of real lesions with a close infill (coverage)", "equal to real"),
    "texture_auc": (
        "AUC of infills against real lesions, by texture, brightness and edge",
        "equal to real, 0.5 in its interval",
    ),
    "texture_auc_same_class": (
        "AUC of infills of the same class against real patches, by texture, brightness and edge",
        "equal to real, 0.5 in its interval",
    ),
    "feature_auc": (
        "AUC of infills against real lesions, by features",
        "equal to real, 0.5 in its interval",
    ),
    "class_auc": (
        "AUC of the requested class, by a classifier trained on real patches (effectiveness)",
        "in the real interval; 0.5: class ignored; above: class exaggerated",
    ),
    "agreement": (
        "share classified as the requested class (effectiveness)",
        "in the real interval, not above",
    ),
    "nearest_training_patch": (
        "correlation of detail with the nearest training patch",
        "equal to real",
    ),
    "share_copied": ("share counted as copies of training patches", "equal to real, about 0.01"),
    "nearest_training_patch_in_training_tissue": (
        "correlation of detail with the nearest training patch of another film, for infills in "
        "training patches",
        "equal to real",
    ),
    "share_copied_in_training_tissue": (
        "share of infills in training patches counted as copies",
        "equal to real, about 0.01",
    ),
    "recall_plain": ("planted copies found, unchanged", "about 1"),
    "recall_flipped": ("planted copies found, flipped or rotated", "about 1"),
    "recall_shifted": ("planted copies found, shifted by up to 3 px", "about 1"),
    "recall_noisy": ("planted copies found, with noise of 0.1 SD", "about 1"),
    "seam_score": ("gradient across the mask's edge, relative to the tissue", "equal to real"),
    "seam_ratio": ("the same, relative to the patch before infilling", "about 1"),
    "composition": (
        "change of grey level by an infill of the same class (composition)",
        "0; real: another patient's patch",
    ),
}


def read(path: epath.Path) -> TextTable:
    """Returns the measures with their real floors and sample sizes.

    Args:
        path: JSON with `measures`, a list of objects with `measure`, `of_class`, `infills` and
            `real`. The last two are null, or have `value`, `n` (the number of patches by kind) and
            optionally `sd`, or `low` and `high`.

    Raises:
        UserError: the file is not such a table.
    """
    try:
        quality = json.loads(path.read_text())
        rows = [
            [
                MEASURES[entry["measure"]][0],
                entry["of_class"].replace("_", "-"),
                *(text for side in ("infills", "real") for text in _side(entry[side])),
                MEASURES[entry["measure"]][1],
            ]
            for entry in quality["measures"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"The file {str(path)!r} has no valid measures of infills ({type(error).__name__}: "
            f"{error}); delete the file and run the experiment again."
        ) from None
    return TextTable(
        f"Infills and real patches, features of {quality.get('features', 'one network')}",
        ["measure", "class", "infills", "computed on", "real floor", "computed on", "ideal"],
        rows,
    )


def _side(side: dict | None) -> tuple[str, str]:
    if side is None or side["value"] is None:
        return "", ""
    value = f"{side['value']:.3g}"
    if side.get("sd") is not None:
        value += f" ± {side['sd']:.2g}"
    if side.get("low") is not None:
        value += f" ({side['low']:.3g} to {side['high']:.3g})"
    return value, ", ".join(
        f"{n:,} {what.replace('non_malignant', 'non-malignant').replace('_', ' ')}"
        for what, n in side["n"].items()
    )
