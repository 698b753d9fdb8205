"""Speed of infilling a patch with the exported SavedModel, and in other runtimes.

    python -m benchmarks.serving_speed

The arms have the same weights and infill the same 256 px patches. They are the SavedModel written
by `export.saved_model`; its folded graph in LiteRT, ONNX Runtime and OpenVINO, from
`export.graph.runtime_formats`; the SavedModel that Keras exports from the generator; PyTorch
(eager, inference mode); and ONNX Runtime with PyTorch's export. Each arm runs in a separate process
with the given number of threads. The outputs are compared first. Then the arms alternate, so that
other load on the machine affects all of them; in its turn, an arm makes two calls, and the second
is timed. The SavedModel of this package also draws the noise, checks its inputs and composites the
infill. The other arms with the folded graph composite it. The rest get the finished context image
and composite nothing.

The ceiling is the time that the network's arithmetic, as written, takes at the speed of a large
matrix product.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
from absl import app, flags, logging

_PATCH_PX = flags.DEFINE_integer("patch_px", 256, "Side of a patch in pixels.")
_THREADS = flags.DEFINE_list(
    "threads", ["1", "2"], "Numbers of threads of an arm; each has its own table."
)
_BATCHES = flags.DEFINE_list("batches", ["1", "8", "32"], "Numbers of patches per call.")
_PATCHES = flags.DEFINE_integer(
    "patches", 100, "Number of patches to infill per arm and row, in at least 4 calls."
)
_ARM = flags.DEFINE_string(
    "arm", None, "Internal: arm to measure; set by this script for its subprocesses."
)
_FOLDER = flags.DEFINE_string(
    "folder", None, "Internal: folder of the models; set by this script for its subprocesses."
)

_ARMS = {
    "ours": "SavedModel, this export",
    "litert": "LiteRT, this export",
    "onnx-folded": "ONNX Runtime, this export",
    "openvino": "OpenVINO, this export",
    "keras": "SavedModel, Keras' export",
    "onnx": "ONNX Runtime, PyTorch",
    "torch": "PyTorch, eager",
}
_KERNEL_FILE, _INPUT_FILE, _ONNX_FILE = "kernels.npz", "inputs.npz", "generator.onnx"
_MATRIX = 1024


def main(_):
    """Prints the tables, or runs one arm."""
    if _ARM.value:
        _answer(_ARM.value, pathlib.Path(_FOLDER.value), int(_THREADS.value[0]))
        return
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        gflop = _write_models(folder, _PATCH_PX.value, max(map(int, _BATCHES.value)))
        _call_once("onnx-export", folder)
        for threads in map(int, _THREADS.value):
            _print_table(threads, folder, gflop)


def _print_table(threads: int, folder: pathlib.Path, gflop: float) -> None:
    workers = {arm: _Worker(arm, folder, threads) for arm in _ARMS}
    outputs = {arm: worker.ask("output", 2) for arm, worker in workers.items()}
    for arm, output in outputs.items():
        difference = np.abs(np.subtract(output, outputs["torch"])).max()
        assert difference < 1e-3, f"{_ARMS[arm]} differs from PyTorch by {difference}"
    gemm_gflops = workers["torch"].ask("gemm", 1)
    ceiling_ms = gflop / gemm_gflops * 1e3
    print(f"\n{_PATCH_PX.value} px, {threads} thread{'s' if threads > 1 else ''}; ceiling", end=" ")
    print(f"{ceiling_ms:.1f} ms per patch ({gflop:.2f} GFLOP at {gemm_gflops:.0f} GFLOP/s)")
    print(f"{'':27}{'batch':>6}{'p50 ms':>9}{'p99 ms':>9}{'ms/patch':>10}{'/ ceiling':>10}", end="")
    print(f"{'eager / it':>11}{'ONNX / it':>11}")
    for batch in map(int, _BATCHES.value):
        calls = max(4, _PATCHES.value // batch)
        seconds = {arm: [] for arm in _ARMS}
        for call in range(calls + 1):
            for arm, worker in workers.items():
                # Not timed: threads of the previous arm may still be spinning on the same cores.
                worker.ask("time", batch)
                took = worker.ask("time", batch)
                if call:  # the first calls of a shape build plans and buffers
                    seconds[arm].append(took)
        p50 = {arm: float(np.percentile(times, 50)) * 1e3 for arm, times in seconds.items()}
        for arm, times in seconds.items():
            print(
                f"{_ARMS[arm]:27}{batch:6}{p50[arm]:9.1f}{np.percentile(times, 99) * 1e3:9.1f}"
                f"{p50[arm] / batch:10.1f}{p50[arm] / batch / ceiling_ms:10.2f}"
                f"{p50['torch'] / p50[arm]:11.2f}{p50['onnx'] / p50[arm]:11.2f}",
                flush=True,
            )
    for worker in workers.values():
        worker.close()


class _Worker:
    """An arm in a separate process, called through pipes."""

    def __init__(self, arm: str, folder: pathlib.Path, threads: int):
        command = [sys.executable, __file__, f"--arm={arm}", f"--folder={folder}"]
        self._log = folder / f"{arm}.log"
        self._process = subprocess.Popen(
            [*command, f"--threads={threads}", f"--patch_px={_PATCH_PX.value}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
        )

    def ask(self, what: str, batch: int):
        try:
            print(json.dumps([what, batch]), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise RuntimeError(self._log.read_text()[-2000:]) from None

    def close(self) -> None:
        self._process.stdin.close()
        if self._process.wait():
            raise RuntimeError(self._log.read_text()[-2000:])


def _call_once(arm: str, folder: pathlib.Path) -> None:
    worker = _Worker(arm, folder, 1)
    worker.close()


def _write_models(folder: pathlib.Path, side: int, max_batch: int) -> float:
    """Writes all models but PyTorch's, the kernels and the inputs; returns the GFLOP of a patch."""
    import keras
    import tensorflow as tf

    from cigan_tf.config import Config, ModelConfig
    from cigan_tf.models.generator import Generator
    from export.graph import folded_generator, infill_signatures, runtime_formats

    keras.utils.set_random_seed(0)
    generator = Generator(side)
    rng = np.random.default_rng(0)
    convolutions = [layer for layer in generator.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer in convolutions:
        layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))  # zeros would be folded away
    arrays = {}
    for i, layer in enumerate(convolutions):
        arrays[f"kernel{i}"], arrays[f"bias{i}"] = layer.kernel.numpy(), layer.bias.numpy()
    np.savez(folder / _KERNEL_FILE, **arrays)

    config = Config(model=ModelConfig(patch_size=side))
    infill_signatures.build_archive(generator, config).write_out(
        str(folder / "ours"), verbose=False
    )
    infill = folded_generator.fold_infill(generator, config.model)
    (folder / "folded").mkdir()
    runtime_formats.write(folder / "folded", ["litert", "onnx"], infill, side)
    generator.export(str(folder / "keras"), verbose=False)

    label = np.arange(max_batch, dtype=np.int32) % 2
    seed = np.arange(max_batch, dtype=np.int32)
    # With a mask of ones, the context image is the noise of a seed, and the infill is the whole
    # output of the generator.
    noise = [tf.random.stateless_uniform((side, side, 1), [s, 0]).numpy() for s in seed]
    context = np.stack(noise)
    np.savez(
        folder / _INPUT_FILE, context=context, mask=np.ones_like(context), label=label, seed=seed
    )
    multiplications = sum(
        np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3]) for layer in convolutions
    )
    return 2 * multiplications / 1e9


