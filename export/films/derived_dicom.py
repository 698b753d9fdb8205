"""A film with infilled lesions as DICOM objects: the film, and the masks as a segmentation.

The film is a derived image (DICOM PS3.3, C.7.6.1.1.3 and C.12.1.1) with a description of the change
and the attribute Synthetic Data, in a new study without patient data. From its source it keeps only
attributes that describe the image: none that identify people, places or times (PS3.15, Annex E),
and no private elements, which may identify them too. On request it stays with its source's patient
and study.
"""

import copy
import datetime
import io
import re
import warnings
from collections.abc import Sequence

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage, generate_uid

from tfds_ddsm.sources.image_file import FilmPixels

from .film_infill import FilmLesion

_MAKER = "ciGAN"
_SERIES_DESCRIPTION = "Synthetic lesions (ciGAN)"
# High numbers, beyond those that a hospital's machines give to series.
_FILM_SERIES_NUMBER, _MASK_SERIES_NUMBER = 9001, 9002

# Attributes that describe the image, not the patient: numbers and codes of groups 0018
# (acquisition) and 0028 (how pixels are stored and displayed), and those listed here. The same
# holds for items of sequences.
_NUMBERS_AND_CODES_GROUPS = (0x0018, 0x0028)
_NUMBERS_AND_CODES = {"CS", "DS", "FD", "FL", "IS", "SL", "SS", "UL", "US", "US or SS"}
_DESCRIBES_THE_PICTURE = (
    "AnatomicRegionModifierSequence",
    "AnatomicRegionSequence",
    "CodeMeaning",
    "CodeValue",
    "CodingSchemeDesignator",
    "CodingSchemeVersion",
    "ConversionType",
    "ImageLaterality",
    "ImageType",
    "LUTData",
    "Laterality",
    "Manufacturer",
    "ManufacturerModelName",
    "Modality",
    "ModalityLUTSequence",
    "OrganExposed",
    "PartialViewCodeSequence",
    "PatientOrientation",
    "PresentationIntentType",
    "PresentationLUTSequence",
    "PresentationLUTShape",
    "SOPClassUID",
    "SpecificCharacterSet",
    "VOILUTSequence",
    "ViewCodeSequence",
    "ViewModifierCodeSequence",
)
# Required text attributes and their substitutes. "US" means unspecified; the units are those of
# PS3.3, C.11.1.1.2.
_IN_PLACE_OF_TEXT = {
    "ModalityLUTType": "US",
    "PixelSpacingCalibrationDescription": "as for the source image",
    "RescaleType": "US",
}
_UNITS = {"ED", "EDW", "HU", "HU_MOD", "MGML", "OD", "PCT", "US", "Z_EFF"}

# Attributes that describe the source's pixels and are invalid for the derived image.
_OF_THE_SOURCE_ALONE = (
    "DataSetTrailingPadding",
    "DigitalSignaturesSequence",
    "IconImageSequence",
    "LargestPixelValueInSeries",
    "MACParametersSequence",
    "PixelDataProviderURL",
    "SmallestPixelValueInSeries",
)
_OVERLAY_GROUPS = range(0x6000, 0x6020, 2)

# Type 2 attributes of the patient, study, series and image: they are required, but may be empty.
_MAY_BE_EMPTY = (
    "AccessionNumber",
    "InstanceNumber",
    "Laterality",
    "Manufacturer",
    "PatientBirthDate",
    "PatientID",
    "PatientName",
    "PatientOrientation",
    "PatientSex",
    "ReferringPhysicianName",
    "StudyDate",
    "StudyID",
    "StudyTime",
)
# Type 2 attributes of the mammography and DX image modules.
_MAY_BE_EMPTY_IN_MAMMOGRAPHY = ("AcquisitionContextSequence",)

_CHARACTER_SET = re.compile(r"ISO[ _]?(2022)?[ _]?IR[ _]?(\d{1,3})", re.IGNORECASE)
# Character sets that are valid only as extensions of the default one (PS3.3, C.12.1.1.2).
_ONLY_AS_EXTENSIONS = {"58", "87", "149", "159"}


