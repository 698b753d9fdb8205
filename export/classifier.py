"""Exports a trained classifier of patches as a SavedModel with predict and classify signatures.

    python -m export.classifier --classifier=FILE.keras --output_dir=DIR

writes DIR/<version>/ and the files that a server needs. The folder does not depend on this package.
It includes provenance.json, the record of the classifier, if there is one.
"""

from cigan_tf import tensorflow_loading

tensorflow_loading.load_tensorflow()

import os
import pathlib
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from tensorflow.core.protobuf import saved_model_pb2

from cigan_tf import command_line, exported_generator, provenance
from cigan_tf.errors import UserError
from cigan_tf.patch_format import CLASS_NAMES

from .graph import input_checks, png
from .serving import serving_files, versions

MODEL_NAME = "cigan_classifier"
IMAGE_FEATURE = "image/encoded"
_CLASSIFY_METHOD = "tensorflow/serving/classify"


def export(
    classifier: keras.Model, output_dir: str | os.PathLike, record: dict[str, Any] | None = None
) -> pathlib.Path:
    """Writes a classifier to `output_dir`/<next version>/.

    Signatures, batch size N free, p the patch size:
        serving_default: image float32 [N,p,p,1] in [0,1] -> malignant float32 [N], the probability.
        classify (TensorFlow Serving's Classify call): inputs string [N], each a tf.Example whose
            feature `image/encoded` is a grey PNG of 8 or 16 bits -> classes string [N,2], scores
            float32 [N,2].

    Args:
        classifier: from image [N, p, p, 1] in [0, 1] to the probability of malignancy, [N, 1] or
            [N].
        output_dir: the model's folder.
        record: provenance of the classifier, for assets.extra/provenance.json.

    Returns:
        Path of the folder.

    Raises:
        UserError: the model's input is not grey square patches, or `output_dir` cannot be written.
    """
    shape = tuple(classifier.input_shape)
    if len(shape) != 4 or shape[1] is None or shape[1] != shape[2] or shape[3] != 1:
        raise UserError(f"A classifier takes patches [N, p, p, 1]; this one takes {shape}.")
    side = shape[1]
    archive = _archive(classifier, side)

    def write(folder: pathlib.Path) -> None:
        archive.write_out(str(folder), verbose=False)
        _declare_classify(folder)
        serving_files.write_warmup(folder, _warmup_requests(side))
        if record is not None:
            provenance.write(folder / exported_generator.PROVENANCE_FILE, record)

    target = versions.write_next(output_dir, write)
    serving_files.write_server_files(target.parent, MODEL_NAME)
    return target


def _archive(classifier: keras.Model, side: int) -> keras.export.ExportArchive:
    def malignant(image):
        return tf.reshape(classifier(image, training=False), [-1])

    def serving_default(image):
        shapes = input_checks.shape_checks(image=(image, (side, side, 1)))
        (image,) = input_checks.after(shapes, image)
        values = input_checks.value_checks(image=image)
        return {"malignant": malignant(*input_checks.after(values, image))}

    def classify(inputs):
        features = {IMAGE_FEATURE: tf.io.FixedLenFeature([], tf.string)}
        (inputs,) = input_checks.after(input_checks.shape_checks(inputs=(inputs, ())), inputs)
        encoded = tf.io.parse_example(inputs, features, name="parse_inputs")[IMAGE_FEATURE]
        probability = malignant(png.decode(encoded, IMAGE_FEATURE, side))
        names = tf.tile(tf.constant([CLASS_NAMES]), [tf.size(probability), 1])
        return {"classes": names, "scores": tf.stack([1 - probability, probability], axis=1)}

    archive = keras.export.ExportArchive()
    archive.track(classifier)
    image_spec = tf.TensorSpec((None, side, side, 1), tf.float32, "image")
    archive.add_endpoint("serving_default", serving_default, input_signature=[image_spec])
    inputs_spec = tf.TensorSpec((None,), tf.string, "inputs")
    archive.add_endpoint("classify", classify, input_signature=[inputs_spec])
    return archive


def _declare_classify(folder: pathlib.Path) -> None:
    """Marks `classify` as a Classify signature; Keras writes only Predict signatures."""
    path = folder / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (meta_graph,) = saved_model.meta_graphs
    meta_graph.signature_def["classify"].method_name = _CLASSIFY_METHOD
    path.write_bytes(saved_model.SerializeToString())


def _warmup_requests(side: int) -> list:
    grey = np.full((1, side, side, 1), 0.5, np.float32)
    (encoded,) = png.encode(grey).numpy()
    example = tf.train.Example()
    example.features.feature[IMAGE_FEATURE].bytes_list.value.append(encoded)
    return [
        serving_files.predict_request(MODEL_NAME, "serving_default", {"image": grey}),
        serving_files.classification_request(MODEL_NAME, "classify", [example.SerializeToString()]),
    ]


def main() -> None:
    """Exports the classifier given by the flags."""
    if flags.FLAGS.classifier is None:
        raise UserError("Pass --classifier=FILE.keras, a trained classifier.")
    path = pathlib.Path(flags.FLAGS.classifier)
    if not path.is_file():
        raise UserError(f"There is no classifier {str(path)!r}; train one with --mode=classify.")
    try:
        classifier = keras.saving.load_model(path, compile=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{str(path)!r} is not a classifier: {error}") from None
    record = provenance.read(path.parent / provenance.FILE_NAME)
    if record is None:
        print(
            f"warning: there is no {provenance.FILE_NAME} next to {str(path)!r}: the SavedModel "
            "will have no record of the classifier's training data.",
            file=sys.stderr,
        )
    print(export(classifier, flags.FLAGS.output_dir or path.parent / "saved_model", record))


def run() -> None:
    """Defines the command's flags, whose names other programs use too, and runs the command."""
    flags.DEFINE_string("classifier", None, "A trained classifier, a .keras file.")
    flags.DEFINE_string(
        "output_dir", None, "Folder for <version>/; default: saved_model next to the classifier."
    )
    command_line.run(main)


if __name__ == "__main__":
    run()
