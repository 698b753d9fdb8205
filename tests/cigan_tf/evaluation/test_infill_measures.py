"""Tests of the measures of infills, on patches with known properties."""

import functools
import json

import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.evaluation import infill_measures, memorisation, quality_table

SIZE = 16


def make_patches(seed, num=48, num_patients=8, prefix="held_out"):
    """Returns patches of noise with a disc that is brighter if malignant."""
    rng = np.random.default_rng(seed)
    label = np.arange(num) % 2
    mask = np.zeros((num, SIZE, SIZE, 1), np.float32)
    mask[:, 4:11, 5:12] = 1
    image = 0.4 + 0.05 * rng.random((num, SIZE, SIZE, 1)) + 0.3 * mask * label[:, None, None, None]
    return {
        "image": image.astype(np.float32),
        "context": image.astype(np.float32),
        "composed": image.astype(np.float32),
        "mask": mask,
        "label": label,
        "patient_id": np.array([f"{prefix}_{i % num_patients}" for i in range(num)]),
    }


def features(images):
    return np.stack([images.mean(axis=(1, 2, 3)), images.std(axis=(1, 2, 3))], axis=1) * 10


def probability(patches):
    return np.clip(patches["image"][:, 4:11, 5:12].mean(axis=(1, 2, 3)), 0, 1)


@functools.cache
def calibration():
    return memorisation.calibrate(make_patches(0, num=24), [make_patches(2, prefix="train")], 0)


def judge(real=None, infills=None, training=None, in_training=None):
    real = make_patches(0) if real is None else real
    infills = make_patches(1, prefix="train") if infills is None else infills
    training = make_patches(2, prefix="train") if training is None else training
    return infill_measures.judge_infills(
        real, infills, [training], features, probability, 0.55, 0, calibration(), in_training
    )


def compare(infills, real=None):
    """Returns only the measures for which training patches are not searched."""
    real = make_patches(0) if real is None else real
    return {"measures": infill_measures.compare(real, infills, features, probability, 0)}


def find(quality, measure, of_class="both"):
    (found,) = (
        entry
        for entry in quality["measures"]
        if (entry["measure"], entry["of_class"]) == (measure, of_class)
    )
    return found


def real_infills():
    """Returns real patches of other patients, infilled as their own class by those of others."""
    patches = make_patches(1, prefix="train")
    # Tissue of other patients at the same position.
    return {**patches, "composed": np.roll(patches["image"], 2, axis=0)}


@pytest.fixture(scope="module")
def quality():
    """The quality of infills that are real patches of other patients."""
    in_training = {**make_patches(3, num=16), "group": np.arange(16)}
    training = {**make_patches(2, prefix="train"), "group": np.arange(48)}
    return judge(infills=real_infills(), training=training, in_training=in_training)


