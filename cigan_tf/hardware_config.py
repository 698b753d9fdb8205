"""What a run's steps run on, and in which precision."""

import dataclasses

from cigan_tf.settings import require, require_choice, require_positive, setting

STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu")
PRECISIONS = ("none", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class HardwareConfig:
    """Devices, precision, compilation: nothing here changes what a step is to compute."""

    strategy: str = setting(
        "one_device",
        "one_device; mirrored: all GPUs of this machine, or else its logical CPUs; multi_worker: "
        "the machines that the environment variable TF_CONFIG names; tpu. Classifiers: one_device, "
        "and --jobs.",
    )
    tpu: str = setting("", "Name or grpc:// address of the TPU; empty: this machine's own.")
    peer_timeout_s: int = setting(300, "Seconds to wait until all workers of TF_CONFIG are there.")
    mixed_precision: str = setting(
        "none", "Arithmetic of the networks: none (float32), bfloat16, float16 (with loss scaling)."
    )
    jit_compile: bool = setting(
        False, "Compile losses and gradients, and a classifier's step, with XLA."
    )
    steps_per_execution: int = setting(
        0,
        "Steps that TensorFlow takes at most before Python looks in again; 0: 20 on a GPU or TPU, "
        "1 on a CPU.",
    )
    agree_every_steps: int = setting(
        10, "Steps from one time to the next that workers ask each other whether one must stop."
    )
    deterministic: bool = setting(
        False, "Same settings, same bits, also after a kill; slower on GPUs."
    )

    def validate(self) -> None:
        """Raises UserError for a value that no run can use."""
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
            "deterministic and jit_compile exclude one another: XLA adds in any order.",
            deterministic=self.deterministic,
            jit_compile=self.jit_compile,
        )
