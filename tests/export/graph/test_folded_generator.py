"""The folded generator computes the same as the generator."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cigan_tf.models.generator import Generator
from export.graph import folded_generator


@pytest.fixture(scope="module")
def generator():
    keras.utils.set_random_seed(0)
    made = Generator(64)
    rng = np.random.default_rng(0)
    for layer in made.layers:
        if isinstance(layer, keras.layers.Conv2D):
            # As after training: a missing bias would not be noticed if it were zero.
            layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
    return made


def inputs():
    rng = np.random.default_rng(1)
    context = rng.random((3, 64, 64, 1), np.float32)
    mask = (rng.random((3, 64, 64, 1)) < 0.5).astype(np.float32)
    return tf.constant(context), tf.constant(mask), tf.constant([0, 1, 1])


def test_it_computes_the_same_as_the_generator(generator):
    context, mask, label = inputs()
    expected = generator({"context": context, "mask": mask, "label": label}).numpy()
    folded = tf.function(folded_generator.fold(generator), autograph=False)
    np.testing.assert_allclose(folded(context, mask, label), expected, atol=2e-6)
    assert expected.std() > 0.01


def test_it_takes_less_arithmetic_and_no_variable(generator):
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in inputs()]

    def concrete(function):
        return tf.function(function, autograph=False).get_concrete_function(*specs)

    plain = concrete(lambda c, m, label: generator({"context": c, "mask": m, "label": label}))
    folded = concrete(folded_generator.fold(generator))
    assert not folded.variables
    assert multiplications(folded) < 0.8 * multiplications(plain)


def multiplications(concrete):
    return sum(
        np.prod(op.outputs[0].shape.as_list()) * np.prod(op.inputs[1].shape.as_list()[:3])
        for op in concrete.graph.get_operations()
        if op.type == "Conv2D"
    )


def test_a_convolution_of_an_enlarged_map_equals_four_of_the_map():
    rng = np.random.default_rng(2)
    kernel = rng.normal(size=(3, 3, 9, 2)).astype(np.float32)
    folded = folded_generator.place_kernels(kernel)
    assert folded.shape == (2, 2, 2, 2, 15, 2)
    # Each kernel contains every weight once, so all give the same result for a constant input.
    for place in folded.reshape(4, 2, 2, 15, 2):
        np.testing.assert_allclose(place.sum((0, 1))[:5], kernel.sum((0, 1))[:5], rtol=1e-5)
