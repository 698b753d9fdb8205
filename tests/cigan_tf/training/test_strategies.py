"""The same run on one device, on several, and in several processes."""

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf.errors import UserError
from cigan_tf.training import strategies


def newest_variables(workdir):
    """Returns every variable of the newest checkpoint except the number of saves."""
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.endswith("VARIABLE_VALUE") and not name.startswith("save_counter")
    }


def test_two_cpus_and_two_processes_train_the_weights_of_one_device(
    tiny_config, replace, forked_runs
):
    config = replace(
        tiny_config,
        steps_per_execution=2,
        picture_every_steps=6,
        switch_threshold=1e-9,
        # Only one of the workers measures infills.
        evaluated_patches=20,
        quality_features="random",
        # With a small epsilon, Adam would amplify the rounding error of a zero gradient.
        learning_rate=0.1,
        adam_epsilon=1.0,
    )
    folder = forked_runs("replicated", config)
    alone = newest_variables(folder / "one_device")
    assert len(alone) > 50
    for strategy in ("mirrored", "multi_worker"):
        together = newest_variables(folder / strategy)
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            np.testing.assert_allclose(
                together[name], value, rtol=1e-4, atol=1e-5, err_msg=f"{strategy} {name}"
            )
            if "/_kernel/" in name or "/bias/" in name:
                assert np.abs(together[name] - value).max() < 1e-5, f"{strategy} {name}"
    # One of the two workers writes events, and so does the worker that resumes their run.
    assert len(list((folder / "multi_worker" / "logs").glob("events*"))) == 2


def test_a_worker_that_fails_ends_the_others_with_its_reason(tiny_config, replace, forked_runs):
    config = replace(
        tiny_config,
        feature_layers=("input",),
        checkpoint_every_steps=2,
        adversarial_steps=1000,
    )
    folder = forked_runs("failing", config)
    chief, other = ((folder / f"claimed_{i}.txt").read_text() for i in range(2))
    assert "contains a run with different settings (learning_rate" in chief
    assert other == f"Worker 0 has failed: {chief}"
    assert "can no longer be reached" in (folder / "killed_1.txt").read_text()
    assert float((folder / "waited_s").read_text()) < 60


def test_workers_agree_every_few_steps(tiny_config):
    agreement = strategies.Agreement(strategies.build(tiny_config), every_steps=10)
    agreement._alone = False
    due = [step for step in range(3, 61, 3) if agreement.is_due(step, 3)]
    assert due == [12, 21, 30, 42, 51, 60]


def test_a_batch_that_replicas_cannot_share_is_refused(tiny_config, replace, monkeypatch):
    class Three:
        num_replicas_in_sync = 3

    monkeypatch.setattr(tf.distribute, "get_strategy", Three)
    with pytest.raises(UserError, match=r"the number of replicas, which is 3 .*batch_size=4"):
        strategies.build(tiny_config)


def test_multi_worker_without_tf_config_is_explained(tiny_config, replace, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="it is not set"):
        strategies.build(replace(tiny_config, strategy="multi_worker"))


def test_a_missing_tpu_is_named(tiny_config, replace):
    with pytest.raises(UserError, match=r"No TPU responds at --tpu="):
        strategies.build(replace(tiny_config, strategy="tpu"))


def test_one_device_needs_no_agreement(tiny_config):
    strategy = strategies.build(tiny_config)
    assert strategies.is_chief(strategy)
    assert strategies.worker(strategy) == (0, 1)
    agreement = strategies.Agreement(strategy)
    assert agreement.any(True)
    assert not agreement.any(False)
    assert agreement.all_equal(7)
