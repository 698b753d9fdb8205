"""Settings that depend on the accelerators of this machine."""

import tensorflow as tf

from cigan_tf.errors import UserError
from cigan_tf.hardware_config import HardwareConfig

# An accelerator finishes a step before Python can start the next one.
_STEPS_PER_EXECUTION = 20
# TensorFlow 2.21 is built with CUDA 12.5, whose PTX ends before Blackwell (10.0 and 12.0).
_FIRST_WITHOUT_XLA = (10, 0)


def refuse_xla_where_it_aborts(hardware: HardwareConfig) -> None:
    """Raises UserError for jit_compile on a GPU that XLA in this TensorFlow cannot compile for."""
    if not hardware.jit_compile:
        return
    for gpu in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        capability = details.get("compute_capability") or (0, 0)
        if tuple(capability) >= _FIRST_WITHOUT_XLA:
            raise UserError(
                f"XLA in TensorFlow {tf.__version__} cannot compile for the GPU "
                f"{details.get('device_name', gpu.name)!r} (compute capability "
                f"{'.'.join(map(str, capability))}); omit --jit_compile."
            )


def steps_per_execution(hardware: HardwareConfig) -> int:
    """Returns the maximum number of steps per call into TensorFlow."""
    if hardware.steps_per_execution:
        return hardware.steps_per_execution
    on_accelerator = any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))
    return _STEPS_PER_EXECUTION if on_accelerator else 1
