"""Loads a SavedModel and infills a patch where the package cannot be imported: a command."""

import sys

import numpy as np
import tensorflow as tf

# Also if they have been imported before: the process may be a fork.
PACKAGES = ("cigan_tf", "cigan_export", "export", "tfds_ddsm")


def main() -> None:
    """Checks the infill of the SavedModel in the folder given by the argument."""
    loaded = [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
    sys.modules.update(dict.fromkeys([*PACKAGES, *loaded]))
    infill = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
    side = infill.structured_input_signature[1]["image"].shape[1]
    image = np.full((1, side, side, 1), 0.5, np.float32)
    mask = np.zeros_like(image)
    mask[:, 8:16, 8:16] = 1
    inputs = {"image": image, "mask": mask, "label": np.int32([1]), "seed": np.int32([0])}
    infilled = infill(**{k: tf.constant(v) for k, v in inputs.items()})["infilled"].numpy()
    assert (infilled[mask == 0] == 0.5).all()
    assert (infilled[mask == 1] != 0.5).any()


if __name__ == "__main__":
    main()
