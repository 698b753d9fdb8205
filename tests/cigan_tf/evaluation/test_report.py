"""The page at the end of a run."""

import re

import numpy as np
import pytest

from cigan_tf import run_folder
from cigan_tf.errors import UserError
from cigan_tf.evaluation import report
from cigan_tf.exported_generator import ExportedGenerator


def test_curves_are_read_back(trained_run):
    curves = report.read_scalars(trained_run / "logs")
    feature = curves["loss/feature_loss"]
    assert feature.shape == (3, 3)
    assert feature[:, 0].tolist() == [2, 4, 6]
    assert (feature[:, 1] > 0).all()
    assert (np.diff(feature[:, 2]) >= 0).all()


def test_the_page_is_self_contained(trained_run, exported):
    page = report.write_report(trained_run).read_text()
    # 5 malignant, 5 benign and 5 without a lesion; three of them with four seeds; the curves.
    assert page.count("data:image/png;base64,") == 15 * 4 + 3 * 4 + 1
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "6 steps" in page
    assert "ddsm_patches/tiny" in page
    # The training data, the device and the generator's provenance.
    record = ExportedGenerator(exported).provenance
    assert "CPU, float32" in page
    assert f"<b>{record['num_patches']} patches from 1 patient</b>" in page
    assert f"<td>{record['dataset']['fingerprint'][:12]}</td>" in page
    assert f"<td>{record['weights_sha256'][:12]}</td>" in page
    assert "<th>Step</th><td>6</td>" in page
    assert "P_00173" in page
    assert "simulated in real tissue" in page
    assert (trained_run / "infills.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_is_named(trained_run, tmp_path):
    with pytest.raises(UserError, match="There is no run"):
        report.write_report(tmp_path)
    run_folder.claim(tmp_path, run_folder.load_config(trained_run))
    with pytest.raises(UserError, match="There is no SavedModel"):
        report.write_report(tmp_path)


def test_an_export_of_another_size_is_named(trained_run, exported, tmp_path, replace):
    config = replace(run_folder.load_config(trained_run), patch_size=64)
    run_folder.claim(tmp_path, config)
    with pytest.raises(UserError, match="takes patches of 32 px"):
        report.write_report(tmp_path, saved_model=str(exported))