def test_perfect_infills_reach_the_floor(quality):
    for of_class in ("malignant", "non_malignant"):
        kernel = find(quality, "kernel_distance", of_class)
        assert abs(kernel["infills"]["value"]) < 3 * kernel["real"]["sd"] + 1e-3
        assert kernel["infills"]["n"] == {"infills": 12, "real": 12}
        assert kernel["real"]["n"] == {"real": 12, "other_real": 12}
        frechet = find(quality, "frechet_distance", of_class)
        assert frechet["infills"]["value"] == pytest.approx(frechet["real"]["value"], abs=0.05)
        agreement = find(quality, "agreement", of_class)
        assert agreement["infills"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": {of_class: 24}}
        seam = find(quality, "seam_score", of_class)
        assert seam["infills"]["value"] == pytest.approx(seam["real"]["value"], rel=0.1)
        assert seam["infills"]["n"] == {"infills": 24}
    assert find(quality, "class_auc")["infills"]["value"] == 1.0
    nearest = find(quality, "nearest_training_patch")
    assert nearest["infills"]["value"] == pytest.approx(nearest["real"]["value"], abs=0.1)
    assert nearest["infills"]["n"] == {"infills": 48, "training": 48}


def degraded():
    """The infills of a generator that ignores the class, the tissue and its texture."""
    infills = make_patches(1, prefix="train")
    flat = np.where(infills["mask"] > 0, 0.45, infills["image"]).astype(np.float32)
    return {**infills, "image": flat, "composed": 1 - flat}


def test_real_patches_as_infills_reach_the_floor_in_every_measure(quality):
    assert {entry["measure"] for entry in quality["measures"]} == set(quality_table.MEASURES)
    for entry in quality["measures"]:
        infills, real = entry["infills"], entry["real"]
        # Here, `composed` has the requested class, as it has to for the composition.
        if real is None or entry["measure"] == "texture_auc_same_class":
            continue
        spread = 3 * real["sd"] if "sd" in real else 0.0
        if "low" in real:
            spread = max(spread, real["high"] - real["low"])
        # With a dozen patches on each side, a few of them change the shares of neighbours
        # noticeably.
        tolerance = {"density": 0.7, "frechet_distance": 0.1}.get(entry["measure"], 0.4)
        if entry["measure"] in ("kernel_distance", "composition", "seam_score"):
            tolerance = 0.01
        assert infills["value"] == pytest.approx(real["value"], abs=spread + tolerance), entry


def test_a_degraded_generator_fails(monkeypatch):
    monkeypatch.setattr(infill_measures, "MAX_SEARCHED", 4)  # copies are not tested here
    quality = judge(infills=degraded())
    malignant = {
        measure: find(quality, measure, "malignant")
        for measure in (
            *("kernel_distance", "frechet_distance", "precision", "recall", "density", "coverage"),
            *("texture_auc", "texture_auc_same_class", "agreement", "composition", "seam_score"),
        )
    }
    value = {measure: entry["infills"]["value"] for measure, entry in malignant.items()}
    real = {measure: entry["real"] for measure, entry in malignant.items()}
    assert (
        value["kernel_distance"]
        > real["kernel_distance"]["value"] + 10 * real["kernel_distance"]["sd"]
    )
    assert value["frechet_distance"] > 10 * real["frechet_distance"]["value"]
    for measure in ("precision", "recall", "density", "coverage", "agreement"):
        assert value[measure] == 0 < real[measure]["value"]
    for measure in ("texture_auc", "texture_auc_same_class"):
        assert malignant[measure]["infills"]["low"] > 0.9
    assert malignant["composition"]["infills"]["low"] > real["composition"]["high"]
    assert find(quality, "class_auc")["infills"]["high"] < find(quality, "class_auc")["real"]["low"]


@pytest.mark.parametrize(("smooth", "low", "high"), [(False, 0.2, 0.8), (True, 0.95, 1)])
def test_infills_of_the_same_class_are_compared_with_real_patches_of_that_class(smooth, low, high):
    infills = make_patches(1, prefix="train")
    own = np.roll(infills["image"], 1, axis=0)  # real patches of the class not requested
    if smooth:
        own = np.where(
            infills["mask"] > 0, 0.4 + 0.3 * (own.max((1, 2, 3), keepdims=True) > 0.5), own
        )
    quality = compare({**infills, "composed": own.astype(np.float32)})
    for of_class in ("malignant", "non_malignant"):
        found = find(quality, "texture_auc_same_class", of_class)
        assert low <= found["infills"]["value"] <= high
        assert found["infills"]["n"] == {"infills": 12, "real": 12}
        assert found["real"] == find(quality, "texture_auc", of_class)["real"]


def test_infills_easier_than_real_lesions_are_above_their_interval(monkeypatch):
    monkeypatch.setattr(infill_measures, "MAX_SEARCHED", 4)
    real = make_patches(0, num=96, num_patients=16)
    hidden = np.arange(96) % 4 == 1
    real["image"][hidden] -= 0.3 * real["mask"][hidden]
    agreement = find(judge(real=real), "agreement", "malignant")
    assert agreement["infills"]["value"] == 1 > agreement["real"]["high"]


def test_a_generator_that_ignores_the_class_is_detected():
    infills = make_patches(1)
    infills["label"] = 1 - infills["label"]
    quality = compare(infills)
    assert find(quality, "class_auc")["infills"]["value"] == 0.0
    assert find(quality, "class_auc")["real"]["value"] == 1.0
    kernel = find(quality, "kernel_distance", "malignant")
    assert kernel["infills"]["value"] > 10 * abs(kernel["real"]["value"])


def test_copies_of_training_patches_are_detected():
    quality = judge(infills=make_patches(2, prefix="train"))
    nearest = find(quality, "nearest_training_patch")
    assert nearest["infills"]["low"] == pytest.approx(1, abs=1e-4)
    assert nearest["real"]["high"] < 0.95
    assert find(quality, "share_copied")["infills"]["value"] == 1.0
    assert find(quality, "recall_flipped")["infills"]["value"] >= 0.95


def test_seams_are_detected():
    infills = make_patches(1)
    infills["image"] = infills["image"] + 0.3 * infills["mask"]
    seam = find(compare(infills), "seam_score", "non_malignant")
    assert seam["infills"]["low"] > 3 * seam["real"]["high"]


def test_no_patient_is_on_both_sides_of_a_distance():
    real = make_patches(0)
    quality = compare(real, real)
    assert find(quality, "kernel_distance", "malignant")["infills"]["n"] == {
        "infills": 12,
        "real": 12,
    }
    for of_class in ("malignant", "non_malignant"):
        for measure in ("kernel_distance", "frechet_distance", "precision", "coverage"):
            entry = find(quality, measure, of_class)
            # The kernel distance is estimated from random subsets.
            spread = entry["real"].get("sd", 1e-9)
            assert entry["infills"]["value"] == pytest.approx(entry["real"]["value"], abs=spread)
        assert find(quality, "seam_ratio", of_class)["infills"]["value"] == 1.0


def test_the_result_is_json_and_the_page_shows_all_measures(quality, tmp_path):
    quality = {"features": "imagenet", **quality}
    path = tmp_path / "infill_quality.json"
    path.write_text(json.dumps(quality, allow_nan=False))
    table = quality_table.read(path)
    assert len(table.rows) == len(quality["measures"]) == 35
    assert {entry["measure"] for entry in quality["measures"]} == set(quality_table.MEASURES)
    assert quality["window_px"] == SIZE


def test_infills_into_training_tissue_do_not_change_other_measures(quality):
    # `quality` also has infills into training tissue; they add measures and change none.
    alone = judge(infills=real_infills())["measures"]
    assert alone == [entry for entry in quality["measures"] if entry in alone]


def alone(**changes):
    return {**make_patches(0), **changes}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"real": alone(label=np.ones(48))}, "^real patches: .*0 non-malignant"),
        ({"infills": alone(label=np.zeros(48))}, "^infills: .*0 malignant"),
        ({"infills": alone(label=np.arange(40) % 2)}, "^infills: .*'image': 48.*'label': 40"),
        ({"real": alone(patient_id=np.full(48, "one"))}, "^non-malignant patches: .*two patients"),
        ({"infills": alone(mask=np.zeros((48, SIZE, SIZE, 1)))}, "empty mask for patch 0"),
    ],
)
def test_invalid_input_is_refused_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        judge(**arguments)
    assert "\n" not in str(error.value)