def _answer(arm: str, folder: pathlib.Path, threads: int) -> None:
    """Answers the requests on standard input until the input ends."""
    if arm == "onnx-export":
        _export_onnx(folder)
        return
    inputs = dict(np.load(folder / _INPUT_FILE))
    call = _CALLS[arm](folder, threads)
    prepared = {}
    for line in sys.stdin:
        what, batch = json.loads(line)
        if what == "gemm":
            print(json.dumps(_gemm_gflops()), flush=True)
            continue
        if batch not in prepared:
            prepared[batch] = call({name: value[:batch] for name, value in inputs.items()})
        start = time.perf_counter()
        output = prepared[batch]()
        took = time.perf_counter() - start
        print(json.dumps(took if what == "time" else output.ravel().tolist()), flush=True)


def _tensorflow(folder: pathlib.Path, threads: int):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(folder))
    return tf, loaded, loaded.signatures["serving_default"]


def _ours(folder, threads):
    tf, loaded, signature = _tensorflow(folder / "ours", threads)

    def prepare(inputs, loaded=loaded):
        fed = {name: tf.constant(inputs[name]) for name in ("mask", "label", "seed")}
        fed["image"] = tf.zeros_like(fed["mask"])
        return lambda: signature(**fed)["infilled"].numpy()

    return prepare


def _litert(folder, threads):
    from ai_edge_litert.interpreter import Interpreter

    path = folder / "folded" / "generator.tflite"
    runner = Interpreter(model_path=str(path), num_threads=threads).get_signature_runner()
    return lambda inputs: functools.partial(_infilled, runner, _folded_inputs(inputs))


def _infilled(runner, inputs):
    return runner(**inputs)["infilled"]


