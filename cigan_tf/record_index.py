"""Index of a split: the position of each record and the facts used to select records.

The index makes it possible to read a record by its number, and to find the records of a class or
patient, or those with a lesion, without reading any records. It is stored in `record_index/` next
to the records, or in the user's cache if that folder is not writable. It is rebuilt if a file of
the split has changed.
"""

import dataclasses
import hashlib
import io
import json
import os
import struct
import uuid
import zipfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from etils import epath

from cigan_tf import terminal
from cigan_tf.errors import UserError, first_line

_FOLDER = "record_index"
_FORMAT = 2

# A TFRecord consists of the length of its data (uint64), the checksum of that length (uint32), the
# data, and the checksum of the data (uint32).
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")

_FACTS = {
    **{name: tf.io.FixedLenFeature((), tf.int64) for name in ("label", "lesion_type", "simulated")},
    **{name: tf.io.FixedLenFeature((), tf.string) for name in ("patient_id", "film_id", "mask")},
    # Only in synthetic sets.
    "infill": tf.io.FixedLenFeature((), tf.int64, default_value=0),
}
# A damaged length may be any number; a seek is limited to this.
_MOST_BYTES = 2**40
_RECORDS_AT_ONCE = 256
_SILENT_S = 2.0


@dataclasses.dataclass(frozen=True)
class RecordIndex:
    """The n records of a split, in stored order.

    Attributes:
        files: paths of the split's TFRecord files.
        file_number: number of the file with the record, int32 [n].
        start: first byte of the record in its file, int64 [n].
        length: length of the record's data in bytes, uint64 [n].
        checksum: checksum of the record's data, as stored in the file, uint32 [n].
        label: 0 non-malignant, 1 malignant, int64 [n].
        lesion_type: the dataset's number for the type, 0 if there is no lesion, int64 [n].
        simulated: whether the lesion is simulated, bool [n].
        patient_id: bytes [n].
        film_id: bytes [n].
        infill: in a synthetic set, which of its patch's infills the record is, counting from 0;
            int64 [n].
        masks: the concatenated PNG masks of all lesions, uint8 [bytes]. They are in the index
            because patches without a lesion need the masks of other records. They are small: a
            mask has about a hundredth of the bytes of its patch.
        mask_end: end of each record's mask in `masks`, int64 [n].
    """

    files: tuple[str, ...]
    file_number: np.ndarray
    start: np.ndarray
    length: np.ndarray
    checksum: np.ndarray
    label: np.ndarray
    lesion_type: np.ndarray
    simulated: np.ndarray
    patient_id: np.ndarray
    film_id: np.ndarray
    infill: np.ndarray
    masks: np.ndarray
    mask_end: np.ndarray

    @property
    def has_lesion(self) -> np.ndarray:
        """Whether each record has a lesion, bool [n]."""
        return self.lesion_type > 0

    def patch_ids(self) -> list[bytes]:
        """Returns the ids that TFDS gives to the records: file and position."""
        names = [os.path.basename(file) for file in self.files]
        first = np.searchsorted(self.file_number, np.arange(len(names)))
        places = np.arange(len(self.label)) - first[self.file_number]
        pairs = zip(self.file_number.tolist(), places.tolist(), strict=True)
        return [f"{names[number]}__{place}".encode() for number, place in pairs]

    def mask_png(self) -> list[bytes]:
        """Returns the PNG mask of each record, empty for records without a lesion."""
        content, ends = self.masks.tobytes(), self.mask_end.tolist()
        return [content[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def headers(self) -> Iterator[tuple[str, bytes]]:
        """Yields each file with 12 bytes per record: `length` (uint64) and `checksum` (uint32)."""
        pairs = np.empty(len(self.length), [("length", "<u8"), ("checksum", "<u4")])
        pairs["length"], pairs["checksum"] = self.length, self.checksum
        for number, file in enumerate(self.files):
            yield file, pairs[self.file_number == number].tobytes()


_ARRAYS = tuple(field.name for field in dataclasses.fields(RecordIndex) if field.name != "files")


def of_split(builder, split: str) -> RecordIndex:
    """Returns the index of a split of an open TFDS dataset that is stored as TFRecord files.

    Raises:
        UserError: the files are damaged or truncated.
    """
    files = tuple(os.fspath(path) for path in builder.info.splits[split].filepaths)
    state = json.dumps([_FORMAT, *map(_state, files)])
    places = _places(os.fspath(builder.data_path), split)
    for place in places:
        if (arrays := _load(place, state)) is not None:
            return RecordIndex(files, **arrays)
    arrays = _scan(files, split)
    for place in places:
        if _save(place, arrays, state):
            break
    return RecordIndex(files, **arrays)


def _state(file: str) -> tuple[str, int, int]:
    """Returns values that change with a file: its name, size and modification time."""
    name = os.path.basename(file)
    try:
        stat = os.stat(file)
    except OSError:  # not on this machine; TensorFlow's file systems report only seconds
        stat = tf.io.gfile.stat(file)
        return name, stat.length, stat.mtime_nsec
    return name, stat.st_size, stat.st_mtime_ns


def _places(folder: str, split: str) -> list[epath.Path]:
    cache = epath.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    digest = hashlib.sha256(folder.encode()).hexdigest()
    return [
        epath.Path(folder) / _FOLDER / f"{split}.npz",
        cache / "cigan" / _FOLDER / digest / f"{split}.npz",
    ]


def _load(place: epath.Path, state: str) -> dict[str, np.ndarray] | None:
    """Returns the stored arrays; None if they are missing, damaged or outdated."""
    try:
        with place.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["state"]) != state:
                return None
            return {name: stored[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, tf.errors.OpError):
        return None


def _save(place: epath.Path, arrays: dict[str, np.ndarray], state: str) -> bool:
    """Stores arrays atomically; returns whether they could be stored."""
    content = io.BytesIO()
    np.savez(content, state=np.array(state), **arrays)
    beside = place.with_name(f"{place.name}.{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(content.getvalue())
            beside.replace(place)
        finally:
            beside.unlink(missing_ok=True)
    except (OSError, tf.errors.OpError):
        return False
    return True


def _scan(files: tuple[str, ...], split: str) -> dict[str, np.ndarray]:
    """Returns the arrays of an index from the records themselves."""
    columns = {name: [] for name in ("file_number", "start", "length", "checksum", *_FACTS)}
    with terminal.progress_bar(
        desc=f"Indexing the {split} split", unit="record", delay=_SILENT_S
    ) as progress:
        for number, file in enumerate(files):
            headers = np.array(list(_headers(epath.Path(file))), np.uint64).reshape(-1, 2)
            ends = np.cumsum(headers[:, 0].astype(np.int64) + _HEADER.size + _FOOTER.size)
            columns["file_number"].append(np.full(len(headers), number, np.int32))
            columns["start"].append(np.concatenate([[0], ends[:-1]])[: len(headers)])
            columns["length"].append(headers[:, 0])
            columns["checksum"].append(headers[:, 1].astype(np.uint32))
            for facts in _facts(file):
                for name, values in facts.items():
                    columns[name].append(values)
                progress.update(len(values))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    lesions = zip(joined["mask"], joined["lesion_type"], strict=True)
    masks = [png if lesion_type else b"" for png, lesion_type in lesions]
    as_stored = ("file_number", "start", "length", "checksum", "label", "lesion_type", "infill")
    return {
        **{name: joined[name] for name in as_stored},
        "simulated": joined["simulated"] > 0,
        # Objects are stored as fixed-width bytes, so that loading never unpickles.
        **{name: joined[name].astype(np.bytes_) for name in ("patient_id", "film_id")},
        "masks": np.frombuffer(b"".join(masks), np.uint8),
        "mask_end": np.cumsum([len(png) for png in masks], dtype=np.int64),
    }


def _headers(path: epath.Path) -> Iterator[tuple[int, int]]:
    """Yields the length and checksum of each record, skipping the data."""
    with path.open("rb") as file:
        while header := file.read(_HEADER.size):
            if len(header) < _HEADER.size:
                raise UserError(f"{str(path)!r} is truncated; build the dataset again.")
            length, _ = _HEADER.unpack(header)
            file.seek(min(length, _MOST_BYTES), os.SEEK_CUR)
            footer = file.read(_FOOTER.size)
            if len(footer) < _FOOTER.size:
                raise UserError(f"{str(path)!r} is truncated; build the dataset again.")
            yield length, *_FOOTER.unpack(footer)


def _facts(file: str) -> Iterator[dict[str, np.ndarray]]:
    records = tf.data.TFRecordDataset(file).batch(_RECORDS_AT_ONCE)
    # AutoGraph would take longer than reading a small file.
    parse = tf.autograph.experimental.do_not_convert(lambda of: tf.io.parse_example(of, _FACTS))
    facts = records.map(parse).prefetch(2)
    try:
        yield from facts.as_numpy_iterator()
    except tf.errors.OpError as error:
        raise UserError(
            f"{file!r} cannot be read ({first_line(error)}); build the dataset again."
        ) from None
