"""First screen of the experiment's report: four questions, each with an answer and its evidence."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from cigan_tf.config import Config
from cigan_tf.evaluation import origin, roc, table_text
from cigan_tf.evaluation.experiment_table import Comparison, ExperimentTable
from cigan_tf.evaluation.nearest_patch import SHIFT_PX
from cigan_tf.experiment_config import ClassifierConfig

# Largest p, with Holm's correction, at which a difference counts as shown.
SIGNIFICANT_P = 0.05
_PAIRS_SHOWN = 3
# Largest AUC at which infills count as hard to distinguish from real lesions.
_HARD_TO_TELL_AUC = 0.6
# Largest factor, upwards or downwards, at which the gradient at an infill's edge counts as normal.
_SEAMLESS = 1.25
# Share of the planted copies that a search must find to be conclusive.
_LEAST_RECALL = 0.95
# A share of copies that exceeds the false alarms by more than this is not due to chance.
_COPIES_ABOVE_ALARMS = 0.02


class Bar(NamedTuple):
    """An interval, its value and 0 as positions on an axis, in percent of the axis's width."""

    low: float
    high: float
    value: float
    zero: float


class Line(NamedTuple):
    """One fact below an answer; `bar` draws it if it is an interval."""

    name: str
    value: str
    bar: Bar | None = None


class Card(NamedTuple):
    """A question, its answer, the rating of the answer, and the evidence.

    Attributes:
        question: a reader's question.
        answer: the answer in a few words.
        tone: rating of the answer: 'good', 'bad', 'open' (uncertain) or 'plain' (not rated).
        lines: the evidence.
    """

    question: str
    answer: str
    tone: str
    lines: list[Line]


def cards(
    config: Config,
    table: ExperimentTable,
    records: Mapping[str, Mapping[str, Any] | None],
    qualities: Mapping[str, Mapping[str, Any]],
) -> list[Card]:
    """Returns the four cards; missing facts are omitted or reported as missing.

    Args:
        config: configuration of the experiment.
        table: numbers of the experiment.
        records: result of `origin.read`.
        qualities: contents of infill_quality.json, keyed by the name of the generator; '' for a
            generator without a name.
    """
    return [
        _trained(config, table, records),
        _helped(config, table),
        _good(qualities),
        _copied(qualities),
    ]


def _trained(config: Config, table: ExperimentTable, records) -> Card:
    known = [record for record in records.values() if record]
    first = origin.columns(known[0] if known else None)
    counts = next(iter(table.arms.values())).counts
    recipe = (known[0]["dataset"].get("recipe") if known else None) or {}
    name = f"{first['dataset'] or config.data.dataset} {first['dataset_version'] or ''}".strip()
    simulated = ", simulated films" if recipe.get("source") == "phantom" else ""
    arms = config.experiment.named_arms(config.classifier)
    num_seeds = len(config.experiment.classifier_seeds)
    lines = [
        Line("data", f"{name}{simulated}, {config.model.patch_size} px"),
        Line("classifiers", f"{_count(len(arms), 'arm')} × {_count(num_seeds, 'seed')}"),
    ]
    generators = {
        of["generator"]: of
        for of in (origin.columns(record) for record in known)
        if of["generator"] is not None
    }
    if generators:
        steps = sorted({of["generator_step"] for of in generators.values()} - {None})
        after = f", {_count(steps[-1], 'step')}" if len(steps) == 1 else ""
        name = "generator" if len(generators) == 1 else f"{len(generators)} generators"
        lines.append(Line(name, ", ".join(generators) + after))
    lines.append(
        Line(
            "tested on",
            f"{counts.patches:,} patches from {_count(counts.patients, 'other patient')}",
        )
    )
    if not known:
        return Card("What was trained on what?", "Origin not recorded", "open", lines)
    columns = [origin.columns(record) for record in known]
    trained = sorted({(of["train_patches"], of["train_patients"]) for of in columns})
    patches, patients = trained[-1]
    up_to = "Up to " if len(trained) > 1 else ""
    answer = f"{up_to}{patches:,} patches from {_count(patients, 'patient')}"
    return Card("What was trained on what?", answer, "plain", lines)


class _Difference(NamedTuple):
    """Difference in AUC between two arms, `arm` minus `other`."""

    arm: str
    other: str
    value: float
    interval: roc.Interval
    p_holm: float
    auc_of_other: float


