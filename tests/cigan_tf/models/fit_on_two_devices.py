"""Fits the same model on one device and on two, and compares them; for test_infilling_model.py.

The argument is a folder with the folders `single` and `double`. Logical devices can be set only
before TensorFlow starts, so this needs a process of its own.
"""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from tests.cigan_tf.models.test_infilling_model import batches, infills, make_model


def fitted(folder, epochs):
    model = make_model(max_steps_per_turn=1, learning_rate=1e-4, adam_epsilon=1.0)
    callbacks = [
        keras.callbacks.ModelCheckpoint(
            folder / "best.keras", "val_feature_loss", save_best_only=True, mode="min"
        ),
        keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False),
        keras.callbacks.CSVLogger(folder / "log.csv", append=True),
    ]
    model.fit(
        batches(),
        steps_per_epoch=2,
        epochs=epochs,
        validation_data=batches(),
        validation_steps=1,
        shuffle=False,
        callbacks=callbacks,
        verbose=0,
    )
    return model


def train_with_one_overflow():
    """Checks that gradients that overflow on one replica change no weight on any replica."""
    model = make_model("mixed_float16", pretraining_steps=0, learning_rate=1e-3)
    loss_of_part = model._discriminator_loss

    def overflowing(*args):
        loss, terms = loss_of_part(*args)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.where(replica == 1, loss * 1e38, loss), terms

    before, scale = model.discriminator.get_weights(), 2.0**15
    model._discriminator_loss = overflowing
    model.fit(batches(), steps_per_epoch=1, shuffle=False, verbose=0)
    assert model.take_nonfinite() is None
    for old, new in zip(before, model.discriminator.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert float(model.discriminator_optimizer.dynamic_scale.numpy()) == scale / 2


def main(folder):
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    single = fitted(folder / "single", 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        fitted(folder / "double", 1)
        double = fitted(folder / "double", 2)  # the first epoch is restored
        train_with_one_overflow()
    assert double.num_replicas == 2
    assert int(single.step.numpy()) == int(double.step.numpy()) == 4
    assert len((folder / "double" / "log.csv").read_text().splitlines()) >= 3
    assert int(double.turns_taken.numpy()) == int(single.turns_taken.numpy()) == 4
    for one, other in zip(single.get_weights(), double.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(infills(single), infills(double), atol=1e-4)
    best = keras.models.load_model(folder / "double" / "best.keras")
    assert infills(best).shape == (4, 32, 32, 1)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
