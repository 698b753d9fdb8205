"""Exports a trained classifier of patches as a SavedModel with predict and classify signatures.

    python -m export.classifier --classifier=FILE.keras --output_dir=DIR

This writes DIR/<version>/ and the files that a server needs. The exported model does not depend on
this package. It includes provenance.json, the record of the classifier, if the classifier has one.
"""

import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from absl import flags
from etils import epath

from cigan_tf import command_line, tensorflow_loading
from cigan_tf.errors import UserError

from .serving import versions

if TYPE_CHECKING:
    import keras

MODEL_NAME = "cigan_classifier"


def export(
    classifier: "keras.Model", output_dir: str | os.PathLike, record: dict[str, Any] | None = None
) -> pathlib.Path:
    """Writes a classifier to `output_dir`/<next version>/.

    Signatures, for any batch size N and the classifier's patch size p:
        serving_default: image float32 [N,p,p,1] in [0,1] -> malignant float32 [N], the probability.
        classify (TensorFlow Serving's Classify call): inputs string [N], each a tf.Example whose
            feature `image/encoded` is a greyscale PNG of 8 or 16 bits -> classes string [N,2],
            scores float32 [N,2].

    Args:
        classifier: maps images [N, p, p, 1] in [0, 1] to probabilities of malignancy, [N, 1] or
            [N].
        output_dir: folder of the model's versions.
        record: provenance of the classifier, for assets.extra/provenance.json.

    Returns:
        Path of the version's folder.

    Raises:
        UserError: the classifier does not take square grey patches, or `output_dir` cannot be
            written or contains an invalid models.config; nothing is exported then.
    """
    # Imported here, so that a command's flags are parsed before TensorFlow loads.
    from cigan_tf import exported_generator, provenance

    from .graph import classifier_signatures
    from .serving import serving_files

    shape = tuple(classifier.input_shape)
    if len(shape) != 4 or shape[1] is None or shape[1] != shape[2] or shape[3] != 1:
        raise UserError(
            "A classifier must take patches of shape [N, p, p, 1]. Received: one that takes "
            f"{shape}."
        )
    # Checked before a version is published: if the list were invalid, the version would remain.
    serving_files.read_models_config(epath.Path(output_dir))
    archive = classifier_signatures.build_archive(classifier, shape[1])
    inputs, examples = classifier_signatures.warmup_inputs(shape[1])

    def write(folder: pathlib.Path) -> None:
        archive.write_out(str(folder), verbose=False)
        classifier_signatures.declare_classify(folder)
        requests = [
            serving_files.predict_request(MODEL_NAME, "serving_default", inputs),
            serving_files.classification_request(MODEL_NAME, "classify", examples),
        ]
        serving_files.write_warmup(folder, requests)
        if record is not None:
            provenance.write(folder / exported_generator.PROVENANCE_FILE, record)

    target = versions.write_next(output_dir, write)
    serving_files.write_server_files(target.parent, MODEL_NAME)
    return target


def main() -> None:
    """Exports the classifier given by the flags."""
    if flags.FLAGS.classifier is None:
        raise UserError("Pass --classifier=FILE.keras, a trained classifier.")
    path = pathlib.Path(flags.FLAGS.classifier)
    if not path.is_file():
        raise UserError(f"There is no classifier {str(path)!r}; train one with --mode=classify.")
    tensorflow_loading.load_tensorflow()
    import keras

    from cigan_tf import provenance

    try:
        classifier = keras.saving.load_model(path, compile=False)
    except (ValueError, OSError) as error:
        raise UserError(
            f"{str(path)!r} is not a classifier ({error}); pass a .keras file of --mode=classify."
        ) from None
    record = provenance.read(path.parent / provenance.FILE_NAME)
    if record is None:
        print(
            f"warning: there is no {provenance.FILE_NAME} next to {str(path)!r}: the SavedModel "
            "will have no record of the classifier's training data.",
            file=sys.stderr,
        )
    print(export(classifier, flags.FLAGS.output_dir or path.parent / "saved_model", record))


def run() -> None:
    """Defines the command's flags and runs the command.

    The flags are defined here, not on import, because other commands use the same names.
    """
    flags.DEFINE_string("classifier", None, "A trained classifier, a .keras file.")
    flags.DEFINE_string(
        "output_dir", None, "Folder for <version>/; default: saved_model next to the classifier."
    )
    command_line.run(main)


if __name__ == "__main__":
    run()