def _helped(config: Config, table: ExperimentTable) -> Card:
    question = "Did augmentation help the classifier?"
    if not table.of_arms:
        return Card(question, "No arms were compared", "open", [])
    differences = [_infills_first(config, pair) for pair in table.of_arms]
    asked = _asked(config, differences)
    if asked is None:
        answer, tone = (
            "No arm with infills was compared with one without, for equal patients",
            "open",
        )
    else:
        if asked.p_holm > SIGNIFICANT_P:
            answer, tone = "Not shown", "open"
        elif asked.value > 0:
            answer, tone = "Yes", "good"
        else:
            answer, tone = "No, the classifier became worse", "bad"
        answer += f": {_signed(asked.value)} AUC, {asked.arm} − {asked.other}"
        differences = [asked, *(each for each in differences if each is not asked)]
    ends = [end for each in differences for end in (*each.interval, 0.0)]
    low, high = min(ends), max(ends)

    def bar(of: _Difference) -> Bar:
        span = (high - low) or 1.0
        return Bar(*(100 * (value - low) / span for value in (*of.interval, of.value, 0.0)))

    lines = [
        Line(
            f"{each.arm} − {each.other}",
            f"{_signed(each.value)} "
            f"({table_text.interval(each.interval, '+.3f').replace('-', '−')}), "
            f"p\N{NO-BREAK SPACE}{table_text.p_value(each.p_holm)}",
            bar(each),
        )
        for each in differences[:_PAIRS_SHOWN]
    ]
    if len(differences) > _PAIRS_SHOWN:
        left = _count(len(differences) - _PAIRS_SHOWN, "pair")
        lines.append(Line("others", f"{left}, in the table below"))
    return Card(question, answer, tone, lines)


def _infills_first(config: Config, pair: Comparison) -> _Difference:
    """Returns a pair's difference, with the arm with infills first if the other has none."""
    arm, other, found = pair.arm, pair.other, pair.bootstrap
    if _settings(config, other).needs_synthetic and not _settings(config, arm).needs_synthetic:
        low, high = found.interval
        turned = roc.Interval(-high, -low)
        return _Difference(
            other, arm, -found.difference, turned, pair.bootstrap_p_holm, found.auc_a
        )
    return _Difference(
        arm, other, found.difference, found.interval, pair.bootstrap_p_holm, found.auc_b
    )


def _asked(config: Config, differences: list[_Difference]) -> _Difference | None:
    """Returns the difference that answers the question, or None if no such pair was compared.

    It is the difference between the first arm with infills and the best arm without that was
    trained on the same share of the patients.
    """

    def answers(of: _Difference) -> bool:
        arm, other = _settings(config, of.arm), _settings(config, of.other)
        same_share = arm.patient_share == other.patient_share
        return arm.needs_synthetic and not other.needs_synthetic and same_share

    asking = [each for each in differences if answers(each)]
    of_first = [each for each in asking if each.arm == asking[0].arm]
    return max(of_first, key=lambda each: each.auc_of_other, default=None)


def _settings(config: Config, row: str) -> ClassifierConfig:
    # A row is named after its arm, with the generator in brackets.
    return config.experiment.named_arms(config.classifier)[row.split(" (")[0]]


def _good(qualities) -> Card:
    question = "Are the malignant infills good?"
    if not qualities:
        return Card(question, "Not evaluated", "open", [])
    lines, faults = [], []
    for (measure, of_class), (name, ideal, fault) in _MEASURES.items():
        sides = _sides(qualities, measure, of_class)
        lines += _lines(name, sides, ideal)
        found = [text for infills, real in sides if (text := fault(infills, real))]
        faults += found[:1]
    if not lines:
        return Card(question, "Not evaluated", "open", [])
    if faults:
        return Card(question, f"No: {faults[0]}", "bad", lines)
    if len(lines) < len(_MEASURES):
        return Card(question, "No fault found, but some measures are missing", "open", lines)
    return Card(question, "Yes: no fault found", "good", lines)


def _told(infills: Mapping, real: Mapping | None) -> str:
    """Names the fault if infills are easier to tell from real patches than other real ones are."""
    highest = max(_HARD_TO_TELL_AUC, real["value"] if real else 0)
    return (
        f"they differ from real lesions, AUC {infills['value']:.2f}"
        if infills["value"] > highest
        else ""
    )


def _far(infills: Mapping, real: Mapping | None) -> str:
    """Names the fault if the distance exceeds that between real lesions by two SDs."""
    if real is None:
        return ""
    spread = math.hypot(infills.get("sd") or 0, real.get("sd") or 0)
    # An unbiased distance between real lesions may be below 0.
    if infills["value"] <= max(0, real["value"]) + 2 * spread:
        return ""
    return (
        "they are farther from real lesions than other real lesions are, KID "
        f"{infills['value']:.3g}"
    )


def _seamed(infills: Mapping, real: Mapping | None) -> str:
    """Names the fault if infilling changed the gradient at the mask's edge."""
    seamless = 1 / _SEAMLESS <= infills["value"] <= _SEAMLESS
    return "" if seamless else f"the edge is visible, seam ratio {infills['value']:.2f}"


