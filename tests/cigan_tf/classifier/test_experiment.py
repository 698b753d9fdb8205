"""The experiment: which classifiers are trained, in which order, into which folders."""

import dataclasses
import json

import pytest

from cigan_tf.classifier import experiment
from cigan_tf.errors import UserError


@pytest.fixture
def trained(monkeypatch):
    """Records what would be trained."""
    runs = []
    monkeypatch.setattr(
        experiment,
        "train_classifier",
        lambda config, seed, workdir, run_dir: runs.append((config, seed, run_dir)),
    )
    return runs


def test_all_arms_of_a_seed_before_the_next_seed(discs_config, trained, tmp_path):
    experiment.train_arms(discs_config, tmp_path)
    folders = [
        run_dir.relative_to(tmp_path / "classifiers").as_posix() for _, _, run_dir in trained
    ]
    assert folders == ["baseline/seed_0", "cigan/seed_0", "baseline/seed_1", "cigan/seed_1"]
    baseline, cigan = trained[0][0].classifier, trained[1][0].classifier
    assert (baseline.synthetic_use, cigan.synthetic_use) == ("none", "mixed")
    assert cigan.classifier_steps == baseline.classifier_steps == 4


def test_without_an_arm_there_is_no_experiment(discs_config, trained, tmp_path):
    none = dataclasses.replace(discs_config.experiment, arm=())
    with pytest.raises(UserError, match=r"arms\.flags"):
        experiment.train_arms(dataclasses.replace(discs_config, experiment=none), tmp_path)
    assert not trained


def test_one_classifier_into_the_workdir_itself(discs_config, trained, tmp_path):
    assert experiment.train_one(discs_config, tmp_path) == tmp_path / "scores.csv"
    assert [(seed, run_dir) for _, seed, run_dir in trained] == [(3, tmp_path)]


def test_one_command_trains_judges_and_reports(
    discs_config, exported, synthetic_folder, small_classifier, tmp_path
):
    settings = dataclasses.replace(
        discs_config.classifier, synthetic_dir=str(synthetic_folder), classifier_steps=2
    )
    arms = dataclasses.replace(
        discs_config.experiment, classifier_seeds=(0,), quality_features="classifier"
    )
    config = dataclasses.replace(discs_config, classifier=settings, experiment=arms)
    page = experiment.run_experiment(config, tmp_path, str(exported))
    assert page == tmp_path / "report.html"
    assert "cigan" in page.read_text()
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 3
    quality = json.loads((tmp_path / "infill_quality.json").read_text())
    assert {entry["measure"] for entry in quality["measures"]} >= {"class_auc", "kernel_distance"}
    assert (tmp_path / "infills.png").stat().st_size > 0


def test_infills_that_cannot_be_judged_cost_no_table(
    discs_config, synthetic_folder, small_classifier, tmp_path, capsys
):
    settings = dataclasses.replace(
        discs_config.classifier, synthetic_dir=str(synthetic_folder), classifier_steps=2
    )
    arms = dataclasses.replace(discs_config.experiment, classifier_seeds=(0,))
    config = dataclasses.replace(discs_config, classifier=settings, experiment=arms)
    experiment.run_experiment(config, tmp_path, str(tmp_path / "no_generator"))
    assert "warning: the infills are not judged: There is no SavedModel" in capsys.readouterr().err
    assert (tmp_path / "table.csv").exists()
