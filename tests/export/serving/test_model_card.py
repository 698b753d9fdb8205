"""The model card matches the files of the run."""

import json
import pathlib
import shutil

from cigan_tf import provenance, run_folder
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


def test_measures_of_the_infills_are_in_the_card(trained_run, tiny_config, tmp_path):
    shutil.copytree(trained_run / run_folder.LOG_DIR, tmp_path / run_folder.LOG_DIR)
    assert "## Quality" not in model_card.render(tmp_path, tiny_config, step=6, num_parameters=1)
    infills = {"value": 0.0123, "sd": None, "n": {"infills": 40}}
    entry = {"measure": "seam_score", "of_class": "malignant", "infills": infills, "real": None}
    (tmp_path / run_folder.QUALITY_FILE).write_text(json.dumps({"measures": [entry]}))
    card = model_card.render(tmp_path, tiny_config, step=6, num_parameters=1)
    assert "gradient across the mask's edge, relative to the tissue | malignant | 0.0123 |" in card


def test_a_run_without_its_dataset_has_a_card(trained_run, tiny_config, replace):
    moved = replace(tiny_config, data_dir="/nowhere")
    card = model_card.render(trained_run, moved, step=6, num_parameters=1)
    assert "was not available on the machine that exported" in card


def test_the_card_of_a_generator_without_compositing_says_so(trained_run, tiny_config, replace):
    whole = replace(tiny_config, composite=False)
    assert "returns the whole generated patch" in model_card.render(
        trained_run, whole, step=6, num_parameters=1
    )
