"""Growth of time, memory and bytes with the sizes of the dataset, its test split and the patches.

    python -m benchmarks.scale [--records=200000] [--test_records=20000] [--tables=input,infill]

The patches are 32 px, from simulated films, and their records are repeated to a sixteenth, a
quarter and all of the requested number. Rows with patches of 64 to 512 px use small datasets. Each
row is measured in a separate process, and includes its peak memory. Bytes are those that the
process requests from the system (`rchar` in /proc/self/io). For the table `whole`, which uses the
largest dataset, the generator is trained for ten steps and exported, the test split is classified,
and 2,000 infills of test patches are evaluated. The last lines give the hours for the paper's sizes
at the measured rates. To measure how the build grows with the number of films, use
`benchmarks.dataset_build --copies=N`.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags

from benchmarks import process_counters, repeated_records

_NAMES = ("input", "workers", "checkpoint", "infill", "score", "judge", "whole")
_RECORDS = flags.DEFINE_integer(
    "records", 200_000, "Number of training records of the largest dataset."
)
_TEST_RECORDS = flags.DEFINE_integer(
    "test_records", 20_000, "Number of test records of the largest dataset."
)
_TABLES = flags.DEFINE_list("tables", list(_NAMES), "Tables to measure.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the datasets; default: temporary.")
_ROW = flags.DEFINE_string(
    "row", None, "Internal: row to measure, TABLE:NUMBER; set by this script for its subprocesses."
)

_PATCH_PX = 32
# A dataset `times_N` has N / 16 of the requested records.
_TIMES = (1, 4, 16)
# Patch sizes of the datasets `px_N`, which all cover the same area: 64 px of a 344 x 188 film.
_SIZES_PX = (64, 128, 256, 512)
_NUMBERS = {
    "input": (*_TIMES, 256),
    "workers": (1, 8),
    "checkpoint": _SIZES_PX,
    "infill": (*_TIMES, 64, 128, 256),
    "score": _TIMES,
    "judge": _TIMES[:-1],  # `whole` has the rest
    "whole": _TIMES[-1:],
}
# The datasets that a table needs.
_SIZES_OF = _NUMBERS | {"workers": _TIMES[-1:], "checkpoint": ()}
_BATCH_SIZE = 8
_WARM_UP_BATCHES, _MEASURED_BATCHES = 20, 500
_INFILLS = 512
_JUDGED_PATCHES = 2000
# The paper's training patches, our interpretation of its steps (paper.flags), and its patch size.
_PAPER_RECORDS, _PAPER_STEPS, _PAPER_PX = 160_000, 110_000, 256


def main(_):
    """Prints the tables, or measures one row."""
    if _ROW.value:
        table, _, number = _ROW.value.partition(":")
        row = globals()[f"_{table}_row"](int(number), _DATA_DIR.value)
        row["peak, GB"] = process_counters.peak_gb()
        print(json.dumps(row))
        return
    with contextlib.ExitStack() as stack:
        folder = _DATA_DIR.value or stack.enter_context(tempfile.TemporaryDirectory())
        _build(folder, {number for table in _TABLES.value for number in _SIZES_OF[table]})
        rows = {}
        for table in _TABLES.value:
            repeated_records.forget_index(folder)
            for number in _NUMBERS[table]:
                row = rows[table, number] = _run(table, number, folder)
                if number == _NUMBERS[table][0]:
                    print(f"\n{table}\n\n| {' | '.join(row)} |\n|{'---|' * len(row)}")
                print(f"| {' | '.join(map(_text, row.values()))} |", flush=True)
    print("\nAt the paper's size:\n" + "\n".join(_at_the_papers_size(rows)))


def _run(table: str, number: int, folder: str) -> dict:
    arguments = [f"--row={table}:{number}", f"--data_dir={folder}"]
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", *arguments], stdout=subprocess.PIPE, check=True
    )
    return json.loads(finished.stdout.splitlines()[-1])


def _text(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if isinstance(value, int) or value >= 1000 else f"{value:.3g}"


def _at_the_papers_size(rows: dict[tuple[str, int], dict]) -> list[str]:
    """Returns the hours and GB of the paper's training at the measured rates."""
    lines = []
    if ("input", _PAPER_PX) in rows:
        row, patches = rows["input", _PAPER_PX], _PAPER_STEPS * _BATCH_SIZE
        hours, gb = patches / row["patches/s"] / 3600, patches * row["KiB a patch"] / 1024**2
        lines.append(
            f"- {patches:,} patches of {_PAPER_PX} px, {_PAPER_STEPS:,} steps of {_BATCH_SIZE}: "
            f"read in {hours:.1f} h, {gb:.0f} GiB"
        )
    if ("checkpoint", _PAPER_PX) in rows:
        row, saved = rows["checkpoint", _PAPER_PX], _PAPER_STEPS // 1000
        lines.append(
            f"- {saved} checkpoints: {saved * row['MB'] / 1000:.1f} GB in all, "
            f"{saved * row['written, s'] / 60:.1f} min"
        )
    if ("infill", _PAPER_PX) in rows:
        hours = _PAPER_RECORDS / rows["infill", _PAPER_PX]["infills/s"] / 3600
        lines.append(f"- {_PAPER_RECORDS:,} infills of {_PAPER_PX} px: {hours:.1f} h")
    return lines


