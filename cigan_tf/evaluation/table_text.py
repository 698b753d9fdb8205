"""The experiment's table as text: CSV with all digits, and rounded rows for reading."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from etils import epath

from cigan_tf import file_io
from cigan_tf.evaluation import roc
from cigan_tf.evaluation.experiment_table import (
    LEAST_PATIENTS,
    ArmResult,
    Comparison,
    ExperimentTable,
    GroupAuc,
)


class TextTable(NamedTuple):
    """A table for reading: caption, column heads and rows of cells."""

    caption: str
    header: list[str]
    rows: list[list[str]]


def write_csv(
    folder: epath.Path, table: ExperimentTable, origins: Mapping[str, Mapping[str, object]]
) -> None:
    """Writes table.csv, comparisons.csv, subgroups.csv and variances.csv without rounding.

    table.csv has the rows of the table; comparisons.csv has one row per pair, beginning with pairs
    averaged over generators; subgroups.csv has one row per subgroup and row of the table; and
    variances.csv has one row per arm. Unknown values are empty: the SD of one run, the AUC of too
    few patients.

    Args:
        folder: folder of the files.
        table: the numbers.
        origins: provenance columns of table.csv by row (`origin.columns`).
    """
    arms = [
        {"arm": name, **_arm_numbers(arm), **origins.get(name, {})}
        for name, arm in table.arms.items()
    ]
    pairs = [_pair_numbers(pair) for pair in (*table.pooled, *table.comparisons)]
    subgroups = [
        {"arm": name, "kind": kind, "group": of, **_group_numbers(group), **group.counts._asdict()}
        for name, arm in table.arms.items()
        for kind, groups in arm.subgroups.items()
        for of, group in groups.items()
    ]
    variances = [
        {"arm": arm, **{n: _known(value) for n, value in split._asdict().items()}}
        for arm, split in table.variances.items()
    ]
    for name, rows, header in (
        ("table", arms, ("arm",)),
        ("comparisons", pairs, ("arm", "other", "difference")),
        ("subgroups", subgroups, ("arm", "kind", "group", "auc")),
        ("variances", variances, ("arm",)),
    ):
        file_io.write_whole(folder / f"{name}.csv", _csv(rows, header))


def auc_table(table: ExperimentTable) -> TextTable:
    """Returns the paper's Table 1, the arms and their AUCs, with intervals."""
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
                interval(arm.bootstrap_interval),
                interval(arm.delong_interval),
            ]
            for name, arm in table.arms.items()
        ],
    )


def comparison_table(table: ExperimentTable) -> TextTable:
    """Returns the tests of pairs of rows."""
    return _tests("Differences in AUC", table.comparisons)


def pooled_table(table: ExperimentTable) -> TextTable:
    """Returns the tests of pairs of arms, averaged over the generators if an arm has several."""
    return _tests("Differences in AUC, averaged over the generators of an arm", table.pooled)


def seed_table(table: ExperimentTable) -> TextTable:
    """Returns the AUC of every run, and the differences between runs with the same seed."""
    first = next(iter(table.arms.values()))
    rows = [
        [name, *(f"{auc:.3f}" for auc in arm.auc_of_seed.values())]
        for name, arm in table.arms.items()
    ]
    for pair in table.comparisons:
        differences = (f"{value:+.3f}" for value in pair.difference_of_seed.values())
        rows.append([f"{pair.arm} − {pair.other}", *differences])
    return TextTable(
        "AUC of each run, and differences between runs with the same seed",
        ["arm", *(f"seed {seed}" for seed in first.auc_of_seed)],
        rows,
    )


def operating_table(table: ExperimentTable) -> TextTable:
    """Returns the operating points, Brier score and calibration error of the runs' mean."""
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


def level_table(table: ExperimentTable) -> TextTable:
    """Returns AUCs per patch, film and patient."""
    levels = {
        name: {"patch": GroupAuc(arm.auc, arm.bootstrap_interval, arm.counts), **arm.levels}
        for name, arm in table.arms.items()
    }
    return _groups(
        "AUC of the runs' mean per patch, per film and per patient, with 95 % intervals from "
        "resampled patients; films and patients are scored by the maximum of their patches",
        "per",
        {
            level: {arm: levels[arm][level] for arm in levels}
            for level in ("patch", "film", "patient")
        },
    )


def subgroup_table(table: ExperimentTable) -> TextTable:
    """Returns AUCs by type, size and subtlety of the lesion, density and digitiser of the film.

    It has no rows if these are unknown.
    """
    first = next(iter(table.arms.values()))
    return _groups(
        "AUC of the runs' mean by subgroup, with 95 % intervals from resampled patients; a "
        "subgroup has malignant lesions of one type, size or subtlety and all non-malignant "
        "patches, or all patches of films of one density or digitiser",
        "group",
        {
            f"{kind}: {group}": {n: arm.subgroups[kind][group] for n, arm in table.arms.items()}
            for kind, groups in first.subgroups.items()
            for group in groups
        },
    )


