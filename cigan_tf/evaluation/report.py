"""The page that a run ends in: held-out patches infilled by the exported generator, curves, facts.

Self-contained HTML: every picture is inside the file.
"""

import base64
import importlib.metadata
import io
import os
import pathlib
import platform

import cv2
import jinja2
import matplotlib.figure
import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cigan_tf import input_pipeline, pictures
from cigan_tf import workdir as workdir_lib
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.exported_generator import ExportedGenerator

_PATCHES_PER_KIND = 5
_SEEDS_SHOWN = 4
_SHOWN_PX = 256
_TEMPLATE = pathlib.Path(__file__).with_name("report.html.jinja")


def write_report(workdir: str | os.PathLike, saved_model: str | None = None) -> pathlib.Path:
    """Writes `workdir`/report.html and infills.png from the run and its exported generator.

    Args:
        workdir: a trained run.
        saved_model: the exported generator; by default the newest in `workdir`/saved_model.

    Returns:
        The page written.

    Raises:
        UserError: the run, the SavedModel or the dataset is missing, or their sizes differ.
    """
    workdir = pathlib.Path(workdir)
    config = workdir_lib.load_config(workdir)
    generator = ExportedGenerator(saved_model or workdir / "saved_model")
    if generator.patch_size != config.model.patch_size:
        raise UserError(
            f"The SavedModel {str(generator.path)!r} takes patches of {generator.patch_size} px, "
            f"the run in {str(workdir)!r} has {config.model.patch_size} px; pass the run's own."
        )
    split = config.data.validation_split
    batch = input_pipeline.picture_patches(config, split, _PATCHES_PER_KIND)
    rows = pictures.comparison_rows(batch, generator, config.training.seed)
    workdir_lib.write_whole(workdir / "infills.png", _draw_sheet(batch["kind"], rows))
    curves = read_scalars(workdir / workdir_lib.LOG_DIR)
    page = _render(workdir, config, generator, batch, rows, curves)
    target = workdir / "report.html"
    workdir_lib.write_whole(target, page)
    return target


