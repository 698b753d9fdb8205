"""Tests of the page at the end of an experiment."""

import csv
import io
import json
import re

import pytest
import tensorflow as tf

from cigan_tf import run_folder
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.evaluation import drawing, experiment_report, score_file
from cigan_tf.experiment_config import Cell, ExperimentConfig

ARMS = {"baseline": 0.8, "traditional": 1.0, "cigan": 1.8}
DEFINITIONS = (
    "baseline: traditional_augmentation=false",
    "traditional: traditional_augmentation=true",
    "cigan: traditional_augmentation=true synthetic_use=mixed",
)
RECORD = {
    "dataset": {"name": "ddsm_patches/x", "version": "1.1.0", "fingerprint": "f00d" * 16},
    "patients": ["ann", "bea"],
    "num_patches": 1234,
    "package_version": "0.1.0",
}
GENERATOR = {"weights_sha256": "beef" * 16, "step": 2700}


@pytest.fixture
def experiment(tmp_path, synthetic_scores):
    """The working directory of an experiment of three arms and two seeds."""
    config = Config(
        experiment=ExperimentConfig(
            arm=DEFINITIONS, classifier_seeds=(3, 4), bootstrap_resamples=100
        )
    )
    (tmp_path / run_folder.EXPERIMENT_FILE).write_text(config.to_json())
    scores = synthetic_scores(ARMS, seeds=(3, 4), scanners=("lumisys", "<script>"))
    for arm, runs in scores.items():
        for seed, run in runs.items():
            folder = run_folder.cell_dir(tmp_path, Cell(arm, None, seed))
            folder.mkdir(parents=True)
            score_file.write(folder / "scores.csv", run)
            score_file.write(folder / "validation_scores.csv", run)
            synthetic = GENERATOR if arm == "cigan" else None
            (folder / "provenance.json").write_text(json.dumps({**RECORD, "synthetic": synthetic}))
    return tmp_path


def test_the_page_and_the_tables(experiment):
    page = experiment_report.write_report(experiment)

    assert page == experiment / "experiment.html"
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    table = experiment_report.experiment_table(
        experiment, Config.from_json((experiment / "experiment.json").read_text())
    )
    for arm in table.arms.values():
        assert f"<td>{arm.auc_mean:.3f} ± {arm.auc_sd:.3f}</td><td>{arm.auc:.3f}</td>" in text
    assert [(pair.arm, pair.other) for pair in table.comparisons] == [
        ("traditional", "baseline"),
        ("cigan", "baseline"),
        ("cigan", "traditional"),
    ]
    for expected in (
        "240 patches (80 malignant) of 120 films of 60 patients",
        "cigan − baseline",
        "<td>cigan</td><td>yes</td><td>mixed</td>",
        "Patches of one patient are dependent",
        "seeds 3, 4",
        "&lt;script&gt;",
    ):
        assert expected in text
    assert "<script>" not in text
    # The first screen: what was trained, the training data, and whether infills helped.
    for expected in ("1,234 patches from 2 patients", "beefbeefbeef, 2,700 steps", "Not evaluated"):
        assert expected in text
    assert re.search(r"<b>(Yes|Not shown): [+−]0\.\d+ AUC, cigan − traditional</b>", text)
    baseline, _, cigan = csv.DictReader(io.StringIO((experiment / "table.csv").read_text()))
    assert baseline["dataset_fingerprint"] == cigan["dataset_fingerprint"] == "f00df00df00d"
    assert (baseline["generator"], cigan["generator"]) == ("", "beefbeefbeef")
    records = json.loads((experiment / "experiment_provenance.json").read_text())
    assert records["cigan"]["synthetic"]["weights_sha256"] == "beef" * 16
    assert "Quality of the generator" not in text
    assert len((experiment / "table.csv").read_text().splitlines()) == 1 + 3
    assert len((experiment / "comparisons.csv").read_text().splitlines()) == 1 + 3
    assert "| cigan − baseline" in (experiment / "table.md").read_text()