def _build(folder: str, numbers: set[int]) -> None:
    for times in numbers.intersection(_TIMES):
        share = times / _TIMES[-1]
        repeated_records.build(
            folder,
            {
                "train": int(_RECORDS.value * share),
                "test": int(_TEST_RECORDS.value * share),
            },
            name=f"times_{times}",
            source="phantom",
            num_patients=160,  # too few would leave half of a class of the test split empty
            patch_size=_PATCH_PX,
            film_size=(344, 188),
            patches_per_class=500,
        )
    for size_px in numbers.intersection(_SIZES_PX):
        repeated_records.build(
            folder,
            {},
            name=f"px_{size_px}",
            source="phantom",
            num_patients=10,
            patch_size=size_px,
            film_size=(size_px * 344 // 64, size_px * 188 // 64),
            patches_per_class=100,
        )


def _config(number: int, folder: str):
    """Returns the configuration of a short run on `times_N` or `px_N`."""
    from cigan_tf.config import Config, DataConfig, ModelConfig, TrainingConfig
    from cigan_tf.experiment_config import ExperimentConfig

    patch_px = _PATCH_PX if number in _TIMES else number
    name = f"times_{number}" if number in _TIMES else f"px_{number}"
    every = dict.fromkeys(("log_every_steps", "picture_every_steps", "checkpoint_every_steps"), 10)
    return Config(
        data=DataConfig(f"ddsm_patches/{name}", data_dir=folder, batch_size=_BATCH_SIZE),
        model=ModelConfig(patch_size=patch_px, vgg_weights="random"),
        training=TrainingConfig(pretraining_steps=5, adversarial_steps=5, **every),
        experiment=ExperimentConfig(quality_features="random"),
    )


def _num_records(config, split: str) -> int:
    from cigan_tf import input_pipeline

    builder = input_pipeline.open_dataset(config.data, config.model.patch_size)
    return builder.info.splits[split].num_examples


def _input_row(number: int, folder: str) -> dict:
    """Reads training batches; the first start builds the index of the records."""
    import tensorflow as tf

    from cigan_tf import input_pipeline

    config = _config(number, folder)
    tf.constant(0)  # starts TensorFlow
    first_batch_s = []
    for _ in range(2):
        start = time.perf_counter()
        batches = iter(input_pipeline.training_batches(config))
        next(batches)
        first_batch_s.append(time.perf_counter() - start)
    seconds, num_bytes = _read(batches)
    patches = _MEASURED_BATCHES * _BATCH_SIZE
    return {
        "records": _num_records(config, "train"),
        "px": config.model.patch_size,
        "first start, s": first_batch_s[0],
        "later starts, s": first_batch_s[1],
        "patches/s": patches / seconds,
        "KiB a patch": num_bytes / patches / 1024,
    }


def _read(batches) -> tuple[float, int]:
    """Returns the seconds and bytes that `_MEASURED_BATCHES` batches take, after a warm-up."""
    for _ in range(_WARM_UP_BATCHES):
        next(batches)
    start, before = time.perf_counter(), process_counters.bytes_read()
    for _ in range(_MEASURED_BATCHES):
        next(batches)
    return time.perf_counter() - start, process_counters.bytes_read() - before


def _workers_row(num_workers: int, folder: str) -> dict:
    """Reads the same steps in all workers at once, each a separate process."""
    arguments = [f"--data_dir={folder}"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scale", f"--row=worker:{number}", *arguments],
            stdout=subprocess.PIPE,
        )
        for number in (100 * num_workers + worker for worker in range(num_workers))
    ]
    parts = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    by_all = sum(part["bytes"] for part in parts)
    return {
        "workers": num_workers,
        "KiB a step, all": by_all / _MEASURED_BATCHES / 1024,
        "read / records used": by_all / sum(part["bytes of records"] for part in parts),
        "largest part": max(part["bytes"] for part in parts) / by_all,
    }


