"""Imports run in one direction, and only commands use flags."""

import ast
import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# The parts of cigan_tf that each part of it may import. The first entry that a module's name starts
# with applies.
MAY_IMPORT = {
    "cigan_tf.errors": [],
    "cigan_tf.settings": ["errors"],
    "cigan_tf.experiment_config": ["errors", "settings"],
    "cigan_tf.hardware_config": ["settings"],
    "cigan_tf.config": ["errors", "settings", "experiment_config", "hardware_config"],
    "cigan_tf.file_io": ["errors", "terminal"],
    "cigan_tf.run_folder": ["errors", "file_io", "config", "experiment_config"],
    "cigan_tf.command_line": ["errors"],
    "cigan_tf.terminal": [],
    "cigan_tf.tensorflow_loading": ["terminal"],
    "cigan_tf.interruption": ["errors"],
    "cigan_tf.masks": [],
    "cigan_tf.losses": ["masks"],
    "cigan_tf.patch_format": [],
    "cigan_tf.infill_inputs": ["errors"],
    "cigan_tf.randomness": [],
    "cigan_tf.work_ahead": [],
    "cigan_tf.accelerators": ["errors", "hardware_config"],
    "cigan_tf.pictures": ["randomness"],
    "cigan_tf.exported_generator": ["errors", "file_io", "models", "provenance"],
    "cigan_tf.input_pipeline": [
        *["errors", "config", "masks", "randomness", "patch_format", "record_index"],
    ],
    "cigan_tf.record_index": ["errors", "terminal"],
    "cigan_tf.provenance": [
        *["errors", "config", "file_io", "run_folder", "input_pipeline", "__version__"],
    ],
    "cigan_tf.models": [
        *["errors", "config", "hardware_config", "masks", "losses", "randomness", "provenance"],
        *["models", "accelerators", "infill_inputs"],
    ],
    "cigan_tf.training": [
        *["errors", "config", "hardware_config", "file_io", "run_folder"],
        *["masks", "losses", "pictures", "randomness", "interruption"],
        *["input_pipeline", "models", "provenance", "training"],
        *["evaluation.fidelity", "evaluation.roc", "accelerators", "terminal"],
    ],
    "cigan_tf.evaluation": [
        *["errors", "config", "experiment_config", "file_io", "run_folder"],
        *["pictures", "randomness", "patch_format", "terminal"],
        *["exported_generator", "input_pipeline", "provenance", "evaluation"],
    ],
    "cigan_tf.classifier": [
        *["errors", "config", "experiment_config", "file_io", "run_folder"],
        *["masks", "pictures", "randomness", "models", "record_index"],
        *["work_ahead", "accelerators", "patch_format", "terminal", "tensorflow_loading"],
        *["exported_generator", "interruption", "input_pipeline", "provenance"],
        *["evaluation", "classifier"],
    ],
    "cigan_tf.flags": ["errors", "config", "experiment_config"],
    "cigan_tf.main": [
        *["errors", "command_line", "flags", "models", "training", "classifier", "evaluation"],
        *["config", "file_io", "run_folder", "tensorflow_loading"],
    ],
    "export": [
        *["errors", "command_line", "config", "file_io", "run_folder", "masks"],
        *["input_pipeline", "models", "training", "evaluation", "pictures"],
        *["exported_generator", "provenance", "randomness", "patch_format"],
        *["infill_inputs", "terminal", "tensorflow_loading"],
    ],
}
# The folders of the export that each folder may import; the commands above them may import all.
MAY_IMPORT_OF_EXPORT = {
    "export.graph": ["graph"],
    "export.serving": ["serving"],
    "export.films": ["films"],
    "export.page": ["films", "page"],
}
# The modules of tfds_ddsm that the export may import to read and rescale whole films as the dataset
# does. The rest of the export only handles patches.
KNOW_FILMS = {
    "export.demo": ("tfds_ddsm.sources.image_file",),
    "export.films.before_after": ("tfds_ddsm.grey_levels",),
    "export.films.derived_dicom": ("tfds_ddsm.sources.image_file",),
    "export.films.film_files": (
        *("tfds_ddsm.mammogram", "tfds_ddsm.png_file"),
        "tfds_ddsm.sources.image_file",
    ),
    "export.films.film_infill": (
        *("tfds_ddsm.grey_levels", "tfds_ddsm.mammogram", "tfds_ddsm.patches"),
    ),
    "export.page.controls": ("tfds_ddsm.grey_levels",),
    "export.page.film_view": ("tfds_ddsm.grey_levels",),
    "export.page.sample_films": ("tfds_ddsm.mammogram", "tfds_ddsm.sources.sample"),
}
KNOW_FLAGS = {"cigan_tf.flags", "cigan_tf.main", "cigan_tf.command_line", "tfds_ddsm.check"}


def modules():
    for package in ("cigan_tf", "export", "tfds_ddsm"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imported_names(path):
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            # `export` is installed under another name, so its own imports, and only these, are
            # relative.
            relative = module.split(".")[0] == "export"
            assert relative == (node.level > 0), f"{path}: {module}"
            yield from (f"{module}.{alias.name}" for alias in node.names)


ALL = list(modules())
IMPORTED = {name: list(imported_names(path)) for name, path in ALL}


@pytest.mark.parametrize("name", IMPORTED)
def test_imports_run_one_way(name):
    ours = [n for n in IMPORTED[name] if n.split(".")[0] in ("cigan_tf", "export")]
    if name.startswith("tfds_ddsm"):
        assert not ours, "the dataset knows nothing of the model"
        return
    if not name.startswith("export"):
        assert not any(n.startswith("export") for n in ours), "nothing imports a command"
    if name in ("cigan_tf", "export"):
        return
    if name.startswith("export"):
        folder = ".".join(name.split(".")[:2])
        from_export = [n for n in ours if n.startswith("export.")]
        ours = [n for n in ours if not n.startswith("export.")]
        if folder in MAY_IMPORT_OF_EXPORT:
            allowed = tuple(f"export.{a}" for a in MAY_IMPORT_OF_EXPORT[folder])
            assert all(n.startswith(allowed) for n in from_export), f"{name} imports {from_export}"
    part = next(part for part in MAY_IMPORT if name.startswith(part))
    for imported in ours:
        allowed = [f"cigan_tf.{a}" for a in MAY_IMPORT[part]]
        assert imported.startswith(tuple(allowed)), f"{name} imports {imported}"


def test_only_commands_use_flags():
    for name, imported in IMPORTED.items():
        if name not in KNOW_FLAGS and name.rpartition(".")[0] != "export":
            assert "absl.flags" not in imported, name


def test_patches_are_read_in_one_place_and_written_in_one():
    here = ("cigan_tf.input_pipeline", "cigan_tf.classifier.synthetic_set")
    for name, imported in IMPORTED.items():
        if name.startswith("cigan_tf") and name not in here:
            packages = {n.split(".")[0] for n in imported}
            assert not packages & {"tfds_ddsm", "tensorflow_datasets"}, name


def test_the_export_imports_checkpoints_and_no_other_training_code():
    for name, imported in IMPORTED.items():
        if name.startswith("export"):
            training = {n for n in imported if n.startswith("cigan_tf.training")}
            assert training <= {"cigan_tf.training.checkpoints"}, name


def test_the_export_uses_only_the_datasets_film_reading():
    for name, imported in IMPORTED.items():
        if name.startswith("export"):
            films = {n for n in imported if n.startswith("tfds_ddsm")}
            assert all(n.startswith(KNOW_FILMS.get(name, ())) for n in films), (name, films)
