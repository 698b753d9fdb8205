"""Tests of the table's text."""

import csv

import pytest

from cigan_tf.evaluation import table_text
from cigan_tf.evaluation.experiment_table import compare_arms

PAIRS = [("cigan", "baseline")]
HOSTILE = 'a|b,\n"c" <b>'


@pytest.fixture
def table(synthetic_scores):
    scores = synthetic_scores(
        {"baseline": 0.8, "cigan": 2.0}, seeds=(3, 11), scanners=("lumisys", HOSTILE)
    )
    return compare_arms(scores, scores, PAIRS, num_resamples=100, seed=0)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_files_hold_every_digit(table, tmp_path):
    table_text.write_csv(tmp_path, table, {"cigan": {"generator": "a1b2"}})
    arms, pairs = read(tmp_path / "table.csv"), read(tmp_path / "comparisons.csv")

    assert [row["arm"] for row in arms] == ["baseline", "cigan"]
    arm, row = table.arms["cigan"], arms[1]
    for name, value in {
        "auc_mean": arm.auc_mean,
        "auc_sd": arm.auc_sd,
        "auc": arm.auc,
        "auc_bootstrap_low": arm.bootstrap_interval.low,
        "auc_delong_high": arm.delong_interval.high,
        "auc_seed_11": arm.auc_of_seed[11],
        "sensitivity_at_95_specificity": arm.operating_points[0.95].sensitivity,
        "specificity_reached_at_95_specificity": arm.operating_points[0.95].specificity,
        "threshold_at_95_specificity": arm.operating_points[0.95].threshold,
        "brier": arm.brier,
        "calibration_error": arm.calibration_error,
        "patches": 240,
        "films": 120,
        "patients": 60,
        "auc_per_film": arm.levels["film"].auc,
        "auc_bootstrap_low_per_patient": arm.levels["patient"].interval.low,
    }.items():
        assert float(row[name]) == value, name

    assert row["generator"] == "a1b2"
    subgroups = read(tmp_path / "subgroups.csv")
    assert [(r["arm"], r["kind"], r["group"]) for r in subgroups[:2]] == [
        ("baseline", "digitiser", HOSTILE),
        ("baseline", "digitiser", "lumisys"),
    ]
    lumisys = arm.subgroups["digitiser"]["lumisys"]
    assert float(subgroups[3]["auc"]) == lumisys.auc
    assert float(subgroups[3]["malignant_patients"]) == lumisys.counts.malignant_patients
    variances = read(tmp_path / "variances.csv")
    assert float(variances[1]["seed"]) == table.variances["cigan"].seed
    assert variances[1]["generator"] == ""

    (pair,) = table.comparisons
    assert (pairs[0]["arm"], pairs[0]["other"]) == PAIRS[0]
    assert float(pairs[0]["delong_z"]) == pair.delong.z
    assert float(pairs[0]["bootstrap_p_holm"]) == pair.bootstrap_p_holm
    assert float(pairs[0]["difference_seed_3"]) == pair.difference_of_seed[3]


def test_unknown_values_are_empty(synthetic_scores, tmp_path):
    scores = synthetic_scores({"only": 1.0}, seeds=(0,))
    table = compare_arms(scores, scores, [], 50, 0)
    table_text.write_csv(tmp_path, table, {})
    assert read(tmp_path / "table.csv")[0]["auc_sd"] == ""
    assert read(tmp_path / "subgroups.csv") == []
    assert read(tmp_path / "comparisons.csv") == []
    text = table_text.markdown(table)
    assert "±" not in text
    assert f"| only | {table.arms['only'].auc:.3f}          |" in text
    assert "Differences" not in text
    assert "digitiser" not in text


def test_markdown_is_aligned_and_labels_its_numbers(table):
    text = table_text.markdown(table)
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 7
    for lines in blocks:
        assert len({len(line) for line in lines}) == 1
        assert set(lines[1]) == {"|", "-"}
    arm = table.arms["cigan"]
    assert f"| cigan    | {arm.auc_mean:.3f} ± {arm.auc_sd:.3f} " in text
    assert "240 patches (80 malignant) of 120 films of 60 patients (20 with a malignant" in text
    assert "p from 100 resamples of the patients" in text
    assert 'a\\|b, "c" <b>' in text


def test_groups_of_too_few_patients_say_so(synthetic_scores):
    scores = synthetic_scores({"only": 1.0}, seeds=(0,), num_patients=12)
    table = compare_arms(scores, scores, [], 50, 0)
    rows = table_text.level_table(table).rows
    assert [row[0] for row in rows] == ["patch", "film", "patient"]
    assert rows[2][1:] == ["12", "4", "12", "fewer than 5 patients of a class"]


def test_generators_are_pooled_first(synthetic_scores):
    scores = synthetic_scores({"baseline": 0.8, "cigan (a)": 1.2, "cigan (b)": 2.0})
    rows = {"baseline": {None: "baseline"}, "cigan": {"a": "cigan (a)", "b": "cigan (b)"}}
    table = compare_arms(scores, scores, [("cigan", "baseline")], 50, 0, rows)
    assert [row[0] for row in table_text.pooled_table(table).rows] == ["cigan − baseline"]
    assert table_text.markdown(table).startswith(
        "**Differences in AUC, averaged over the generators"
    )
    (of_baseline, of_cigan) = table_text.variance_table(table).rows
    assert of_baseline[:4] == ["baseline", "1", "3", ""]
    assert of_cigan[:3] == ["cigan", "2", "3"]
    assert float(of_cigan[3]) > float(of_cigan[4])


@pytest.mark.parametrize(
    ("p_value", "text"), [(0.0004, "< 0.001"), (0.0314, "0.031"), (1.0, "1.000")]
)
def test_p_values_are_never_zero(p_value, text):
    assert table_text.p_value(p_value) == text