def read_scalars(logdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns every scalar curve of a TensorBoard folder.

    Returns:
        By tag, float64 [points, 3]: step, value, wall time in seconds.
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


def _render(
    workdir: pathlib.Path,
    config: Config,
    generator: ExportedGenerator,
    batch: dict[str, np.ndarray],
    rows: list[list[np.ndarray]],
    curves: dict[str, np.ndarray],
) -> str:
    described = [_describe(batch, i, row) for i, row in enumerate(rows)]
    template = jinja2.Environment(autoescape=True).from_string(_TEMPLATE.read_text())
    return template.render(
        title="Lesions taken out, lesions put in",
        lead=(
            "Patches of films that training did not see, infilled by the exported ciGAN generator. "
            "The generator sees the input: the patch with its lesion mask under noise, and the "
            "class that is asked for. Everything outside the mask is the film's own."
        ),
        facts=[
            ("dataset", config.data.dataset),
            ("patch", f"{config.model.patch_size} px"),
            ("training", f"{_last_step(curves):,} steps in {_duration(_training_seconds(curves))}"),
            ("machine", f"{os.cpu_count()} CPU cores"),
        ],
        columns=pictures.COLUMNS,
        sections=[
            {
                "title": "Original, input, infills",
                "text": (
                    "As in the paper's Fig. 1, with the patch's own class beside the opposite: a "
                    "malignant lesion is rebuilt, and taken out; a benign one, and tissue without "
                    "a lesion, is rebuilt, and made malignant."
                ),
                "columns": [column.capitalize() for column in pictures.COLUMNS],
                "rows": described,
            },
            _seed_section(batch, generator, config.training.seed),
        ],
        curves=_draw_curves(curves),
        curves_text=(
            "Each term before its weight, as TensorBoard shows it under loss/; the generator is "
            "trained on the feature loss alone at first, then the networks take turns."
        ),
        saved_model=str(generator.path),
        workdir=str(workdir),
        machine=_machine(),
        settings=config.to_json(),
    )


def _describe(batch: dict[str, np.ndarray], i: int, row: list[np.ndarray]) -> dict:
    origin = "simulated in real tissue" if batch["simulated"][i] else "as found on the film"
    if batch["kind"][i] == "no lesion":
        origin = "mask of another lesion"
    return {
        "kind": str(batch["kind"][i]).capitalize(),
        "film": str(batch["film_id"][i]),
        "origin": origin,
        "pictures": [_png(picture) for picture in row],
    }


def _seed_section(batch, generator: ExportedGenerator, seed: int) -> dict:
    """One patch of each kind, malignant, under several seeds: is there more than one lesion?"""
    chosen = [int(np.argmax(batch["kind"] == kind)) for kind in np.unique(batch["kind"])]
    rows = []
    for i in chosen:
        image, mask = (np.repeat(batch[n][i : i + 1], _SEEDS_SHOWN, 0) for n in ("image", "mask"))
        seeds = np.arange(seed + 100, seed + 100 + _SEEDS_SHOWN, dtype=np.int32)
        infills = generator(image, mask, np.ones(_SEEDS_SHOWN, np.int32), seeds)
        window = pictures.display_window(batch["image"][i])
        shown = [pictures.to_8_bit(infill[..., 0], window) for infill in infills]
        rows.append(_describe(batch, i, shown))
    return {
        "title": "One mask, several seeds",
        "text": "The class asked for is malignant throughout; only the seed of the noise differs.",
        "columns": [f"Seed {seed + 100 + i}" for i in range(_SEEDS_SHOWN)],
        "rows": rows,
    }


def _draw_sheet(kinds: np.ndarray, rows: list[list[np.ndarray]]) -> bytes:
    """Returns the comparison rows as one PNG, the kinds of patches beside each other."""
    names = list(dict.fromkeys(kinds.tolist()))
    figure = matplotlib.figure.Figure(figsize=(4 * len(names), 5.6), layout="constrained")
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        chosen = [row for row, of_kind in zip(rows, kinds, strict=True) if of_kind == kind]
        axes.imshow(pictures.grid(chosen), cmap="gray", interpolation="bicubic")
        axes.set_title(kind.capitalize(), fontsize=13, pad=8)
        width = chosen[0][0].shape[1]
        centres = (np.arange(len(pictures.COLUMNS)) + 0.5) * width
        axes.set_xticks(centres, [name.replace(" ", "\n") for name in pictures.COLUMNS])
        axes.set_yticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return _encode(figure)


def _encode(figure: matplotlib.figure.Figure) -> bytes:
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=120)
    return encoded.getvalue()


def _draw_curves(curves: dict[str, np.ndarray]) -> str:
    panels = {
        "feature loss": {"loss/feature_loss": "generator"},
        "boundary loss": {"loss/boundary_loss": "generator"},
        "adversarial loss": {
            "loss/adversarial_generator_loss": "generator",
            "loss/adversarial_discriminator_loss": "discriminator",
        },
        "discriminator accuracy": {
            "discriminator/accuracy_real": "real patches",
            "discriminator/accuracy_fake": "infilled patches",
        },
    }
    figure = matplotlib.figure.Figure(figsize=(10, 5.4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for tag, name in lines.items():
            if tag in curves:
                axes.plot(curves[tag][:, 0], curves[tag][:, 1], ".-", markersize=3, label=name)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
        if title in ("feature loss", "boundary loss") and axes.lines:
            axes.set_yscale("log")
    return base64.b64encode(_encode(figure)).decode()


def _png(picture: np.ndarray) -> str:
    """Returns a picture as base64 PNG, enlarged smoothly where it is small."""
    if picture.shape[0] < _SHOWN_PX:
        picture = cv2.resize(picture, (_SHOWN_PX, _SHOWN_PX), interpolation=cv2.INTER_CUBIC)
    return base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()


def _last_step(curves: dict[str, np.ndarray]) -> int:
    return int(max((curve[-1, 0] for curve in curves.values()), default=0))


def _training_seconds(curves: dict[str, np.ndarray]) -> float:
    rates = curves.get("speed/steps_per_second")
    if rates is None:
        return 0.0
    steps = np.diff(rates[:, 0], prepend=0)
    return float(np.sum(steps / rates[:, 1]))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _machine() -> list[tuple[str, str]]:
    packages = ("cigan", "tensorflow", "keras", "tensorflow-datasets")
    versions = []
    for package in packages:
        try:
            versions.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            versions.append((package, "from the checkout, not installed"))
    return [("Python", platform.python_version()), ("System", platform.platform()), *versions]
