import copy
import datetime
import io
import shutil
import subprocess

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from cigan_tf.errors import UserError
from export.films import derived_dicom, film_files
from export.films.film_infill import FilmLesion
from tests.tfds_ddsm.sources import dicom_films
from tfds_ddsm import grey_levels
from tfds_ddsm.sources.image_file import FilmPixels, read_film

PIXELS = np.random.default_rng(0).integers(100, 60_000, (90, 70), np.uint16)
MODEL = "SavedModel 0123"
SEED = 7
LESIONS = [
    FilmLesion(np.ones((20, 30), bool), 10, 20, malignant=True),
    FilmLesion(np.eye(25, dtype=bool), 15, 30, malignant=False),
]


@pytest.fixture
def source(sample_film):
    return read_film(sample_film[0]).header


def derived_film(header, **options):
    infilled = FilmPixels(PIXELS, grey_levels.of_picture(PIXELS), header)
    return derived_dicom.derived_film(infilled, LESIONS, SEED, MODEL, **options)


def there_and_back(keep_patient=False, **options):
    """Returns a mammogram, and the film and segmentation written for it."""
    source = dicom_films.film(**options)
    film = film_files.read_film(dicom_films.content(source), "F.dcm")
    lesion = FilmLesion(np.ones((20, 30), bool), 10, 20, malignant=True)
    files = film_files.dicom_files(film, film.pixels, [lesion], SEED, MODEL, keep_patient)
    return source, *(pydicom.dcmread(io.BytesIO(files[e])) for e in (".dcm", "_seg.dcm"))


def written(dataset):
    return pydicom.dcmread(io.BytesIO(derived_dicom.to_bytes(dataset)))


def group(dataset, number):
    return {element.tag: element.value for element in dataset.group_dataset(number)}


def test_it_is_a_derived_image_marked_as_synthetic(source):
    film = written(derived_film(source))
    np.testing.assert_array_equal(film.pixel_array, PIXELS)
    assert list(film.ImageType) == ["DERIVED", "SECONDARY"]
    assert film.SyntheticData == "YES"
    assert film.DerivationDescription.startswith("Synthetic image, not for diagnosis.")
    assert (
        "1 as malignant, 1 as non-malignant (1 malignant seed 7, 2 non_malignant seed 8)"
        in film.DerivationDescription
    )
    assert film.ContributingEquipmentSequence[0].SoftwareVersions == MODEL
    assert (film.SmallestImagePixelValue, film.LargestImagePixelValue) == (
        PIXELS.min(),
        PIXELS.max(),
    )


def values(dataset, *representations):
    """Returns every value with one of the given representations, including those in sequences."""
    elements = dataset.iterall()
    return {str(element.value) for element in elements if element.VR in representations}


@pytest.mark.parametrize("explicit", [False, True])
def test_it_is_a_new_study_of_no_patient(explicit):
    options = {"keep_patient": False} if explicit else {}
    history = Dataset()
    history.Manufacturer, history.InstitutionName = "ACME", "St. Elsewhere"
    source, film, masks = there_and_back(
        **options,
        FrameOfReferenceUID=pydicom.uid.generate_uid(),
        DeviceSerialNumber="SN4711",
        DateOfLastCalibration="20191231",
        PatientComments="Jane",
        ContributingEquipmentSequence=[history],
    )
    hints = ("Roe", "4711", "ACC1", "Elsewhere", "Doe", "2020", "2019", "Jane", "ACME")
    uids = values(source, "UI") - {source.SOPClassUID}
    for written_file in (film, masks):
        found = values(written_file, "AS", "CS", "DA", "LO", "LT", "PN", "SH", "ST", "UN", "UT")
        assert not [text for text in found if any(hint in text for hint in hints)]
        assert not uids & values(written_file, "UI")
        assert not any(element.tag.is_private for element in written_file)
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber"):
            assert not written_file[keyword].value
    assert film.StudyInstanceUID == masks.StudyInstanceUID
    assert (film.ImageLaterality, film.ViewPosition) == ("L", "CC")
    assert film.SOPClassUID == source.SOPClassUID


