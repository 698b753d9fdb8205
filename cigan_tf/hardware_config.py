"""Devices and precision of a run."""

import dataclasses

from cigan_tf.settings import require, require_choice, require_positive, setting

STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu")
PRECISIONS = ("none", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class HardwareConfig:
    """Devices, precision and compilation. Only precision changes results noticeably."""

    strategy: str = setting(
        "one_device",
        "Devices: one_device; mirrored, all GPUs of this machine, or its logical CPUs if there are "
        "none; multi_worker, the machines in the environment variable TF_CONFIG; tpu. Classifiers "
        "support one_device, with --jobs.",
    )
    tpu: str = setting("", "Name or grpc:// address of the TPU; empty: the local TPU.")
    peer_timeout_s: int = setting(300, "Seconds to wait for all workers in TF_CONFIG.")
    mixed_precision: str = setting(
        "none", "Precision of the networks: none (float32), bfloat16, float16 (with loss scaling)."
    )
    jit_compile: bool = setting(
        False, "Compile losses, gradients and the classifier's step with XLA."
    )
    steps_per_execution: int = setting(
        0,
        "Maximum number of training steps per call into TensorFlow (Keras' steps_per_execution); "
        "0: 20 on a GPU or TPU, 1 on a CPU.",
    )
    agree_every_steps: int = setting(
        10, "Number of steps between the workers' checks for a request to stop."
    )
    deterministic: bool = setting(
        False,
        "Make runs bit-for-bit reproducible on one device, also across restarts; slower on GPUs.",
    )

    def validate(self) -> None:
        """Raises UserError if a value is invalid."""
        require_choice("strategy", self.strategy, STRATEGIES)
        require_choice("mixed_precision", self.mixed_precision, PRECISIONS)
        require_positive(self, "agree_every_steps", "peer_timeout_s")
        require(
            self.steps_per_execution >= 0,
            "steps_per_execution must be 0 or more.",
            steps_per_execution=self.steps_per_execution,
        )
        require(
            not (self.deterministic and self.jit_compile),
            "deterministic and jit_compile cannot be combined: XLA does not fix the order of sums.",
            deterministic=self.deterministic,
            jit_compile=self.jit_compile,
        )
