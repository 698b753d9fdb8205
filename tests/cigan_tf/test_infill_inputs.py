"""Inputs of an infill are converted to the generator's dtypes or named in an error."""

import numpy as np
import pytest

from cigan_tf import infill_inputs
from cigan_tf.errors import UserError


def inputs(count=3):
    patch = (count, 32, 32, 1)
    return {
        "image": np.linspace(0, 1, np.prod(patch)).reshape(patch),
        "mask": np.ones(patch, bool),
        "label": [0, 1, 1][:count],
        "seed": [-(2**31), 0, 2**31 - 1][:count],
    }


@pytest.mark.parametrize("count", [3, 0])
def test_valid_inputs_are_returned_in_the_generators_dtypes(count):
    given = inputs(count)
    checked = infill_inputs.check(**given)
    dtypes = {name: value.dtype for name, value in checked.items()}
    assert dtypes == {"image": "float32", "mask": "float32", "label": "int32", "seed": "int32"}
    for name, value in checked.items():
        np.testing.assert_allclose(value, given[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"image": np.zeros((3, 32, 31, 1))}, r"image must be of shape \[N, p, p, 1\]"),
        ({"image": 0.5}, r"Received: \[\]"),
        ({"image": [["black", "white"]]}, "image must be an array of numbers"),
        ({"image": np.full((3, 32, 32, 1), np.nan)}, "image must be in"),
        ({"image": np.full((3, 32, 32, 1), 40000)}, "divide 16-bit grey levels"),
        ({"image": np.full((3, 32, 32, 1), -0.1)}, "image must be in"),
        ({"mask": np.zeros((2, 32, 32, 1))}, "mask must have the shape of image"),
        ({"mask": np.full((3, 32, 32, 1), 255)}, "mask must contain only 0 and 1"),
        ({"mask": np.full((3, 32, 32, 1), 0.5)}, "mask must contain only 0 and 1"),
        ({"label": [0, 1, 2]}, "label must be 0"),
        ({"label": [0.0, 1.0, 1.0]}, "label must be one integer"),
        ({"seed": 5}, r"seed must be one integer per image, of shape \[3\]"),
        ({"seed": [1, 2]}, "seed must be one integer per image"),
        ({"seed": [1, 2, 2**40]}, "seed must contain 32-bit integers"),
        (
            {"patch_size": 64},
            r"shape \[N, 64, 64, 1\]. Received: \[3, 32, 32, 1\]",
        ),
    ],
)
def test_a_wrong_input_is_named(changed, named):
    with pytest.raises(UserError, match=named):
        infill_inputs.check(**{**inputs(), **changed})
