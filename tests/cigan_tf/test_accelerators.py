"""Settings for GPUs, tested without a GPU."""

import pytest
import tensorflow as tf

from cigan_tf import accelerators
from cigan_tf.errors import UserError
from cigan_tf.hardware_config import HardwareConfig


@pytest.fixture
def gpu(monkeypatch):
    """Returns a function that makes TensorFlow report a GPU of a given compute capability."""

    def install(*capability):
        details = {"device_name": "A GPU", "compute_capability": capability}
        device = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
        monkeypatch.setattr(
            tf.config, "list_physical_devices", lambda kind: [device] * (kind == "GPU")
        )
        monkeypatch.setattr(
            tf.config, "list_logical_devices", lambda kind: [device] * (kind == "GPU")
        )
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)

    return install


def test_xla_is_refused_where_it_would_abort(gpu):
    compiled = HardwareConfig(jit_compile=True)
    accelerators.refuse_xla_where_it_aborts(compiled)
    gpu(9, 0)
    accelerators.refuse_xla_where_it_aborts(compiled)
    gpu(12, 0)
    accelerators.refuse_xla_where_it_aborts(HardwareConfig())
    with pytest.raises(UserError, match=r"'A GPU' \(compute capability 12\.0\); omit --jit"):
        accelerators.refuse_xla_where_it_aborts(compiled)


def test_an_accelerator_takes_several_steps_in_a_call(gpu):
    assert accelerators.steps_per_execution(HardwareConfig()) == 1
    gpu(9, 0)
    assert accelerators.steps_per_execution(HardwareConfig()) == 20
    assert accelerators.steps_per_execution(HardwareConfig(steps_per_execution=3)) == 3