def lookup_table(**text):
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, 16], list(range(4096))
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    for keyword, value in text.items():
        setattr(item, keyword, value)
    item.add_new(0x00110010, "LO", "ACME")
    item.add_new(0x00111001, "LO", "Jane's own")
    return item


@pytest.mark.parametrize("rescale_type", ["OD", "Jane's"])
@pytest.mark.parametrize(
    "syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian]
)
def test_image_attributes_keep_numbers_and_codes_but_no_text(rescale_type, syntax):
    code, administrator = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399162004", "SCT", "CC"
    code.MappingResourceName = "Jane's"
    code.ViewModifierCodeSequence = [copy.deepcopy(code)]
    code.ViewModifierCodeSequence[0].add_new(0x00111001, "LO", "Jane's own")
    administrator.PersonName = "Roe^Jane"
    source = dicom_films.film(
        PixelDataProviderURL="https://pacs.example/Jane",
        PixelSpacingCalibrationType="FIDUCIAL",
        PixelSpacingCalibrationDescription="Jane",
        WindowCenter=2048,
        WindowWidth=4096,
        WindowCenterWidthExplanation="Jane",
        PartialView="YES",
        PartialViewDescription="Jane",
        RescaleType=rescale_type,
        VOILUTSequence=[lookup_table(LUTExplanation="Jane")],
        ModalityLUTSequence=[lookup_table(ModalityLUTType="Jane", LUTExplanation="Jane")],
        ViewCodeSequence=[code],
        EquipmentAdministratorSequence=[administrator],
        SmallestPixelValueInSeries=5,
        PixelPaddingValue=7,
    )
    source.file_meta.TransferSyntaxUID = syntax
    film = written(derived_film(film_files.read_film(dicom_films.content(source), "F.dcm").header))
    elements = list(film.iterall())
    assert not [element for element in elements if "Jane" in str(element.value)]
    assert not [element for element in elements if element.tag.is_private]
    assert "SmallestPixelValueInSeries" not in film
    for keyword in ("WindowCenter", "WindowWidth", "PixelPaddingValue", "PartialView"):
        assert film[keyword].value == source[keyword].value
    assert film.RescaleType == ("OD" if rescale_type == "OD" else "US")
    assert film.ModalityLUTSequence[0].ModalityLUTType == "US"
    for sequence in ("ModalityLUTSequence", "VOILUTSequence"):
        (table,) = film[sequence].value
        assert list(table.LUTDescriptor) == [4096, 0, 16]
        assert "LUTData" in table
    (view,) = film.ViewCodeSequence
    (modifier,) = view.ViewModifierCodeSequence
    for kept in (view, modifier):
        assert (kept.CodeValue, kept.CodeMeaning) == ("399162004", "CC")


@pytest.mark.parametrize(
    ("burned_in", "is_removed"),
    [({"BurnedInAnnotation": "NO"}, "YES"), ({"BurnedInAnnotation": "YES"}, "NO"), ({}, None)],
)
def test_the_identity_is_removed_only_if_no_text_is_in_the_pixels(burned_in, is_removed):
    _, *files = there_and_back(**burned_in)
    for written_file in files:
        assert written_file.get("PatientIdentityRemoved") == is_removed
    assert files[0].get("BurnedInAnnotation") == burned_in.get("BurnedInAnnotation")


