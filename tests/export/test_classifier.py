"""A classifier's export: Predict and Classify, also through the C++ loader."""

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow_serving.apis import prediction_log_pb2

from cigan_tf import exported_generator, provenance
from cigan_tf.errors import UserError
from export.classifier import export
from export.graph.classifier_signatures import IMAGE_FEATURE
from export.serving import serving_files
from tests.export.serving_process import RefusedError, ServingProcess

SIDE = 32
RECORD = {"dataset": {"name": "ddsm_patches/tiny"}, "patients": ["ann"], "synthetic": None}


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(0)
    image = keras.Input((SIDE, SIDE, 1), name="image")
    features = layers.Conv2D(4, 3, activation="relu")(image)
    # As in ResNet: a layer that must be exported in inference mode.
    features = layers.BatchNormalization()(features)
    features = layers.GlobalAveragePooling2D()(features)
    return keras.Model(image, layers.Dense(1, activation="sigmoid")(features))


@pytest.fixture(scope="module")
def exported_classifier(classifier, tmp_path_factory):
    return export(classifier, tmp_path_factory.mktemp("classifier"), RECORD)


@pytest.fixture(scope="module")
def server(exported_classifier):
    process = ServingProcess(exported_classifier)
    yield process
    process.close()


def images():
    return np.random.default_rng(0).integers(0, 65536, (3, SIDE, SIDE, 1)).astype(np.uint16)


def example(encoded):
    made = tf.train.Example()
    made.features.feature[IMAGE_FEATURE].bytes_list.value.append(encoded)
    return made.SerializeToString()


def png(picture):
    return cv2.imencode(".png", picture)[1].tobytes()


def test_both_signatures_give_the_models_probability(server, classifier):
    grey = (images() / 65535).astype(np.float32)
    expected = classifier(grey, training=False).numpy()[:, 0]
    malignant = server.run("serving_default", {"image": grey})["malignant"]
    np.testing.assert_allclose(malignant, expected, atol=1e-6)
    answer = server.run("classify", {"inputs": [example(png(i)) for i in images()]})
    np.testing.assert_allclose(answer["scores"][:, 1], expected, atol=1e-5)
    np.testing.assert_allclose(answer["scores"].sum(axis=1), 1, atol=1e-6)
    assert answer["classes"].tolist() == [[b"non_malignant", b"malignant"]] * 3


def test_an_empty_batch_gives_an_empty_answer(server):
    nothing = np.zeros((0, SIDE, SIDE, 1), np.float32)
    assert server.run("serving_default", {"image": nothing})["malignant"].shape == (0,)


def test_classify_is_declared_as_the_server_requires(server):
    signature = server.signatures["classify"]
    assert signature.method_name == "tensorflow/serving/classify"
    assert list(signature.inputs) == ["inputs"]
    assert set(signature.outputs) == {"classes", "scores"}
    assert server.signatures["serving_default"].method_name == "tensorflow/serving/predict"


def test_the_record_goes_with_the_classifier(exported_classifier):
    path = exported_classifier / exported_generator.PROVENANCE_FILE
    assert path.relative_to(exported_classifier).as_posix() == "assets.extra/provenance.json"
    assert provenance.read(path) == RECORD


def test_warm_up_calls_both_signatures(exported_classifier, server):
    kinds = set()
    for record in tf.data.TFRecordDataset(str(exported_classifier / serving_files.WARMUP_FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        kinds.add(log.WhichOneof("log_type"))
        if log.HasField("classify_log"):
            (warm_up,) = log.classify_log.request.input.example_list.examples
            server.run("classify", {"inputs": [warm_up.SerializeToString()]})
    assert kinds == {"predict_log", "classify_log"}


@pytest.mark.parametrize(
    ("signature", "inputs", "named"),
    [
        ("serving_default", {"image": np.zeros((1, SIDE, SIDE, 3), np.float32)}, "image must be"),
        (
            "serving_default",
            {"image": np.full((1, SIDE, SIDE, 1), 2, np.float32)},
            "image must be",
        ),
        ("classify", {"inputs": [b"no example"]}, "parse_inputs"),
        ("classify", {"inputs": [tf.train.Example().SerializeToString()]}, IMAGE_FEATURE),
        ("classify", {"inputs": [example(b"")]}, IMAGE_FEATURE),
    ],
)
def test_a_wrong_input_is_named(server, signature, inputs, named):
    with pytest.raises(RefusedError, match=named):
        server.run(signature, inputs)


def test_a_broken_list_of_models_stops_before_a_version_is_published(classifier, tmp_path):
    (tmp_path / "models.config").write_text("model_config_list {")
    with pytest.raises(UserError, match=r"models\.config' is not a valid list of models"):
        export(classifier, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["models.config"]


def test_a_model_of_colour_pictures_is_refused(tmp_path):
    image = keras.Input((SIDE, SIDE, 3))
    of_colour = keras.Model(image, layers.Dense(1)(layers.Flatten()(image)))
    with pytest.raises(UserError, match="must take patches"):
        export(of_colour, tmp_path / "saved_model")
    assert not (tmp_path / "saved_model").exists()
