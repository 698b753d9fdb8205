import copy
import io

import highdicom as hd
import numpy as np
import pydicom
import pytest

from export import derived_dicom
from export.film_infill import FilmLesion
from tfds_ddsm import grey_levels
from tfds_ddsm.sources.image_file import FilmPixels, read_film

PIXELS = np.random.default_rng(0).integers(100, 60_000, (90, 70), np.uint16)
MODEL = "SavedModel 0123"
LESIONS = [
    FilmLesion(np.ones((20, 30), bool), 10, 20, malignant=True),
    FilmLesion(np.eye(25, dtype=bool), 15, 30, malignant=False),
]


@pytest.fixture
def source(sample_film):
    return read_film(sample_film[0]).header


def derived_film(header):
    infilled = FilmPixels(PIXELS, grey_levels.of_picture(PIXELS), header)
    return derived_dicom.derived_film(infilled, LESIONS, MODEL)


def written(dataset):
    return pydicom.dcmread(io.BytesIO(derived_dicom.to_bytes(dataset)))


def group(dataset, number):
    return {element.tag: element.value for element in dataset.group_dataset(number)}


def test_it_is_a_derived_image_that_says_it_is_synthetic(source):
    film = written(derived_film(source))
    np.testing.assert_array_equal(film.pixel_array, PIXELS)
    assert list(film.ImageType) == ["DERIVED", "SECONDARY"]
    assert film.SyntheticData == "YES"
    assert film.DerivationDescription.startswith("Synthetic image, not for diagnosis.")
    assert "1 as malignant, 1 as non-malignant" in film.DerivationDescription
    assert film.ContributingEquipmentSequence[0].SoftwareVersions == MODEL
    assert (film.SmallestImagePixelValue, film.LargestImagePixelValue) == (
        PIXELS.min(),
        PIXELS.max(),
    )


def test_it_belongs_to_the_sources_study_under_new_uids(source):
    film = written(derived_film(source))
    other = derived_film(source)
    assert film.StudyInstanceUID == source.StudyInstanceUID
    assert film.SOPClassUID == source.SOPClassUID == film.file_meta.MediaStorageSOPClassUID
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({film[keyword].value, other[keyword].value, source[keyword].value}) == 3
    (reference,) = film.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == source.SOPClassUID


def test_it_holds_no_more_of_the_patient_than_the_source(source):
    source.PatientAge = "061Y"
    film = written(derived_film(source))
    masks = written(derived_dicom.segmentation(film, LESIONS, MODEL))
    assert group(film, 0x0010) == group(source, 0x0010)
    assert group(masks, 0x0010).items() <= group(source, 0x0010).items()


def test_what_holds_for_the_sources_pixels_alone_is_left_out(source):
    source.DigitalSignaturesSequence = [pydicom.Dataset()]
    source.IconImageSequence = [pydicom.Dataset()]
    before = copy.deepcopy(source)
    film = written(derived_film(source))
    assert source == before
    assert "DigitalSignaturesSequence" not in film
    assert "IconImageSequence" not in film
    assert any(element.tag.is_private for element in source)
    assert not any(element.tag.is_private for element in film)


def test_an_image_type_keeps_its_further_values(source):
    source.ImageType = ["ORIGINAL", "PRIMARY", "POST_PROCESSED"]
    film = derived_film(source)
    assert list(film.ImageType) == ["DERIVED", "SECONDARY", "POST_PROCESSED"]


def test_without_a_dicom_source_it_is_a_secondary_capture_of_nobody():
    film = written(derived_film(None))
    assert film.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert film.SyntheticData == "YES"
    assert not any(group(film, 0x0010).values())
    assert "SourceImageSequence" not in film
    assert derived_dicom.segmentation(film, LESIONS, MODEL).SyntheticData == "YES"


def test_the_masks_come_back_from_the_segmentation(source, tmp_path):
    film = derived_film(source)
    path = tmp_path / "seg.dcm"
    path.write_bytes(derived_dicom.to_bytes(derived_dicom.segmentation(film, LESIONS, MODEL)))
    masks = hd.seg.segread(path)
    assert masks.SyntheticData == "YES"
    assert [s.segment_label for s in masks.SegmentSequence] == [
        "malignant infill 1",
        "non_malignant infill 2",
    ]
    frames = masks.get_pixels_by_source_instance([film.SOPInstanceUID])
    for number, lesion in enumerate(LESIONS):
        np.testing.assert_array_equal(frames[0, ..., number], lesion.on_film(PIXELS.shape))
