"""An experiment in a bucket, simulated by TensorFlow's memory file system, and its limits."""

import dataclasses
import json
import os
import pathlib
import signal

import pytest
import tensorflow as tf
from etils import epath

from cigan_tf import file_io
from cigan_tf.classifier.experiment import run_experiment, train_cells
from cigan_tf.classifier.synthetic_set import SyntheticSet, write_synthetic_set
from cigan_tf.config import TrainingConfig
from cigan_tf.errors import Preempted, UserError
from cigan_tf.evaluation.report import write_report
from cigan_tf.training import observers
from export import saved_model


def upload(folder, address):
    for path in folder.rglob("*"):
        if path.is_file() and "record_index" not in path.parts:
            copy = epath.Path(address) / path.relative_to(folder).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


@pytest.fixture
def in_bucket(discs_config, discs_dir, bucket):
    """The configuration of a short run with its dataset in the bucket."""
    upload(discs_dir, f"{bucket}/data")
    training = TrainingConfig(
        seed=3,
        pretraining_steps=1,
        adversarial_steps=1,
        log_every_steps=2,
        picture_every_steps=2,
        checkpoint_every_steps=2,
        held_out_per_kind=1,
    )
    experiment = dataclasses.replace(
        discs_config.experiment, classifier_seeds=(0,), quality_features="classifier"
    )
    model = dataclasses.replace(discs_config.model, feature_layers=("input", "pool1"))
    data = dataclasses.replace(discs_config.data, data_dir=f"{bucket}/data")
    return dataclasses.replace(
        discs_config, data=data, training=training, experiment=experiment, model=model
    )


def test_a_run_is_stopped_resumed_exported_and_judged_in_a_bucket(
    in_bucket, bucket, small_classifier, train_eagerly, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    workdir = f"{bucket}/run"
    with monkeypatch.context() as patched:
        patched.setattr(observers.Chief, "count", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted, match=f"{workdir}/checkpoints/ckpt-1"):
            train_eagerly(in_bucket, workdir)
    assert int(train_eagerly(in_bucket, workdir).step.numpy()) == 2
    version = saved_model.export(workdir, f"{workdir}/saved_model")
    assert str(version) == f"{workdir}/saved_model/1"
    assert str(write_report(workdir)) == f"{workdir}/report.html"
    write_synthetic_set(in_bucket, workdir, None, write_png=True)
    assert SyntheticSet(f"{workdir}/synthetic", 32).facts["num_patches"] == 32
    page = run_experiment(in_bucket, workdir, None)
    assert "AUC" in page.read_text()
    folder = epath.Path(workdir)
    assert json.loads((folder / "infill_quality.json").read_text())["measures"]
    scores = folder / "classifiers" / "cigan" / "seed_0" / "scores.csv"
    assert len(scores.read_text().splitlines()) == 17
    record_index = f"{bucket}/data/ddsm_patches/discs/1.0.0/record_index"
    assert sorted(tf.io.gfile.listdir(record_index)) == ["test.npz", "train.npz", "validation.npz"]
    assert not list(pathlib.Path().iterdir()), "nothing is written beside the bucket"


def test_a_bucket_has_no_locks(in_bucket, bucket):
    with file_io.lock(f"{bucket}/held"), file_io.lock(f"{bucket}/held") as held:
        assert held
    cells = in_bucket.experiment.cells(in_bucket.classifier)
    with pytest.raises(UserError, match=r"--cell_index. Received: jobs=2, workdir='ram://"):
        train_cells(in_bucket, f"{bucket}/run", cells, jobs=2)