def _onnx_folded(folder, threads):
    session = _onnx_session(folder / "folded" / "generator.onnx", threads)

    def prepare(inputs):
        fed = _folded_inputs(inputs)
        return lambda: session.run(["infilled"], fed)[0]

    return prepare


def _openvino(folder, threads):
    import openvino

    model = openvino.Core().compile_model(
        str(folder / "folded" / "generator.onnx"),
        "CPU",
        {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"},
    )

    def prepare(inputs):
        fed = _folded_inputs(inputs)
        return lambda: model(fed)["infilled"]

    return prepare


def _folded_inputs(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "image": np.zeros_like(inputs["mask"]),
        "mask": inputs["mask"],
        "label": inputs["label"],
        "noise": inputs["context"],
    }


def _keras(folder, threads):
    tf, loaded, signature = _tensorflow(folder / "keras", threads)

    def prepare(inputs, loaded=loaded):
        fed = {name: tf.constant(inputs[name]) for name in ("context", "mask", "label")}
        return lambda: next(iter(signature(**fed).values())).numpy()

    return prepare


def _onnx_session(path: pathlib.Path, threads: int):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(str(path), options)


def _onnx(folder, threads):
    session = _onnx_session(folder / _ONNX_FILE, threads)

    def prepare(inputs):
        fed = dict(zip(("context", "mask", "label"), _channels_first(inputs), strict=True))
        return lambda: session.run(None, fed)[0]

    return prepare


def _torch(folder, threads):
    import torch

    torch.set_num_threads(threads)
    network = _torch_generator(folder)

    def prepare(inputs):
        fed = [torch.from_numpy(value) for value in _channels_first(inputs)]

        def call():
            with torch.inference_mode():
                return network(*fed).numpy()

        return call

    return prepare


def _channels_first(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    maps = [np.ascontiguousarray(inputs[n].transpose(0, 3, 1, 2)) for n in ("context", "mask")]
    return [*maps, inputs["label"].astype(np.int64)]


def _torch_generator(folder: pathlib.Path):
    """Returns `cigan_tf.models.generator.Generator` in PyTorch, with the kernels in `folder`."""
    import torch
    from torch.nn import functional

    stored = np.load(folder / _KERNEL_FILE)
    count = len(stored.files) // 2

    class TorchGenerator(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolutions = torch.nn.ModuleList()
            for i in range(count):
                kernel = torch.from_numpy(stored[f"kernel{i}"].transpose(3, 2, 0, 1).copy())
                layer = torch.nn.Conv2d(
                    kernel.shape[1], kernel.shape[0], kernel.shape[2], padding="same"
                )
                layer.weight = torch.nn.Parameter(kernel)
                layer.bias = torch.nn.Parameter(torch.from_numpy(stored[f"bias{i}"].copy()))
                self.convolutions.append(layer)

        def forward(self, context, mask, label):
            maps = functional.one_hot(label, 2).float()[:, :, None, None]
            maps = maps.expand(-1, -1, *mask.shape[2:])
            stack = torch.cat([context, mask, maps], 1)
            features = None
            for block in range(count // 2):
                scale_px = 4 * 2**block
                step = stack.shape[2] // scale_px
                at_scale = stack[:, :, step // 2 :: step, step // 2 :: step]
                if features is None:
                    features = at_scale
                else:
                    features = functional.interpolate(features, scale_factor=2.0, mode="nearest")
                    features = torch.cat([features, at_scale], 1)
                for convolution in self.convolutions[2 * block : 2 * block + 2]:
                    features = functional.relu(convolution(features))
            return torch.sigmoid(self.convolutions[-1](features))

    return TorchGenerator().eval()


def _export_onnx(folder: pathlib.Path) -> None:
    import torch

    inputs = {name: value[:2] for name, value in np.load(folder / _INPUT_FILE).items()}
    fed = tuple(torch.from_numpy(value) for value in _channels_first(inputs))
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.onnx.export(
        _torch_generator(folder),
        fed,
        str(folder / _ONNX_FILE),
        dynamo=True,
        input_names=["context", "mask", "label"],
        dynamic_shapes=({0: batch},) * 3,
    )


def _gemm_gflops() -> float:
    import torch

    a, b = torch.rand(_MATRIX, _MATRIX), torch.rand(_MATRIX, _MATRIX)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * _MATRIX**3 / min(seconds) / 1e9


_CALLS = {
    "ours": _ours,
    "litert": _litert,
    "onnx-folded": _onnx_folded,
    "openvino": _openvino,
    "keras": _keras,
    "onnx": _onnx,
    "torch": _torch,
}


if __name__ == "__main__":
    app.run(main)
