"""The generator for runtimes without TensorFlow: LiteRT and ONNX, checked against the SavedModel.

    <version>/generator.tflite      LiteRT: phones, small servers
    <version>/generator.onnx        ONNX Runtime, OpenVINO, Triton, browsers

Both contain the folded graph with its weights. Inputs: `image`, `mask` and `noise` float32
[N, p, p, 1], `label` int32 [N]; output `infilled` float32 [N, p, p, 1]. The noise, uniform in
[0, 1), is an input, because these runtimes do not have TensorFlow's random number generator. The
SavedModel computes it from the seed; `cigan_tf.randomness.noise_of_seed` returns the same noise.
"""

import importlib.util
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from cigan_tf import exported_generator, input_pipeline
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.patch_format import WHITE
from cigan_tf.randomness import consecutive_seeds, noise_of_seed

FILE_NAMES = {"litert": "generator.tflite", "onnx": "generator.onnx"}
# Modules that are needed to write and run each format.
_NEEDED = {"litert": ("ai_edge_litert",), "onnx": ("onnx", "onnxruntime", "tf2onnx")}
# Three of the 16-bit grey levels; rounding errors are below one.
_MAX_DIFFERENCE = 3 / WHITE
# Number of real patches for comparing a format with the SavedModel.
_COMPARED_PATCHES = 8


def require_installed(formats: Sequence[str]) -> None:
    """Raises UserError if a format is unknown or needs a module that is not installed."""
    for name in formats:
        if name not in FILE_NAMES:
            raise UserError(
                f"format must be one of saved_model, {', '.join(FILE_NAMES)}. Received: {name!r}."
            )
        missing = [module for module in _NEEDED[name] if importlib.util.find_spec(module) is None]
        if missing:
            raise UserError(
                f"--format={name} needs {', '.join(missing)}: pip install 'cigan[runtimes]'."
            )


def write(folder: pathlib.Path, formats: Sequence[str], infill: Callable, side: int) -> None:
    """Writes the generator in each of the formats.

    Args:
        folder: folder of the files.
        formats: some of `FILE_NAMES`.
        infill: function of tensors (image, mask, label, noise) from
            `folded_generator.fold_infill`.
        side: side of a patch in pixels.
    """
    model = _Infill(infill)
    specs = [
        tf.TensorSpec((None, *shape), dtype, name)
        for name, shape, dtype in (
            ("image", (side, side, 1), tf.float32),
            ("mask", (side, side, 1), tf.float32),
            ("label", (), tf.int32),
            ("noise", (side, side, 1), tf.float32),
        )
    ]
    for name in formats:
        path = str(folder / FILE_NAMES[name])
        with warnings.catch_warnings():
            # Keras 3.15 uses a deprecated NumPy alias to repair tf2onnx.
            warnings.simplefilter("ignore", FutureWarning)
            model.export(path, format=name, input_signature=specs, verbose=False)


class _Infill(keras.Model):
    """A function wrapped in a model, which Keras can export to every format."""

    def __init__(self, infill: Callable):
        super().__init__(name="infill")
        self._infill = infill
        self.built = True  # no weights: those of the function are constants

    def call(self, image, mask, label, noise):
        return {"infilled": self._infill(image, mask, label, noise)}


def compared_patches(config: Config) -> dict[str, np.ndarray]:
    """Returns validation patches of a run's dataset as inputs of `serving_default`."""
    drawn = input_pipeline.drawn_patches(config, config.data.validation_split, _COMPARED_PATCHES)
    inputs = {name: np.asarray(drawn[name], np.float32) for name in ("image", "mask")}
    count = len(drawn["label"])
    # Both classes, whatever the classes of the patches are.
    label = np.arange(count, dtype=np.int32) % 2
    return inputs | {"label": label, "seed": consecutive_seeds(0, count)}


def compare(
    folder: pathlib.Path, formats: Sequence[str], patches: Mapping[str, np.ndarray]
) -> None:
    """Raises UserError if the output of a format differs from that of the SavedModel next to it.

    Args:
        folder: folder of the SavedModel and the files.
        formats: some of `FILE_NAMES`.
        patches: inputs of `serving_default`.
    """
    expected = exported_generator.ExportedGenerator(folder)(**patches)
    inputs = {name: patches[name] for name in ("image", "mask", "label")}
    side = expected.shape[1]
    inputs["noise"] = np.stack([noise_of_seed(seed, side).numpy() for seed in patches["seed"]])
    for name in formats:
        check(folder / FILE_NAMES[name], inputs, expected)


def check(path: pathlib.Path, inputs: Mapping[str, np.ndarray], expected: np.ndarray) -> None:
    """Raises UserError if a file's output differs from the SavedModel's.

    Args:
        path: the file, with one of the names in `FILE_NAMES`.
        inputs: `image`, `mask`, `label` and `noise`.
        expected: the SavedModel's output for them, [N, p, p, 1].
    """
    answer = open_format(path)(inputs)
    if answer.shape != expected.shape or not np.isfinite(answer).all():
        raise UserError(
            f"{path.name} must return finite values of shape {expected.shape}. Received: shape "
            f"{answer.shape}, {np.count_nonzero(~np.isfinite(answer))} values not finite; nothing "
            "was exported. Omit this format, or try other versions of its converter."
        )
    difference = float(np.abs(answer - expected).max())
    if difference > _MAX_DIFFERENCE:
        raise UserError(
            f"{path.name} differs from the SavedModel by {difference:.2g} of the range of grey "
            f"levels, more than {_MAX_DIFFERENCE:.2g}; nothing was exported. Omit this format, "
            "or try other versions of its converter."
        )


def open_format(path: pathlib.Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Opens a generator file and returns a function that infills, given its inputs by name."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(["infilled"], dict(inputs))[0]
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner()
    return lambda inputs: runner(**inputs)["infilled"]