def derived_film(
    infilled: FilmPixels,
    lesions: Sequence[FilmLesion],
    seed: int,
    generator_id: str,
    keep_patient: bool = False,
) -> pydicom.Dataset:
    """Returns the infilled film as an image derived from its source.

    Args:
        infilled: the infilled film's stored values with the scale and header of its source. Without
            a header, the result is a secondary capture.
        lesions: the infilled lesions.
        seed: seed of the first infill; each following infill adds 1.
        generator_id: identifies the generator, at most 64 characters.
        keep_patient: whether the film stays in its source's study, with all attributes of the
            patient.

    Returns:
        A dataset with its file meta information, ready for writing.

    Raises:
        ValueError: `keep_patient` is set, but the source has no StudyInstanceUID.
    """
    source = infilled.header
    if source is None:
        film = _new_secondary_capture()
    else:
        source = _with_known_character_set(source)
        film = _same_study(source) if keep_patient else _picture_alone(source)
    now = _now(film)
    if source is None or not keep_patient:
        _start_study(film, now)
    for keyword in _MAY_BE_EMPTY:
        if keyword not in film:
            setattr(film, keyword, None)
    if "ImageLaterality" in film and not film.Laterality:
        del film.Laterality  # replaced by ImageLaterality
    if film.SOPClassUID != SecondaryCaptureImageStorage:
        for keyword in _MAY_BE_EMPTY_IN_MAMMOGRAPHY:
            if keyword not in film:
                setattr(film, keyword, [])
    film.ImageType = ["DERIVED", "SECONDARY", *_values(film.get("ImageType"))[2:]]
    film.SyntheticData = "YES"
    film.DerivationDescription = description(lesions, seed)
    film.ReferencedImageSequence = [
        *film.get("ReferencedImageSequence", []),
        _reference(SegmentationStorage, generate_uid()),  # the masks, made by `segmentation`
    ]
    film.SeriesInstanceUID = generate_uid()
    film.SeriesNumber = _FILM_SERIES_NUMBER
    film.SeriesDescription = _SERIES_DESCRIPTION
    film.InstanceNumber = 1
    film.InstanceCreationDate = film.ContentDate = now.strftime("%Y%m%d")
    film.InstanceCreationTime = film.ContentTime = now.strftime("%H%M%S")
    film.ContributingEquipmentSequence = [
        *_earlier_equipment(source, keep_patient),
        _equipment(generator_id, now),
    ]
    film.file_meta = pydicom.dataset.FileMetaDataset()
    film.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    _set_pixels(film, infilled)
    return film


def _set_pixels(film: pydicom.Dataset, infilled: FilmPixels) -> None:
    """Stores the pixels with the depth, sign and photometric interpretation of the source."""
    stored = infilled.stored
    film.set_pixel_data(
        stored,
        film.get("PhotometricInterpretation", "MONOCHROME2"),
        bits_stored=film.get("BitsStored", infilled.scale.bits),
        generate_instance_uid=True,
    )
    for keyword, level in (
        ("SmallestImagePixelValue", stored.min()),
        ("LargestImagePixelValue", stored.max()),
    ):
        if keyword in film:
            tag = pydicom.datadict.tag_for_keyword(keyword)
            film.add_new(tag, "SS" if stored.dtype.kind == "i" else "US", int(level))


def segmentation(
    film: pydicom.Dataset, lesions: Sequence[FilmLesion], seed: int, generator_id: str
) -> pydicom.Dataset:
    """Returns the masks as a DICOM segmentation of the infilled film, with one segment per lesion.

    Args:
        film: result of `derived_film`.
        lesions: the infilled lesions.
        seed: seed of the first infill; each following infill adds 1.
        generator_id: identifies the generator, at most 64 characters.
    """
    shape = film.Rows, film.Columns
    masks = np.stack([lesion.on_film(shape) for lesion in lesions], axis=-1)
    described = pydicom.Dataset()
    described.update(film)
    described.file_meta = film.file_meta
    # A frame of reference requires the position of its planes (PS3.3, A.51.5), which a film lacks.
    described.pop("FrameOfReferenceUID", None)
    if "SpecificCharacterSet" in film:
        # UTF-8 can represent every name. A new element, because the old one belongs to the film.
        described.add_new("SpecificCharacterSet", "CS", "ISO_IR 192")
    with warnings.catch_warnings():
        # Patient names of some public films do not have the form that DICOM requires.
        warnings.filterwarnings("ignore", message="The string .* is unlikely to represent")
        masked = hd.seg.Segmentation(
            source_images=[described],
            pixel_array=masks[None],
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _segment(i + 1, lesion, seed) for i, lesion in enumerate(lesions)
            ],
            series_instance_uid=generate_uid(),
            series_number=_MASK_SERIES_NUMBER,
            sop_instance_uid=film.ReferencedImageSequence[-1].ReferencedSOPInstanceUID,
            instance_number=1,
            manufacturer=_MAKER,
            manufacturer_model_name=_MAKER,
            software_versions=generator_id,
            device_serial_number=generator_id,
            content_label="LESIONS",
            content_description="Regions infilled by a generative network",
            series_description=_SERIES_DESCRIPTION,
            omit_empty_frames=False,
        )
    masked.SyntheticData = "YES"
    for keyword in ("ContentCreatorName", "PatientOrientation"):
        setattr(masked, keyword, None)  # required, may be empty
    spacing, thickness = _pixel_spacing_mm(film), film.get("BodyPartThickness")
    if spacing and thickness:  # readers such as highdicom require both or none
        measures = pydicom.Dataset()
        measures.PixelSpacing = spacing
        measures.SliceThickness = thickness
        (shared,) = masked.SharedFunctionalGroupsSequence
        shared.PixelMeasuresSequence = [measures]
    return masked


