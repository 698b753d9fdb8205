"""The first lines that a run prints: device, data, steps, and warnings about device and dataset."""

import pathlib
import shutil
import subprocess
import time
from typing import Any

import tensorflow as tf

from cigan_tf.config import Config

# Above this size, a step on a CPU takes seconds.
_MOST_PX_ON_CPU = 128
# The first calls are slower because of tracing and compilation.
_CALLS_BEFORE_TIMING = 3
_CALLS_TIMED = 10


def facts(config: Config, record: dict[str, Any] | None, step: int = 0) -> dict[str, Any]:
    """Returns the facts that the first lines of a run are made from.

    Args:
        config: the run's settings.
        record: result of `provenance.write_training`.
        step: number of steps taken before.
    """
    hardware, data = config.hardware, config.data
    known = record or {}
    dataset = known.get("dataset", {})
    of_preset = known.get("init_from", {}).get("dataset") or {}
    found = devices()
    return {
        "devices": found[:1] if hardware.strategy == "one_device" else found,
        "strategy": hardware.strategy,
        "precision": {"none": "float32"}.get(hardware.mixed_precision, hardware.mixed_precision),
        "jit_compile": hardware.jit_compile,
        "dataset": dataset.get("name", data.dataset),
        "train_split": data.train_split,
        "num_patients": known.get("num_patients"),
        "num_patches": known.get("num_patches"),
        "patch_size": config.model.patch_size,
        "film_size": dataset.get("film_size"),
        "film_size_of_preset": of_preset.get("film_size"),
        "mask_margin_px": _mask_margin_px(dataset),
        "mask_margin_px_of_preset": _mask_margin_px(of_preset),
        "batch_size": data.batch_size,
        "total_steps": config.training.total_steps,
        "pretraining_of_preset_steps": (
            max(0, config.training.pretraining_steps - step) if config.training.init_from else 0
        ),
        "seconds_per_step": None,
    }


def devices() -> list[str]:
    """Returns the accelerators used by TensorFlow, with their memory if known, or the CPU."""
    gpus = tf.config.list_physical_devices("GPU")
    tpus = tf.config.list_logical_devices("TPU")
    if gpus:
        return [_describe_gpu(gpu) for gpu in gpus]
    return [device.name for device in tpus] or ["CPU"]


def lines(facts: dict[str, Any]) -> list[str]:
    """Returns the first lines of a run, from its `facts`."""
    xla = "with XLA" if facts["jit_compile"] else "without XLA"
    size = facts["patch_size"]
    patients = (
        f"{facts['num_patches']} patches from {facts['num_patients']} patient"
        + ("s" if facts["num_patients"] != 1 else "")
        if facts["num_patients"] is not None
        else "patients not recorded"
    )
    seconds = facts["seconds_per_step"]
    pace = f", {seconds:.3g} s each" if seconds is not None else ""
    return [
        f"Device: {', '.join(facts['devices'])}; {facts['precision']}, {xla}, "
        f"strategy {facts['strategy']}.",
        f"Data: {facts['dataset']}, {facts['train_split']} split: {patients}, "
        f"{size} x {size} px, {facts['batch_size']} per step.",
        f"Steps: {facts['total_steps']}{pace}.",
    ]


def warnings(facts: dict[str, Any]) -> list[str]:
    """Returns a line for each sign of a wrong device, or of a dataset unlike the preset's."""
    found = []
    sizes = facts["film_size"], facts["film_size_of_preset"]
    if all(sizes) and sizes[0] != sizes[1]:
        found.append(
            "The preset was trained on films rescaled to about {1[0]} x {1[1]} px, but this "
            "dataset's films were rescaled to about {0[0]} x {0[1]} px, so its lesions have a "
            "different scale. Build the dataset with the film_size of the preset.".format(*sizes)
        )
    margins = facts["mask_margin_px"], facts["mask_margin_px_of_preset"]
    if None not in margins and margins[0] != margins[1]:
        found.append(
            "The preset was trained on lesion masks with a margin of {1} px, but the masks of this "
            "dataset have a margin of {0} px. Build the dataset with the mask_margin_px of the "
            "preset, unless its masks include the soft edge already.".format(*margins)
        )
    if facts["pretraining_of_preset_steps"]:
        found.append(
            f"The run starts from a preset, but its next {facts['pretraining_of_preset_steps']} "
            "steps train on the feature loss only, which blurs its infills. Pass "
            "--pretraining_steps=0 to keep their texture."
        )
    if facts["devices"] != ["CPU"]:
        return found
    if has_nvidia_gpu():
        found.append(
            "This machine has an NVIDIA GPU, but the installed TensorFlow cannot use it; install "
            "TensorFlow with CUDA: pip install 'cigan[gpu]' (in a checkout: pip install -e "
            "'.[gpu]')."
        )
    if facts["patch_size"] > _MOST_PX_ON_CPU:
        found.append(
            f"Patches of {facts['patch_size']} px on a CPU: a step takes seconds and the run takes "
            "days. Train on a GPU, or on a dataset of 32 or 64 px patches."
        )
    return found


def has_nvidia_gpu(driver: pathlib.Path = pathlib.Path("/proc/driver/nvidia/gpus")) -> bool:
    """Returns whether the machine has an NVIDIA GPU, even if TensorFlow cannot use it."""
    if driver.is_dir():
        return any(driver.iterdir())
    return shutil.which("nvidia-smi") is not None


class StepTimer:
    """Measures the time per step after tracing."""

    def __init__(self):
        self._calls, self._steps, self._since = 0, 0, 0.0

    def count(self, num_steps: int) -> float | None:
        """Counts steps; returns the seconds per step once, when they are measured."""
        self._calls += 1
        if self._calls == _CALLS_BEFORE_TIMING:
            self._since = time.monotonic()
        elif self._calls > _CALLS_BEFORE_TIMING:
            self._steps += num_steps
        if self._calls == _CALLS_BEFORE_TIMING + _CALLS_TIMED:
            return (time.monotonic() - self._since) / self._steps
        return None


def _mask_margin_px(dataset: dict[str, Any]) -> int | None:
    """Returns the margin of a dataset's masks from its record, or None if it is not recorded."""
    recipe = dataset.get("recipe")
    # Datasets from before the field have no margin.
    return None if recipe is None else recipe.get("mask_margin_px", 0)


def _describe_gpu(gpu) -> str:
    name = tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
    return name + _memory_of(name)


def _memory_of(name: str) -> str:
    """Returns the memory of the GPUs with this name from the driver, or an empty text."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    gpus = [line.rsplit(", ", 1) for line in listed.stdout.splitlines()]
    memory = {gpu[1] for gpu in gpus if gpu[0] == name and len(gpu) == 2}
    return f" ({memory.pop()})" if len(memory) == 1 else ""