def _unrecognised(infills: Mapping, real: Mapping | None) -> str:
    """Names the fault if the class is certainly harder to recognise than that of real patches."""
    hidden = real is not None and infills["high"] < real["low"]
    return f"their class is hardly recognised, AUC {infills['value']:.2f}" if hidden else ""


# Lines of the card for malignant infills: name, ideal value, and the check for a fault.
_MEASURES = {
    ("feature_auc", "malignant"): ("AUC against real, by features", "0.5 is chance", _told),
    ("texture_auc", "malignant"): ("AUC against real, by texture", "0.5 is chance", _told),
    ("kernel_distance", "malignant"): ("KID", None, _far),
    ("seam_ratio", "malignant"): ("seam ratio", "1 is seamless", _seamed),
    ("class_auc", "both"): ("AUC of the requested class", None, _unrecognised),
}


def _copied(qualities) -> Card:
    question = "Is anything copied?"
    # Infills of held-out patches, and infills of training patches, as used to train classifiers.
    shares = {
        name: _sides(qualities, measure, "both")
        for measure, name in (
            ("share_copied", "counted as copies"),
            ("share_copied_in_training_tissue", "in training patches"),
        )
    }
    recalls: dict[str, float] = {}
    for quality in qualities.values():
        for name, value in _recalls(quality).items():
            recalls[name] = min(value, recalls.get(name, 1.0))
    if not any(shares.values()) or not recalls:
        return Card(question, "Not audited", "open", [])
    least = min(recalls.values())
    lines = [
        *(line for name, sides in shares.items() for line in _lines(name, sides, None, "{:.1%}")),
        Line("planted copies found", f"at least {least:.0%}, for {', '.join(recalls)} ones"),
    ]
    training = max((_searched(quality) for quality in qualities.values()), default=0)
    if training:
        searched = f"{training:,} training patches, at shifts of up to {SHIFT_PX} px"
        lines.append(Line("searched", searched))
    unsearched = sorted({what for of in qualities.values() for what in of.get("not_searched", [])})
    if unsearched:
        lines.append(Line("not searched", ", ".join(unsearched)))
    if any(
        infills["value"] > (real or {"value": 0})["value"] + _COPIES_ABOVE_ALARMS
        for sides in shares.values()
        for infills, real in sides
    ):
        return Card(question, "Copies of training patches", "bad", lines)
    if unsearched:
        return Card(question, "None found, but not all training data were searched", "open", lines)
    if least < _LEAST_RECALL:
        return Card(question, f"None found, but the search misses {1 - least:.0%}", "open", lines)
    flagged = any(infills["value"] > 0 for sides in shares.values() for infills, _ in sides)
    answer = "No more than false alarms" if flagged else "No copies found"
    return Card(question, f"{answer}, recall {least:.0%}", "good", lines)


def _sides(qualities, measure: str, of_class: str) -> list[tuple[Mapping, Mapping | None]]:
    """Returns a measure of each generator's infills, with that of real patches if available."""
    found = []
    for quality in qualities.values():
        for entry in quality["measures"]:
            infills, real = entry["infills"], entry["real"]
            is_asked = (entry["measure"], entry["of_class"]) == (measure, of_class)
            if is_asked and infills and infills["value"] is not None:
                found.append((infills, real if real and real["value"] is not None else None))
    return found


def _recalls(quality) -> dict[str, float]:
    prefix = "recall_"
    return {
        entry["measure"].removeprefix(prefix): entry["infills"]["value"]
        for entry in quality["measures"]
        if entry["measure"].startswith(prefix) and entry["infills"]["value"] is not None
    }


def _searched(quality) -> int:
    return max(
        (
            entry["infills"]["n"].get("training", 0)
            for entry in quality["measures"]
            if entry["measure"] == "nearest_training_patch" and entry["infills"]
        ),
        default=0,
    )


def _lines(name: str, sides: list[tuple], ideal: str | None, form: str = "{:.3g}") -> list[Line]:
    """Returns a line with the values of all generators, or no line if there are no values."""
    if not sides:
        return []
    reals = [real["value"] for _, real in sides if real]
    beside = [f"real {_range(reals, form)}"] if reals else []
    beside += [ideal] if ideal and not reals else []
    text = _range([infills["value"] for infills, _ in sides], form)
    return [Line(name, text + (f" ({', '.join(beside)})" if beside else ""))]


def _range(values: list[float], form: str) -> str:
    ends = dict.fromkeys(form.format(end) for end in (min(values), max(values)))
    return " to ".join(ends).replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−") if math.isfinite(value) else "unknown"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
