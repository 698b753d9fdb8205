"""Computes the statistics of a dataset, and the tables stored next to its records."""

import collections
import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from tfds_ddsm.film_examples import KINDS, FilmReport
from tfds_ddsm.mammogram import Skipped

Reports = Mapping[str, Sequence[FilmReport]]


def skipped_items(reports: Reports, skipped: Sequence[Skipped]) -> list[Skipped]:
    """Returns all skipped items: those of the index, then those found while reading films."""
    items = list(skipped)
    for split, of_split in reports.items():
        for report in of_split:
            film_id = report.film.film_id
            if report.error:
                items.append(Skipped("film", film_id, report.error, split))
            items += [Skipped("lesion", film_id, reason, split) for reason in report.left_out]
    return items


def statistics(reports: Reports, skipped: Sequence[Skipped]) -> dict[str, Any]:
    """Returns the numbers for every split, as JSON values.

    Args:
        reports: by split, one report for every film of the plan.
        skipped: items skipped by the source's index.

    Returns:
        `splits`: for each split, numbers or groups of numbers by name. 'patients' and 'films' cover
        only films that were read. 'lesions' are marks on films, so a lesion in two views counts
        twice. `skipped`: number of skipped items by kind.
    """
    items = skipped_items(reports, skipped)
    return {
        "splits": {split: _split_statistics(of_split) for split, of_split in reports.items()},
        "skipped": dict(collections.Counter(item.kind for item in items)),
    }


def _split_statistics(reports: Sequence[FilmReport]) -> dict[str, Any]:
    read = [report for report in reports if not report.error]
    made, planned = (
        [sum(getattr(report, name)[kind] for report in reports) for kind in range(len(KINDS))]
        for name in ("made", "planned")
    )
    return {
        "patients": len({report.film.patient_id for report in read}),
        "films": len(read),
        "films that cannot be read": len(reports) - len(read),
        "films by scanner": _sum({report.film.scanner: 1} for report in read),
        "lesions": _sum(report.lesions for report in read),
        "lesions without a patch": sum(report.lesions_without_patch for report in read),
        "lesions left out": sum(len(report.left_out) for report in read),
        "patches": sum(made),
        "patches by class": {"malignant": made[0], "non_malignant": made[1] + made[2]},
        "patches by kind": dict(zip(KINDS, made, strict=True)),
        "patches short of the plan": sum(planned) - sum(made),
        "patches by scanner": _sum({report.film.scanner: sum(report.made)} for report in read),
    }


def _sum(counts) -> dict[str, int]:
    total = collections.Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def table(numbers: Mapping[str, Any]) -> str:
    """Returns `statistics` as a Markdown table with aligned columns."""
    splits = numbers["splits"]
    flat = {split: _flat(values) for split, values in splits.items()}
    names = list(dict.fromkeys(name for values in flat.values() for name in values))
    rows = [["", *splits, "all"]]
    for name in sorted(names, key=lambda name: _order(name, splits)):
        counts = [values.get(name, 0) for values in flat.values()]
        rows.append([name, *map(str, counts), str(sum(counts))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    rules = [f":{'-' * widths[0]}-", *(f"-{'-' * width}:" for width in widths[1:])]
    lines.insert(1, f"|{'|'.join(rules)}|")
    skipped = ", ".join(f"{count} {kind}" for kind, count in numbers["skipped"].items())
    return "\n".join([*lines, "", f"Left out (skipped.csv): {skipped or 'nothing'}."]) + "\n"


def _flat(values: Mapping[str, Any]) -> dict[str, int]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}: {part}": count for part, count in value.items()}
        else:
            flat[name] = value
    return flat


def _order(name: str, splits: Mapping[str, Any]) -> tuple[int, str]:
    """Returns a key that keeps the order of groups, even if a split lacks some names of a group."""
    groups = list(next(iter(splits.values())))
    group, _, part = name.partition(": ")
    is_sorted = group not in ("patches by class", "patches by kind")
    return groups.index(group), part if is_sorted else ""


def skipped_csv(items: Sequence[Skipped]) -> str:
    """Returns the skipped items as CSV; text from files stays within its cell and line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("kind", "split", "name", "reason"))
    for item in items:
        reason = item.reason.encode("unicode_escape").decode()
        writer.writerow((item.kind, item.split, item.name, reason))
    return text.getvalue()
