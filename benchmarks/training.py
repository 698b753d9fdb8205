"""Speed of training ciGAN on this machine, compared with plain PyTorch (pytorch_cigan.py).

    python -m benchmarks.training [--markdown=RESULTS.md]

One generator step and one discriminator step are timed at 256 px and batch size 8. The patches are
noise, and the masks are ellipses in boxes of 80 px, the size of the median lesion; they are the
same for all arms. Each arm is a separate process that sleeps while another one is timed. The arms
alternate, and their medians are compared. The input pipeline is timed on patches of the real sample
films. The time to the end of the first step is measured from the start of the interpreter.
"""

import contextlib
import importlib.metadata
import multiprocessing
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

# The same settings as in cigan_tf.main.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
from absl import app, flags

from benchmarks import process_counters
from cigan_tf import file_io
from cigan_tf.errors import UserError

_ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Number of timed repetitions of each arm; the median is shown."
)
_PATCH_SIZE = flags.DEFINE_integer("patch_size", 256, "Side of a patch in pixels.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Number of patches per step.")
_LESION_PX = flags.DEFINE_integer("lesion_px", 80, "Side of the lesions' bounding boxes.")
_MARKDOWN = flags.DEFINE_string(
    "markdown", None, "File whose section 'Training speed' receives the table."
)
_FIRST_STEP = flags.DEFINE_bool(
    "first_step", False, "Internal: take only one step; set by this script for its subprocess."
)

_SECTION = "## Training speed\n"
_END = "<!-- end of the output of benchmarks.training -->"
_ROUNDS_OF_PARTS = 3
_INPUT_SECONDS = 5
_OURS = {
    "whole": {"windowed_feature_loss": False},
    "windowed": {"windowed_feature_loss": True},
}


def main(_):
    """Prints the table."""
    if _FIRST_STEP.value:
        _OursArm(_batch(), "windowed").step("generator")
        return
    first_step_s = _first_step_seconds()
    seconds, shares, peak_mb = _in_alternation()
    lines = [
        *_speed_table(seconds, peak_mb),
        *_shares_table(shares, seconds["windowed"]),
        "",
        f"Import to end of the first step: {first_step_s:.1f} s.",
        *_input_lines(seconds["windowed"]),
        *_machine_lines(),
    ]
    print("\n".join(lines))
    if _MARKDOWN.value:
        write_section(pathlib.Path(_MARKDOWN.value), "\n".join(lines))


def _in_alternation() -> tuple[dict, dict, dict]:
    """Returns seconds per step, results for `_shares_table`, and each arm's peak memory in MB."""
    arms = {name: _Process(name) for name in ("pytorch", *_OURS)}
    steps = ("generator", "discriminator")
    times = {name: {step: [] for step in steps} for name in arms}
    for round_number in range(_ROUNDS.value + 1):
        for name, arm in arms.items():
            for step in steps:
                elapsed = arm.ask("step", step)
                if round_number:  # the first round builds graphs and fills caches
                    times[name][step].append(elapsed)
    seconds = {
        name: {step: statistics.median(values) for step, values in by_step.items()}
        for name, by_step in times.items()
    }
    peak_mb = {name: arm.ask("peak_mb") for name, arm in arms.items()}
    shares = arms["windowed"].ask("parts")
    shares["ceiling_flops"] = arms["windowed"].ask("matrix_product_flops")
    shares["plain_flop"] = arms["windowed"].ask("plain_flop")
    for arm in arms.values():
        arm.close()
    return seconds, shares, peak_mb


class _Process:
    """An arm in a separate process, which sleeps until it is called."""

    def __init__(self, name: str):
        self._pipe, theirs = multiprocessing.get_context("spawn").Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(theirs, name, _batch()), daemon=True)
        self._process.start()

    def ask(self, *request):
        """Calls a method of the arm, given by name and arguments, and returns its result."""
        self._pipe.send(request)
        return self._pipe.recv()

    def close(self) -> None:
        """Ends the process."""
        self._pipe.send(None)
        self._process.join()


def _serve(pipe, name: str, batch: dict) -> None:
    arm = _PyTorchArm(batch) if name == "pytorch" else _OursArm(batch, name)
    while request := pipe.recv():
        method, *arguments = request
        pipe.send(getattr(arm, method)(*arguments))


class _Arm:
    def peak_mb(self) -> float:
        """Returns the largest resident set of this process so far, in MB."""
        return process_counters.peak_gb() * 1024


class _PyTorchArm(_Arm):
    def __init__(self, batch: dict):
        import torch

        from benchmarks import pytorch_cigan

        size = batch["image"].shape[1]
        self._model = pytorch_cigan.CiGAN(size)
        image, mask = (
            torch.from_numpy(np.ascontiguousarray(batch[name].transpose(0, 3, 1, 2)))
            for name in ("image", "mask")
        )
        one_hot = torch.eye(2)[torch.from_numpy(batch["label"]).long()]
        class_maps = one_hot[:, :, None, None].expand(-1, -1, size, size)
        self._batch = (image, mask, class_maps)

    def step(self, network: str) -> float:
        """Trains one network for one step and returns the time taken, in seconds."""
        train = getattr(self._model, f"{network}_step")
        start = time.perf_counter()
        train(*self._batch)
        return time.perf_counter() - start


