"""The experiment's table as text: CSV with every digit, and rounded rows for people."""

import csv
import io
import math
import pathlib
from typing import NamedTuple

from cigan_tf import workdir
from cigan_tf.evaluation import roc
from cigan_tf.evaluation.experiment_table import ArmResult, Comparison, ExperimentTable


class TextTable(NamedTuple):
    """A table to be looked at: what it shows, its column heads, its cells."""

    caption: str
    header: list[str]
    rows: list[list[str]]


def write_csv(folder: pathlib.Path, table: ExperimentTable) -> None:
    """Writes table.csv, a row per arm, and comparisons.csv, a row per pair; nothing is rounded.

    What is not known is empty: the SD of one run.
    """
    arms = [{"arm": name, **_arm_numbers(arm)} for name, arm in table.arms.items()]
    workdir.write_whole(folder / "table.csv", _csv(arms))
    pairs = [_pair_numbers(pair) for pair in table.comparisons]
    workdir.write_whole(folder / "comparisons.csv", _csv(pairs))


def auc_table(table: ExperimentTable) -> TextTable:
    """Returns the paper's Table 1, arms and AUCs, with what the paper leaves out."""
    first = next(iter(table.arms.values()))
    num_seeds = len(first.auc_of_seed)
    return TextTable(
        f"AUC on {describe_counts(first.counts)}",
        [
            "arm",
            "AUC of one run" + (f", mean ± SD of {num_seeds}" if num_seeds > 1 else ""),
            "AUC of the runs' mean",
            "95 %, patients resampled",
            "95 %, DeLong",
        ],
        [
            [
                name,
                f"{arm.auc_mean:.3f}" + (f" ± {arm.auc_sd:.3f}" if num_seeds > 1 else ""),
                f"{arm.auc:.3f}",
                _interval(arm.bootstrap_interval),
                _interval(arm.delong_interval),
            ]
            for name, arm in table.arms.items()
        ],
    )


def comparison_table(table: ExperimentTable) -> TextTable:
    """Returns the pairs of arms with their tests."""
    resamples = table.comparisons[0].bootstrap.num_resamples if table.comparisons else 0
    return TextTable(
        f"Differences of AUC; p by {resamples:,} resamples of the patients and by DeLong, each "
        f"with Holm's correction over {len(table.comparisons)} pairs",
        [
            *("arms", "difference", "95 %, patients resampled", "p", "p, Holm"),
            *("DeLong z", "DeLong p", "DeLong p, Holm"),
        ],
        [
            [
                f"{pair.arm} − {pair.other}",
                f"{pair.bootstrap.difference:+.3f}",
                _interval(pair.bootstrap.interval, "+.3f"),
                _p_value(pair.bootstrap.p_value),
                _p_value(pair.bootstrap_p_holm),
                f"{pair.delong.z:+.2f}",
                _p_value(pair.delong.p_value),
                _p_value(pair.delong_p_holm),
            ]
            for pair in table.comparisons
        ],
    )


def seed_table(table: ExperimentTable) -> TextTable:
    """Returns every run's AUC by itself, and the differences of the runs of one seed."""
    first = next(iter(table.arms.values()))
    rows = [
        [name, *(f"{auc:.3f}" for auc in arm.auc_of_seed.values())]
        for name, arm in table.arms.items()
    ]
    for pair in table.comparisons:
        differences = (f"{value:+.3f}" for value in pair.difference_of_seed.values())
        rows.append([f"{pair.arm} − {pair.other}", *differences])
    return TextTable(
        "AUC of each run, and differences of the runs of one seed",
        ["arm", *(f"seed {seed}" for seed in first.auc_of_seed)],
        rows,
    )


def operating_table(table: ExperimentTable) -> TextTable:
    """Returns operating points, Brier score and calibration error of the runs' mean."""
    first = next(iter(table.arms.values()))
    return TextTable(
        "Operating points at thresholds chosen on the validation patches, and calibration, of the "
        f"runs' mean on {describe_counts(first.counts)}",
        [
            "arm",
            *(
                f"{what} at the threshold of {100 * specificity:g} % specificity"
                for specificity in first.operating_points
                for what in ("sensitivity", "specificity")
            ),
            "Brier score",
            "expected calibration error",
        ],
        [
            [
                name,
                *(
                    f"{100 * share:.1f} %"
                    for point in arm.operating_points.values()
                    for share in (point.sensitivity, point.specificity)
                ),
                f"{arm.brier:.3f}",
                f"{arm.calibration_error:.3f}",
            ]
            for name, arm in table.arms.items()
        ],
    )


