"""The output for TensorBoard."""

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cigan_tf.config import LossConfig
from cigan_tf.training import tensorboard

TAGS = {
    "loss/feature_loss",
    "loss/boundary_loss",
    "loss/adversarial_generator_loss",
    "loss/adversarial_discriminator_loss",
    "weighted_loss/feature_loss",
    "weighted_loss/boundary_loss",
    "discriminator/accuracy_real",
    "discriminator/accuracy_fake",
    "turn/network",
    "turn/turns_taken",
    "optimizer/learning_rate_generator",
    "speed/steps_per_second",
    "validation/infills",
    "validation/feature_loss",
    "health/infill_spread_over_seeds",
    "health/infill_spread_over_classes",
    "health/turns_per_1000_steps",
    "health/skipped_steps",
}


@pytest.fixture(scope="module")
def events(trained_run):
    accumulator = EventAccumulator(str(trained_run / "logs"), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator


def curve(events, tag):
    return {e.step: float(tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)}


def test_every_curve_is_there(events):
    assert set(events.Tags()["tensors"]) >= TAGS
    for tag in TAGS - {"validation/infills"}:
        values = list(curve(events, tag).values())
        assert np.isfinite(values).all(), tag
        if tag.startswith(("loss/", "optimizer/", "speed/", "validation/")):
            assert min(values) > 0, tag
        if tag.startswith("discriminator/accuracy"):
            assert 0 <= min(values) <= max(values) <= 1, tag


def test_a_term_is_written_only_if_it_was_computed(events):
    # Steps 1 and 2 are pre-training, without a discriminator.
    assert min(curve(events, "loss/feature_loss")) == 2
    assert min(curve(events, "loss/adversarial_discriminator_loss")) == 4


def test_weighted_terms_are_the_plain_ones_times_their_weight(events, tiny_config):
    for term in ("feature_loss", "boundary_loss"):
        weight = tensorboard.weight_of(term, tiny_config.loss)
        for step, value in curve(events, f"loss/{term}").items():
            weighted = curve(events, f"weighted_loss/{term}")[step]
            assert weighted == pytest.approx(weight * value, rel=1e-5)


def test_every_loss_metric_has_a_weight():
    loss = LossConfig(adversarial_weight=2, feature_weight=3, boundary_weight=4)
    assert tensorboard.weight_of("adversarial_generator_loss", loss) == 2
    assert tensorboard.weight_of("feature_loss", loss) == 3
    assert tensorboard.weight_of("boundary_loss", loss) == 4
    assert tensorboard.weight_of("adversarial_discriminator_loss", loss) == 1


def test_pictures_at_the_start_during_training_and_at_the_end(events):
    shown = events.Tensors("validation/infills")
    assert [event.step for event in shown] == [0, 3, 6]
    first, last = (
        tf.io.decode_png(tf.make_ndarray(shown[i].tensor_proto)[2]).numpy() for i in (0, -1)
    )
    # Three kinds with four patches each, in four columns.
    assert first.shape == (12 * 32 + 11 * 4, 4 * 32 + 3 * 4, 1)
    original, infilled = np.s_[:, :32], np.s_[:, 72:]
    # The originals differ only in their grey window, which depends on the infills, too.
    for top in range(0, len(first), 32 + 4):
        dark, bright = (
            picture[original][top : top + 32].astype(float).ravel() for picture in (first, last)
        )
        inside = (dark > 0) & (dark < 255) & (bright > 0) & (bright < 255)
        scale, offset = np.polyfit(dark[inside], bright[inside], 1)
        assert np.abs(scale * dark + offset - bright)[inside].max() < 1.5 + scale / 2
    assert np.abs(first[infilled].astype(int) - last[infilled]).max() > 0


def test_settings_are_hyperparameters(trained_run, events):
    (data,) = events.PluginTagToContent("hparams").values()
    hparams = HParamsPluginData.FromString(data).session_start_info.hparams
    assert hparams["learning_rate"].number_value == pytest.approx(1e-4)
    assert hparams["feature_layers"].string_value == "input,pool1"
    assert hparams["composite"].bool_value is True