def _worker_row(number: int, folder: str) -> dict:
    """Reads one worker's part; `number` is 100 times the number of workers, plus the worker's."""
    import numpy as np

    from cigan_tf import input_pipeline

    num_workers, worker = divmod(number, 100)
    patches = input_pipeline.TrainingInput(_config(_TIMES[-1], folder))
    _, num_bytes = _read(iter(patches.batches(0, worker, num_workers)))
    num_patches = _MEASURED_BATCHES * _BATCH_SIZE / num_workers
    # A record is surrounded by its length and two checksums, 16 bytes (TFRecord).
    mean_bytes = float(np.mean(patches.index.length)) + 16
    return {"bytes": num_bytes, "bytes of records": num_patches * mean_bytes}


def _checkpoint_row(number: int, folder: str) -> dict:
    """Saves and restores networks and optimizers with random values."""
    import numpy as np

    from cigan_tf.models.cigan import build_cigan
    from cigan_tf.training.checkpoints import RunCheckpoints

    config = _config(number, folder)
    model = build_cigan(config)
    rng = np.random.default_rng(0)
    variables = [*model.generator.variables, *model.discriminator.variables]
    for optimizer in (model.generator_optimizer, model.discriminator_optimizer):
        variables += [variable for variable in optimizer.variables if variable.shape]
    for variable in variables:
        variable.assign(rng.standard_normal(variable.shape))
    saved = [variable.numpy() for variable in variables]
    with tempfile.TemporaryDirectory() as workdir:
        checkpoints = RunCheckpoints(model, pathlib.Path(workdir), config)
        start = time.perf_counter()
        checkpoints.save(1)
        written_s = time.perf_counter() - start
        num_bytes = sum(path.stat().st_size for path in pathlib.Path(workdir).rglob("ckpt-*"))
        for variable in variables:
            variable.assign(np.zeros(variable.shape))
        start = time.perf_counter()
        checkpoints.restore()
        restored_s = time.perf_counter() - start
    same = all(
        np.array_equal(before, variable.numpy())
        for before, variable in zip(saved, variables, strict=True)
    )
    return {
        "px": number,
        "MB": num_bytes / 1e6,
        "written, s": written_s,
        "restored, s": restored_s,
        "bit-exact": "yes" if same else "NO",
    }


