"""Settings: the paper's defaults, validation with one-line errors, and JSON."""

import dataclasses

import pytest

from cigan_tf.config import Config, DataConfig, LossConfig, ModelConfig, TrainingConfig
from cigan_tf.errors import UserError
from cigan_tf.hardware_config import HardwareConfig


def test_the_defaults_are_the_papers():
    config = Config().validate()
    assert (config.model.patch_size, config.data.batch_size) == (256, 8)
    weights = (
        config.loss.adversarial_weight,
        config.loss.feature_weight,
        config.loss.boundary_weight,
    )
    assert weights == (1.0, 10.0, 10000.0)
    assert (config.loss.boundary_sigma_px, config.loss.wrong_class_weight) == (10.0, 0)
    training = config.training
    assert (training.pretraining_steps, training.adversarial_steps) == (10_000, 100_000)
    assert (training.learning_rate, training.switch_threshold) == (1e-4, 0.3)
    assert (training.adam_beta_1, training.adam_beta_2, training.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert training.total_steps == 110_000


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (Config(model=ModelConfig(patch_size=100)), "patch_size=100"),
        (Config(model=ModelConfig(patch_size=1024)), "patch_size=1024"),
        (Config(model=ModelConfig(vgg_weights="")), "vgg_weights"),
        (Config(model=ModelConfig(match_grain=True, composite=False)), "match_grain=True"),
        (Config(model=ModelConfig(rim_reach_px=3)), "rim_reach_px=3"),
        (Config(model=ModelConfig(match_rim=True, rim_reach_px=257)), "rim_reach_px=257"),
        (Config(data=DataConfig(batch_size=7)), "batch_size=7"),
        (Config(loss=LossConfig(feature_weight=-1)), "feature_weight=-1"),
        (Config(loss=LossConfig(boundary_sigma_px=0)), "boundary_sigma_px=0"),
        (Config(loss=LossConfig(wrong_class_weight=-1)), "wrong_class_weight=-1"),
        (
            Config(
                loss=LossConfig(wrong_class_weight=1),
                model=ModelConfig(discriminator_sees_class=False),
            ),
            "discriminator_sees_class=False",
        ),
        (Config(data=DataConfig(train_patient_share=0)), "train_patient_share=0"),
        (Config(training=TrainingConfig(pretraining_steps=-1)), "pretraining_steps=-1"),
        (Config(training=TrainingConfig(learning_rate=0.0)), "learning_rate=0.0"),
        (Config(training=TrainingConfig(adam_beta_1=1.0)), "adam_beta_1=1.0"),
        (Config(training=TrainingConfig(seed=-3)), "seed=-3"),
        (Config(training=TrainingConfig(best_term="fid")), "best_term='fid'"),
        (Config(training=TrainingConfig(on_nonfinite="ignore")), "on_nonfinite='ignore'"),
        (Config(training=TrainingConfig(profile_steps="5:3")), "profile_steps='5:3'"),
        (Config(hardware=HardwareConfig(strategy="gpu")), "strategy='gpu'"),
        (Config(hardware=HardwareConfig(mixed_precision="fp8")), "mixed_precision='fp8'"),
        (Config(hardware=HardwareConfig(steps_per_execution=-1)), "steps_per_execution=-1"),
        (Config(hardware=HardwareConfig(deterministic=True, jit_compile=True)), "jit_compile"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(config, named):
    with pytest.raises(UserError) as error:
        config.validate()
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_nan_is_not_a_valid_weight():
    with pytest.raises(UserError, match="feature_weight"):
        Config(loss=LossConfig(feature_weight=float("nan"))).validate()


def test_json_round_trip():
    config = Config(model=ModelConfig(patch_size=64), training=TrainingConfig(seed=5))
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {"patch_sise": 64}}'])
def test_other_json_is_refused(text):
    with pytest.raises(UserError, match="not valid in this version"):
        Config.from_json(text)


def test_every_setting_has_a_help_text():
    names = []
    for group in dataclasses.fields(Config):
        for field in dataclasses.fields(group.default_factory):
            assert field.metadata["help"].endswith("."), field.name
            names.append(field.name)
    assert len(names) == len(set(names)), "flags share one name space"
