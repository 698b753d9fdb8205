"""Report of a run: held-out patches infilled by the exported generator, curves and settings.

It is self-contained HTML: every picture is embedded.
"""

import json
import os
import sys
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from etils import epath
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cigan_tf import file_io, input_pipeline, pictures, run_folder, terminal
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.evaluation import drawing, origin, page
from cigan_tf.exported_generator import ExportedGenerator, PresetGenerator
from cigan_tf.randomness import consecutive_seeds

_PATCHES_PER_KIND = 5
_SEEDS_SHOWN = 4


def write_report(workdir: str | os.PathLike, saved_model: str | None = None) -> epath.Path:
    """Writes `workdir`/report.html and infills.png from the run and its exported generator.

    Args:
        workdir: a trained run.
        saved_model: folder of the exported generator; default: the newest in `workdir`/saved_model.

    Returns:
        Path of the page.

    Raises:
        UserError: the run, the SavedModel or the dataset is missing, or their patch sizes differ.
    """
    workdir = epath.Path(workdir)
    config = run_folder.load_config(workdir)
    generator = ExportedGenerator(saved_model or workdir / "saved_model")
    if saved_model is None and generator.provenance:
        run_folder.warn_of_later_checkpoint(workdir, generator.path, generator.provenance["step"])
    if generator.patch_size != config.model.patch_size:
        raise UserError(
            f"The SavedModel {str(generator.path)!r} takes patches of {generator.patch_size} px, "
            f"but the run in {str(workdir)!r} has patches of {config.model.patch_size} px; pass a "
            "generator exported from this run as --saved_model."
        )
    terminal.say("Infilling held-out patches ...")
    split = config.data.validation_split
    batch = input_pipeline.picture_patches(config, split, _PATCHES_PER_KIND)
    before = _began_from(config)
    columns = (*pictures.COLUMNS, pictures.BEFORE) if before else pictures.COLUMNS
    rows = pictures.comparison_rows(batch, generator, config.training.seed, before)
    terminal.say("Drawing the report ...")
    sheet = drawing.comparison_sheet(batch["kind"], rows, columns)
    file_io.write_whole(workdir / run_folder.INFILLS_FILE, sheet)
    curves = read_scalars(workdir / run_folder.LOG_DIR)
    target = workdir / "report.html"
    file_io.write_whole(target, _render(workdir, config, generator, batch, columns, rows, curves))
    return target


def read_scalars(logdir: epath.Path) -> dict[str, np.ndarray]:
    """Returns every scalar curve of a TensorBoard folder.

    Returns:
        The curves by tag, float64 [points, 3]: step, value, wall time in seconds.
    """
    events = EventAccumulator(str(logdir), size_guidance={"tensors": 0})
    events.Reload()
    curves = {}
    for tag in events.Tags()["tensors"]:
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            points = [
                (event.step, float(tf.make_ndarray(event.tensor_proto)), event.wall_time)
                for event in events.Tensors(tag)
            ]
            curves[tag] = np.array(points)
    return curves


def training_seconds(curves: dict[str, np.ndarray]) -> float:
    """Returns the training time of a run, computed from its curve of steps per second."""
    rates = curves.get("speed/steps_per_second")
    if rates is None:
        return 0.0
    steps = np.diff(rates[:, 0], prepend=0)
    return float(np.sum(steps / rates[:, 1]))


