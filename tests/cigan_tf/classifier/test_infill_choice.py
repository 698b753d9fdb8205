"""Selection of infills: number per patch, and confirmation by a classifier."""

import json

import keras
import numpy as np
import pytest

from cigan_tf import provenance, run_folder
from cigan_tf.classifier import classifier_run, infill_choice
from cigan_tf.classifier.synthetic_set import SyntheticSet
from cigan_tf.errors import UserError
from cigan_tf.experiment_config import Cell


@pytest.mark.parametrize(
    ("per_real", "of_first", "of_second"),
    [(0.5, 50, 0), (1, 100, 0), (1.25, 100, 25), (2, 100, 100)],
)
def test_the_requested_number_of_infills_per_patch_is_used(per_real, of_first, of_second):
    infill = np.repeat([0, 1], 100)
    used = infill_choice.draw_infills(infill, per_real, seed=0)
    assert (used[:100].sum(), used[100:].sum()) == (of_first, of_second)


def test_which_patches_are_drawn_depends_on_the_seed():
    first, again, other = (infill_choice.draw_infills(np.zeros(100), 0.5, s) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert 10 < np.count_nonzero(first & other) < 40


def brightness_classifier(path, brightest):
    """Saves a classifier that calls patches malignant above a mean grey level."""
    image = keras.Input((32, 32, 1))
    mean = keras.layers.GlobalAveragePooling2D()(image)
    classifier = keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(mean))
    classifier.set_weights([np.array([[1000.0]]), np.array([-1000.0 * brightest])])
    path.parent.mkdir(parents=True, exist_ok=True)
    classifier.save(path)


@pytest.fixture
def synthetic(synthetic_folder):
    return SyntheticSet(synthetic_folder, 32)


@pytest.fixture
def sure_config(discs_config, with_classifier, synthetic_folder):
    return with_classifier(
        discs_config,
        synthetic_use="mixed",
        confirmed_by="baseline",
        synthetic_dir=str(synthetic_folder),
    )


def test_only_infills_whose_class_is_confirmed_are_used(
    discs_config, with_classifier, synthetic, tmp_path
):
    records = list(synthetic.records().as_numpy_iterator())  # one shard, so in the stored order
    mean = np.array([record["image"].mean() / 65535 for record in records])
    label = np.array([record["label"] for record in records])
    brightest = float(np.median(mean))
    brightness_classifier(tmp_path / "classifier.keras", brightest)
    all_drawn = infill_choice.choose_infills(
        discs_config, 0, synthetic, tmp_path / "classifier.keras"
    )
    expected = (mean >= brightest) == (label == 1)
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(all_drawn, expected)
    half = with_classifier(discs_config, synthetic_per_real=0.5)
    used = infill_choice.choose_infills(half, 0, synthetic, tmp_path / "classifier.keras")
    drawn = infill_choice.choose_infills(half, 0, synthetic, None)
    assert drawn.sum() == label.size / 2
    np.testing.assert_array_equal(used, drawn & expected)
    infill_choice.write_counts(tmp_path, synthetic, used)
    assert json.loads((tmp_path / run_folder.INFILLS_USED_FILE).read_text()) == {
        "used": {
            "non_malignant": np.count_nonzero(used & (label == 0)),
            "malignant": np.count_nonzero(used & (label == 1)),
        },
        "num_patches": 32,
    }


def test_a_class_that_is_never_confirmed_is_named(discs_config, synthetic, tmp_path):
    brightness_classifier(tmp_path / "classifier.keras", brightest=0.0)
    with pytest.raises(UserError, match="confirms none of the 16 non-malignant infills"):
        infill_choice.choose_infills(discs_config, 0, synthetic, tmp_path / "classifier.keras")


def confirming(config, folder, patients):
    """Writes a classifier with a record of these patients as the baseline's."""
    path = run_folder.cell_dir(folder, Cell("baseline", None, 0)) / classifier_run.CLASSIFIER_FILE
    brightness_classifier(path, brightest=0.4)
    record = {**provenance.training_record(config), "patients": patients}
    provenance.write(path.parent / provenance.FILE_NAME, record)


@pytest.mark.usefixtures("small_classifier")
def test_a_classifier_is_trained_on_confirmed_infills_and_again_when_the_other_one_changes(
    sure_config, tmp_path, capsys, monkeypatch
):
    confirming(sure_config, tmp_path, ["ann", "bea", "cia", "dot"])
    classifier_run.train_classifier(sure_config, 0, tmp_path, tmp_path / "sure")
    used = json.loads((tmp_path / "sure" / run_folder.INFILLS_USED_FILE).read_text())
    assert 0 < sum(used["used"].values()) < used["num_patches"] == 32
    monkeypatch.setattr(classifier_run, "_untrained", None)  # so that a second training would fail
    classifier_run.train_classifier(sure_config, 0, tmp_path, tmp_path / "sure")
    brightness_classifier(
        tmp_path / "classifiers" / "baseline" / "seed_0" / classifier_run.CLASSIFIER_FILE,
        brightest=0.38,
    )
    with pytest.raises(TypeError):
        classifier_run.train_classifier(sure_config, 0, tmp_path, tmp_path / "sure")
    assert "(confirming classifier)" in capsys.readouterr().err


def test_a_confirming_classifier_that_saw_a_test_patient_is_refused(sure_config, tmp_path):
    confirming(sure_config, tmp_path, ["ann", "gil"])
    with pytest.raises(UserError, match="confirming classifier was trained on 1 of the test"):
        classifier_run.train_classifier(sure_config, 0, tmp_path, tmp_path / "sure")


def test_a_confirming_classifier_that_is_missing_is_named(sure_config, tmp_path):
    with pytest.raises(UserError, match="train the arm 'baseline' first"):
        classifier_run.train_classifier(sure_config, 0, tmp_path, tmp_path / "sure")
