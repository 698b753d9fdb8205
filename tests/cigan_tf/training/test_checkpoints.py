"""Content and integrity of checkpoints, and errors if they cannot be read or written."""

import pathlib
import resource

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf import input_pipeline
from cigan_tf.errors import UserError
from cigan_tf.models.cigan import Turn, build_cigan
from cigan_tf.training.checkpoints import RunCheckpoints, restore_generator


@pytest.fixture(scope="module")
def plain_config(tiny_config, replace):
    """A run without VGG-19, which is not in checkpoints."""
    return replace(tiny_config, feature_layers=("input",))


def make_run(config, workdir):
    """Returns a model that runs eagerly, its batches from the first step, and its checkpoints."""
    model = build_cigan(config)
    model.run_eagerly = True
    model.make_train_function()
    iterator = iter(input_pipeline.training_batches(config))
    return model, iterator, RunCheckpoints(model, workdir, config)


def save_at(model, checkpoints, step):
    model.step.assign(step)
    checkpoints.save(step)


def steps_on_disk(workdir, folder="checkpoints"):
    return sorted(int(path.stem[5:]) for path in (workdir / folder).glob("ckpt-*.index"))


def test_everything_the_next_step_depends_on_is_restored(plain_config, tmp_path):
    saved, iterator, checkpoints = make_run(plain_config, tmp_path)
    for _ in range(3):
        saved.train_function(iterator)
    checkpoints.save(3)

    restored, _, checkpoints = make_run(plain_config, tmp_path)
    checkpoints.restore()
    for name in ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer"):
        was, now = getattr(saved, name), getattr(restored, name)
        for old, new in zip(was.variables, now.variables, strict=True):
            np.testing.assert_array_equal(np.array(old.value), np.array(new.value))
    assert int(restored.step.numpy()) == 3
    assert Turn(int(restored.turn.numpy())) == Turn(int(saved.turn.numpy()))
    was, now = (
        {name: float(value) for name, value in model.get_metrics_result().items()}
        for model in (saved, restored)
    )
    np.testing.assert_equal(now, was)  # NaN, for a term without values, equals NaN


def test_a_loss_weight_may_be_switched_on_when_a_run_resumes(plain_config, replace, tmp_path):
    _, _, checkpoints = make_run(plain_config, tmp_path)
    checkpoints.save(3)
    changed = replace(plain_config, r1_weight=0.1, diversity_weight=0.5)
    model, _, checkpoints = make_run(changed, tmp_path)
    checkpoints.restore()
    assert len(model.metrics) == len(model.term_means)


def test_the_frozen_features_are_not_saved(trained_run):
    newest = tf.train.latest_checkpoint(str(trained_run / "checkpoints"))
    shapes = [tuple(shape) for _, shape in tf.train.list_variables(newest)]
    assert (3, 3, 4, 128) in shapes, "the generator's first kernel"
    assert (3, 3, 3, 64) not in shapes, "VGG-19's first kernel"


