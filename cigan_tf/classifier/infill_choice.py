"""Which infills of a synthetic set a classifier is trained on: so many per patch, or confirmed."""

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

# Half of the patches of each batch were malignant when the confirming classifier was trained.
_THRESHOLD = 0.5


def choose_infills(
    config: Config, seed: int, synthetic: SyntheticSet, confirming: epath.Path | None
) -> np.ndarray:
    """Returns which patches of a synthetic set are used.

    Args:
        config: `config.classifier` says how many per patch.
        seed: of the classifier: what is drawn depends on it.
        synthetic: the set.
        confirming: classifier.keras of a classifier; of the patches drawn only those are used whose
            class it confirms: a probability of malignancy of 0.5 and more is malignant. None: all.

    Returns:
        bool [num_patches], in the order made.

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
                f"The classifier {str(confirming)!r} confirms none of "
                f"{np.count_nonzero(label[used] == of_class)} {name} infills; train it for longer, "
                "pass --confirmed_by of another arm, or leave it out."
            )
    return confirmed


def draw_infills(infill: np.ndarray, synthetic_per_real: float, seed: int) -> np.ndarray:
    """Returns which infills are used by their number alone, bool [n].

    Args:
        infill: which infill of its patch each one is, counted from 0; int [n].
        synthetic_per_real: infills per patch. Of 1.5 the first of every patch is used, and the
            second of half of the patches, drawn at random.
        seed: of the draw.
    """
    whole = int(synthetic_per_real)
    used = infill < whole
    (others,) = np.nonzero(infill == whole)
    num_drawn = round((synthetic_per_real - whole) * others.size)
    used[np.random.default_rng(seed).permutation(others)[:num_drawn]] = True
    return used


def write_counts(run_dir: epath.Path, synthetic: SyntheticSet, used: np.ndarray) -> None:
    """Writes how many infills a classifier is trained on, by class, and of how many."""
    counts = np.bincount(synthetic.index.label[used], minlength=len(CLASS_NAMES))
    content = {
        "used": dict(zip(CLASS_NAMES, counts.tolist(), strict=True)),
        "num_patches": synthetic.facts["num_patches"],
    }
    file_io.write_whole(
        run_dir / run_folder.INFILLS_USED_FILE, json.dumps(content, indent=2) + "\n"
    )
