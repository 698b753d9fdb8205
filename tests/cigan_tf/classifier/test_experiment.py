"""The experiment: the classifiers that are trained, their order and their folders."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from cigan_tf import file_io, run_folder
from cigan_tf.classifier import experiment, infill_quality, parallel
from cigan_tf.classifier.synthetic_set import SyntheticSet, write_synthetic_set
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.evaluation import score_file
from cigan_tf.experiment_config import ExperimentConfig
from cigan_tf.hardware_config import HardwareConfig
from tests.cigan_tf.classifier.small_classifier import small_classifiers


@pytest.fixture
def trained(monkeypatch):
    """Records the classifiers that would be trained."""
    runs = []
    monkeypatch.setattr(
        experiment,
        "train_classifier",
        lambda config, seed, workdir, run_dir: runs.append((config, seed, run_dir)),
    )
    return runs


def cells_of(config):
    return config.experiment.cells(config.classifier)


def test_all_arms_of_a_seed_before_the_next_seed(discs_config, trained, tmp_path):
    folders = experiment.train_cells(discs_config, tmp_path, cells_of(discs_config))
    assert folders == list(dict.fromkeys(run_dir for _, _, run_dir in trained))
    trained = trained[: len(folders)]  # the rest is a second pass over finished cells
    folders = [
        run_dir.relative_to(tmp_path / "classifiers").as_posix() for _, _, run_dir in trained
    ]
    assert folders == ["baseline/seed_0", "cigan/seed_0", "baseline/seed_1", "cigan/seed_1"]
    baseline, cigan = trained[0][0].classifier, trained[1][0].classifier
    assert (baseline.synthetic_use, cigan.synthetic_use) == ("none", "mixed")
    assert cigan.classifier_steps == baseline.classifier_steps == 4


def test_an_experiment_needs_an_arm(discs_config, trained, tmp_path):
    none = dataclasses.replace(discs_config.experiment, arm=())
    with pytest.raises(UserError, match=r"arms\.flags"):
        experiment.train_cells(discs_config, tmp_path, none.cells(discs_config.classifier))
    assert not trained


def test_a_strategy_of_several_devices_is_refused_by_name(discs_config, trained, tmp_path):
    config = dataclasses.replace(discs_config, hardware=HardwareConfig(strategy="mirrored"))
    with pytest.raises(UserError, match=r"--jobs=N .* Received: strategy='mirrored'"):
        experiment.train_cells(config, tmp_path, cells_of(config))
    assert not trained


def test_cells_are_trained_on_the_patches_of_their_generator(discs_config, trained, tmp_path):
    generators = dataclasses.replace(
        discs_config.experiment, generators=("runs/a", "runs/b"), classifier_seeds=(5,)
    )
    config = dataclasses.replace(discs_config, experiment=generators)
    experiment.train_cells(config, tmp_path, cells_of(config))
    found = {
        run_dir.relative_to(tmp_path / "classifiers").as_posix(): of_arm.classifier.synthetic_dir
        for of_arm, _, run_dir in trained
    }
    assert found == {
        "baseline/seed_5": "",
        "cigan/a/seed_5": "runs/a/synthetic",
        "cigan/b/seed_5": "runs/b/synthetic",
    }


def test_the_arm_that_confirms_infills_is_trained_first(discs_config, trained, tmp_path):
    confirmed = "sure: synthetic_use=mixed confirmed_by=baseline"
    arms = dataclasses.replace(discs_config.experiment, arm=(confirmed, "baseline:"))
    config = dataclasses.replace(discs_config, experiment=arms)
    alone = [cell for cell in cells_of(config) if cell == ("sure", None, 1)]
    experiment.train_free_cells(config, tmp_path, alone)
    folders = list(dict.fromkeys(run_dir for _, _, run_dir in trained))
    assert folders == [tmp_path / "classifiers" / arm / "seed_1" for arm in ("baseline", "sure")]


def test_a_cell_that_another_process_trains_is_skipped(discs_config, trained, tmp_path):
    cells = cells_of(discs_config)
    with file_io.lock(run_folder.cell_dir(tmp_path, cells[0])) as held:
        assert held
        experiment.train_free_cells(discs_config, tmp_path, cells)
    folders = [run_dir for _, _, run_dir in trained]
    assert folders == [run_folder.cell_dir(tmp_path, cell) for cell in cells[1:]]


@pytest.fixture(scope="module")
def of_two_arms(discs_config, synthetic_folder):
    """An experiment of one seed."""
    settings = dataclasses.replace(
        discs_config.classifier, synthetic_dir=str(synthetic_folder), classifier_steps=2
    )
    arms = dataclasses.replace(
        discs_config.experiment, classifier_seeds=(0,), quality_features="classifier"
    )
    return dataclasses.replace(discs_config, classifier=settings, experiment=arms)


@pytest.fixture(scope="module")
def finished(of_two_arms, discs_generator, small_classifier, tmp_path_factory):
    """The folder of a finished experiment, and its page."""
    folder = tmp_path_factory.mktemp("experiment")
    return folder, experiment.run_experiment(of_two_arms, folder, str(discs_generator))


def test_one_command_trains_judges_and_reports(finished):
    folder, page = finished
    assert page == folder / "experiment.html"
    assert "cigan" in page.read_text()
    assert len((folder / "table.csv").read_text().splitlines()) == 3
    quality = json.loads((folder / "infill_quality.json").read_text())
    assert {entry["measure"] for entry in quality["measures"]} >= {"class_auc", "kernel_distance"}
    assert (folder / "infills.png").stat().st_size > 0


def train_small_cells(config, folder, cells):
    """Trains cells with a small network, in a process without fixtures."""
    with small_classifiers():
        experiment.train_free_cells(config, folder, cells)


def test_two_cells_at_once_write_the_same_files_as_in_sequence(of_two_arms, finished, tmp_path):
    parallel.run(train_small_cells, (of_two_arms, tmp_path, cells_of(of_two_arms)), jobs=2)
    in_a_row, at_once = (folder / "classifiers" for folder in (finished[0], tmp_path))

    def files(folder):
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
        return {name for name in found if "tfevents" not in name}

    assert files(in_a_row) == files(at_once)
    for cell in ("baseline/seed_0", "cigan/seed_0"):
        assert (in_a_row / cell / "settings.json").read_bytes() == (
            at_once / cell / "settings.json"
        ).read_bytes()
        alone, together = (score_file.read(f / cell / "scores.csv") for f in (in_a_row, at_once))
        assert alone.patch.tolist() == together.patch.tolist()
        # The order of additions depends on the number of threads.
        np.testing.assert_allclose(alone.probability, together.probability, atol=1e-3)


def test_infills_that_cannot_be_judged_do_not_prevent_the_table(
    of_two_arms, finished, tmp_path, capsys
):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    (folder / "table.csv").unlink()
    experiment.run_experiment(of_two_arms, folder, str(tmp_path / "no_generator"))
    assert (
        "warning: the infills are not evaluated: There is no SavedModel" in capsys.readouterr().err
    )
    assert (folder / "table.csv").exists()


def test_an_unchanged_evaluation_is_kept_and_an_outdated_one_is_not(
    of_two_arms, finished, discs_generator, tmp_path, capsys
):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    quality = folder / "infill_quality.json"
    before = quality.stat().st_mtime_ns
    experiment.run_experiment(of_two_arms, folder, str(discs_generator))
    assert "Kept the evaluation" in capsys.readouterr().err
    assert quality.stat().st_mtime_ns == before
    (folder / "classifiers/baseline/seed_0/classifier.keras").write_bytes(b"not an archive")
    experiment.run_experiment(of_two_arms, folder, str(discs_generator))
    assert "classifier.keras' cannot be read" in capsys.readouterr().err
    assert not quality.exists()
    assert (folder / "table.csv").exists()


def test_an_experiment_that_cannot_answer_is_refused_before_training(discs_config, tmp_path):
    arms = tuple(f"arm_{number}:" for number in range(9))
    many = dataclasses.replace(discs_config.experiment, arm=arms, bootstrap_resamples=1000)
    with pytest.raises(UserError, match=r"36 pairs.*at least --bootstrap_resamples=1439"):
        experiment.run_experiment(
            dataclasses.replace(discs_config, experiment=many), tmp_path, None
        )
    benign = dataclasses.replace(discs_config.data, dataset="ddsm_patches/one_class")
    with pytest.raises(UserError, match=r"at least two of them\. Received 0 with a malignant"):
        experiment.run_experiment(dataclasses.replace(discs_config, data=benign), tmp_path, None)
    assert not list(tmp_path.iterdir())


def test_each_generator_is_judged_and_nothing_earlier_is_kept(
    discs_config, discs_generator, synthetic_folder, monkeypatch, tmp_path
):
    for name in ("a", "b"):
        shutil.copytree(synthetic_folder, tmp_path / name / "synthetic")
    generators = dataclasses.replace(
        discs_config.experiment, generators=(str(tmp_path / "a"), str(tmp_path / "b"))
    )
    config = dataclasses.replace(discs_config, experiment=generators)
    stale = [tmp_path / name for name in ("infill_quality.json", "infills.png")]
    (tmp_path / "infill_quality").mkdir()
    stale.append(tmp_path / "infill_quality" / "c.json")
    for path in stale:
        path.touch()
    judged = []
    monkeypatch.setattr(
        infill_quality,
        "write_infill_quality",
        lambda config, workdir, saved_model, synthetic, calibrate, name: judged.append(
            (name, saved_model, calibrate())
        ),
    )
    calibrations = iter(range(9))
    monkeypatch.setattr(infill_quality, "calibrate_copy_search", lambda config: next(calibrations))
    experiment._judge_generators(config, tmp_path, str(discs_generator))
    # The copy search is calibrated once for both generators.
    assert judged == [(name, tmp_path / name / "saved_model", 0) for name in ("a", "b")]
    assert not any(path.exists() for path in stale)
    experiment._judge_generators(discs_config, tmp_path / "a", str(discs_generator))
    assert judged[2:] == [(None, str(discs_generator), 1)]


def test_a_set_of_an_arm_is_judged_with_the_generator_next_to_it(monkeypatch, tmp_path):
    quarter = "cigan_25: synthetic_use=mixed synthetic_dir=runs/quarter/synthetic"
    live = "live: synthetic_use=on_the_fly"
    arms = ("baseline:", "cigan: synthetic_use=mixed", quarter, live)
    config = Config(experiment=ExperimentConfig(arm=arms))
    judged = []
    monkeypatch.setattr(
        infill_quality,
        "write_infill_quality",
        lambda config, workdir, saved_model, synthetic, calibrate, name: judged.append(
            (str(saved_model), synthetic.folder, calibrate(), name)
        ),
    )
    monkeypatch.setattr(experiment, "SyntheticSet", OfShare)
    monkeypatch.setattr(
        infill_quality,
        "calibrate_copy_search",
        lambda config: config.data.train_patient_share,
    )
    experiment._judge_generators(config, tmp_path, "models/mine")
    assert judged == [
        ("models/mine", str(tmp_path / "synthetic"), 1.0, None),
        ("runs/quarter/saved_model", "runs/quarter/synthetic", 0.25, "cigan_25"),
    ]
    alone = dataclasses.replace(config.experiment, arms=("baseline", "cigan_25"))
    config = dataclasses.replace(config, experiment=alone)
    experiment._judge_generators(config, tmp_path, None)
    assert judged[2:] == [("runs/quarter/saved_model", "runs/quarter/synthetic", 0.25, None)]
    (tmp_path / "saved_model").mkdir()
    experiment._judge_generators(config, tmp_path, None)
    assert judged[3:] == [(str(tmp_path / "saved_model"), "runs/quarter/synthetic", 0.25, None)]


def test_an_arm_with_its_own_set_and_a_generator_need_different_names(tmp_path):
    arms = ("cigan: synthetic_use=mixed", "b: synthetic_use=mixed synthetic_dir=runs/q/synthetic")
    of_both = ExperimentConfig(arm=arms, generators=("runs/a", "runs/b"))
    with pytest.raises(UserError, match="both named 'b'; rename one of them"):
        experiment.run_experiment(Config(experiment=of_both), tmp_path, None)


class OfShare:
    """A synthetic set, of a quarter of the patients if its folder is called so."""

    def __init__(self, folder, patch_size):
        self.folder = str(folder)
        share = 0.25 if "quarter" in self.folder else 1.0
        self.record = {"train_split": "train", "patient_share": share}


def test_only_arms_that_depend_on_the_generator_are_trained_again(
    of_two_arms, finished, discs_generator, with_classifier, tmp_path, capsys
):
    folder = shutil.copytree(finished[0], tmp_path / "copy")

    def times():
        return {
            cell.arm: (run_folder.cell_dir(folder, cell) / "scores.csv").stat().st_mtime_ns
            for cell in cells_of(of_two_arms)
        }

    before = times()
    experiment.train_cells(of_two_arms, folder, cells_of(of_two_arms))
    assert times() == before
    training = dataclasses.replace(of_two_arms.training, seed=77)
    other = dataclasses.replace(of_two_arms, training=training)
    synthetic = write_synthetic_set(other, tmp_path, str(discs_generator))
    config = with_classifier(of_two_arms, synthetic_dir=str(synthetic))
    experiment.train_cells(config, folder, cells_of(config))
    after = times()
    assert after["baseline"] == before["baseline"]
    assert after["cigan"] > before["cigan"]
    assert "trained again" in capsys.readouterr().err


def test_a_generator_that_saw_a_test_patient_is_refused(
    discs_config, synthetic_folder, small_classifier, tmp_path
):
    synthetic = shutil.copytree(synthetic_folder, tmp_path / "synthetic")
    path = synthetic / "1.1.0" / "provenance.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "patients": [*record["patients"], "gil"]}))
    on_infills = [cell for cell in cells_of(discs_config) if cell.arm == "cigan"]
    with pytest.raises(UserError, match="test patients, including 'gil'"):
        experiment.train_cells(discs_config, tmp_path, on_infills)


def test_another_generator_than_that_of_the_arms_is_not_judged(
    discs_config, discs_generator, synthetic_folder, tmp_path
):
    synthetic = SyntheticSet(synthetic_folder, 32)
    synthetic.record = {**synthetic.record, "weights_sha256": "0" * 64}
    with pytest.raises(UserError, match="must be the one that made the synthetic set of the arms"):
        infill_quality.write_infill_quality(
            discs_config, tmp_path, discs_generator, synthetic, calibrate=None
        )
