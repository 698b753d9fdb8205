"""A run from the first step to the last: resumed, stopped, killed, and its files."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cigan_tf import run_folder
from cigan_tf.config import Config
from cigan_tf.errors import DivergedError, Preempted, UserError
from cigan_tf.training import observers
from cigan_tf.training import train as train_lib


def saved_variables(workdir):
    """Returns every variable of the newest checkpoint except the number of saves."""
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.endswith("VARIABLE_VALUE") and not name.startswith("save_counter")
    }


def curves(workdir):
    """Returns every curve except rates as {tag: {step: value}}, as TensorBoard shows it."""
    events = EventAccumulator(str(workdir / "logs"), size_guidance={"tensors": 0})
    events.Reload()
    shown = {}
    for tag in events.Tags()["tensors"]:
        points = [(e.step, tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        scalar = points[0][1].dtype == np.float32 and points[0][1].shape == ()
        # Rates start again in every process.
        if scalar and not tag.startswith(("speed", "health/turns_per_")):
            shown[tag] = {step: float(value) for step, value in points}
            # A process killed after its last checkpoint has already written the same points.
            assert all(shown[tag][step] == float(value) for step, value in points), tag
    return shown


def assert_same_run(one, other):
    mine, theirs = saved_variables(one), saved_variables(other)
    assert mine.keys() == theirs.keys()
    assert len(mine) > 50
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_a_run_leaves_settings_checkpoints_and_curves(trained_run, tiny_config):
    assert run_folder.load_config(trained_run) == tiny_config
    checkpoints = tf.train.get_checkpoint_state(str(trained_run / "checkpoints"))
    steps = [int(path.rsplit("-", 1)[1]) for path in checkpoints.all_model_checkpoint_paths]
    assert steps == [3, 6]
    assert list((trained_run / "logs").glob("events*"))
    assert list((trained_run / "checkpoints" / "best").glob("ckpt-*.index"))


def test_a_finished_run_is_not_trained_again(trained_run, tiny_config, capsys):
    model = train_lib.train(tiny_config, trained_run)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Device: ")
    assert "ckpt-6" in said[-5]
    assert said[-2:] == [
        f"  cigan-export --workdir={trained_run}",
        f"  cigan --mode=report --workdir={trained_run}",
    ]
    assert int(model.step.numpy()) == tiny_config.training.total_steps
    assert int(model.generator_optimizer.iterations) == 4
    assert int(model.discriminator_optimizer.iterations) == 2


def test_a_stopped_run_resumes_as_if_not_stopped(
    trained_run, tiny_config, tmp_path, monkeypatch, train_eagerly
):
    def stop_at_4(observer, num_steps):
        if int(observer._model.step.numpy()) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(observers.Chief, "count", stop_at_4)
        with pytest.raises(Preempted, match=r"after step 4 and saved as .*ckpt-4"):
            train_eagerly(tiny_config, tmp_path / "stopped [1]")
    assert signal.getsignal(signal.SIGTERM) == before
    assert Preempted.exit_code == 75
    model = train_eagerly(tiny_config, tmp_path / "stopped [1]")
    assert int(model.step.numpy()) == 6
    stopped, undisturbed = curves(tmp_path / "stopped [1]"), curves(trained_run)
    assert stopped.keys() == undisturbed.keys()
    for tag, points in undisturbed.items():
        assert stopped[tag].keys() == points.keys(), tag


def test_3_kills_and_4_ends_at_random_moments_change_no_bit(tiny_config, replace, forked_runs):
    config = replace(
        tiny_config,
        deterministic=True,
        feature_layers=("input",),
        pretraining_steps=4,
        adversarial_steps=16,  # with the pre-training more than twice the kills and ends
        checkpoint_every_steps=1,
        log_every_steps=3,
        picture_every_steps=20,
    )
    folder = forked_runs("killed", config, 3, 4)
    assert_same_run(folder / "killed", folder / "undisturbed")
    assert curves(folder / "killed") == curves(folder / "undisturbed")


def test_nan_stops_the_run_or_is_skipped(
    tiny_config, replace, tmp_path, monkeypatch, train_eagerly
):
    class WithANan(train_lib.input_pipeline.TrainingInput):
        def batches(self, first_step, *worker):
            def spoil(step, batch):
                return {**batch, "image": tf.where(step == 3, np.nan, batch["image"])}

            return super().batches(first_step, *worker).enumerate(first_step).map(spoil)

    monkeypatch.setattr(train_lib.input_pipeline, "TrainingInput", WithANan)
    with pytest.raises(DivergedError) as stopped:
        train_eagerly(tiny_config, tmp_path / "stop")
    assert "NaN or infinite at step 4" in str(stopped.value)
    assert "Last good checkpoint:" in str(stopped.value)
    assert "ckpt-3" in str(stopped.value)

    model = train_eagerly(replace(tiny_config, on_nonfinite="skip"), tmp_path / "skip")
    assert int(model.step.numpy()) == 6
    assert int(model.skipped_steps.numpy()) == 1
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    shown = curves(tmp_path / "skip")
    assert shown["health/skipped_steps"] == {3: 0, 6: 1}


def test_infills_are_measured_while_training(tiny_config, replace, tmp_path, train_eagerly):
    config = replace(
        tiny_config,
        evaluated_patches=20,
        quality_features="random",
        best_term="",
        opposite_class_weight=1.0,
        pretraining_steps=1,
        adversarial_steps=2,
        batch_size=2,
    )
    train_eagerly(config, tmp_path)
    shown = curves(tmp_path)
    for term in ("kid", "class_auc"):
        for of in (term, f"{term}_of_real_patches"):
            assert shown[f"held_out/{of}"].keys() == {3}
    assert 0 <= shown["held_out/class_auc"][3] <= 1
    assert list((tmp_path / "checkpoints" / "best").glob("ckpt-3.index"))


def test_steps_are_profiled_on_request(tiny_config, replace, tmp_path, train_eagerly):
    config = replace(tiny_config, profile_steps="2:3", adversarial_steps=2)
    train_eagerly(config, tmp_path)
    assert len(list((tmp_path / "logs").rglob("*.xplane.pb"))) == 1


def test_xla_compiles_only_in_the_first_steps(
    tiny_config, replace, forked_runs, tmp_path, monkeypatch
):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={tmp_path / 'xla'}")
    config = replace(tiny_config, jit_compile=True, feature_layers=("input",), batch_size=2)
    folder = forked_runs("compiled", config)
    counts = json.loads((folder / "counts.json").read_text())
    assert len(counts) == 6
    # Two steps of pre-training and one of each network compile everything; later steps nothing.
    assert counts[0] < counts[3] == counts[-1]


def test_a_call_into_tensorflow_ends_at_every_due_event(tiny_config, replace):
    settings = replace(tiny_config, profile_steps="5:5", adversarial_steps=98).training
    seen, step = [], 0
    while step < settings.total_steps:
        step += min(7, train_lib._steps_to_next_event(step, settings))
        seen.append(step)
    due = {s for s in range(1, 101) if s % 2 == 0 or s % 3 == 0} | {4, 5, 100}
    assert due <= set(seen)


def test_a_workdir_of_another_run_is_refused(tiny_config, replace, trained_run):
    with pytest.raises(UserError, match=r"learning_rate.*--resume_changed"):
        train_lib.train(replace(tiny_config, learning_rate=1e-3), trained_run)


def test_settings_that_do_not_fit_the_checkpoint_change_nothing(
    tiny_config, replace, trained_run, tmp_path
):
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    before = {name: (workdir / name).read_bytes() for name in ("config.json", "provenance.json")}
    other = replace(tiny_config, discriminator_view="lesion")
    with pytest.raises(UserError, match="different networks"):
        train_lib.train(other, workdir, resume_changed=True)
    for name, content in before.items():
        assert (workdir / name).read_bytes() == content


def test_no_workdir_is_created_for_a_missing_dataset(replace, tmp_path):
    config = replace(Config(), data_dir=str(tmp_path), dataset="ddsm_patches/absent")
    with pytest.raises(UserError, match="tfds build"):
        train_lib.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
