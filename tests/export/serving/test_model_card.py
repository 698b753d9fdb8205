"""The model card matches the files of the run."""

import json
import pathlib

from cigan_tf import provenance, run_folder
from cigan_tf.config import Config, DataConfig
from cigan_tf.evaluation import report
from export.serving import model_card


def test_the_card_is_in_the_version(exported, trained_run, tiny_config):
    card = (exported / "MODEL_CARD.md").read_text()
    assert "ddsm_patches/tiny, 32 px, step 6" in card
    assert "6 of 6 steps" in card
    assert "returns the whole generated patch" not in card
    statistics = pathlib.Path(tiny_config.data.data_dir).rglob("tiny/*/statistics.json")
    splits = json.loads(next(iter(statistics)).read_text())["splits"]
    lesions = splits["train"]["lesions"].values()
    row = next(line for line in card.splitlines() if line.startswith("| train |"))
    assert [cell.strip() for cell in row.split("|")[3:6]] == [
        str(splits["train"]["patients"]),
        str(splits["train"]["films"]),
        str(sum(lesions)),
    ]
    step, value, _ = report.read_scalars(trained_run / run_folder.LOG_DIR)["loss/feature_loss"][-1]
    assert f"| {int(step)} | {value:.4g} |" in card
    for word in ("{{", "{%", "None", " nan "):
        assert word not in card


def test_the_record_is_in_the_card(exported):
    card = (exported / "MODEL_CARD.md").read_text()
    record = provenance.read(exported / "assets.extra" / "provenance.json")
    for text in (
        f"| fingerprint of the records | {record['dataset']['fingerprint'][:12]} |",
        "`ddsm_patches/tiny`, version",
        "films rescaled to about 344 x 188",
        "patches of the split `train`, 1 patient(s)",
        record["weights_sha256"],
    ):
        assert text in card
    assert "Not recorded" not in card


def test_only_measures_of_the_same_generator_are_in_the_card(tmp_path):
    (tmp_path / run_folder.LOG_DIR).mkdir()
    elsewhere = Config(data=DataConfig(data_dir="/nowhere"))
    dataset = {"name": "discs", "version": "1.0.0", "patch_size": 256, "film_size": None}
    record = {
        "dataset": dataset | {"fingerprint": "5" * 64},
        "train_split": "train",
        "patients": ["ann"],
        "num_patches": 8,
        "seed": 0,
        "step": 6,
        "package_version": "0.1.0",
        "commit": None,
        "weights_sha256": "1" * 64,
    }
    infills = {"value": 0.0123, "sd": None, "n": {"infills": 40}}
    entry = {"measure": "seam_score", "of_class": "malignant", "infills": infills, "real": None}

    def card(measured, of_version):
        quality = {"measures": [entry], **measured}
        (tmp_path / run_folder.QUALITY_FILE).write_text(json.dumps(quality))
        return model_card.render(tmp_path, elsewhere, 6, num_parameters=1, record=of_version)

    row = "gradient across the mask's edge, relative to the tissue | malignant | 0.0123 |"
    assert row in card({"generator": record}, record)
    assert row in card({"generator": record}, record | {"weights_sha256": "2" * 64})
    of_other = record | {"step": 3, "weights_sha256": "0" * 64}
    for measured, of_version in (({"generator": of_other}, record), ({}, record), ({}, None)):
        without = card(measured, of_version)
        assert "## Quality" not in without
        assert "it has not been run for this model" in without


def test_a_run_without_its_dataset_has_a_card(trained_run, tiny_config, replace):
    moved = replace(tiny_config, data_dir="/nowhere")
    card = model_card.render(trained_run, moved, step=6, num_parameters=1)
    assert "was not available on the machine that exported" in card


def test_the_card_of_a_generator_without_compositing_says_so(trained_run, tiny_config, replace):
    whole = replace(tiny_config, composite=False)
    assert "returns the whole generated patch" in model_card.render(
        trained_run, whole, step=6, num_parameters=1
    )
