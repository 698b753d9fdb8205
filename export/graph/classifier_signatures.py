"""The classifier's signatures: probabilities for arrays, and classes for PNGs."""

import pathlib

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from cigan_tf.patch_format import CLASS_NAMES

from . import input_checks, png

IMAGE_FEATURE = "image/encoded"
_CLASSIFY_METHOD = "tensorflow/serving/classify"


def build_archive(classifier: keras.Model, side: int) -> keras.export.ExportArchive:
    """Returns both signatures, ready for writing; `export.classifier.export` lists them."""

    def score(image):
        return tf.reshape(classifier(image, training=False), [-1])

    def malignant(image):
        return input_checks.never_on_empty(score, image)

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


def declare_classify(folder: pathlib.Path) -> None:
    """Marks `classify` as a Classify signature, because Keras writes only Predict signatures."""
    path = folder / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (meta_graph,) = saved_model.meta_graphs
    meta_graph.signature_def["classify"].method_name = _CLASSIFY_METHOD
    path.write_bytes(saved_model.SerializeToString())


def warmup_inputs(side: int) -> tuple[dict[str, np.ndarray], list[bytes]]:
    """Returns one grey patch as inputs for `serving_default` and as examples for `classify`."""
    grey = np.full((1, side, side, 1), 0.5, np.float32)
    (encoded,) = png.encode(grey).numpy()
    example = tf.train.Example()
    example.features.feature[IMAGE_FEATURE].bytes_list.value.append(encoded)
    return {"image": grey}, [example.SerializeToString()]
