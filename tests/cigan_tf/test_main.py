"""The command line: flags, flagfiles and one-line errors."""

import json
import pathlib
import subprocess
import sys

import pytest
import yaml

from tests import warm_commands

ROOT = pathlib.Path(__file__).parents[2]
FLAGFILES = sorted((ROOT / "cigan_tf" / "flagfiles").glob("*.flags"))


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "cigan_tf.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def dry_run(*arguments):
    finished = run("--dry_run", *arguments)
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr, "TensorFlow is not loaded"
    return json.loads(finished.stdout)


@pytest.mark.parametrize("flagfile", FLAGFILES, ids=[path.stem for path in FLAGFILES])
def test_every_flagfile_resolves_and_begins_with_a_comment(flagfile):
    assert dry_run(f"--flagfile={flagfile}")["training"]["seed"] == 0
    assert flagfile.read_text().startswith("# ")


def test_the_paper_flagfile_has_the_papers_settings():
    config = dry_run("--flagfile=cigan_tf/flagfiles/paper.flags")
    # It trains like the paper and evaluates more patches.
    assert config["training"].pop("evaluated_patches") == 200
    defaults = dry_run()
    del defaults["training"]["evaluated_patches"]
    assert config == defaults


def test_the_command_line_overrides_the_flagfile():
    config = dry_run("--flagfile", "paper.flags", "--batch_size=16")
    assert config["data"]["batch_size"] == 16
    assert config["model"]["patch_size"] == 256


def test_help_shows_what_the_command_does_and_its_flags():
    shown = run("--help").stdout
    assert "Trains ciGAN" in shown
    assert "--batch_size" in shown


def test_cells_are_listed_by_number_for_an_array_of_jobs():
    arms = ("--flagfile=cigan_tf/flagfiles/arms.flags", "--arms=baseline,cigan")
    finished = run(*arms, "--generators=runs/a,runs/b", "--classifier_seeds=0,7", "--list_cells")
    assert finished.stdout.splitlines() == [
        *("0 baseline - 0", "1 cigan a 0", "2 cigan b 0"),
        *("3 baseline - 7", "4 cigan a 7", "5 cigan b 7"),
    ]


def test_the_kubernetes_job_has_an_index_for_every_cell():
    job = yaml.safe_load((ROOT / "docs" / "classifier-job.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    *arguments, index = container["args"]
    assert index == "--cell_index=$(JOB_COMPLETION_INDEX)"
    cells = run(*arguments, "--list_cells").stdout.splitlines()
    assert len(cells) == job["completions"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--patch_size=100"], "patch_size=100"),
        (["--batch_size=five"], "--batch_size=five"),
        (["--mode=guess"], "--mode=guess"),
        (["--lerning_rate=1"], "learning_rate"),
        (["--flagfile=absent.flags"], "absent.flags"),
        (["--flagfile"], "--flagfile"),
        (["train"], "'train'"),
        ([], "--workdir=DIR"),
        (
            ["--mode=classify", "--workdir={tmp}/run", "--arm=one:", "--cell_index=9"],
            "cell_index must be below the number of classifiers, 5",
        ),
        (["--init_from=none"], "There is no preset 'none'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_before_tensorflow_is_loaded(
    arguments, named, tmp_path
):
    finished = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert finished.returncode == 2
    (error,) = finished.stderr.splitlines()
    assert error.startswith("error: ")
    assert named in error
    assert not (tmp_path / "run").exists()


def test_a_dataset_that_does_not_exist_is_one_line_and_exit_code_2(tmp_path):
    finished = warm_commands.run(
        *("cigan_tf.main", f"--workdir={tmp_path}/run"),
        *(f"--data_dir={tmp_path}", "--dataset=ddsm_patches/none"),
    )
    assert finished.returncode == 2
    (error,) = finished.stderr.splitlines()
    assert error.startswith("error: There is no dataset 'ddsm_patches/none'")
    assert "tfds build" in error
    assert not (tmp_path / "run").exists()