def test_on_request_it_stays_with_the_patient_and_declares_it():
    source, film, masks = there_and_back(keep_patient=True)
    for keyword in (
        *("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "AccessionNumber"),
        *("InstitutionName", "OperatorsName", "SOPClassUID"),
    ):
        assert film[keyword].value == source[keyword].value
    assert film[0x00111001].value == "Jane's own"
    assert masks.PatientName == source.PatientName
    assert masks.StudyInstanceUID == source.StudyInstanceUID
    assert "real patient; identity kept on request" in film.ImageComments
    assert "PatientIdentityRemoved" not in film
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({film[keyword].value, masks[keyword].value, source[keyword].value}) == 3
    (reference,) = film.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == source.SOPClassUID


def test_every_film_has_its_own_uids(source):
    films = [derived_film(source) for _ in range(2)]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        assert len({film[keyword].value for film in (*films, source)}) == 3


def test_film_and_segmentation_refer_to_each_other():
    _, film, masks = there_and_back()
    (series,) = masks.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == film.SeriesInstanceUID
    (instance,) = series.ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == film.SOPInstanceUID
    (reference,) = film.ReferencedImageSequence
    assert reference.ReferencedSOPClassUID == masks.SOPClassUID
    assert reference.ReferencedSOPInstanceUID == masks.SOPInstanceUID


def test_sixteen_lesions_with_long_seeds_are_described():
    seed = 2**31 - 17
    text = derived_dicom.description(LESIONS[1:] * 16, seed)
    assert f"16 non_malignant seed {seed + 15})" in text
    assert len(text) <= 1024  # the limit of DICOM's value representation ST


TYPE_2 = (
    *("PatientBirthDate", "PatientSex", "PatientID", "PatientName", "StudyID", "StudyDate"),
    *("StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientOrientation"),
)


@pytest.mark.parametrize("keep_patient", [False, True])
@pytest.mark.parametrize("keyword", TYPE_2)
def test_attributes_that_an_anonymiser_deleted_are_empty(keyword, keep_patient):
    _, film, masks = there_and_back(keep_patient, edit=lambda source: source.pop(keyword, None))
    assert keyword in film
    assert keyword in masks
    if keep_patient:
        assert not film[keyword].value


@pytest.mark.parametrize("keep_patient", [False, True])
@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"])
def test_a_film_without_uids_is_accepted(keyword, keep_patient):
    source = dicom_films.film()
    film = film_files.read_film(dicom_films.content(source), "F.dcm")
    del film.header[keyword]
    files = film_files.dicom_files(film, film.pixels, LESIONS[:1], SEED, MODEL, keep_patient)
    assert pydicom.dcmread(io.BytesIO(files[".dcm"])).SOPInstanceUID


def test_a_film_without_a_study_cannot_stay_in_it():
    with pytest.raises(UserError, match=r"F.dcm: the film has no StudyInstanceUID"):
        there_and_back(keep_patient=True, edit=lambda source: source.pop("StudyInstanceUID"))
    there_and_back(edit=lambda source: source.pop("StudyInstanceUID"))


@pytest.mark.parametrize(
    ("character_set", "written_as", "name"),
    [
        (["", "ISO 2022 IR 87"], ["", "ISO 2022 IR 87"], "Yamada^Hanako=山田^花子"),
        (["ISO 2022 IR 6", "ISO 2022 IR 87"], ["ISO 2022 IR 6", "ISO 2022 IR 87"], "Y^H=山田"),
        ("ISO IR 192", "ISO_IR 192", "Müller^Zoë"),
        ("ISO_IR100", "ISO_IR 100", "Müller^Zoë"),
        ("ISO 2022 IR 100", "ISO_IR 100", "Müller^Zoë"),
        ("ISO 2022 IR 6", None, "Roe^Jane"),
        ("ISO_IR 100", "ISO_IR 100", "Müller^Zoë"),
        ("GB18030", "GB18030", "Wang^XiaoDong=王^小东"),
        (["", "ISO 2022 IR 149"], ["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        (None, None, "Roe^Jane"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_names_keep_their_characters(character_set, written_as, name):
    def edit(source):
        if character_set is not None:
            source.SpecificCharacterSet = character_set
        source.PatientName = name

    _, film, masks = there_and_back(keep_patient=True, edit=edit)
    assert str(film.PatientName) == str(masks.PatientName) == name
    spelt = film.get("SpecificCharacterSet")
    assert (list(spelt) if isinstance(written_as, list) else spelt) == written_as
    there_and_back(edit=edit)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("DERIVED", []),
        (None, []),
        (["ORIGINAL", "PRIMARY"], []),
        (["ORIGINAL", "PRIMARY", "", "POST_PROCESSED"], ["", "POST_PROCESSED"]),
    ],
)
@pytest.mark.parametrize("keep_patient", [False, True])
def test_an_image_type_keeps_its_further_values(before, after, keep_patient):
    _, film, _ = there_and_back(keep_patient, ImageType=before)
    assert list(film.ImageType) == ["DERIVED", "SECONDARY", *after]


@pytest.mark.parametrize("keep_patient", [False, True])
def test_the_segmentation_has_a_pixel_size_but_no_frame_of_reference(keep_patient, tmp_path):
    _, film, masks = there_and_back(
        keep_patient,
        FrameOfReferenceUID=pydicom.uid.generate_uid(),
        ImagerPixelSpacing=[0.07, 0.07],
        EstimatedRadiographicMagnificationFactor="1.4",
        BodyPartThickness="52",
    )
    assert "FrameOfReferenceUID" not in masks
    assert ("FrameOfReferenceUID" in film) == keep_patient
    assert film.ImagerPixelSpacing == [0.07, 0.07]
    (shared,) = masks.SharedFunctionalGroupsSequence
    (measures,) = shared.PixelMeasuresSequence
    assert (measures.PixelSpacing, measures.SliceThickness) == ([0.05, 0.05], 52)
    masks.save_as(tmp_path / "seg.dcm")
    assert hd.seg.segread(tmp_path / "seg.dcm").number_of_segments == 1


def test_the_time_is_in_the_sources_time_zone():
    zone = datetime.timezone(datetime.timedelta(hours=9, minutes=30))
    before = datetime.datetime.now(zone).replace(microsecond=0, tzinfo=None)
    _, film, _ = there_and_back(keep_patient=True, TimezoneOffsetFromUTC="+0930")
    written_at = datetime.datetime.strptime(film.ContentDate + film.ContentTime, "%Y%m%d%H%M%S")
    assert before <= written_at <= before + datetime.timedelta(minutes=5)
    _, film, _ = there_and_back(keep_patient=True, TimezoneOffsetFromUTC="CET")
    assert "TimezoneOffsetFromUTC" not in film


def test_attributes_valid_only_for_the_source_are_removed(source):
    source.DigitalSignaturesSequence = [pydicom.Dataset()]
    source.IconImageSequence = [pydicom.Dataset()]
    source.add_new(0x60000010, "US", 4)
    before = copy.deepcopy(source)
    for keep_patient in (False, True):
        film = written(derived_film(source, keep_patient=keep_patient))
        assert source == before
        assert "DigitalSignaturesSequence" not in film
        assert "IconImageSequence" not in film
        assert not film.group_dataset(0x6000)


def test_without_a_dicom_source_it_is_a_secondary_capture_of_nobody():
    film = written(derived_film(None))
    assert film.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert film.SyntheticData == "YES"
    assert not any(group(film, 0x0010).values())
    assert "PatientIdentityRemoved" not in film
    assert "SourceImageSequence" not in film
    assert derived_dicom.segmentation(film, LESIONS, SEED, MODEL).SyntheticData == "YES"


def test_the_masks_can_be_read_from_the_segmentation(source, tmp_path):
    film = derived_film(source)
    path = tmp_path / "seg.dcm"
    path.write_bytes(derived_dicom.to_bytes(derived_dicom.segmentation(film, LESIONS, SEED, MODEL)))
    masks = hd.seg.segread(path)
    assert masks.SyntheticData == "YES"
    assert [s.segment_label for s in masks.SegmentSequence] == [
        "malignant infill 1",
        "non_malignant infill 2",
    ]
    frames = masks.get_pixels_by_source_instance([film.SOPInstanceUID])
    for number, lesion in enumerate(LESIONS):
        np.testing.assert_array_equal(frames[0, ..., number], lesion.on_film(PIXELS.shape))


def conform(source):
    """Adds the required attributes of a mammogram."""
    for keyword in ("SeriesNumber", "InstanceNumber", "DetectorType"):
        setattr(source, keyword, "1" if keyword != "DetectorType" else "DIRECT")
    source.Manufacturer, source.PresentationIntentType = "ACME", "FOR PRESENTATION"
    source.PixelIntensityRelationship, source.PixelIntensityRelationshipSign = "LOG", 1
    source.RescaleIntercept, source.RescaleSlope, source.RescaleType = 0, 1, "US"
    source.PresentationLUTShape, source.LossyImageCompression = "IDENTITY", "00"
    source.WindowCenter, source.WindowWidth = 2048, 4096
    source.BurnedInAnnotation, source.OrganExposed = "NO", "BREAST"
    source.PositionerType, source.AcquisitionContextSequence = "MAMMOGRAPHIC", []
    source.ImagerPixelSpacing, source.BodyPartThickness = [0.1, 0.1], 52
    breast, view = Dataset(), Dataset()
    breast.CodeValue, breast.CodeMeaning = "T-04000", "Breast"
    view.CodeValue, view.CodeMeaning = "R-10242", "cranio-caudal"
    breast.CodingSchemeDesignator = view.CodingSchemeDesignator = "SRT"
    view.ViewModifierCodeSequence = []
    source.AnatomicRegionSequence, source.ViewCodeSequence = [breast], [view]


def errors_of(content, path):
    """Returns the errors that Debian's dicom3tools report for a DICOM file."""
    path.write_bytes(content)
    checked = subprocess.run(["dciodvfy", path], capture_output=True, text=True, timeout=60)
    # The validator is older than the attribute Synthetic Data (0008,001C).
    return {
        line
        for line in checked.stderr.splitlines()
        if line.startswith("Error") and "(0x0008,0x001c)" not in line
    }


needs_validator = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="Debian's dicom3tools are missing"
)


@needs_validator
@pytest.mark.parametrize("keep_patient", [False, True])
@pytest.mark.parametrize("edit", [conform, lambda source: None], ids=["conforming", "bare"])
def test_a_validator_finds_only_errors_of_the_source(edit, keep_patient, tmp_path):
    source, film, masks = there_and_back(keep_patient, bits=12, edit=edit)
    found = errors_of(dicom_films.content(source), tmp_path / "source.dcm")
    assert (not found) == (edit is conform)
    assert errors_of(derived_dicom.to_bytes(film), tmp_path / "film.dcm") <= found
    assert errors_of(derived_dicom.to_bytes(masks), tmp_path / "seg.dcm") == set()


@needs_validator
@pytest.mark.parametrize("keep_patient", [False, True])
def test_a_validator_finds_only_errors_of_the_sample(sample_film, source, keep_patient, tmp_path):
    found = errors_of(sample_film[0].read_bytes(), tmp_path / "source.dcm")
    film = derived_film(source, keep_patient=keep_patient)
    masks = derived_dicom.segmentation(film, LESIONS, SEED, MODEL)
    assert errors_of(derived_dicom.to_bytes(film), tmp_path / "film.dcm") <= found
    assert errors_of(derived_dicom.to_bytes(masks), tmp_path / "seg.dcm") == set()


@needs_validator
def test_a_validator_finds_no_error_in_a_film_without_a_source(tmp_path):
    film = derived_film(None)
    masks = derived_dicom.segmentation(film, LESIONS, SEED, MODEL)
    for dataset in (film, masks):
        assert errors_of(derived_dicom.to_bytes(dataset), tmp_path / "f.dcm") == set()
