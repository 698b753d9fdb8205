"""Datasets of the real sample films, built once, and a run trained on them.

TensorFlow's log level is set before any test imports TensorFlow, to hide its start-up messages.
TensorFlow and the packages that import it are imported only by the fixtures that need them.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses
import gc
import warnings

import pytest

from cigan_tf.config import Config, DataConfig, LossConfig, ModelConfig, TrainingConfig

PATCH_SIZE = 32
# A worker of pytest-xdist runs whole files: one of these at the end would leave the others idle.
LONG_FILES = (
    *("test_train.py", "test_strategies.py", "test_demo.py", "test_own_films.py"),
    *("test_notebook.py", "test_buckets.py", "test_infilling_model.py", "test_replicated.py"),
)


# What the tests import is no garbage, and to find that out again and again takes seconds.
gc.disable()


def pytest_collection_finish():
    """Exempts everything imported until here from garbage collection, which begins."""
    gc.freeze()
    gc.set_threshold(10 * gc.get_threshold()[0])
    gc.enable()


def pytest_collection_modifyitems(items):
    """Puts the files that take longest at the beginning."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish():
    """Collects the last garbage once, because pytest and Python would search six times for it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Two variants of ddsm_patches/sample: `tiny` with simulated lesions, `real` without."""
    from tfds_ddsm.dataset_config import DdsmPatchesConfig
    from tfds_ddsm.ddsm_patches.ddsm_patches_dataset_builder import Builder

    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    for name, simulated_lesions in (("tiny", 2), ("real", 0)):
        config = DdsmPatchesConfig(
            name=name,
            source="sample",
            patch_size=PATCH_SIZE,
            film_size=(344, 188),
            patches_per_class=60,
            simulated_lesions=simulated_lesions,
        )
        Builder(config=config, data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture(scope="session")
def tiny_config(data_dir):
    """A configuration for training on the tiny variant within seconds."""
    return Config(
        data=DataConfig(dataset="ddsm_patches/tiny", data_dir=str(data_dir), batch_size=4),
        model=ModelConfig(
            patch_size=PATCH_SIZE, vgg_weights="random", feature_layers=("input", "pool1")
        ),
        loss=LossConfig(),
        training=TrainingConfig(
            pretraining_steps=2,
            adversarial_steps=4,
            max_steps_per_turn=1,
            log_every_steps=2,
            picture_every_steps=3,
            checkpoint_every_steps=3,
            held_out_per_kind=1,
            best_term="feature_loss",
        ),
    )


@pytest.fixture(scope="session")
def train_eagerly():
    """Returns `train` without tracing, which at this size takes longer than all steps."""
    import tensorflow as tf

    from cigan_tf.training.train import train

    def train_eagerly(config, workdir):
        tf.config.run_functions_eagerly(True)
        try:
            with warnings.catch_warnings():
                # tf.data always traces its own functions, and TensorFlow warns about it.
                warnings.filterwarnings("ignore", "Even though the", UserWarning)
                return train(config, workdir)
        finally:
            tf.config.run_functions_eagerly(False)

    return train_eagerly


@pytest.fixture(scope="session")
def trained_run(tiny_config, train_eagerly, tmp_path_factory):
    """The working directory of a finished run."""
    workdir = tmp_path_factory.mktemp("run")
    train_eagerly(tiny_config, workdir)
    return workdir


@pytest.fixture(scope="session")
def exported(trained_run):
    """The finished run's exported generator, version 1."""
    from export.saved_model import export

    return export(trained_run, trained_run / "saved_model")


@pytest.fixture(scope="session")
def replace():
    """Returns a function that replaces settings of a configuration, whichever group they are in."""

    def replaced(config, **settings):
        groups = {}
        for group in dataclasses.fields(config):
            values = getattr(config, group.name)
            names = {field.name for field in dataclasses.fields(values)} & set(settings)
            groups[group.name] = dataclasses.replace(
                values, **{name: settings.pop(name) for name in names}
            )
        assert not settings, settings
        return Config(**groups)

    return replaced


@pytest.fixture
def forked_runs(tmp_path):
    """Returns a function that runs forked_runs.py with a mode, a configuration and options."""
    from tests import warm_commands

    def run(mode, config, *options):
        finished = warm_commands.run(
            *("tests.cigan_tf.training.forked_runs", mode, config.to_json(), tmp_path, *options)
        )
        assert finished.returncode == 0, finished.stderr
        return tmp_path

    return run


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """An address in TensorFlow's in-memory file system, which etils treats as a bucket."""
    from etils.epath import backend, gpath, register

    monkeypatch.setattr(gpath, "_URI_PREFIXES", (*gpath._URI_PREFIXES, "ram://"))
    monkeypatch.setattr(gpath, "_URI_SCHEMES", gpath._URI_SCHEMES | {"ram"})
    monkeypatch.setitem(gpath._URI_MAP_ROOT, "ram://", "/ram/")
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "ram", backend.tf_backend)
    monkeypatch.setitem(register._URI_PREFIXES_TO_CLS, "ram://", gpath.PosixGPath)
    return f"ram://{tmp_path.name}"  # files remain until the process ends