def _render(
    workdir: epath.Path,
    config: Config,
    generator: ExportedGenerator,
    batch: dict[str, np.ndarray],
    columns: Sequence[str],
    rows: list[list[np.ndarray]],
    curves: dict[str, np.ndarray],
) -> str:
    described = [_describe(batch, i, row) for i, row in enumerate(rows)]
    return page.render(
        "report.html.jinja",
        title="Lesions removed and inserted",
        lead=(
            "These patches are from films that were not used for training. The exported ciGAN "
            "generator infilled them. Its input is the context image, which has noise inside the "
            "lesion mask, and the requested class. Pixels outside the mask are those of the film."
        ),
        facts=[
            ("dataset", f"{config.data.dataset}, {config.model.patch_size} px"),
            *_run_facts(workdir),
            (
                "training",
                f"{_last_step(curves):,} steps in {page.duration(training_seconds(curves))}",
            ),
        ],
        origin=[
            (name.replace("_", " ").capitalize(), f"{value:,}" if "train_" in name else value)
            for name, value in origin.of_generator(generator.provenance).items()
            if value is not None
        ],
        sections=[
            {
                "title": "Original, input, infills",
                "text": (
                    "The columns include those of the paper's Fig. 1. An infill of the same class "
                    "reconstructs the original. An infill of the opposite class removes a "
                    "malignant lesion, replaces a benign lesion with a malignant one, or inserts a "
                    "malignant lesion into tissue without a lesion."
                ),
                "columns": [column.capitalize() for column in columns],
                "rows": described,
            },
            _seed_section(batch, generator, config.training.seed),
        ],
        curves=drawing.loss_curves(curves),
        curves_text=(
            "Loss terms are shown without their weights, as under loss/ in TensorBoard. The "
            "generator is first trained on the feature loss only; then the networks take turns."
        ),
        saved_model=str(generator.path),
        workdir=str(workdir),
        settings=config.to_json(),
    )


def _began_from(config: Config) -> PresetGenerator | None:
    """Returns the preset that the run was fine-tuned from, or None without a readable preset."""
    if not config.training.init_from:
        return None
    try:
        return PresetGenerator(config.training.init_from)
    except UserError as error:
        print(f"warning: infills of the preset are not shown: {error}", file=sys.stderr)
        return None


def _run_facts(workdir: epath.Path) -> list[tuple[str, str]]:
    """Returns the facts that the run recorded about its device and training data."""
    try:
        run = json.loads((workdir / run_folder.RUN_FILE).read_text())
    except (OSError, ValueError):
        return [("machine", f"{os.cpu_count()} CPU cores")]
    facts = [("device", f"{', '.join(run['devices'])}, {run['precision']}")]
    if run["num_patients"] is not None:
        patients = f"{run['num_patients']:,} patient" + ("s" if run["num_patients"] != 1 else "")
        facts.append(("trained on", f"{run['num_patches']:,} patches from {patients}"))
    if run["seconds_per_step"] is not None:
        facts.append(("a step", f"{run['seconds_per_step']:.3g} s"))
    return facts


def _describe(batch: dict[str, np.ndarray], i: int, row: list[np.ndarray]) -> dict:
    origin = "simulated in real tissue" if batch["simulated"][i] else "original lesion"
    if batch["kind"][i] == "no lesion":
        origin = "mask of another lesion"
    return {
        "kind": str(batch["kind"][i]).capitalize(),
        "film": str(batch["film_id"][i]),
        "origin": origin,
        "pictures": [drawing.picture(picture) for picture in row],
    }


def _seed_section(batch, generator: ExportedGenerator, seed: int) -> dict:
    """Returns a section with one patch of each kind, infilled as malignant with several seeds."""
    chosen = [int(np.argmax(batch["kind"] == kind)) for kind in np.unique(batch["kind"])]
    rows = []
    for i in chosen:
        image, mask = (np.repeat(batch[n][i : i + 1], _SEEDS_SHOWN, 0) for n in ("image", "mask"))
        seeds = consecutive_seeds(seed + 100, _SEEDS_SHOWN)
        infills = generator(image, mask, np.ones(_SEEDS_SHOWN, np.int32), seeds)
        window = pictures.display_window(batch["image"][i], *infills)
        shown = [pictures.to_8_bit(infill[..., 0], window) for infill in infills]
        rows.append(_describe(batch, i, shown))
    return {
        "title": "One mask, several seeds",
        "text": "All infills are malignant; only the seed of the noise differs.",
        "columns": [f"Seed {shown}" for shown in consecutive_seeds(seed + 100, _SEEDS_SHOWN)],
        "rows": rows,
    }


def _last_step(curves: dict[str, np.ndarray]) -> int:
    return int(max((curve[-1, 0] for curve in curves.values()), default=0))
