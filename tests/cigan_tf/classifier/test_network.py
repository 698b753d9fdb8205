"""The classifier network: shape, preprocessing, weights."""

import random

import keras
import numpy as np
import pytest

from cigan_tf.classifier.network import build_classifier
from cigan_tf.errors import UserError


@pytest.fixture(scope="module")
def classifier():
    return build_classifier(32, "random", seed=1)


@pytest.fixture
def image():
    return np.random.default_rng(0).random((2, 32, 32, 1), dtype=np.float32)


def outputs(network, images):
    """Returns the network's outputs without tracing it, which would take longer."""
    return network(images, training=False).numpy()


def test_a_patch_becomes_a_probability(classifier, image):
    probability = outputs(classifier, image)
    assert probability.shape == (2, 1)
    assert np.all((probability >= 0) & (probability <= 1))
    assert classifier.get_layer("avg_pool").output.shape == (None, 2048)


def test_it_is_resnet_50_with_one_output(classifier):
    # 23,587,712 without the top, plus 2,048 weights and a bias.
    assert classifier.count_params() == 23_587_712 + 2049


def test_grey_levels_are_prepared_as_for_imagenet(classifier):
    first = next(
        layer for layer in classifier.layers if isinstance(layer, keras.layers.ZeroPadding2D)
    )
    prepared = keras.Model(classifier.input, first.input)
    white = np.ones((1, 32, 32, 1), np.float32)
    expected = keras.applications.resnet50.preprocess_input(np.full((1, 32, 32, 3), 255.0))
    np.testing.assert_allclose(outputs(prepared, white), expected, rtol=1e-5)


def kernels(network):
    return [weight.numpy() for weight in network.weights if "kernel" in weight.path]


@pytest.fixture(scope="module")
def of_seed_2():
    return build_classifier(32, "random", seed=2, trainable="last")


def test_random_weights_follow_the_seed(classifier, of_seed_2):
    same = build_classifier(32, "random", seed=1)
    for ours, again in zip(classifier.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, again)
    for ours, other in zip(kernels(classifier), kernels(of_seed_2), strict=True):
        assert np.abs(ours - other).max() > 0


def test_weights_from_a_file(tmp_path):
    resnet = keras.applications.ResNet50(include_top=False, weights=None)
    resnet.save_weights(tmp_path / "resnet.weights.h5")
    classifier = build_classifier(32, str(tmp_path / "resnet.weights.h5"), seed=0)
    for layer in resnet.layers:
        for ours, theirs in zip(
            classifier.get_layer(layer.name).weights if layer.weights else (),
            layer.weights,
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def vgg():
    return build_classifier(32, "random", seed=1, network="vgg16")


def test_vgg_16_has_one_output_and_its_own_preprocessing(vgg, image):
    # 14,714,688 without the top, plus 512 weights and a bias.
    assert vgg.count_params() == 14_714_688 + 513
    probability = outputs(vgg, image)
    assert probability.shape == (2, 1)
    assert np.ptp(probability) > 0
    assert vgg.get_layer("avg_pool").output.shape == (None, 512)
    prepared = keras.Model(vgg.input, vgg.get_layer("block1_conv1").input)
    white = np.ones((1, 32, 32, 1), np.float32)
    expected = keras.applications.vgg16.preprocess_input(np.full((1, 32, 32, 3), 255.0))
    np.testing.assert_allclose(outputs(prepared, white), expected, rtol=1e-5)


def test_vgg_16_from_an_npz_file(vgg, tmp_path):
    convolutions = [layer for layer in vgg.layers if "conv" in layer.name]
    arrays = {
        f"{layer.name}_{w.name}": w.numpy() + 1 for layer in convolutions for w in layer.weights
    }
    np.savez(tmp_path / "vgg16.npz", **arrays)
    read = build_classifier(32, str(tmp_path / "vgg16.npz"), seed=0, network="vgg16")
    for layer in convolutions:
        for ours, drawn in zip(read.get_layer(layer.name).weights, layer.weights, strict=True):
            np.testing.assert_array_equal(ours, drawn.numpy() + 1)


@pytest.fixture(scope="module")
def vgg_of_head():
    return build_classifier(32, "random", seed=1, network="vgg16", trainable="none")


@pytest.mark.parametrize(
    ("network", "begins"),
    [("of_seed_2", ("malignant", "conv5_")), ("vgg_of_head", ("malignant",))],
    ids=["resnet50-last", "vgg16-none"],
)
def test_frozen_layers_do_not_change(network, begins, image, request):
    classifier = request.getfixturevalue(network)
    before = {weight.path: weight.numpy() for weight in classifier.weights}
    # Traced, ResNet-50 would take longer before its first step than for all steps.
    classifier.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", run_eagerly=True)
    for _ in range(2):  # some residual branches first change in step 2
        classifier.train_on_batch(image, np.array([[0.0], [1.0]]))
    changed = {w.path for w in classifier.weights if np.any(before[w.path] != w.numpy())}
    # The weights include the moving averages of batch normalisation.
    may_change = {path for path in before if path.startswith(begins)}
    assert changed <= may_change
    assert {path for path in may_change if "kernel" in path} <= changed


def test_parts_of_vgg_16(vgg):
    last = build_classifier(32, "random", seed=1, network="vgg16", trainable="last")
    for classifier, num_kernels in ((vgg, 13), (last, 3)):
        assert len(classifier.trainable_weights) == 2 * (num_kernels + 1)


def test_building_a_classifier_does_not_change_the_process_random_state():
    state = random.getstate(), np.random.get_state()[1].tolist()
    build_classifier(32, "random", seed=5, network="vgg16")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state


def test_fetched_weights_reach_every_layer(monkeypatch):
    original = keras.applications.VGG16
    fetched = original(include_top=False, weights=None)

    def VGG16(*args, weights=None, **kwargs):  # noqa: N802
        return fetched if weights == "imagenet" else original(*args, weights=weights, **kwargs)

    monkeypatch.setattr(keras.applications, "VGG16", VGG16)
    classifier = build_classifier(32, "imagenet", seed=0, network="vgg16")
    for layer in filter(lambda layer: layer.weights, fetched.layers):
        for ours, theirs in zip(
            classifier.get_layer(layer.name).weights, layer.weights, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_a_file_of_another_network_is_refused(tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(UserError, match="does not contain the weights of"):
        build_classifier(32, str(tmp_path / "other.weights.h5"), seed=0, network="vgg16")


def test_without_a_network_one_line_names_flag_and_file(monkeypatch):
    def ResNet50(*, weights, input_tensor=None, **kwargs):  # noqa: N802
        if weights == "imagenet":
            raise OSError("no route to host")
        return keras.Model(keras.utils.get_source_inputs(input_tensor), input_tensor)

    monkeypatch.setattr(keras.applications, "ResNet50", ResNet50)
    with pytest.raises(UserError, match=r"resnet50_weights.*--classifier_weights=random"):
        build_classifier(32, "imagenet", seed=0)
