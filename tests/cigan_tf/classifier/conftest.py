"""A dataset of drawn discs with the features of ddsm_patches and patients in three splits."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest
from etils import epath

from cigan_tf import provenance
from cigan_tf.config import Config, DataConfig, ExperimentConfig, ModelConfig, TrainingConfig
from cigan_tf.experiment_config import ClassifierConfig
from cigan_tf.exported_generator import ExportedGenerator

PATCH_SIZE = 32
PATIENTS = {
    "train": ("ann", "bea", "cia", "dot"),
    "validation": ("eve", "fay"),
    "test": ("gil", "hue"),
}


def draw_patches(patients, patches_per_patient=8):
    """Yields keyed examples: bright discs if malignant, dim discs in half of the others."""
    rng = np.random.default_rng(len(patients))
    rows, columns = np.mgrid[:PATCH_SIZE, :PATCH_SIZE]
    for patient in patients:
        for number in range(patches_per_patient):
            malignant, has_lesion = number % 2, number % 4 != 0
            row, column = rng.integers(10, 22, 2)
            disc = (rows - row) ** 2 + (columns - column) ** 2 < rng.integers(16, 64)
            level = 20000 + 8000 * rng.random() + 500 * rng.standard_normal(disc.shape)
            level += disc * (20000 if malignant else 5000) * has_lesion
            yield (
                f"{patient}_{number}",
                {
                    "image": level[..., None].astype(np.uint16),
                    "mask": (disc & bool(has_lesion))[..., None].astype(np.uint8),
                    "label": malignant,
                    "lesion_type": "mass" if has_lesion else "none",
                    "simulated": True,
                    "patient_id": patient,
                    "film_id": f"{patient}_CC",
                    "scanner": "drawn",
                },
            )


def store(folder, name, splits):
    """Writes patches of the given patients of each split as ddsm_patches/`name`."""
    import tensorflow_datasets as tfds

    from tfds_ddsm import croissant
    from tfds_ddsm.dataset_config import DdsmPatchesConfig

    shape = (PATCH_SIZE, PATCH_SIZE, 1)
    text = {n: tfds.features.Text() for n in ("patient_id", "film_id", "scanner")}
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, dtype=np.uint16, encoding_format="png"),
            "mask": tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["non_malignant", "malignant"]),
            "lesion_type": tfds.features.ClassLabel(names=["none", "mass", "calcification"]),
            "simulated": tfds.features.Scalar(np.bool_),
            **text,
        }
    )
    tfds.dataset_builders.store_as_tfds_dataset(
        name="ddsm_patches",
        config=name,
        version="1.0.0",
        features=features,
        split_datasets={split: list(patches) for split, patches in splits.items()},
        data_dir=folder,
    )
    stored = epath.Path(folder) / "ddsm_patches" / name / "1.0.0"
    origin = croissant.origin_of(DdsmPatchesConfig(name=name, source="phantom"))
    croissant.write(tfds.builder_from_directory(stored).info, stored, origin)


@pytest.fixture(scope="session")
def discs_dir(tmp_path_factory):
    """Folder of the dataset `discs` and of the invalid datasets `one_class` and `shared`."""
    folder = tmp_path_factory.mktemp("discs")
    store(folder, "discs", {split: draw_patches(names) for split, names in PATIENTS.items()})
    benign_alone = [(key, e) for key, e in draw_patches(PATIENTS["train"]) if e["label"] == 0]
    store(
        folder,
        "one_class",
        {"train": benign_alone, "validation": benign_alone, "test": benign_alone},
    )
    store(folder, "shared", {split: draw_patches(("ann", split)) for split in PATIENTS})
    return folder


@pytest.fixture(scope="session")
def discs_config(discs_dir):
    """A configuration that trains a classifier on the discs within seconds."""
    return Config(
        data=DataConfig(dataset="ddsm_patches/discs", data_dir=str(discs_dir), batch_size=4),
        model=ModelConfig(patch_size=PATCH_SIZE, vgg_weights="random"),
        training=TrainingConfig(seed=3),
        classifier=ClassifierConfig(
            classifier_weights="random",
            classifier_steps=4,
            classifier_batch_size=4,
            classifier_learning_rate=1e-3,
            validation_every_steps=2,
        ),
        experiment=ExperimentConfig(
            arm=("baseline:", "cigan: traditional_augmentation=true synthetic_use=mixed"),
            classifier_seeds=(0, 1),
            bootstrap_resamples=100,
        ),
    )


def record_as_trained_on(config, saved_model, folder):
    """Copies a SavedModel and adds the record of a generator trained with `config`."""
    copied = pathlib.Path(shutil.copytree(saved_model, folder))
    record = provenance.training_record(config)
    sha256 = ExportedGenerator(saved_model).sha256
    provenance.write(
        copied / "assets.extra" / provenance.FILE_NAME,
        {**record, "step": 1, "weights_sha256": sha256},
    )
    return copied


@pytest.fixture(scope="session")
def discs_generator(discs_config, exported, tmp_path_factory):
    """The exported generator of the tiny run, with a record of training on the discs."""
    folder = tmp_path_factory.mktemp("generator") / "1"
    return record_as_trained_on(discs_config, exported, folder)


@pytest.fixture(scope="session")
def synthetic_folder(discs_config, discs_generator, tmp_path_factory):
    """The synthetic set of the discs."""
    from cigan_tf.classifier.synthetic_set import write_synthetic_set

    workdir = tmp_path_factory.mktemp("infilled")
    return write_synthetic_set(discs_config, workdir, str(discs_generator), write_png=True)


@pytest.fixture
def with_classifier():
    """Returns a configuration with classifier settings replaced."""

    def replaced(config, **settings):
        return dataclasses.replace(
            config, classifier=dataclasses.replace(config.classifier, **settings)
        )

    return replaced


@pytest.fixture(scope="module")
def small_classifier():
    """Trains classifiers in seconds."""
    # It imports TensorFlow.
    from tests.cigan_tf.classifier.small_classifier import small_classifiers

    with small_classifiers():
        yield
