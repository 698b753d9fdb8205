"""A run's folder: its configuration, and the lock that admits one process."""

import pytest
from etils import epath

from cigan_tf import run_folder
from cigan_tf.config import Config, LossConfig, TrainingConfig
from cigan_tf.errors import UserError
from cigan_tf.hardware_config import HardwareConfig


def test_a_run_saves_its_configuration(tmp_path):
    config = Config(training=TrainingConfig(seed=3))
    run_folder.claim(tmp_path / "run", config)
    assert run_folder.load_config(tmp_path / "run") == config


def test_a_run_may_be_resumed_with_more_steps(tmp_path):
    run_folder.claim(tmp_path, Config())
    longer = Config(training=TrainingConfig(adversarial_steps=200_000))
    run_folder.refuse_other_run(tmp_path, longer)
    run_folder.claim(tmp_path, longer)
    assert run_folder.load_config(tmp_path) == longer
    run_folder.refuse_other_run(tmp_path / "without_a_run", Config())


def test_another_configuration_is_refused_with_its_differences(tmp_path):
    run_folder.claim(tmp_path, Config())
    changed = Config(loss=LossConfig(feature_weight=1.0))
    with pytest.raises(UserError, match=r"feature_weight: 10.0 in the run, 1.0 given") as error:
        run_folder.refuse_other_run(tmp_path, changed)
    assert "\n" not in str(error.value)
    assert "--resume_changed" in str(error.value)
    assert run_folder.load_config(tmp_path) == Config()
    run_folder.refuse_other_run(tmp_path, changed, resume_changed=True)
    run_folder.claim(tmp_path, changed)
    assert run_folder.load_config(tmp_path) == changed


def test_a_run_may_resume_on_other_hardware_but_not_in_another_precision(tmp_path):
    run_folder.claim(tmp_path, Config())
    run_folder.refuse_other_run(
        tmp_path, Config(hardware=HardwareConfig(strategy="mirrored", jit_compile=True))
    )
    with pytest.raises(UserError, match="mixed_precision"):
        run_folder.refuse_other_run(
            tmp_path, Config(hardware=HardwareConfig(mixed_precision="float16"))
        )


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="There is no run in the workdir"):
        run_folder.load_config(tmp_path)


def test_a_workdir_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run_folder.claim(tmp_path / "file" / "run", Config())


def test_a_second_process_is_refused_while_the_first_is_running(tmp_path):
    with run_folder.sole_process(tmp_path / "run"):
        # A lock belongs to an open file, so a second open file acts like another process.
        second = run_folder.sole_process(tmp_path / "run")
        with pytest.raises(UserError, match="Another process is using"):
            second.__enter__()
    with run_folder.sole_process(tmp_path / "run"):
        pass


def test_a_saved_model_from_before_the_newest_checkpoint_is_named(tmp_path, capsys):
    workdir = epath.Path(tmp_path)
    saved_model = workdir / "saved_model" / "1"
    run_folder.warn_of_later_checkpoint(workdir, saved_model, 6)
    (workdir / "checkpoints" / "best").mkdir(parents=True)
    for name in ("ckpt-9.index", "ckpt-12.index", "ckpt-12.data", "best/ckpt-3.index"):
        (workdir / "checkpoints" / name).touch()
    assert list(run_folder.checkpoints(workdir / "checkpoints")) == [9, 12]
    run_folder.warn_of_later_checkpoint(workdir, saved_model, 12)
    run_folder.warn_of_later_checkpoint(workdir, saved_model, 3)  # the best one
    assert capsys.readouterr().err == ""
    run_folder.warn_of_later_checkpoint(workdir, saved_model, 6)
    (warning,) = capsys.readouterr().err.splitlines()
    assert f"{str(saved_model)!r} is from step 6; the newest checkpoint is from step 12" in warning
    assert f"cigan-export --workdir={workdir}" in warning
