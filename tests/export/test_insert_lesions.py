import signal

import cv2
import numpy as np
import pydicom
import pytest

from cigan_tf.errors import UserError
from export.films.film_files import files_of, read_film
from export.films.film_infill import FilmLesion
from export.insert_lesions import insert_lesions, parse_lesion
from tests import warm_commands
from tests.tfds_ddsm.sources import dicom_films


@pytest.fixture
def mask_file(tmp_path):
    """A round mask in a file whose path contains a comma."""
    path = tmp_path / "round, soft.png"
    cv2.imwrite(str(path), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (281, 281)) * 255)
    return path


def test_a_lesion_is_inserted_into_a_real_film_and_removed_again(
    infill, sample_film, mask_file, tmp_path
):
    path, pixels, _ = sample_film
    output = tmp_path / "with.dcm"
    put_in = [f"1800,500,{mask_file},malignant"]
    written = insert_lesions(str(path), put_in, lambda: infill, output, seed=1)
    endings = ("_seg.dcm", "_mask.png", "_before_after.png", ".dcm")
    assert [p.name for p in written] == [f"with{ending}" for ending in endings]
    with_lesion = pydicom.dcmread(output)
    mask = cv2.imread(str(written[1]), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(with_lesion.pixel_array[mask == 0], pixels[mask == 0])
    assert (with_lesion.pixel_array[mask == 255] != pixels[mask == 255]).mean() > 0.9
    rows, columns = np.nonzero(mask)
    assert (rows.mean(), columns.mean()) == (1800, 500)
    # The written mask has the size of the film and needs no position.
    take_out = [f"{written[1]},non_malignant"]
    insert_lesions(str(output), take_out, lambda: infill, tmp_path / "without.dcm", seed=1)
    without = pydicom.dcmread(tmp_path / "without.dcm")
    np.testing.assert_array_equal(without.pixel_array[mask == 0], pixels[mask == 0])
    assert without.StudyInstanceUID != with_lesion.StudyInstanceUID
    assert len(without.ContributingEquipmentSequence) == 2


def test_a_16_bit_png_is_accepted(infill, sample_film, tmp_path):
    mask_file = tmp_path / "small.png"
    cv2.imwrite(str(mask_file), np.full((90, 90), 255, np.uint8))
    crop = sample_film[1][1000:2500, :1000]
    cv2.imwrite(str(tmp_path / "film.png"), crop)
    lesions = [f"800,500,{mask_file},malignant"]
    output = tmp_path / "out.dcm"
    insert_lesions(str(tmp_path / "film.png"), lesions, lambda: infill, output, seed=0)
    assert pydicom.dcmread(output).pixel_array.shape == crop.shape


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1800,500,{},cancer", "lesion must be ROW,COLUMN,MASK,CLASS .* Received: '1800,500,"),
        ("malignant", "lesion must be"),
        (",malignant", "lesion must be"),
        ("-1,500,{},malignant", "integers of at least 0, in pixels. Received: '-1' in '-1,500,"),
        ("1800,500.5,{},malignant", "integers of at least 0, in pixels. Received: '500.5'"),
        ("1e3,500,{},malignant", "integers of at least 0, in pixels. Received: '1e3'"),
        ("1800,500,absent.png,malignant", "absent.png: No such file"),
        ("{},malignant", "the film's size, 4432 x 2864 pixels. Received: 281 x 281"),
    ],
)
def test_a_lesion_that_cannot_be_read_is_named(mask_file, text, message):
    with pytest.raises(UserError, match=message):
        parse_lesion(text.format(mask_file), (4432, 2864))


def never():
    raise AssertionError("the generator was opened")


@pytest.mark.parametrize(
    ("lesions", "seed", "message"),
    [
        ([], 0, r"takes 1 to 16 lesions at a time\. Received: 0"),
        (["1800,500,{},malignant"], -1, r"seed must be in .* Received: -1"),
        (["9,9,{},malignant"], 0, "Lesion 1: A lesion mask must be inside the film"),
    ],
)
def test_lesions_are_checked_before_the_generator_is_opened(
    sample_film, mask_file, tmp_path, lesions, seed, message
):
    lesions = [text.format(mask_file) for text in lesions]
    with pytest.raises(UserError, match=message):
        insert_lesions(str(sample_film[0]), lesions, never, tmp_path / "out.dcm", seed)


def test_a_refused_output_stops_before_any_file_or_infill(tmp_path, sample_film, mask_file):
    lesion = [f"1800,500,{mask_file},malignant"]
    output = tmp_path / "film.dcm"
    with pytest.raises(UserError, match=r"output must be a name ending in .dcm"):
        insert_lesions("absent.dcm", lesion, never, tmp_path / "out.png", seed=0)
    output.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"absent.dcm: No such file"):
        insert_lesions("absent.dcm", lesion, never, output, seed=0)
    with pytest.raises(UserError, match="already exists"):
        insert_lesions(str(sample_film[0]), lesion, never, output, seed=0)
    mask = tmp_path / "film_mask.png"
    mask.write_bytes(mask_file.read_bytes())
    with pytest.raises(UserError, match=r"would overwrite the input .*film_mask.png"):
        insert_lesions(
            *(str(sample_film[0]), [f"9,9,{mask},malignant"], never, output),
            seed=0,
            overwrite=True,
        )
    assert output.read_bytes() == b"mine"
    assert mask.read_bytes() == mask_file.read_bytes()


@pytest.mark.filterwarnings("ignore")  # pydicom warns about odd values before it fails on them
def test_damaged_films_are_refused_or_infilled(infill, sample_film):
    path, pixels, _ = sample_film
    film = pydicom.dcmread(path)
    # A narrow film, because compressing the picture of both films takes most of the time.
    film.set_pixel_data(np.ascontiguousarray(pixels[1600:2200, 350:550]), "MONOCHROME2", 16)
    film.compress(pydicom.uid.RLELossless)
    film.save_as(content := pydicom.filebase.DicomBytesIO())
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (31, 31)).astype(bool)
    lesions = [FilmLesion.centred(disc, 250, 100, malignant=True)]
    counts = {"refused": 0, "infilled": 0}

    def hangs(signum, frame):
        raise AssertionError("a damaged film took more than a minute")

    signal.signal(signal.SIGALRM, hangs)
    for number, damaged in enumerate(dicom_films.damaged(content.getvalue(), 200)):
        signal.alarm(60)
        try:
            read = read_film(damaged, f"{number}.dcm")
            infilled, _ = infill(read.pixels, lesions, seed=0)
            files = files_of(read, infilled, lesions, 0, infill.generator_id)
        except UserError:
            counts["refused"] += 1
        else:
            counts["infilled"] += 1
            assert pydicom.dcmread(pydicom.filebase.DicomBytesIO(files[".dcm"])).SyntheticData
        finally:
            signal.alarm(0)
    assert min(counts.values()) > 20, counts


def test_the_command_warns_of_another_scale(exported, sample_film, mask_file, tmp_path):
    """That it does not warn of its own scale is tested in tests/test_own_films.py."""
    output = tmp_path / "other.dcm"
    flags = ["--film_size=400,218", f"--saved_model={exported}", f"--output={output}"]
    lesion = f"--lesion=1800,500,{mask_file},malignant"
    finished = warm_commands.run("export.insert_lesions", sample_film[0], lesion, *flags)
    assert finished.returncode == 0, finished.stderr
    assert output.is_file()
    lines = finished.stderr.splitlines()
    (warning,) = (line for line in lines if line.startswith("warning: The generator was"))
    assert "344,188; with --film_size=400,218" in warning
