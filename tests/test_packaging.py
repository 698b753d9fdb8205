"""The installed package is complete: the wheel works without a checkout."""

import concurrent.futures
import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = {"cigan_tf": "cigan_tf", "tfds_ddsm": "tfds_ddsm", "export": "cigan_export"}
COMMANDS = {  # each with a flag that only this command has
    "cigan": "--switch_threshold",
    "cigan-check": "--manual_dir",
    "cigan-client": "--timeout_s",
    "cigan-demo": "--address",
    "cigan-export": "--format",
    "cigan-insert": "--lesion",
}


def run(*command, cwd, **environment):
    """Runs a command without a checkout on the path."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(
        command, cwd=cwd, env=inherited | environment, capture_output=True, text=True, check=False
    )
    return finished.returncode, finished.stdout, finished.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel built from the source distribution of a copy of the sources."""
    folder = tmp_path_factory.mktemp("build")
    sources = folder / "sources"
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, sources / name, ignore=skipped)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    build = "from setuptools import build_meta; build_meta.build_{}({!r})"
    script = build.format("sdist", str(folder))
    code, _, errors = run(sys.executable, "-c", script, cwd=sources)
    assert code == 0, errors
    (sdist,) = folder.glob("cigan-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    script = build.format("wheel", str(folder))
    code, _, errors = run(sys.executable, "-c", script, cwd=sdist.with_suffix("").with_suffix(""))
    assert code == 0, errors
    (built,) = folder.glob("cigan-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel and the requirements of the current environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    options = ("--no-deps", "--no-index", "--disable-pip-version-check")
    code, _, errors = run(
        *(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel), cwd=folder
    )
    assert code == 0, errors
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # .pth files in a folder named by a .pth file are not read, so editable installs are ignored.
    parents = [path for path in sys.path if path.endswith("site-packages")]
    (site_packages / "requirements.pth").write_text("\n".join(parents) + "\n")
    return folder


def test_the_wheel_contains_every_file_of_the_packages(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT / folder)
            if path.is_file() and "__pycache__" not in inside.parts:
                assert f"{package}/{inside.as_posix()}" in held
    top_level = {name.split("/")[0] for name in held if ".dist-info" not in name}
    assert top_level == set(PACKAGES.values())


def test_the_description_has_no_link_that_is_broken_outside_the_checkout(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    description = email.message_from_bytes(archive.read(name)).get_payload()
    assert description.startswith("# ciGAN")
    targets = re.findall(r"\]\(([^)]*)\)", description)
    assert targets
    assert all(target.startswith("https://") for target in targets)


def test_every_command_shows_its_flags(installed, tmp_path):
    def shown(command):
        return run(installed / "bin" / command, "--help", cwd=tmp_path)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (command, flag), (_, text, notes) in zip(
            COMMANDS.items(), pool.map(shown, COMMANDS), strict=True
        ):
            assert flag in text, command
            assert "Loading TensorFlow" not in notes, command


def test_a_command_names_the_extra_that_it_lacks(installed, tmp_path):
    (tmp_path / "requests.py").write_text("raise ModuleNotFoundError(name='requests')\n")
    code, _, errors = run(installed / "bin" / "cigan-client", cwd=tmp_path, PYTHONPATH=tmp_path)
    assert code == 2
    assert errors.strip() == "error: requests is not installed: pip install 'cigan[serving]'."
    (tmp_path / "requests.py").write_text("import of_another_package\n")
    code, _, errors = run(installed / "bin" / "cigan-client", cwd=tmp_path, PYTHONPATH=tmp_path)
    assert code == 1
    assert "No module named 'of_another_package'" in errors.splitlines()[-1]


def test_the_packages_work_without_a_checkout(installed, tmp_path):
    script = """
import importlib.metadata
import cigan_tf, cigan_export.films.film_infill, tfds_ddsm, tensorflow_datasets as tfds
from cigan_tf.models import list_presets

for package in (cigan_tf, cigan_export, tfds_ddsm):
    print(package.__file__)
assert cigan_tf.__version__ == importlib.metadata.version("cigan")
assert list_presets() == ["cbis_mass_128"]
assert tfds.builder_cls("ddsm_patches").name == "ddsm_patches"
"""
    code, output, errors = run(installed / "bin" / "python", "-c", script, cwd=tmp_path)
    assert code == 0, errors
    files = output.splitlines()
    assert all(pathlib.Path(file).is_relative_to(installed) for file in files), output


def test_a_recipe_of_the_package_is_found_by_its_name(installed, tmp_path):
    (tmp_path / "mine.flags").write_text("# Nested.\n--flagfile=arms.flags\n--seed=3\n")
    code, output, errors = run(
        *(installed / "bin" / "cigan", "--flagfile=mine.flags", "--dry_run"), cwd=tmp_path
    )
    assert code == 0, errors
    assert '"seed": 3' in output
    assert "baseline" in output
    (tmp_path / "loop.flags").write_text("--flagfile=loop.flags\n")
    code, _, errors = run(
        *(installed / "bin" / "cigan", "--flagfile=loop.flags", "--dry_run"), cwd=tmp_path
    )
    assert code == 2
    assert "loop.flags' includes itself" in errors