@pytest.fixture(scope="module")
def run(plain_config, tmp_path_factory):
    """A run whose generator differs between checkpoints: its bias is the step."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, *make_run(plain_config, workdir)


@pytest.fixture
def three_checkpoints(run):
    workdir, model, _, checkpoints = run
    for step in (8, 9, 10):
        model.generator.weights[-1].assign([float(step)])
        save_at(model, checkpoints, step)
    return workdir


def restored_bias(workdir, config, **which):
    generator, step = restore_generator(workdir, config, **which)
    assert float(generator.weights[-1][0]) == step
    return step


def test_only_the_generator_can_be_restored(three_checkpoints, plain_config):
    assert restored_bias(three_checkpoints, plain_config) == 10


def damage(path, how):
    if how == "lost":
        path.unlink()
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        content = bytearray(path.read_bytes())
        content[: len(content) // 2] = bytes(len(content) // 2)
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["lost", "cut short", "zeroed"])
@pytest.mark.parametrize("file", ["ckpt-10.data-00000-of-00001", "ckpt-10.index", "checkpoint"])
def test_a_damaged_newest_checkpoint_is_replaced_by_the_previous_one(
    three_checkpoints, run, how, file, capsys
):
    damage(three_checkpoints / "checkpoints" / file, how)
    _, model, _, checkpoints = run
    checkpoints.restore()
    told = capsys.readouterr().err
    if file == "checkpoint":  # TensorFlow's list of checkpoints is not needed
        assert int(model.step.numpy()) == 10
    else:
        assert int(model.step.numpy()) == 9
        if (file, how) != ("ckpt-10.index", "lost"):
            assert "ckpt-10 is damaged" in told
            assert told.count("\n") == 1
    assert float(model.generator.weights[-1][0]) == int(model.step.numpy())


@pytest.mark.parametrize(
    "trouble",
    [
        tf.errors.ResourceExhaustedError(None, None, "out of memory"),
        tf.errors.PermissionDeniedError(None, None, "permission denied"),
        MemoryError("out of memory"),
        PermissionError("permission denied"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_other_than_damage_stop_the_run_and_remove_nothing(
    three_checkpoints, run, trouble, monkeypatch, capsys
):
    def fail(self, path):
        raise trouble

    before = steps_on_disk(three_checkpoints)
    monkeypatch.setattr(tf.train.Checkpoint, "read", fail)
    with pytest.raises(
        UserError, match=r"ckpt-10 cannot be read at present \((out of|permission)"
    ) as told:
        run[3].restore()
    assert "\n" not in str(told.value)
    assert "damaged" not in capsys.readouterr().err
    assert steps_on_disk(three_checkpoints) == before


def test_a_checkpoint_contains_networks_and_optimizers_and_no_patch(trained_run):
    newest = tf.train.latest_checkpoint(str(trained_run / "checkpoints"))
    shapes = dict(tf.train.list_variables(newest))
    size = sum(4 * np.prod(shape, dtype=int) for shape in shapes.values())
    files = pathlib.Path(newest).parent.glob(f"{pathlib.Path(newest).name}.*")
    assert sum(file.stat().st_size for file in files) < 1.02 * size + 100_000
    assert not any("iterator" in name for name in shapes)


def test_a_checkpoint_of_256_px_has_less_than_40_megabytes(plain_config, replace, tmp_path):
    model = build_cigan(replace(plain_config, patch_size=256))
    RunCheckpoints(model, tmp_path, plain_config).save(1)
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoints").glob("ckpt-1.*"))
    assert 10e6 < size < 40e6


def test_a_run_resumes_with_another_decay(plain_config, replace, tmp_path):
    saved, iterator, checkpoints = make_run(plain_config, tmp_path)
    saved.train_function(iterator)
    checkpoints.save(1)
    changed = replace(plain_config, learning_rate_decay_rate=0.5)
    restored, _, checkpoints = make_run(changed, tmp_path)
    checkpoints.restore()
    for old, new in zip(
        saved.generator_optimizer.variables, restored.generator_optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(np.array(old.value), np.array(new.value))


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(three_checkpoints, run):
    for data in (three_checkpoints / "checkpoints").glob("ckpt-*.data*"):
        damage(data, "zeroed")
    with pytest.raises(UserError, match=r"No checkpoint in .* can be read"):
        run[3].restore()


def test_a_checkpoint_of_other_networks_is_refused_with_the_shapes(
    three_checkpoints, plain_config, replace
):
    other = build_cigan(replace(plain_config, discriminator_sees_class=False))
    checkpoints = RunCheckpoints(other, three_checkpoints, plain_config)
    with pytest.raises(UserError, match=r"\(3, 3, 3, 32\).*\(3, 3, 1, 32\)"):
        checkpoints.restore()


def test_a_full_disk_does_not_damage_earlier_checkpoints(run, three_checkpoints, plain_config):
    _, model, _, checkpoints = run
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Files cannot exceed 1 MB, so the write fails half-way, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(UserError, match=r"step 11 cannot be written.*Newest complete.*ckpt-10"):
            save_at(model, checkpoints, 11)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = sorted(path.name for path in (three_checkpoints / "checkpoints").glob("ckpt-11*"))
    assert left == []
    assert restored_bias(three_checkpoints, plain_config) == 10


def test_the_files_of_a_killed_save_are_removed(three_checkpoints, run):
    folder = three_checkpoints / "checkpoints"
    (folder / "ckpt-12_temp").mkdir()
    (folder / "ckpt-12_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    (folder / "ckpt-12.data-00000-of-00001.tempstate123").write_bytes(b"half")
    run[3].restore()
    assert not list(folder.glob("ckpt-12*"))
    assert steps_on_disk(three_checkpoints)[-1] == 10


def test_a_complete_but_unlisted_checkpoint_is_used_and_later_removed(run):
    workdir, model, _, checkpoints = run
    folder = workdir / "checkpoints"
    save_at(model, checkpoints, 20)
    for file in folder.glob("ckpt-20.*"):
        file.with_name(file.name.replace("20", "25")).write_bytes(file.read_bytes())
    model.step.assign(0)
    checkpoints.restore()
    assert checkpoints.newest.endswith("ckpt-25")
    save_at(model, checkpoints, 30)
    assert 25 not in steps_on_disk(workdir)
    assert steps_on_disk(workdir)[-1] == 30


def test_the_requested_number_and_the_best_are_kept(plain_config, replace, tmp_path):
    config = replace(plain_config, checkpoints_to_keep=2)
    model, _, checkpoints = make_run(config, tmp_path)
    for step, loss in ((1, 0.5), (2, 0.25), (3, 0.375), (4, float("nan"))):
        model.generator.weights[-1].assign([float(step)])
        model.step.assign(step)
        checkpoints.save_if_best(step, loss)
        checkpoints.save(step)
    assert steps_on_disk(tmp_path) == [3, 4]
    assert steps_on_disk(tmp_path, "checkpoints/best") == [2]
    assert restored_bias(tmp_path, plain_config, best=True) == 2

    model, _, checkpoints = make_run(config, tmp_path)
    checkpoints.restore()
    checkpoints.save_if_best(5, 0.3)
    assert steps_on_disk(tmp_path, "checkpoints/best") == [2], "the best loss is remembered"


def test_a_run_without_a_checkpoint_is_named(plain_config, tmp_path):
    with pytest.raises(UserError, match="no checkpoint yet"):
        restore_generator(tmp_path, plain_config)
    with pytest.raises(UserError, match="has no best checkpoint; train it with --evaluated"):
        restore_generator(tmp_path, plain_config, best=True)


def test_the_exported_generator_has_the_average_of_its_weights(plain_config, replace, tmp_path):
    config = replace(plain_config, generator_ema=0.5, learning_rate=1e-2)
    model, iterator, checkpoints = make_run(config, tmp_path)
    for _ in range(2):
        model.train_function(iterator)
    checkpoints.save(2)
    generator, _ = restore_generator(tmp_path, config)
    last = np.array(model.generator.trainable_variables[0])
    with model.averaged_generator():
        for restored, average in zip(generator.weights, model.generator.weights, strict=True):
            np.testing.assert_array_equal(restored, average)
    assert not np.array_equal(generator.trainable_variables[0], last)
