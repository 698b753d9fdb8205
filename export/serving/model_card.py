"""The model card of an exported generator: training data, settings and losses.

All numbers are read from the files of the run and of the dataset.
"""

import importlib.metadata
import json
import pathlib

import jinja2
from etils import epath

from cigan_tf import input_pipeline, run_folder
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.evaluation import page, quality_table, report
from cigan_tf.evaluation.table_text import TextTable

_TEMPLATE = pathlib.Path(__file__).with_name("templates") / "MODEL_CARD.md.jinja"

# Scalars of TensorBoard in the order of the table, with their descriptions.
_METRICS = {
    "loss/feature_loss": "feature loss (VGG-19 maps of infilled and real patches)",
    "loss/boundary_loss": "boundary loss (grey levels along the mask's rim)",
    "loss/adversarial_generator_loss": "generator's adversarial loss",
    "loss/adversarial_discriminator_loss": "discriminator's adversarial loss",
    "discriminator/accuracy_real": "share of real patches classified as real",
    "discriminator/accuracy_fake": "share of infilled patches classified as infilled",
}


def render(
    workdir: epath.Path,
    config: Config,
    step: int,
    num_parameters: int,
    record: dict | None = None,
) -> str:
    """Returns the card as Markdown.

    Args:
        workdir: the trained run.
        config: its settings.
        step: step of the exported checkpoint.
        num_parameters: number of the generator's weights.
        record: the generator's provenance record, or None if the run has none. Measures of
            infills are included only if they were made with these weights.

    Raises:
        UserError: the measures of the run's infills cannot be read.
    """
    splits = _splits(config)
    curves = report.read_scalars(workdir / run_folder.LOG_DIR)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_TEMPLATE.read_text()).render(
        config=config,
        step=step,
        record=record,
        num_parameters=num_parameters,
        splits=splits,
        trained_on=(splits or {}).get(config.data.train_split),
        used={config.data.train_split: "training", config.data.validation_split: "selection"},
        duration=page.duration(report.training_seconds(curves)),
        quality=_quality(workdir / run_folder.QUALITY_FILE, record),
        metrics=[
            (words, *_last_points(curves[tag], step))
            for tag, words in _METRICS.items()
            if tag in curves
        ],
        settings=config.to_json().rstrip(),
        versions={name: importlib.metadata.version(name) for name in ("tensorflow", "keras")},
    )


def _quality(path: epath.Path, record: dict | None) -> TextTable | None:
    """Returns the measures in a file, or None if they are of another generator."""
    if not path.is_file():
        return None
    table = quality_table.read(path)
    # The run may have been trained on since they were computed.
    measured = json.loads(path.read_text()).get("generator") or {}
    if record is None:
        return None
    # Two exports of a checkpoint can have different hashes.
    same_hash = {"weights_sha256": record["weights_sha256"]}
    return table if measured | same_hash == record else None


def _last_points(curve, step: int) -> tuple[int, float]:
    """Returns the last point of a curve at or before a step: (step, value)."""
    points = curve[curve[:, 0] <= step]
    last = points[-1] if len(points) else curve[0]
    return int(last[0]), float(last[1])


def _splits(config: Config) -> dict[str, dict] | None:
    """Returns the dataset's own statistics by split, or None if it is not on this machine."""
    try:
        builder = input_pipeline.open_dataset(config.data, config.model.patch_size)
    except UserError:
        return None
    path = epath.Path(builder.data_path) / "statistics.json"
    stored = json.loads(path.read_text())["splits"] if path.is_file() else {}
    return {
        name: _facts(split.num_examples, stored.get(name, {}))
        for name, split in builder.info.splits.items()
    }


def _facts(num_patches: int, stored: dict) -> dict:
    lesions = stored.get("lesions", {})
    return {
        "patients": stored.get("patients", "not recorded"),
        "films": stored.get("films", "not recorded"),
        "lesions": sum(lesions.values()),
        "simulated": sum(number for kind, number in lesions.items() if "simulated" in kind),
        "patches": num_patches,
    }
