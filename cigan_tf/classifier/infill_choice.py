"""Selection of the infills for a classifier, by number per patch and by confirmation."""

import json

import keras
import numpy as np
from etils import epath

from cigan_tf import file_io, run_folder
from cigan_tf.classifier import batches
from cigan_tf.classifier.synthetic_set import SyntheticSet
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.patch_format import CLASS_NAMES

# The confirming classifier was trained on batches in which half of the patches are malignant.
_THRESHOLD = 0.5


def choose_infills(
    config: Config, seed: int, synthetic: SyntheticSet, confirming: epath.Path | None
) -> np.ndarray:
    """Selects the patches of a synthetic set that a classifier is trained on.

    Args:
        config: `config.classifier.synthetic_per_real` is the number of infills per patch.
        seed: seed of the classifier, for the random draw.
        synthetic: the set.
        confirming: path of a classifier (classifier.keras) that must confirm the class of each
            drawn patch; a probability of 0.5 or more counts as malignant. None: use all drawn
            patches.

    Returns:
        True for the selected patches, bool [num_patches], in the order of the set.

    Raises:
        UserError: the classifier confirms no infill of a class.
    """
    infill, label = synthetic.index.infill, synthetic.index.label
    used = draw_infills(infill, config.classifier.synthetic_per_real, seed)
    if confirming is None:
        return used
    with file_io.local_file(confirming) as path:
        classifier = keras.models.load_model(path, compile=False)
    images = batches.decoded_images(config, synthetic.encoded_patches(used))
    malignant = np.concatenate(
        [classifier.predict_on_batch(batch)[:, 0] >= _THRESHOLD for batch in images]
    )
    confirmed = used.copy()
    confirmed[used] = malignant == label[used]
    for of_class, name in enumerate(CLASS_NAMES):
        if not confirmed[label == of_class].any():
            raise UserError(
                f"The classifier {str(confirming)!r} confirms none of the "
                f"{np.count_nonzero(label[used] == of_class)} {name.replace('_', '-')} infills; "
                "train it longer, name another arm in --confirmed_by, or omit that flag."
            )
    return confirmed


def draw_infills(infill: np.ndarray, synthetic_per_real: float, seed: int) -> np.ndarray:
    """Draws the infills to use, by their number only.

    Args:
        infill: number of each infill among the infills of its patch, from 0; int [n].
        synthetic_per_real: infills per patch. With 1.5, the first infill of every patch is used,
            and the second infill of a random half of the patches.
        seed: seed of the draw.

    Returns:
        True for the drawn infills, bool [n].
    """
    whole = int(synthetic_per_real)
    used = infill < whole
    (others,) = np.nonzero(infill == whole)
    num_drawn = round((synthetic_per_real - whole) * others.size)
    used[np.random.default_rng(seed).permutation(others)[:num_drawn]] = True
    return used


def write_counts(run_dir: epath.Path, synthetic: SyntheticSet, used: np.ndarray) -> None:
    """Writes the number of infills used to train a classifier, by class, and the set's size."""
    counts = np.bincount(synthetic.index.label[used], minlength=len(CLASS_NAMES))
    content = {
        "used": dict(zip(CLASS_NAMES, counts.tolist(), strict=True)),
        "num_patches": synthetic.facts["num_patches"],
    }
    file_io.write_whole(
        run_dir / run_folder.INFILLS_USED_FILE, json.dumps(content, indent=2) + "\n"
    )