def to_bytes(dataset: pydicom.Dataset) -> bytes:
    """Returns a dataset as the content of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _picture_alone(source: pydicom.Dataset) -> pydicom.Dataset:
    """Returns the attributes that describe a source's image, without those of its patient."""
    film = pydicom.Dataset()
    film.SOPClassUID = SecondaryCaptureImageStorage
    film.update(_describing_the_picture(source))
    return film


def _describing_the_picture(source: pydicom.Dataset) -> pydicom.Dataset:
    """Returns the elements of a film, or of a sequence item, that describe the image."""
    described = pydicom.Dataset()
    for element in source:
        tag, keyword, value = element.tag, element.keyword, element.value
        if keyword in _OF_THE_SOURCE_ALONE:
            continue
        if keyword in _IN_PLACE_OF_TEXT:
            kept = value if value in _UNITS else _IN_PLACE_OF_TEXT[keyword]
            described.add_new(tag, element.VR, kept)
        elif keyword in _DESCRIBES_THE_PICTURE and element.VR == "SQ":
            described.add_new(tag, "SQ", [_describing_the_picture(item) for item in value])
        elif keyword in _DESCRIBES_THE_PICTURE or (
            tag.group in _NUMBERS_AND_CODES_GROUPS and element.VR in _NUMBERS_AND_CODES
        ):
            described[tag] = copy.deepcopy(element)
    return described


def _same_study(source: pydicom.Dataset) -> pydicom.Dataset:
    """Returns all attributes of a source that are valid for the infilled film."""
    if not source.get("StudyInstanceUID"):
        raise ValueError(
            "the film has no StudyInstanceUID, so the new film cannot stay in its study; omit "
            "--keep_patient"
        )
    film = copy.deepcopy(source)
    for keyword in _OF_THE_SOURCE_ALONE:
        film.pop(keyword, None)
    for group in _OVERLAY_GROUPS:
        for tag in list(film.group_dataset(group).keys()):
            del film[tag]
    if "SOPClassUID" not in film:
        film.SOPClassUID = SecondaryCaptureImageStorage
    if source.get("SOPInstanceUID"):
        reference = _reference(film.SOPClassUID, source.SOPInstanceUID)
        reference.PurposeOfReferenceCodeSequence = [
            _code(codes.DCM.SourceImageForImageProcessingOperation)
        ]
        film.SourceImageSequence = [reference]
    film.ImageComments = "Synthetic lesions in a film of a real patient; identity kept on request."
    return film


def _new_secondary_capture() -> pydicom.Dataset:
    film = pydicom.Dataset()
    film.SOPClassUID = SecondaryCaptureImageStorage
    film.Modality = "MG"
    film.ConversionType = "WSD"  # workstation
    film.BodyPartExamined = "BREAST"
    return film


def _start_study(film: pydicom.Dataset, now: datetime.datetime) -> None:
    film.StudyInstanceUID = generate_uid()
    film.StudyDescription = _SERIES_DESCRIPTION
    film.StudyDate, film.StudyTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    # Text in the pixels remains. Without Burned In Annotation it is unknown whether there is any
    # (PS3.3, C.7.6.1); Patient Identity Removed is optional and includes the pixels (C.7.1.1).
    burned_in = film.get("BurnedInAnnotation")
    if burned_in in ("NO", "YES"):
        film.PatientIdentityRemoved = "YES" if burned_in == "NO" else "NO"
    film.DeidentificationMethod = "ciGAN: new study, only attributes describing the image"


