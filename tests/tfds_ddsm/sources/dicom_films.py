"""Small mammograms like those of devices and archives: any depth, sign and transfer syntax."""

import io
from collections.abc import Callable, Iterator

import numpy as np
import PIL.Image
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from scipy import ndimage

from tests.tfds_ddsm.sources import pvrg_encoder

UNCOMPRESSED = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
LOSSLESS = (
    *UNCOMPRESSED,
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
)
LOSSY = (uid.JPEGBaseline8Bit, uid.JPEGLSNearLossless, uid.JPEG2000)
_LOSSY = {uid.JPEGLSNearLossless: {"jls_error": 2}, uid.JPEG2000: {"j2k_cr": [2]}}


def tissue(bits: int, signed: bool = False, shape: tuple[int, int] = (80, 64)) -> np.ndarray:
    """Returns smooth stored values with some noise that use the full depth."""
    noise = np.random.default_rng(bits).normal(size=shape)
    grey = ndimage.gaussian_filter(noise, 3) + 0.01 * noise
    grey = (grey - grey.min()) / np.ptp(grey) * (2**bits - 1)
    stored = np.round(grey).astype(np.int32) - (2 ** (bits - 1) if signed else 0)
    return stored.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")


def film(
    stored: np.ndarray | None = None,
    bits: int = 16,
    edit: Callable[[Dataset], object] = lambda dataset: None,
    **attributes,
) -> Dataset:
    """Returns an uncompressed mammogram for presentation with the given attributes."""
    stored = tissue(bits) if stored is None else stored
    dataset = Dataset()
    dataset.SOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, name, uid.generate_uid())
    for name in ("PatientBirthDate", "StudyTime", "ReferringPhysicianName", "StudyID"):
        setattr(dataset, name, "")
    dataset.PatientName, dataset.PatientID, dataset.PatientSex = "Roe^Jane", "4711", "F"
    dataset.AccessionNumber, dataset.InstitutionName = "ACC1", "St. Elsewhere"
    dataset.OperatorsName, dataset.StudyDate, dataset.Modality = "Doe^John", "20200101", "MG"
    dataset.ImageType, dataset.PatientOrientation = ["ORIGINAL", "PRIMARY"], ["P", "F"]
    dataset.ImageLaterality, dataset.ViewPosition = "L", "CC"
    dataset.add_new(0x00110010, "LO", "ACME")
    dataset.add_new(0x00111001, "LO", "Jane's own")
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = 8 * stored.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OB" if stored.itemsize == 1 else "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    for name, value in attributes.items():
        setattr(dataset, name, value)
    edit(dataset)
    return dataset


def content(dataset: Dataset) -> bytes:
    """Returns a dataset as the content of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def encoded(dataset: Dataset, syntax: str) -> bytes:
    """Returns an uncompressed film as a file of another transfer syntax."""
    if syntax in UNCOMPRESSED:
        if syntax == uid.ExplicitVRBigEndian and dataset.BitsAllocated == 16:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax == uid.JPEGBaseline8Bit:
        stored = np.frombuffer(dataset.PixelData, np.uint8).reshape(dataset.Rows, dataset.Columns)
        PIL.Image.fromarray(stored).save(jpeg := io.BytesIO(), "JPEG", quality=95)
        dataset.PixelData = pydicom.encaps.encapsulate([jpeg.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        stored = np.frombuffer(dataset.PixelData, f"<u{dataset.BitsAllocated // 8}")
        stream = pvrg_encoder.encode(
            stored.reshape(dataset.Rows, dataset.Columns) & (2**dataset.BitsStored - 1),
            predictor=1 if syntax == uid.JPEGLosslessSV1 else 6,
            precision=dataset.BitsStored,
            first_line_of_t81=True,
        )
        dataset.PixelData = pydicom.encaps.encapsulate([stream])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, generate_instance_uid=False, **_LOSSY.get(syntax, {}))
    return content(dataset)


def damaged(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields damaged copies of a DICOM file.

    Some are truncated, some lack a part or repeat one; in the others, bytes of the attributes,
    of their lengths or of the pixels' stream are changed.
    """
    rng = np.random.default_rng(seed)
    pixels = data.index(b"\xe0\x7f\x10\0") if b"\xe0\x7f\x10\0" in data else len(data)
    for number in range(count):
        copy = np.frombuffer(data, np.uint8).copy()
        match number % 6:
            case 0:
                copy = copy[: rng.integers(1, len(data))]
            case 1:
                start, past = sorted(rng.integers(0, len(data), 2))
                copy = np.delete(copy, slice(start, past))
            case 2:
                start, past = sorted(rng.integers(128, pixels, 2))
                copy = np.insert(copy, start, copy[start:past])
            case 3:
                copy[rng.integers(128, pixels, 4)] = rng.integers(0, 256, 4)
            case 4:  # the pixels' length, the basic offset table or the stream's header
                places = pixels + rng.integers(0, 120, 3)
                copy[places % len(data)] = rng.integers(0, 256, 3)
            case 5:
                copy[rng.integers(pixels % len(data), len(data), 5)] = rng.integers(0, 256, 5)
        yield copy.tobytes()
