"""Figures of the reports, as PNG."""

import io
from collections.abc import Mapping, Sequence

import cv2
import matplotlib.figure
import numpy as np
from sklearn import calibration, metrics

from cigan_tf import pictures
from cigan_tf.evaluation.experiment_table import ArmResult, Comparison, ExperimentTable

_SHOWN_PX = 256
_LOSS_PANELS = {
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
_LOGARITHMIC = ("feature loss", "boundary loss")
# Number of equal groups of patches in a reliability plot.
_RELIABILITY_PARTS = 10


def picture(image: np.ndarray) -> bytes:
    """Returns a PNG of a uint8 [h, w] picture, enlarged by cubic interpolation if it is small."""
    if image.shape[0] < _SHOWN_PX:
        image = cv2.resize(image, (_SHOWN_PX, _SHOWN_PX), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".png", image)[1].tobytes()


def comparison_sheet(
    kinds: np.ndarray, rows: list[list[np.ndarray]], columns: Sequence[str] = pictures.COLUMNS
) -> bytes:
    """Returns a figure of the rows of `pictures.comparison_rows`, one block per kind of patch.

    Args:
        kinds: kind of each row's patch.
        rows: result of `pictures.comparison_rows`.
        columns: labels of the pictures in a row.
    """
    names = list(dict.fromkeys(kinds.tolist()))
    labels = [name.replace(" ", "\n") for name in columns]
    # One inch per picture, and room for the title and the labels of the columns.
    width_in = len(columns) * len(names)
    pictures_in = max(np.unique(kinds, return_counts=True)[1])
    title_in, label_in = 0.5, 0.25 + 0.2 * max(label.count("\n") for label in labels)
    height_in = title_in + pictures_in + label_in
    figure = matplotlib.figure.Figure(figsize=(width_in, height_in))
    figure.subplots_adjust(
        left=0.01,
        right=0.99,
        bottom=label_in / height_in,
        top=1 - title_in / height_in,
        wspace=0.04,
    )
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        chosen = [row for row, of_kind in zip(rows, kinds, strict=True) if of_kind == kind]
        axes.imshow(pictures.grid(chosen), cmap="gray", interpolation="bicubic")
        axes.set_title(kind.capitalize(), fontsize=13, pad=8)
        width = chosen[0][0].shape[1]
        centres = np.arange(len(columns)) * (width + pictures.GAP_PX) + width / 2
        axes.set_xticks(centres, labels)
        axes.set_yticks([])
        axes.set_anchor("N")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return _encode(figure)


def loss_curves(curves: Mapping[str, np.ndarray]) -> bytes:
    """Returns a figure of the loss terms.

    Args:
        curves: result of `report.read_scalars`.
    """
    figure = matplotlib.figure.Figure(figsize=(10, 5.4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(2, 2).flat, _LOSS_PANELS.items(), strict=True):
        for tag, name in lines.items():
            if tag in curves:
                axes.plot(curves[tag][:, 0], curves[tag][:, 1], ".-", markersize=3, label=name)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
        if title in _LOGARITHMIC and axes.lines:
            axes.set_yscale("log")
    return _encode(figure)


def roc_and_calibration(table: ExperimentTable) -> bytes:
    """Returns a figure of the arms' ROC curves and reliability curves."""
    figure = matplotlib.figure.Figure(figsize=(10, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for color, (name, arm) in _coloured(table.arms):
        fall_out, sensitivity, _ = metrics.roc_curve(table.label, arm.probability)
        left.plot(fall_out, sensitivity, color=color, label=f"{name}, {arm.auc:.3f}")
        # Groups of equal size, because groups with few patches would only show noise.
        found, foretold = calibration.calibration_curve(
            table.label, arm.probability, n_bins=_RELIABILITY_PARTS, strategy="quantile"
        )
        right.plot(foretold, found, ".-", color=color, label=name)
    left.set(title="ROC", xlabel="1 − specificity", ylabel="sensitivity")
    right.set(
        title=f"Reliability, each point 1/{_RELIABILITY_PARTS} of the patches",
        xlabel="mean probability",
        ylabel="share malignant",
    )
    for axes, title in ((left, "arm, AUC"), (right, "arm")):
        axes.plot([0, 1], [0, 1], ":", color="grey")
        axes.set_aspect("equal")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, title=title, fontsize=8)
    return _encode(figure)


def forest(table: ExperimentTable) -> bytes:
    """Returns a figure of the rows' AUCs and the pairs' differences, with every seed and intervals.

    Args:
        table: the numbers.
    """
    num_rows = len(table.arms) + len(table.comparisons) + len(table.pooled)
    figure = matplotlib.figure.Figure(figsize=(10, 1.7 + 0.42 * num_rows), layout="constrained")
    panels = [("AUC", _arm_rows(table))]
    if table.comparisons:
        panels.append(("difference in AUC", _pair_rows(table, table.comparisons)))
    if table.pooled:
        panels.append(
            ("difference in AUC, mean of the generators", _pair_rows(table, table.pooled))
        )
    ratios = [len(rows) + 1 for _, rows in panels]
    all_axes = figure.subplots(len(panels), 1, height_ratios=ratios, squeeze=False)[:, 0]
    for axes, (title, rows) in zip(all_axes, panels, strict=True):
        for y, (color, of_seeds, value, (low, high)) in enumerate(rows.values()):
            axes.plot([low, high], [y, y], color=color, linewidth=2)
            axes.plot(value, y, "D", color=color, markersize=7)
            axes.plot(of_seeds, np.full(len(of_seeds), y + 0.25), "o", color=color, alpha=0.5)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(title)
        axes.grid(alpha=0.3, axis="x")
    for axes in all_axes[1:]:
        axes.axvline(0, color="grey", linestyle=":")
    return _encode(figure)


def _arm_rows(table: ExperimentTable) -> dict[str, tuple]:
    return {
        name: (color, list(arm.auc_of_seed.values()), arm.auc, arm.bootstrap_interval)
        for color, (name, arm) in _coloured(table.arms)
    }


def _pair_rows(table: ExperimentTable, pairs: list[Comparison]) -> dict[str, tuple]:
    colors = {name: color for color, (name, _) in _coloured(table.arms)}
    return {
        f"{pair.arm} − {pair.other}": (
            # An arm with several generators has a row for each of them, but no colour of its own.
            colors.get(pair.arm, "black"),
            list(pair.difference_of_seed.values()),
            pair.bootstrap.difference,
            pair.bootstrap.interval,
        )
        for pair in pairs
    }


def _coloured(arms: Mapping[str, ArmResult]) -> list[tuple]:
    palette = matplotlib.colormaps["tab10" if len(arms) <= 10 else "tab20"].colors
    return [(palette[i % len(palette)], arm) for i, arm in enumerate(arms.items())]


def _encode(figure: matplotlib.figure.Figure) -> bytes:
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=120)
    return encoded.getvalue()