class _OursArm(_Arm):
    def __init__(self, batch: dict, name: str):
        import tensorflow as tf

        from cigan_tf.config import Config, LossConfig, ModelConfig, TrainingConfig
        from cigan_tf.models.cigan import build_cigan

        size = batch["image"].shape[1]
        never = {"max_steps_per_turn": 10**9, "switch_threshold": 1e-30}
        self._model = build_cigan(
            Config(
                model=ModelConfig(patch_size=size, vgg_weights="random"),
                loss=LossConfig(**_OURS[name]),
                training=TrainingConfig(pretraining_steps=0, **never),
            )
        )
        self._batch = {key: tf.constant(value) for key, value in batch.items()}
        self._batches = iter(tf.data.Dataset.from_tensors(self._batch).repeat())
        self._model.make_train_function()

    def step(self, network: str) -> float:
        """Trains one network for one step and returns the time taken, in seconds."""
        from benchmarks.step_time import step_seconds
        from cigan_tf.models.cigan import Turn

        return step_seconds(self._model, self._batches, Turn[network.upper()])

    def parts(self) -> dict[str, float]:
        """Returns the seconds of each network, timed separately, for both steps together."""
        import tensorflow as tf

        model, batch = self._model, self._batch
        inputs = {**batch, "noise": tf.random.stateless_uniform(batch["mask"].shape, (0, 1))}
        weights = {
            name: [weight.value for weight in getattr(model, name).trainable_variables]
            for name in ("generator", "discriminator")
        }

        def gradient(compute, sources):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                result = compute()
            return tape.gradient(result, sources)

        def vgg(infilled):
            loss = lambda: model.feature_loss(batch["image"], infilled, batch["mask"])  # noqa: E731
            return gradient(loss, infilled)

        def generator(infilled):
            del infilled
            trained = gradient(lambda: model.infill(**inputs, training=True), weights["generator"])
            return trained, model.infill(**inputs)

        def discriminator(infilled):
            label, image = batch["label"], batch["image"]
            judged = gradient(
                lambda: model.discriminator({"image": infilled, "label": label}), infilled
            )
            trained = gradient(
                lambda: [
                    model.discriminator({"image": patches, "label": label})
                    for patches in (image, infilled)
                ],
                weights["discriminator"],
            )
            return judged, trained

        infilled = model.infill(**inputs)
        compiled = [tf.function(part, autograph=False) for part in (vgg, generator, discriminator)]
        return {
            part.__name__: _median_seconds(lambda run=run: _wait(run(infilled)))
            for part, run in zip((vgg, generator, discriminator), compiled, strict=True)
        }

    def matrix_product_flops(self) -> float:
        """Returns the floating-point operations per second of a float32 matrix product."""
        import tensorflow as tf

        side = 2048
        matrix = tf.random.stateless_uniform((side, side), (0, 1))
        return 2 * side**3 / _median_seconds(lambda: _wait(tf.linalg.matmul(matrix, matrix)))

    def plain_flop(self) -> float:
        """Returns the number of floating-point operations of both steps on whole patches."""
        import keras

        from cigan_tf.models import vgg_features

        def forwards(layers) -> float:
            return sum(
                2 * np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3])
                for layer in layers
                if isinstance(layer, keras.layers.Conv2D)
            )

        generator, discriminator = (
            forwards(getattr(self._model, name).layers) for name in ("generator", "discriminator")
        )
        vgg, side = 0.0, self._batch["image"].shape[1]
        for layer in vgg_features.network(self._model.feature_loss.features):
            if isinstance(layer, keras.layers.Conv2D):
                vgg += 2 * np.prod(layer.kernel.shape) * side**2
            else:
                side //= 2
        # A network has up to three passes: forward, backward to the input, backward to the weights.
        in_generator_step = 3 * vgg + 3 * generator + 2 * discriminator
        in_discriminator_step = generator + 2 * 3 * discriminator
        return float((in_generator_step + in_discriminator_step) * len(self._batch["image"]))


def _wait(results) -> None:
    import tensorflow as tf

    tf.nest.map_structure(lambda tensor: tensor.numpy(), results)


