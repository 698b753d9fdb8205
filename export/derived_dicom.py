"""A film with infilled lesions as DICOM objects: the film itself, and the masks as a segmentation.

The film is a derived image of its source (DICOM PS3.3, C.7.6.1.1.3 and C.12.1.1): the same study
and the source's attributes under new UIDs, what was done in words, and the flag Synthetic Data.
"""

import copy
import datetime
import io
import logging
import warnings
from collections.abc import Sequence

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import UID, SecondaryCaptureImageStorage, generate_uid

from export.film_infill import FilmLesion
from tfds_ddsm.sources.image_file import FilmPixels

# It tells of each attribute that it copies.
logging.getLogger("highdicom").setLevel(logging.WARNING)

_MAKER = "ciGAN"
_SERIES_DESCRIPTION = "Synthetic lesions (ciGAN)"
# Behind the series that a hospital's machines number.
_FILM_SERIES_NUMBER, _MASK_SERIES_NUMBER = 9001, 9002

# What a source says of its own pixels, and what would no longer hold. Private elements go too: none
# can say whether they hold.
_OF_THE_SOURCE_ALONE = (
    "DataSetTrailingPadding",
    "DigitalSignaturesSequence",
    "IconImageSequence",
    "MACParametersSequence",
    "PixelDataProviderURL",
)
_PIXEL_DATA_GROUP = 0x7FE0

_EMPTY_WITHOUT_SOURCE = (
    "AccessionNumber",
    "Laterality",
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


def derived_film(
    infilled: FilmPixels,
    lesions: Sequence[FilmLesion],
    generator_id: str,
) -> pydicom.Dataset:
    """Returns the new film as an image derived from its source.

    Args:
        infilled: the new film's stored values with the scale and header of its source. Without a
            header it becomes a secondary capture.
        lesions: what was infilled.
        generator_id: which generator did it, at most 64 characters.

    Returns:
        A dataset with its file meta information, ready to be written.
    """
    film = _without_source() if infilled.header is None else _like_source(infilled.header)
    now = datetime.datetime.now()
    film.ImageType = ["DERIVED", "SECONDARY", *list(film.get("ImageType") or [])[2:]]
    film.SyntheticData = "YES"
    film.DerivationDescription = _description(lesions)
    film.SeriesInstanceUID = generate_uid()
    film.SeriesNumber = _FILM_SERIES_NUMBER
    film.SeriesDescription = _SERIES_DESCRIPTION
    film.InstanceNumber = 1
    film.InstanceCreationDate = film.ContentDate = now.strftime("%Y%m%d")
    film.InstanceCreationTime = film.ContentTime = now.strftime("%H%M%S")
    film.ContributingEquipmentSequence = [
        *film.get("ContributingEquipmentSequence", []),
        _equipment(generator_id, now),
    ]
    film.file_meta = pydicom.dataset.FileMetaDataset()
    film.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    _set_pixels(film, infilled)
    return film


def _set_pixels(film: pydicom.Dataset, infilled: FilmPixels) -> None:
    """Stores the pixels as the source does: its depth, sign and photometric interpretation."""
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
    film: pydicom.Dataset, lesions: Sequence[FilmLesion], generator_id: str
) -> pydicom.Dataset:
    """Returns the lesions' masks as a DICOM segmentation of the new film, one segment each.

    Args:
        film: what `derived_film` returned.
        lesions: what was infilled.
        generator_id: which generator did it, at most 64 characters.
    """
    shape = film.Rows, film.Columns
    masks = np.stack([lesion.on_film(shape) for lesion in lesions], axis=-1)
    with warnings.catch_warnings():
        # The names of public films' patients are not of the form that DICOM wants.
        warnings.filterwarnings("ignore", message="The string .* is unlikely to represent")
        masked = hd.seg.Segmentation(
            source_images=[film],
            pixel_array=masks[None],
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_segment(i + 1, lesion) for i, lesion in enumerate(lesions)],
            series_instance_uid=generate_uid(),
            series_number=_MASK_SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=_MAKER,
            manufacturer_model_name=_MAKER,
            software_versions=generator_id,
            device_serial_number=generator_id,
            content_label="LESIONS",
            content_description="Where a generative network infilled the film",
            series_description=_SERIES_DESCRIPTION,
            omit_empty_frames=False,
        )
    masked.SyntheticData = "YES"
    masked.PatientOrientation = None  # must be there, may be empty
    return masked


def to_bytes(dataset: pydicom.Dataset) -> bytes:
    """Returns a dataset as the content of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _like_source(source: pydicom.Dataset) -> pydicom.Dataset:
    film = copy.deepcopy(source)
    film.remove_private_tags()
    for keyword in _OF_THE_SOURCE_ALONE:
        film.pop(keyword, None)
    for tag in list(film.group_dataset(_PIXEL_DATA_GROUP).keys()):
        del film[tag]
    reference = pydicom.Dataset()
    reference.ReferencedSOPClassUID = UID(source.SOPClassUID)
    reference.ReferencedSOPInstanceUID = UID(source.SOPInstanceUID)
    reference.PurposeOfReferenceCodeSequence = [
        _code(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    film.SourceImageSequence = [reference]
    return film


def _without_source() -> pydicom.Dataset:
    film = pydicom.Dataset()
    for keyword in _EMPTY_WITHOUT_SOURCE:
        setattr(film, keyword, None)
    film.SOPClassUID = SecondaryCaptureImageStorage
    film.StudyInstanceUID = generate_uid()
    film.Modality = "MG"
    film.ConversionType = "WSD"  # workstation
    film.BodyPartExamined = "BREAST"
    return film


def _description(lesions: Sequence[FilmLesion]) -> str:
    malignant = sum(lesion.malignant for lesion in lesions)
    return (
        "Synthetic image, not for diagnosis. A generative network (ciGAN) infilled "
        f"{len(lesions)} region(s) of the source image: {malignant} as malignant, "
        f"{len(lesions) - malignant} as non-malignant. Outside of them the pixels are the source's."
    )


def _equipment(generator_id: str, now: datetime.datetime) -> pydicom.Dataset:
    equipment = pydicom.Dataset()
    equipment.Manufacturer = _MAKER
    equipment.ManufacturerModelName = _MAKER
    equipment.SoftwareVersions = generator_id
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")
    equipment.ContributionDescription = "Infilled lesions with a generative network"
    equipment.PurposeOfReferenceCodeSequence = [_code(codes.DCM.ModifyingEquipment)]
    return equipment


def _segment(number: int, lesion: FilmLesion) -> hd.seg.SegmentDescription:
    if lesion.malignant:
        category, kind = codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion
    else:
        category, kind = codes.SCT.Tissue, codes.SCT.SoftTissue
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"{lesion.label} infill {number}",
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )


def _code(code) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