def scanner_table(table: ExperimentTable) -> TextTable:
    """Returns AUCs by make of digitizer; without rows where fewer than two are known."""
    return TextTable(
        "AUC of the runs' mean by film digitizer",
        ["digitizer", "arm", "AUC", "95 %, DeLong", "patches", "malignant", "films", "patients"],
        [
            [
                scanner,
                name,
                f"{result.auc:.3f}",
                _interval(result.delong_interval),
                f"{result.counts.patches:,}",
                f"{result.counts.malignant_patches:,}",
                f"{result.counts.films:,}",
                f"{result.counts.patients:,}",
            ]
            for scanner in next(iter(table.arms.values())).scanners
            for name, arm in table.arms.items()
            for result in (arm.scanners[scanner],)
        ],
    )


def markdown(table: ExperimentTable) -> str:
    """Returns all tables that have rows as aligned Markdown, for a terminal and for RESULTS.md."""
    makers = (auc_table, comparison_table, seed_table, operating_table, scanner_table)
    return "\n".join(_markdown(text) for make in makers if (text := make(table)).rows)


def describe_counts(counts: roc.Counts) -> str:
    """Returns what a number was computed on, in words."""
    return (
        f"{counts.patches:,} patches ({counts.malignant_patches:,} malignant) of "
        f"{counts.films:,} films of {counts.patients:,} patients "
        f"({counts.malignant_patients:,} with a malignant patch)"
    )


def _arm_numbers(arm: ArmResult) -> dict:
    numbers = {
        "auc_mean": arm.auc_mean,
        "auc_sd": arm.auc_sd if math.isfinite(arm.auc_sd) else None,
        "num_seeds": len(arm.auc_of_seed),
        "auc": arm.auc,
        **_ends("auc_bootstrap", arm.bootstrap_interval),
        **_ends("auc_delong", arm.delong_interval),
    }
    for specificity, point in arm.operating_points.items():
        of = f"at_{100 * specificity:g}_specificity"
        numbers[f"sensitivity_{of}"] = point.sensitivity
        numbers[f"specificity_reached_{of}"] = point.specificity
        numbers[f"threshold_{of}"] = point.threshold
    numbers |= {"brier": arm.brier, "calibration_error": arm.calibration_error}
    numbers |= arm.counts._asdict()
    for seed, auc in arm.auc_of_seed.items():
        numbers[f"auc_seed_{seed}"] = auc
    for scanner, result in arm.scanners.items():
        of_scanner = {
            "auc": result.auc,
            **_ends("auc_delong", result.delong_interval),
            **result.counts._asdict(),
        }
        numbers |= {f"{key}_scanner_{scanner}": value for key, value in of_scanner.items()}
    return numbers


def _pair_numbers(pair: Comparison) -> dict:
    numbers = {
        "arm": pair.arm,
        "other": pair.other,
        "difference": pair.bootstrap.difference,
        **_ends("difference_bootstrap", pair.bootstrap.interval),
        "bootstrap_p": pair.bootstrap.p_value,
        "bootstrap_p_holm": pair.bootstrap_p_holm,
        "delong_z": pair.delong.z,
        "delong_p": pair.delong.p_value,
        "delong_p_holm": pair.delong_p_holm,
        "num_resamples": pair.bootstrap.num_resamples,
        "num_redrawn": pair.bootstrap.num_redrawn,
    }
    for seed, difference in pair.difference_of_seed.items():
        numbers[f"difference_seed_{seed}"] = difference
    return numbers


def _ends(name: str, interval: roc.Interval) -> dict[str, float]:
    return {f"{name}_low": interval.low, f"{name}_high": interval.high}


def _csv(rows: list[dict]) -> str:
    text = io.StringIO()
    header = rows[0] if rows else ("arm", "other", "difference")
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _interval(interval: roc.Interval, form: str = ".3f") -> str:
    return f"{interval.low:{form}} to {interval.high:{form}}"


def _p_value(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _markdown(text: TextTable) -> str:
    cells = [[_escape(cell) for cell in row] for row in (text.header, *text.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    header, *rows = (
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    )
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"**{_escape(text.caption)}**", "", header, rule, *rows, ""])


def _escape(cell: str) -> str:
    # The name of a digitizer comes from a file.
    return " ".join(cell.split()).replace("|", "\\|")
