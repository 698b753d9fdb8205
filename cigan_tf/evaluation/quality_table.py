"""How good the infills are: the measures kept in infill_quality.json, as rows for people."""

import json

from etils import epath

from cigan_tf.errors import UserError
from cigan_tf.evaluation.table_text import TextTable

# By the measure's name in the file: what it is, and what a good generator has.
MEASURES = {
    "kernel_distance": ("KID inside the lesion window", "as the real floor, about 0"),
    "frechet_distance": ("FID inside the lesion window", "as the real floor"),
    "precision": ("share of them among real lesions (precision)", "as real"),
    "recall": ("share of real lesions among them (recall)", "as real"),
    "density": ("how densely real lesions lie around them (density)", "as real"),
    "coverage": ("share of real lesions with one of them near (coverage)", "as real"),
    "texture_auc": (
        "AUC of telling them from real lesions by texture, brightness and edge",
        "as real, 0.5 in its interval",
    ),
    "feature_auc": (
        "AUC of telling them from real lesions by their features",
        "as real, 0.5 in its interval",
    ),
    "class_auc": (
        "AUC of the class asked for, by a classifier of real patches (effectiveness)",
        "in real's interval: 0.5 ignores the class, above is too easy",
    ),
    "agreement": (
        "share that it calls what was asked for (effectiveness)",
        "in real's interval, not above either",
    ),
    "nearest_training_patch": (
        "correlation of detail with the nearest training patch",
        "as real",
    ),
    "share_copied": ("share that counts as copies of training patches", "as real, about 0.01"),
    "nearest_training_patch_in_training_tissue": (
        "the same of infills in training patches, other films searched",
        "as real",
    ),
    "share_copied_in_training_tissue": (
        "share of infills in training patches that counts as copies",
        "as real, about 0.01",
    ),
    "recall_plain": ("planted copies that are found, as they are", "about 1"),
    "recall_flipped": ("planted copies that are found, flipped or turned", "about 1"),
    "recall_shifted": ("planted copies that are found, shifted by up to 3 px", "about 1"),
    "recall_noisy": ("planted copies that are found, with noise of 0.1 SD", "about 1"),
    "seam_score": ("gradient across the mask's edge over the tissue's", "as real"),
    "seam_ratio": ("the same over that of the patch before it was infilled", "about 1"),
    "composition": (
        "change of grey level by an infill of the own class (composition)",
        "0; real: another lesion in its place",
    ),
}


def read(path: epath.Path) -> TextTable:
    """Returns the measures with their real floors, each with what it was computed on.

    Args:
        path: JSON with `measures`, a list of `measure`, `of_class`, `infills` and `real`; either
            side is null, or has `value`, maybe `sd` or `low` and `high`, and `n`, how many patches
            by their kind.

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
            f"The file {str(path)!r} holds no measures of infills ({type(error).__name__}: "
            f"{error}); delete it, and run the experiment again."
        ) from None
    return TextTable(
        f"Infills beside real patches, features of {quality.get('features', 'one network')}",
        ["measure", "class", "infills", "of", "real floor", "of", "good is"],
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
    return value, ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in side["n"].items())