def _median_seconds(work) -> float:
    work()
    times = []
    for _ in range(_ROUNDS_OF_PARTS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _batch() -> dict[str, np.ndarray]:
    """Returns patches of noise, each with a mask: an ellipse in a box at a random position."""
    rng = np.random.default_rng(0)
    size, box = _PATCH_SIZE.value, _LESION_PX.value
    mask = np.zeros((_BATCH_SIZE.value, size, size, 1), np.float32)
    at = (np.arange(box) + 0.5) / box * 2 - 1
    ellipse = at[:, None] ** 2 + at**2 <= 1
    for one in mask:
        row, column = rng.integers(0, size - box + 1, 2)
        one[row : row + box, column : column + box, 0] = ellipse
    return {
        "image": rng.random(mask.shape, dtype=np.float32),
        "mask": mask,
        "label": np.arange(len(mask), dtype=np.int32) % 2,
    }


def _first_step_seconds() -> float:
    start = time.perf_counter()
    options = [f"--{flag.name}={flag.value}" for flag in (_PATCH_SIZE, _BATCH_SIZE, _LESION_PX)]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.training", "--first_step", *options], check=True
    )
    return time.perf_counter() - start


def _input_patches_per_second() -> float:
    """Returns the patches per second of the input pipeline, for patches of the sample films."""
    from cigan_tf import input_pipeline
    from cigan_tf.config import Config, DataConfig, ModelConfig
    from tfds_ddsm.dataset_config import DdsmPatchesConfig
    from tfds_ddsm.ddsm_patches.ddsm_patches_dataset_builder import Builder

    size = _PATCH_SIZE.value
    with tempfile.TemporaryDirectory() as folder:
        config = DdsmPatchesConfig(
            name="bench", source="sample", patch_size=size, patches_per_class=200
        )
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            Builder(config=config, data_dir=folder).download_and_prepare()
        data = DataConfig("ddsm_patches/bench", data_dir=folder, batch_size=_BATCH_SIZE.value)
        batches = iter(
            input_pipeline.training_batches(Config(data=data, model=ModelConfig(patch_size=size)))
        )
        for _ in range(10):  # fills the prefetch buffers
            next(batches)
        start, count = time.perf_counter(), 0
        while time.perf_counter() < start + _INPUT_SECONDS:
            count += len(next(batches)["image"])
        return count / (time.perf_counter() - start)


def _speed_table(seconds: dict, peak_mb: dict) -> list[str]:
    names = {
        "pytorch": f"PyTorch {importlib.metadata.version('torch')}, eager",
        "whole": "ciGAN, feature loss on whole patches",
        "windowed": "ciGAN, feature loss in windows",
    }
    total = {name: sum(by_step.values()) for name, by_step in seconds.items()}
    lines = [
        "| | generator step, s | discriminator step, s | both, s | speed | peak, GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, by_step in seconds.items():
        lines.append(
            f"| {names[name]} | {by_step['generator']:.2f} | {by_step['discriminator']:.2f} "
            f"| {total[name]:.2f} | {total['pytorch'] / total[name]:.2f}x "
            f"| {peak_mb[name] / 1024:.1f} |"
        )
    return lines


def _shares_table(parts: dict, windowed: dict) -> list[str]:
    total = sum(windowed.values())
    names = {"vgg": "VGG-19", "generator": "generator", "discriminator": "discriminator"}
    shares = ", ".join(f"{names[part]} {100 * parts[part] / total:.0f} %" for part in names)
    ceiling_s = parts["plain_flop"] / parts["ceiling_flops"]
    return [
        "",
        f"Share of each network in both steps with windows, each timed separately: {shares}.",
        "",
        "For comparison: the arithmetic of both steps on whole patches is "
        f"{parts['plain_flop'] / 1e12:.2f} TFLOP, and would take {ceiling_s:.2f} s at this "
        f"machine's speed for matrix products ({parts['ceiling_flops'] / 1e9:.0f} GFLOP/s, "
        "float32). Both steps with windows, which need less arithmetic, take "
        f"{total / ceiling_s:.2f} times as long.",
    ]


def _input_lines(windowed: dict) -> list[str]:
    made = _input_patches_per_second()
    eaten = _BATCH_SIZE.value / statistics.mean(windowed.values())
    return [
        "",
        f"Input pipeline: {made:.0f} patches/s, {made / eaten:.0f} times the {eaten:.1f} that "
        "training consumes.",
    ]


def _machine_lines() -> list[str]:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras", "torch")
    )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return [
        "",
        f"`python -m benchmarks.training {' '.join(sys.argv[1:])}`".replace(" `", "`"),
        f"at {commit or 'no commit'}; {_BATCH_SIZE.value} patches of {_PATCH_SIZE.value} px, "
        f"lesions in boxes of {_LESION_PX.value} px, medians of {_ROUNDS.value}; {_cpu()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}.",
    ]


def _cpu() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def write_section(path: pathlib.Path, text: str) -> None:
    """Replaces the output in the file's section 'Training speed', or adds one; keeps the rest."""
    before = path.read_text() if path.exists() else "# Results\n"
    head, found, rest = before.partition(_SECTION)
    if found and _END not in rest:
        raise UserError(
            f"The section {_SECTION!r} of {path} has no line {_END!r}, which separates the output "
            "from other text; add it."
        )
    tail = rest.partition(_END)[2] or "\n"
    file_io.write_whole(path, f"{head.rstrip()}\n\n{_SECTION}\n{text}\n\n{_END}{tail}")


if __name__ == "__main__":
    app.run(main)
