"""How fast training patches come from the disk, what is read for them, and what that costs.

    python -m benchmarks.input_speed [--checkout=DIR] [--records=200000]

Patches of the real sample films at 256 px, in batches of 8; and, for the first batch, as many
records as `--records` says, small ones of 32 px repeated. Each arm is a process of its own that
reads the same files; with `--checkout` another checkout of this package is an arm as well, and the
two take turns. Bytes are those that the process asked of the system (`rchar` in /proc/self/io).
"""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags

_CHECKOUT = flags.DEFINE_string("checkout", None, "Folder of another checkout, measured beside.")
_RECORDS = flags.DEFINE_integer("records", 200_000, "Records of the large dataset.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times that each arm is timed; the median counts.")
_MEASURE = flags.DEFINE_string("measure", None, "Dataset to be read; for an inner process.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the datasets; made where it is none.")

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_BATCH_SIZE = 8
_WARM_UP_BATCHES = 20
_MEASURED_BATCHES = 200
_SIZES_PX = {"large": 32, "patches": 256}


def main(_):
    """Prints the table."""
    if _MEASURE.value:
        print(json.dumps(_measure(_MEASURE.value, _DATA_DIR.value)))
        return
    with contextlib.ExitStack() as stack:
        folder = _DATA_DIR.value or stack.enter_context(tempfile.TemporaryDirectory())
        for name, size in _SIZES_PX.items():
            _build(folder, name, size)
        _repeat(pathlib.Path(folder, "ddsm_patches", "large"), _RECORDS.value)
        arms = {"this checkout": _ROOT}
        if _CHECKOUT.value:
            arms["the other one"] = pathlib.Path(_CHECKOUT.value).resolve()
        for index in pathlib.Path(folder).rglob("record_index"):
            shutil.rmtree(index)
        first = {arm: _run(root, "large", folder) for arm, root in arms.items()}
        rounds = [
            {
                (arm, name): _run(root, name, folder)
                for arm, root in arms.items()
                for name in _SIZES_PX
            }
            for _ in range(_ROUNDS.value)
        ]
    print("\n".join(_lines(first, rounds)))


def _build(folder: str, name: str, size: int) -> None:
    from tfds_ddsm.dataset_config import DdsmPatchesConfig
    from tfds_ddsm.ddsm_patches.ddsm_patches_dataset_builder import Builder

    film = {"film_size": (344, 188)} if size < 256 else {}
    config = DdsmPatchesConfig(
        name=name, source="sample", patch_size=size, patches_per_class=200, **film
    )
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        Builder(config=config, data_dir=folder).download_and_prepare()


def _repeat(folder: pathlib.Path, num_records: int) -> None:
    """Lets the training split of a dataset hold its records so often that they are so many."""
    (info,) = folder.glob("*/dataset_info.json")
    content = json.loads(info.read_text())
    (split,) = (split for split in content["splits"] if split["name"] == "train")
    times = -(-num_records // int(split["shardLengths"][0]))
    if times < 2:
        return
    (shard,) = info.parent.glob("*-train.tfrecord-*")
    records = shard.read_bytes()
    with shard.open("wb") as file:
        for _ in range(times):
            file.write(records)
    split["shardLengths"] = [str(times * int(split["shardLengths"][0]))]
    split["numBytes"] = str(times * int(split["numBytes"]))
    info.write_text(json.dumps(content))


def _run(root: pathlib.Path, name: str, folder: str) -> dict[str, float]:
    """Returns what `_measure` finds in a process that imports a checkout."""
    finished = subprocess.run(
        [sys.executable, __file__, f"--measure={name}", f"--data_dir={folder}"],
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])


def _measure(name: str, folder: str) -> dict[str, float]:
    import tensorflow as tf

    from cigan_tf import input_pipeline
    from cigan_tf.config import Config, DataConfig, ModelConfig

    data = DataConfig(f"ddsm_patches/{name}", data_dir=folder, batch_size=_BATCH_SIZE)
    config = Config(data=data, model=ModelConfig(patch_size=_SIZES_PX[name]))
    tf.constant(0)  # TensorFlow has started
    start = time.perf_counter()
    batches = iter(input_pipeline.training_batches(config))
    next(batches)
    first_batch_s = time.perf_counter() - start
    for _ in range(_WARM_UP_BATCHES):
        next(batches)
    start, before = time.perf_counter(), _bytes_read()
    for _ in range(_MEASURED_BATCHES):
        next(batches)
    seconds, num_bytes = time.perf_counter() - start, _bytes_read() - before
    return {
        "first_batch_s": first_batch_s,
        "patches_per_s": _MEASURED_BATCHES * _BATCH_SIZE / seconds,
        "kib_per_patch": num_bytes / _MEASURED_BATCHES / _BATCH_SIZE / 1024,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
    }


def _bytes_read() -> int:
    return int(pathlib.Path("/proc/self/io").read_text().split()[1])


def _lines(first: dict, rounds: list[dict]) -> list[str]:
    lines = [
        f"| | patches/s, 256 px | read per patch, KiB | first batch of {_RECORDS.value} records, s "
        "| the very first, s | peak, GB |",
        "|---|---|---|---|---|---|",
    ]
    for arm, once in first.items():

        def median(name, quantity, arm=arm):
            return statistics.median(measured[arm, name][quantity] for measured in rounds)

        lines.append(
            f"| {arm} | {median('patches', 'patches_per_s'):.0f} "
            f"| {median('patches', 'kib_per_patch'):.1f} | {median('large', 'first_batch_s'):.2f} "
            f"| {once['first_batch_s']:.2f} | {median('large', 'peak_gb'):.2f} |"
        )
    return lines


if __name__ == "__main__":
    app.run(main)