def variance_table(table: ExperimentTable) -> TextTable:
    """Returns the standard deviations of an AUC caused by generators and by classifier seeds."""
    return TextTable(
        "Standard deviation of one run's AUC, split between the seeds of the generator and of the "
        "classifier (two-way random effects)",
        ["arm", "generators", "seeds", "generator", "classifier's seed", "residual"],
        [
            [
                arm,
                str(split.num_generators),
                str(split.num_seeds),
                *(
                    f"{math.sqrt(value):.3f}" if math.isfinite(value) else ""
                    for value in (split.generator, split.seed, split.residual)
                ),
            ]
            for arm, split in table.variances.items()
            if split.num_generators * split.num_seeds > 1
        ],
    )


def markdown(table: ExperimentTable) -> str:
    """Returns all non-empty tables as aligned Markdown, for a terminal and for RESULTS.md."""
    makers = (pooled_table, auc_table, comparison_table, *DETAIL_TABLES)
    return "\n".join(_markdown(text) for make in makers if (text := make(table)).rows)


# Tables below the curves on the page.
DETAIL_TABLES = (seed_table, variance_table, level_table, subgroup_table, operating_table)


def describe_counts(counts: roc.Counts) -> str:
    """Returns the numbers of patches, films and patients in words."""
    return (
        f"{counts.patches:,} patches ({counts.malignant_patches:,} malignant) of "
        f"{counts.films:,} films of {counts.patients:,} patients "
        f"({counts.malignant_patients:,} with a malignant patch)"
    )


def interval(ends: roc.Interval, form: str = ".3f") -> str:
    """Returns an interval as text."""
    return f"{ends.low:{form}} to {ends.high:{form}}"


def p_value(value: float) -> str:
    """Returns a p-value as text, never zero."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _groups(caption: str, what: str, groups: Mapping[str, Mapping[str, GroupAuc]]) -> TextTable:
    """Returns a row for each group, with a column for each arm and the size of the group."""
    arms = list(next(iter(groups.values()), {}))
    rows = []
    for name, by_arm in groups.items():
        cells = [
            f"fewer than {LEAST_PATIENTS} patients of a class"
            if group.auc is None
            else f"{group.auc:.3f} ({interval(group.interval)})"
            for group in by_arm.values()
        ]
        counts = by_arm[arms[0]].counts
        numbers = counts.patches, counts.malignant_patches, counts.patients
        rows.append([name, *(f"{number:,}" for number in numbers), *cells])
    return TextTable(caption, [what, "number", "malignant", "patients", *arms], rows)


def _tests(what: str, comparisons: list[Comparison]) -> TextTable:
    resamples = comparisons[0].bootstrap.num_resamples if comparisons else 0
    return TextTable(
        f"{what}; p from {resamples:,} resamples of the patients and from DeLong's test, each "
        f"with Holm's correction for {len(comparisons)} pair" + "s" * (len(comparisons) != 1),
        [
            *("arms", "difference", "95 %, patients resampled", "p", "p, Holm"),
            *("DeLong z", "DeLong p", "DeLong p, Holm"),
        ],
        [
            [
                f"{pair.arm} − {pair.other}",
                f"{pair.bootstrap.difference:+.3f}",
                interval(pair.bootstrap.interval, "+.3f"),
                p_value(pair.bootstrap.p_value),
                p_value(pair.bootstrap_p_holm),
                f"{pair.delong.z:+.2f}",
                p_value(pair.delong.p_value),
                p_value(pair.delong_p_holm),
            ]
            for pair in comparisons
        ],
    )


def _arm_numbers(arm: ArmResult) -> dict:
    numbers = {
        "auc_mean": arm.auc_mean,
        "auc_sd": _known(arm.auc_sd),
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
    for level, group in arm.levels.items():
        numbers |= {f"{key}_per_{level}": value for key, value in _group_numbers(group).items()}
    return numbers


def _group_numbers(group: GroupAuc) -> dict:
    low, high = group.interval or (None, None)
    return {"auc": group.auc, "auc_bootstrap_low": low, "auc_bootstrap_high": high}


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


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _csv(rows: list[dict], header: Sequence[str]) -> str:
    """Returns the rows as CSV; without rows, only `header`."""
    text = io.StringIO()
    # A row may lack values that other rows have.
    names = list(dict.fromkeys(name for row in rows for name in row)) or header
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


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
    # The name of a digitiser comes from a file.
    return " ".join(cell.split()).replace("|", "\\|")
