"""Speed of reading training patches, bytes read, and memory.

    python -m benchmarks.input_speed [--checkout=DIR] [--records=200000]

The patches are 256 px, from the real sample films, in batches of 8. The time to the first batch,
and the peak memory, are measured on a dataset of at least `--records` repeated records of 32 px.
Each arm is a separate process that reads the same files. With `--checkout`, another checkout of
this package is an additional arm, and the two arms alternate. Bytes are those that the process
requests from the system (`rchar` in /proc/self/io).
"""

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags

from benchmarks import process_counters

_CHECKOUT = flags.DEFINE_string("checkout", None, "Folder of another checkout for comparison.")
_RECORDS = flags.DEFINE_integer(
    "records", 200_000, "Number of training records of the large dataset."
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 3, "Number of timed repetitions of each arm; the median is shown."
)
_MEASURE = flags.DEFINE_string(
    "measure", None, "Internal: dataset to read; set by this script for its subprocesses."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the datasets; default: temporary.")

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
    # Not imported in the subprocesses, which may run a different checkout.
    from benchmarks import repeated_records

    with contextlib.ExitStack() as stack:
        folder = _DATA_DIR.value or stack.enter_context(tempfile.TemporaryDirectory())
        small = {"source": "sample", "patches_per_class": 200}
        repeated_records.build(folder, {}, name="patches", patch_size=256, **small)
        repeated_records.build(
            folder,
            {"train": _RECORDS.value},
            name="large",
            patch_size=32,
            film_size=(344, 188),
            **small,
        )
        arms = {"this checkout": _ROOT}
        if _CHECKOUT.value:
            arms["the other one"] = pathlib.Path(_CHECKOUT.value).resolve()
        repeated_records.forget_index(folder)
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


def _run(root: pathlib.Path, name: str, folder: str) -> dict[str, float]:
    """Returns the result of `_measure` in a process that imports the checkout in `root`."""
    finished = subprocess.run(
        [sys.executable, __file__, f"--measure={name}", f"--data_dir={folder}"],
        # This checkout is second; `benchmarks` has no __init__.py, so its files come from both.
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(root), str(_ROOT)))},
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
    tf.constant(0)  # starts TensorFlow
    start = time.perf_counter()
    batches = iter(input_pipeline.training_batches(config))
    next(batches)
    first_batch_s = time.perf_counter() - start
    for _ in range(_WARM_UP_BATCHES):
        next(batches)
    start, before = time.perf_counter(), process_counters.bytes_read()
    for _ in range(_MEASURED_BATCHES):
        next(batches)
    seconds, num_bytes = time.perf_counter() - start, process_counters.bytes_read() - before
    return {
        "first_batch_s": first_batch_s,
        "patches_per_s": _MEASURED_BATCHES * _BATCH_SIZE / seconds,
        "kib_per_patch": num_bytes / _MEASURED_BATCHES / _BATCH_SIZE / 1024,
        "peak_gb": process_counters.peak_gb(),
    }


def _lines(first: dict, rounds: list[dict]) -> list[str]:
    lines = [
        f"| | patches/s, 256 px | read per patch, KiB | first batch of {_RECORDS.value} records, s "
        "| first batch ever, s | peak, GB |",
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
