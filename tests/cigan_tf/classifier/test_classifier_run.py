"""One classifier: the files of a run, no second training, and resuming."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cigan_tf import file_io
from cigan_tf.classifier import batches, classifier_run
from cigan_tf.config import Config
from cigan_tf.errors import Preempted, UserError
from cigan_tf.evaluation import score_file
from cigan_tf.experiment_config import ClassifierConfig
from cigan_tf.hardware_config import HardwareConfig

pytestmark = pytest.mark.usefixtures("small_classifier")


@pytest.fixture(scope="module")
def finished(discs_config, small_classifier, tmp_path_factory):
    """The working directory of a finished baseline classifier."""
    workdir = tmp_path_factory.mktemp("classifier")
    classifier_run.train_classifier(discs_config, 0, workdir, workdir)
    return workdir


def test_a_run_leaves_scores_settings_and_the_classifier(finished, discs_config):
    test = score_file.read(finished / score_file.FILE_NAME)
    assert set(test.patient_id) == {"gil", "hue"}
    validation = score_file.read(finished / score_file.VALIDATION_FILE_NAME)
    assert set(validation.patient_id) == {"eve", "fay"}
    settings = json.loads((finished / classifier_run.SETTINGS_FILE).read_text())
    assert settings["classifier"]["classifier_steps"] == 4
    assert settings["seed"] == 0
    assert not (finished / "checkpoints").exists(), "300 MB that nobody needs any more"
    classifier = keras.models.load_model(finished / classifier_run.CLASSIFIER_FILE)
    again = classifier_run.score(classifier, *batches.scored_batches(discs_config, "test"))
    np.testing.assert_allclose(again.probability, test.probability, atol=1e-6)


def test_training_has_changed_the_classifier(finished, discs_config):
    trained = keras.models.load_model(finished / classifier_run.CLASSIFIER_FILE)
    fresh = classifier_run.build_classifier(32, "random", seed=0)
    for before, after in zip(fresh.trainable_weights, trained.trainable_weights, strict=True):
        assert np.abs(before.numpy() - after.numpy()).max() > 0, before.path


def test_scores_depend_on_the_seed(finished, discs_config, tmp_path):
    classifier_run.train_classifier(discs_config, 1, tmp_path, tmp_path)
    first, other = (
        score_file.read(folder / score_file.FILE_NAME).probability
        for folder in (finished, tmp_path)
    )
    assert np.abs(other - first).max() > 1e-3


def test_tensorboard_shows_loss_auc_and_curves(finished):
    events = EventAccumulator(str(finished / "logs"))
    events.Reload()
    for tag in ("loss/training", "loss/validation", "auc/validation", "validation/curves"):
        assert [event.step for event in events.Tensors(tag)] == [2, 4], tag


def test_a_finished_classifier_is_not_run_again(finished, discs_config, monkeypatch):
    monkeypatch.setattr(classifier_run, "build_classifier", None)
    monkeypatch.setattr(batches, "ORDER", batches.ORDER + 1)
    classifier_run.train_classifier(discs_config, 0, finished, finished)


@pytest.mark.parametrize("order", [batches.ORDER, batches.ORDER - 1])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    finished, discs_config, tmp_path, monkeypatch, capsys, order
):
    tmp_path = tmp_path / "run [1]"  # TensorFlow reads brackets as a pattern
    write = classifier_run.curves.ClassifierWriter.write

    def interrupt(self, step, *arguments):
        write(self, step, *arguments)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(classifier_run.curves.ClassifierWriter, "write", interrupt)
        patched.setattr(batches, "ORDER", order)
        with pytest.raises(KeyboardInterrupt):
            classifier_run.train_classifier(discs_config, 0, tmp_path, tmp_path)
    assert not (tmp_path / score_file.FILE_NAME).exists()
    classifier_run.train_classifier(discs_config, 0, tmp_path, tmp_path)
    assert ("(order of the patches)" in capsys.readouterr().err) == (order != batches.ORDER)
    expected, found = (
        score_file.read(folder / score_file.FILE_NAME) for folder in (finished, tmp_path)
    )
    # Also if it starts again, after other runs in this process: runs are independent.
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-6)


@pytest.mark.parametrize("suffix", [".data-00000-of-00001", ".index"])
@pytest.mark.parametrize("damage", ["shorter", "one byte", "missing"])
def test_a_damaged_checkpoint_is_removed_with_its_curves(suffix, damage, tmp_path, capsys):
    run_dir = epath.Path(tmp_path) / "run [1]"  # TensorFlow reads brackets as a pattern
    (run_dir / "logs").mkdir(parents=True)
    classifier_run._remove_damaged_checkpoint(run_dir)
    folder = run_dir / "checkpoints"
    saved = tf.train.Checkpoint(weights=tf.Variable(np.arange(1000.0)))
    path = pathlib.Path(saved.save(os.path.join(file_io.literal_path(folder), "ckpt")) + suffix)
    classifier_run._remove_damaged_checkpoint(run_dir)
    assert capsys.readouterr().err == ""
    whole = path.read_bytes()
    at = len(whole) // 2
    changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"shorter": whole[:-60], "one byte": changed}[damage])
    classifier_run._remove_damaged_checkpoint(run_dir)
    (warning,) = capsys.readouterr().err.splitlines()
    assert "is damaged (" in warning
    assert "trained again from its first step" in warning
    assert list(folder.iterdir()) == []
    assert not (run_dir / "logs").exists()


def test_a_run_stopped_between_two_points_writes_the_mean_loss_of_all_steps_between(
    finished, discs_config, tmp_path, monkeypatch
):
    losses, written = [], []
    train_on_batch = keras.Model.train_on_batch

    def stop_at_third(self, *arguments):
        losses.append(float(train_on_batch(self, *arguments)))
        if len(losses) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses[-1]

    def write(self, step, loss, *others):
        written.append((step, loss))

    monkeypatch.setattr(keras.Model, "train_on_batch", stop_at_third)
    monkeypatch.setattr(classifier_run.curves.ClassifierWriter, "write", write)
    with pytest.raises(Preempted, match="SIGTERM after step 3") as raised:
        classifier_run.train_classifier(discs_config, 0, tmp_path, tmp_path)
    assert raised.value.exit_code == 75
    classifier_run.train_classifier(discs_config, 0, tmp_path, tmp_path)
    assert len(losses) == 4, "no step is taken twice"
    assert [step for step, _ in written] == [2, 4]
    assert len(set(losses)) == 4
    np.testing.assert_allclose([loss for _, loss in written], np.reshape(losses, (2, 2)).mean(1))
    expected, found = (
        score_file.read(folder / score_file.FILE_NAME) for folder in (finished, tmp_path)
    )
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_hardware_flags_reach_the_classifier(discs_config, precision, tmp_path, monkeypatch):
    compiled, deterministic = [], []
    compile_model = keras.Model.compile

    def record(self, *arguments, **options):
        compile_model(self, *arguments, **options)
        compiled.append(self)

    monkeypatch.setattr(keras.Model, "compile", record)
    # The setting would last for the rest of the process.
    monkeypatch.setattr(
        tf.config.experimental, "enable_op_determinism", lambda: deterministic.append(True)
    )
    hardware = HardwareConfig(mixed_precision=precision, deterministic=precision == "bfloat16")
    if precision == "float16":
        hardware = dataclasses.replace(hardware, jit_compile=True)
    config = dataclasses.replace(discs_config, hardware=hardware)
    classifier_run.train_classifier(config, 0, tmp_path, tmp_path)
    (classifier,) = compiled
    assert classifier.layers[1].compute_dtype == precision
    assert classifier.jit_compile == hardware.jit_compile
    assert bool(deterministic) == hardware.deterministic
    scaled = isinstance(classifier.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (precision == "float16")
    assert np.isfinite(score_file.read(tmp_path / score_file.FILE_NAME).probability).all()
    assert keras.config.dtype_policy().name == "float32"
    with pytest.raises(UserError, match="different settings"):
        classifier_run.train_classifier(discs_config, 0, tmp_path, tmp_path)


def claim(config, run_dir, weights="0" * 64):
    """Claims a run without data or synthetic patches."""
    made_from = {"dataset": "f", "synthetic set": None, "confirming classifier": None}
    made_from |= {classifier_run._WEIGHTS: weights, classifier_run._ORDER: batches.ORDER}
    return classifier_run._claim(config, 0, run_dir, made_from, None)


def test_settings_are_compared_without_paths_and_with_defaults(tmp_path, monkeypatch, capsys):
    record = {"dataset": {"fingerprint": "f"}, "patients": []}
    monkeypatch.setattr(classifier_run.provenance, "training_record", lambda config: record)

    def config(**settings):
        return Config(classifier=ClassifierConfig(synthetic_use="mixed", **settings))

    assert not claim(config(synthetic_dir="a/set", classifier_weights="w.npz"), tmp_path)
    (tmp_path / score_file.FILE_NAME).touch()
    moved = config(synthetic_dir="/b/set", classifier_weights="/b/w.npz")
    assert claim(moved, tmp_path)
    assert claim(moved, tmp_path, weights=None), "the file of the weights is no longer there"
    path = tmp_path / classifier_run.SETTINGS_FILE
    saved = json.loads(path.read_text())
    del saved["classifier"]["min_scale"]  # as from a version without this setting
    path.write_text(json.dumps(saved))
    assert claim(moved, tmp_path)
    for other in (config(min_scale=0.5, classifier_weights="w.npz"), config()):
        with pytest.raises(UserError, match=r"\((min_scale|classifier_weights); see its settings"):
            claim(other, tmp_path)
    with pytest.raises(UserError, match=r"finished .* weights that differ from those now in '/b/w"):
        claim(moved, tmp_path, weights="1" * 64)
    (tmp_path / score_file.FILE_NAME).unlink()
    (tmp_path / classifier_run.CLASSIFIER_FILE).touch()
    assert not claim(moved, tmp_path, weights="1" * 64)
    assert "has changed or is not recorded (initial weights)" in capsys.readouterr().err
    path.write_text("{}")
    with pytest.raises(UserError, match="has no valid settings"):
        claim(moved, tmp_path)


def test_another_classifiers_folder_is_refused(finished, discs_config, with_classifier):
    with pytest.raises(UserError, match=r"different settings.*settings\.json"):
        classifier_run.train_classifier(
            with_classifier(discs_config, classifier_steps=9), 0, finished, finished
        )


def test_synthetic_patches_of_more_patients_are_refused(
    discs_config, with_classifier, synthetic_folder, tmp_path
):
    # Also if only the generator's initial weights were trained on more patients.
    folder = shutil.copytree(synthetic_folder, tmp_path / "of_a_preset")
    facts = next(folder.rglob("synthetic.json"))
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "train_patient_share": 0.5}))
    for synthetic in (synthetic_folder, folder):
        config = with_classifier(
            discs_config, synthetic_use="mixed", patient_share=0.5, synthetic_dir=str(synthetic)
        )
        with pytest.raises(UserError, match=r"training patients that do not belong.* of 0\.5"):
            classifier_run.train_classifier(config, 0, tmp_path, tmp_path)


def test_more_infills_of_a_patch_than_there_are_are_refused(
    discs_config, with_classifier, synthetic_folder, tmp_path
):
    config = with_classifier(
        discs_config,
        synthetic_use="mixed",
        synthetic_per_real=1.5,
        synthetic_dir=str(synthetic_folder),
    )
    with pytest.raises(UserError, match=r"has 1 infills.*is 1\.5.*--infills_per_patch=2"):
        classifier_run.train_classifier(config, 0, tmp_path, tmp_path)


def test_a_missing_synthetic_set_is_named(discs_config, with_classifier, tmp_path):
    with pytest.raises(UserError, match="--mode=infill"):
        classifier_run.train_classifier(
            with_classifier(discs_config, synthetic_use="only"), 0, tmp_path, tmp_path
        )