def _now(film: pydicom.Dataset) -> datetime.datetime:
    """Returns the time in the time zone of the film (PS3.3, C.12.1.1.8)."""
    match = re.fullmatch(r"([+-])(\d{2})([0-5]\d)", str(film.get("TimezoneOffsetFromUTC") or ""))
    if match is None or int(match[2]) > 14:
        film.pop("TimezoneOffsetFromUTC", None)
        return datetime.datetime.now()
    offset = datetime.timedelta(hours=int(match[2]), minutes=int(match[3]))
    return datetime.datetime.now(datetime.timezone(-offset if match[1] == "-" else offset))


def _with_known_character_set(source: pydicom.Dataset) -> pydicom.Dataset:
    """Returns a header with decoded text and correctly spelt character sets."""
    source = copy.deepcopy(source)
    source.decode()
    if "SpecificCharacterSet" in source:
        known = [_known(term.strip()) for term in _values(source.SpecificCharacterSet)]
        number = known[0].rpartition(" ")[2] if len(known) == 1 else ""
        if number in _ONLY_AS_EXTENSIONS:
            known = ["", *known]
        elif len(known) == 1 and known[0].startswith("ISO 2022"):
            known = [f"ISO_IR {number}"]
        source.SpecificCharacterSet = known if any(known) else None
        if known == ["ISO_IR 6"]:  # the default, which is not named
            del source.SpecificCharacterSet
    return source


def _known(term: str) -> str:
    match = _CHARACTER_SET.fullmatch(term)
    return f"ISO{' 2022 ' if match[1] else '_'}IR {match[2]}" if match else term


def _values(value) -> list:
    """Returns the values of an element that may have no, one or several values."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else list(value)


def _pixel_spacing_mm(film: pydicom.Dataset) -> list[float] | None:
    """Returns the spacing of rows and columns in the breast, if the film gives it."""
    spacing = film.get("PixelSpacing")
    if not spacing and (spacing := film.get("ImagerPixelSpacing")):
        magnification = float(film.get("EstimatedRadiographicMagnificationFactor") or 1)
        spacing = [round(float(side) / magnification, 6) for side in spacing]
    spacing = [float(side) for side in spacing or []]
    return spacing if len(spacing) == 2 and min(spacing) > 0 else None


def description(lesions: Sequence[FilmLesion], seed: int) -> str:
    """Returns a description of the change to a film, with the class and seed of every infill.

    Args:
        lesions: the infilled lesions, at most `film_infill.MAX_LESIONS`.
        seed: seed of the first infill; each following infill adds 1.

    Returns:
        ASCII text of at most 1024 characters, the limit of Derivation Description.
    """
    malignant = sum(lesion.malignant for lesion in lesions)
    each = ", ".join(
        f"{number} {lesion.label} seed {seed + number - 1}"
        for number, lesion in enumerate(lesions, 1)
    )
    return (
        "Synthetic image, not for diagnosis. A generative network (ciGAN) infilled "
        f"{len(lesions)} region(s) of the source image: {malignant} as malignant, "
        f"{len(lesions) - malignant} as non-malignant ({each}). Pixels outside these regions are "
        "those of the source."
    )


def _earlier_equipment(source: pydicom.Dataset | None, keep_all: bool) -> list[pydicom.Dataset]:
    """Returns the equipment that processed the source: all of it, or only this package."""
    return [
        item
        for item in (source.get("ContributingEquipmentSequence") or [] if source else [])
        if keep_all or item.get("Manufacturer") == _MAKER
    ]


def _equipment(generator_id: str, now: datetime.datetime) -> pydicom.Dataset:
    equipment = pydicom.Dataset()
    equipment.Manufacturer = _MAKER
    equipment.ManufacturerModelName = _MAKER
    equipment.SoftwareVersions = generator_id
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")
    equipment.ContributionDescription = "Infilled lesions with a generative network"
    equipment.PurposeOfReferenceCodeSequence = [_code(codes.DCM.ModifyingEquipment)]
    return equipment


def _segment(number: int, lesion: FilmLesion, seed: int) -> hd.seg.SegmentDescription:
    if lesion.malignant:
        category, kind = codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion
    else:
        category, kind = codes.SCT.Tissue, codes.SCT.SoftTissue
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"{lesion.label} infill {number}",
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    segment.SegmentDescription = f"Infilled as {lesion.label} with seed {seed + number - 1}"
    return segment


def _reference(sop_class_uid: str, sop_instance_uid: str) -> pydicom.Dataset:
    reference = pydicom.Dataset()
    reference.ReferencedSOPClassUID = sop_class_uid
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    return reference


def _code(code) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