def _infill_row(number: int, folder: str) -> dict:
    """Makes N times `_INFILLS` records of a synthetic set at 32 px, or `_INFILLS` / 4 at N px."""
    import numpy as np

    from cigan_tf import input_pipeline
    from cigan_tf.classifier import context_patches, synthetic_set
    from cigan_tf.models.cigan import build_cigan

    config = _config(number, folder)
    patch_px = config.model.patch_size
    num_infills = _INFILLS * number if number in _TIMES else _INFILLS // 4
    builder = input_pipeline.open_dataset(config.data, patch_px)
    index = input_pipeline.index_of_split(builder, "train")
    donors = np.flatnonzero((index.label == 1) & index.has_lesion)
    records = np.arange(len(index.label))
    contexts = context_patches.Contexts(builder, index, records, donors, 0, patch_px)
    generate = build_cigan(config).generate
    for _ in synthetic_set.infilled_records(contexts, generate, 0, _INFILLS // 8):
        pass  # traces the functions and starts TensorFlow's threads
    start = time.perf_counter()
    for _ in synthetic_set.infilled_records(contexts, generate, 0, num_infills):
        pass
    seconds = time.perf_counter() - start
    return {
        "infills": num_infills,
        "px": patch_px,
        "seconds": seconds,
        "infills/s": num_infills / seconds,
    }


def _score_row(number: int, folder: str) -> dict:
    start = time.perf_counter()
    num_patches = _score(_config(number, folder))
    seconds = time.perf_counter() - start
    return {"test records": num_patches, "seconds": seconds, "patches/s": num_patches / seconds}


def _score(config) -> int:
    """Classifies the test split; returns the number of its patches."""
    from cigan_tf.classifier import batches, classifier_run
    from cigan_tf.classifier.network import build_classifier

    classifier = build_classifier(_PATCH_PX, "random", 0)
    return len(classifier_run.score(classifier, *batches.scored_batches(config, "test")).label)


def _judge_row(number: int, folder: str) -> dict:
    from cigan_tf.models.cigan import build_cigan

    config = _config(number, folder)
    start = time.perf_counter()
    num_infills = _judge(config, build_cigan(config).generate)
    return {
        "training records": _num_records(config, "train"),
        "test records": _num_records(config, "test"),
        "infills": num_infills,
        "seconds": time.perf_counter() - start,
    }


def _judge(config, generate) -> int:
    """Computes all measures of infills of the test split; returns the number of infills."""
    from cigan_tf import input_pipeline
    from cigan_tf.classifier import infill_quality
    from cigan_tf.classifier.network import build_classifier
    from cigan_tf.evaluation import infill_measures

    classifier = build_classifier(_PATCH_PX, "random", 0)
    infills = infill_quality.infilled_patches(config, generate, _JUDGED_PATCHES)
    infill_measures.judge_infills(
        input_pipeline.drawn_patches(config, "test", _JUDGED_PATCHES),
        infills,
        infill_quality.TrainingPatches(config),
        infill_quality.feature_function("classifier", classifier),
        lambda patches: classifier.predict(patches["image"], batch_size=64, verbose=0)[:, 0],
        0.5,
        0,
        infill_quality.calibrate_copy_search(config),
    )
    return len(infills["label"])


def _whole_row(number: int, folder: str) -> dict:
    from cigan_tf.exported_generator import ExportedGenerator
    from cigan_tf.training.train import train
    from export.saved_model import export

    config = _config(number, folder)
    row = {
        "training records": _num_records(config, "train"),
        "test records": _num_records(config, "test"),
    }
    with tempfile.TemporaryDirectory() as workdir:
        steps = {
            "train, s": lambda: train(config, workdir),
            "export, s": lambda: export(workdir, pathlib.Path(workdir, "saved_model")),
            "score, s": lambda: _score(config),
            "judge, s": lambda: _judge(
                config, ExportedGenerator(pathlib.Path(workdir, "saved_model"))
            ),
        }
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            row[name] = time.perf_counter() - start
    return row


if __name__ == "__main__":
    app.run(main)
