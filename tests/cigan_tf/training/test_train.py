"""A run from the first step to the last, taken up again, and what it leaves."""

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf import workdir as workdir_lib
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.training import train as train_lib


def test_a_run_leaves_settings_checkpoints_and_curves(trained_run, tiny_config):
    assert workdir_lib.load_config(trained_run) == tiny_config
    checkpoints = tf.train.get_checkpoint_state(str(trained_run / "checkpoints"))
    steps = [int(path.rsplit("-", 1)[1]) for path in checkpoints.all_model_checkpoint_paths]
    assert steps == [3, 6]
    assert list((trained_run / "logs").glob("events*"))


def test_a_finished_run_is_not_trained_again(trained_run, tiny_config):
    model = train_lib.train(tiny_config, trained_run)
    assert int(model.step.numpy()) == tiny_config.training.total_steps
    assert int(model.generator_optimizer.iterations) == 4
    assert int(model.discriminator_optimizer.iterations) == 2


def test_a_run_goes_on_where_it_stopped(tiny_config, replace, tmp_path, trained_run):
    train_lib.train(replace(tiny_config, adversarial_steps=1), tmp_path)
    model = train_lib.train(tiny_config, tmp_path)
    assert int(model.step.numpy()) == 6
    undisturbed = train_lib.train(tiny_config, trained_run)
    # A step moves every weight by about the step size of 1e-4, up or down by the gradient's sign;
    # threads that add in another order may flip the sign of a few.
    for resumed, whole in zip(
        model.generator.get_weights(), undisturbed.generator.get_weights(), strict=True
    ):
        assert np.abs(resumed - whole).mean() < 1e-5


def test_a_workdir_of_another_run_is_refused(tiny_config, replace, trained_run):
    with pytest.raises(UserError, match="learning_rate"):
        train_lib.train(replace(tiny_config, learning_rate=1e-3), trained_run)


def test_nothing_is_claimed_for_a_dataset_that_is_missing(replace, tmp_path):
    config = replace(Config(), data_dir=str(tmp_path), dataset="ddsm_patches/absent")
    with pytest.raises(UserError, match="tfds build"):
        train_lib.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