def test_infills_their_quality_and_the_time_taken_are_shown_if_available(experiment):
    side = {"value": 0.5, "n": {"infills": 40}}
    measure = {"measure": "class_auc", "of_class": "both", "infills": side, "real": None}
    (experiment / "infill_quality.json").write_text(json.dumps({"measures": [measure]}))
    (experiment / "infills.png").write_bytes(drawing.picture(tf.zeros((8, 8), tf.uint8).numpy()))
    logs = run_folder.cell_dir(experiment, Cell("cigan", None, 4)) / "logs"
    with tf.summary.create_file_writer(str(logs)).as_default(step=700):
        tf.summary.scalar("speed/steps_per_second", 2.0)

    text = experiment_report.write_report(experiment).read_text()

    assert text.count("data:image/png;base64,") == 3
    assert "Quality of the generator" in text
    assert "<td>0.5</td><td>40 infills</td>" in text
    assert "took 5 min 50 s in total" in text


def test_each_generator_has_its_own_measures(experiment):
    (experiment / "infill_quality").mkdir()
    for generator, value in (("a", 0.625), ("b", 0.875)):
        side = {"value": value, "n": {"infills": 40}}
        measure = {"measure": "class_auc", "of_class": "both", "infills": side, "real": None}
        path = experiment / "infill_quality" / f"{generator}.json"
        path.write_text(json.dumps({"measures": [measure]}))
        picture = drawing.picture(tf.zeros((8, 8), tf.uint8).numpy())
        path.with_suffix(".png").write_bytes(picture)
    text = experiment_report.write_report(experiment).read_text()
    assert text.count("data:image/png;base64,") == 4
    order = [text.index(part) for part in ("<h3>Generator a", "<td>0.625</td>", "<h3>Generator b")]
    assert order == sorted(order)
    assert "<td>0.875</td>" in text


def test_a_classifier_that_has_not_finished_is_named(experiment):
    (run_folder.cell_dir(experiment, Cell("cigan", None, 4)) / "scores.csv").unlink()
    with pytest.raises(UserError, match=r"There are no scores in .*cigan/seed_4/scores\.csv"):
        experiment_report.write_report(experiment)
    assert not (experiment / "experiment.html").exists()


def test_a_folder_without_an_experiment_is_named(tmp_path):
    with pytest.raises(UserError, match="There is no run"):
        experiment_report.write_report(tmp_path)
    (tmp_path / run_folder.EXPERIMENT_FILE).write_text(Config().to_json())
    with pytest.raises(UserError, match="at least one arm"):
        experiment_report.write_report(tmp_path)


def test_an_arm_has_a_row_for_each_generator(tmp_path, synthetic_scores):
    config = Config(
        experiment=ExperimentConfig(
            arm=("baseline:", "cigan: synthetic_use=mixed", "only: synthetic_use=only"),
            generators=("runs/a", "runs/b"),
            classifier_seeds=(3, 4),
            bootstrap_resamples=50,
        )
    )
    scores = synthetic_scores(ARMS, seeds=(3, 4))
    for cell in config.experiment.cells(config.classifier):
        folder = run_folder.cell_dir(tmp_path, cell)
        folder.mkdir(parents=True)
        for name in ("scores.csv", "validation_scores.csv"):
            score_file.write(folder / name, next(iter(scores.values()))[cell.seed])
    table = experiment_report.experiment_table(tmp_path, config)
    rows = ["baseline", "cigan (a)", "cigan (b)", "only (a)", "only (b)"]
    assert list(table.arms) == rows
    assert [(pair.arm, pair.other) for pair in table.comparisons] == [
        *(("cigan (a)", "baseline"), ("cigan (b)", "baseline")),
        *(("only (a)", "baseline"), ("only (b)", "baseline")),
        *(("only (a)", "cigan (a)"), ("only (b)", "cigan (b)")),
    ]
    assert [(pair.arm, pair.other) for pair in table.pooled] == [
        ("cigan", "baseline"),
        ("only", "baseline"),
        ("only", "cigan"),
    ]
