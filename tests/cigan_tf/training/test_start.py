"""The first lines of a run, and the warnings about its device and scale."""

import json

import pytest

from cigan_tf import run_folder
from cigan_tf.config import Config
from cigan_tf.training import start

RECORD = {
    "dataset": {"name": "ddsm_patches/x"},
    "patients": ["a", "b", "of_the_preset"],
    "num_patients": 2,
    "num_patches": 70,
}


def facts(replace, monkeypatch, devices=("CPU",), nvidia=False, **settings):
    monkeypatch.setattr(start, "devices", lambda: list(devices))
    monkeypatch.setattr(start, "has_nvidia_gpu", lambda: nvidia)
    return start.facts(replace(Config(), **settings), RECORD)


def test_the_first_lines_name_device_data_and_steps(replace, monkeypatch):
    found = facts(replace, monkeypatch, ["A100 (80 GiB)"], mixed_precision="bfloat16")
    text = " ".join(start.lines(found))
    for said in ("A100 (80 GiB)", "bfloat16", "without XLA", "ddsm_patches/x", "70 patches"):
        assert said in text
    assert "2 patients" in text
    assert "110000" in text
    assert "s each" not in text
    assert "0.25 s each" in start.lines(found | {"seconds_per_step": 0.25})[-1]
    assert start.warnings(found) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patch_size": 64}, []),
        ({"patch_size": 256}, ["256 px on a CPU"]),
        ({"patch_size": 64, "nvidia": True}, ["cigan[gpu]"]),
        ({"patch_size": 256, "nvidia": True}, ["cigan[gpu]", "256 px on a CPU"]),
        ({"patch_size": 256, "nvidia": True, "devices": ["A100"]}, []),
    ],
)
def test_a_run_on_the_wrong_device_causes_a_warning(replace, monkeypatch, settings, said):
    found = start.warnings(facts(replace, monkeypatch, **settings))
    assert len(found) == len(said)
    for warning, text in zip(found, said, strict=True):
        assert text in warning


@pytest.mark.parametrize(
    ("of_preset", "warned"), [([688, 375], True), ([344, 188], False), (None, False)]
)
def test_a_preset_of_another_scale_causes_a_warning(replace, monkeypatch, of_preset, warned):
    dataset = RECORD["dataset"] | {"film_size": [344, 188]}
    preset = {"dataset": {"film_size": of_preset}}
    monkeypatch.setitem(RECORD, "dataset", dataset)
    monkeypatch.setitem(RECORD, "init_from", preset)
    found = start.warnings(facts(replace, monkeypatch, ["A100"]))
    assert [("688 x 375" in line, "344 x 188" in line) for line in found] == warned * [(True, True)]


@pytest.mark.parametrize(
    ("recipe", "of_preset", "warned"),
    [
        ({"mask_margin_px": 2}, {"mask_margin_px": 4}, True),
        ({}, {"mask_margin_px": 4}, True),
        ({"mask_margin_px": 4}, {"mask_margin_px": 4}, False),
        (None, {"mask_margin_px": 4}, False),
        ({"mask_margin_px": 4}, None, False),
    ],
)
def test_a_preset_with_another_margin_causes_a_warning(
    replace, monkeypatch, recipe, of_preset, warned
):
    monkeypatch.setitem(RECORD, "dataset", RECORD["dataset"] | {"recipe": recipe})
    monkeypatch.setitem(RECORD, "init_from", {"dataset": {"recipe": of_preset}})
    found = start.warnings(facts(replace, monkeypatch, ["A100"]))
    assert ["margin of 4 px" in line for line in found] == warned * [True]


@pytest.mark.parametrize(("steps", "warned"), [(500, True), (0, False)])
def test_pretraining_of_a_preset_causes_a_warning(replace, monkeypatch, steps, warned):
    settings = {"init_from": "cbis_mass_128", "pretraining_steps": steps}
    found = start.warnings(facts(replace, monkeypatch, ["A100"], **settings))
    assert ["next 500 steps" in line for line in found] == warned * [True]
    resumed = start.facts(replace(Config(), **settings), RECORD, step=500)
    assert not any("steps train on" in line for line in start.warnings(resumed))


def test_one_device_of_several_is_named(replace, monkeypatch):
    two = ["A100", "A100"]
    assert facts(replace, monkeypatch, two)["devices"] == ["A100"]
    assert facts(replace, monkeypatch, two, strategy="mirrored")["devices"] == two


def test_an_nvidia_gpu_is_found_by_its_driver(tmp_path):
    assert not start.has_nvidia_gpu(tmp_path)
    (tmp_path / "0000:00:1e.0").mkdir()
    assert start.has_nvidia_gpu(tmp_path)


def test_a_step_is_timed_after_tracing():
    timer = start.StepTimer()
    found = [timer.count(5) for _ in range(30)]
    (seconds,) = [value for value in found if value is not None]
    assert 0 <= seconds < 1


def test_a_run_leaves_its_facts(trained_run):
    found = json.loads((trained_run / run_folder.RUN_FILE).read_text())
    assert found["devices"]
    assert found["num_patches"] > 0
