"""What a checkpoint holds, and what is said when there is none."""

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf import input_pipeline
from cigan_tf.errors import UserError
from cigan_tf.models.cigan import Turn, build_cigan
from cigan_tf.training import checkpoints


def test_everything_the_next_step_depends_on_comes_back(tiny_config, tmp_path):
    batches = input_pipeline.training_batches(tiny_config)
    saved = build_cigan(tiny_config)
    saved.run_eagerly = True
    saved.make_train_function()
    iterator = iter(batches)
    for _ in range(3):
        saved.train_function(iterator)
    checkpoints.manager(saved, iterator, tmp_path, tiny_config).save(checkpoint_number=3)
    following = next(iterator)

    restored, resumed = build_cigan(tiny_config), iter(batches)
    checkpoints.manager(restored, resumed, tmp_path, tiny_config).restore_or_initialize()
    np.testing.assert_array_equal(next(resumed)["image"], following["image"])
    for name in ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer"):
        was, now = getattr(saved, name), getattr(restored, name)
        for old, new in zip(was.variables, now.variables, strict=True):
            np.testing.assert_array_equal(np.array(old.value), np.array(new.value))
    assert int(restored.step.numpy()) == 3
    assert Turn(int(restored.turn.numpy())) == Turn(int(saved.turn.numpy()))


def test_the_frozen_features_are_not_saved(trained_run):
    newest = tf.train.latest_checkpoint(str(trained_run / "checkpoints"))
    shapes = [tuple(shape) for _, shape in tf.train.list_variables(newest)]
    assert (3, 3, 4, 128) in shapes, "the generator's first kernel"
    assert (3, 3, 3, 64) not in shapes, "VGG-19's first kernel"


def test_the_generator_alone_can_be_restored(tiny_config, tmp_path):
    model = build_cigan(tiny_config)
    iterator = iter(input_pipeline.training_batches(tiny_config))
    model.step.assign(6)
    checkpoints.manager(model, iterator, tmp_path, tiny_config).save(checkpoint_number=6)
    generator, step = checkpoints.restore_generator(tmp_path, tiny_config)
    assert step == 6
    for saved, restored in zip(model.generator.get_weights(), generator.get_weights(), strict=True):
        np.testing.assert_array_equal(saved, restored)


def test_a_run_without_a_checkpoint_is_named(tiny_config, tmp_path):
    with pytest.raises(UserError, match="no checkpoint yet"):
        checkpoints.restore_generator(tmp_path, tiny_config)
