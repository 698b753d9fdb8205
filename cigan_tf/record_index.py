"""Where each record of a split lies and the facts by which it is chosen: read once, then kept.

A record can then be read by its number, and records of a class, a patient or with a lesion are
found without reading any. The index of a split is stored in `record_index/` beside its records, or
where that cannot be written in the user's cache, and is made again when a file of the split has
changed.
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
import tqdm
from etils import epath

from cigan_tf.errors import UserError

_FOLDER = "record_index"
_FORMAT = 2

# A TFRecord is its data's length (uint64), that length's checksum (uint32), the data, and the
# data's checksum (uint32).
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")

_FACTS = {
    **{name: tf.io.FixedLenFeature((), tf.int64) for name in ("label", "lesion_type", "simulated")},
    **{name: tf.io.FixedLenFeature((), tf.string) for name in ("patient_id", "film_id", "mask")},
    # Of synthetic sets alone.
    "infill": tf.io.FixedLenFeature((), tf.int64, default_value=0),
}
# A damaged length may be any number, and a seek takes no more.
_MOST_BYTES = 2**40
_RECORDS_AT_ONCE = 256
_SILENT_S = 2.0


@dataclasses.dataclass(frozen=True)
class RecordIndex:
    """The n records of a split, in stored order.

    Attributes:
        files: paths of the split's TFRecord files.
        file_number: in which of them a record lies, int32 [n].
        start: the record's first byte there, int64 [n].
        length: of its data in bytes, uint64 [n].
        checksum: of its data, as the file records it, uint32 [n].
        label: 0 non-malignant, 1 malignant, int64 [n].
        lesion_type: as the dataset numbers its types, 0 without a lesion, int64 [n].
        simulated: whether the lesion was drawn, bool [n].
        patient_id: bytes [n].
        film_id: bytes [n].
        infill: in a synthetic set, which infill of its patch this is, from 0; int64 [n].
        masks: the PNG masks of all lesions, one after the other, uint8 [bytes]. A mask is a
            hundredth of its patch, and most patches without a lesion need one of another record.
        mask_end: where a record's mask ends there and the next one's begins, int64 [n].
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
        """Which records have a lesion, bool [n]."""
        return self.lesion_type > 0

    def patch_ids(self) -> list[bytes]:
        """Returns the id that TFDS gives to each record: its file and its place there."""
        names = [os.path.basename(file) for file in self.files]
        first = np.searchsorted(self.file_number, np.arange(len(names)))
        places = np.arange(len(self.label)) - first[self.file_number]
        pairs = zip(self.file_number.tolist(), places.tolist(), strict=True)
        return [f"{names[number]}__{place}".encode() for number, place in pairs]

    def mask_png(self) -> list[bytes]:
        """Returns the mask of each record as PNG, of those without a lesion nothing."""
        content, ends = self.masks.tobytes(), self.mask_end.tolist()
        return [content[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def headers(self) -> Iterator[tuple[str, bytes]]:
        """Yields each file with the length and checksum of its records, 12 bytes for each."""
        pairs = np.empty(len(self.length), [("length", "<u8"), ("checksum", "<u4")])
        pairs["length"], pairs["checksum"] = self.length, self.checksum
        for number, file in enumerate(self.files):
            yield file, pairs[self.file_number == number].tobytes()


_ARRAYS = tuple(field.name for field in dataclasses.fields(RecordIndex) if field.name != "files")


def of_split(builder, split: str) -> RecordIndex:
    """Returns the index of a split of an open TFDS dataset that is stored as TFRecord files.

    Raises:
        UserError: the files are damaged, cut short or of another format.
    """
    if builder.info.file_format.value != "tfrecord":
        raise UserError(
            f"Records are read by their place in TFRecord files; build {builder.info.full_name!r} "
            f"with --file_format=tfrecord. Received: {builder.info.file_format.value}."
        )
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
    """Returns what changes when a file does: its name, bytes and time of change."""
    name = os.path.basename(file)
    try:
        stat = os.stat(file)
    except OSError:  # not on this machine; TensorFlow's file systems know seconds alone
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
    """Returns stored arrays, None where there are none, damaged ones, or those of other files."""
    try:
        with place.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["state"]) != state:
                return None
            return {name: stored[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, tf.errors.OpError):
        return None


def _save(place: epath.Path, arrays: dict[str, np.ndarray], state: str) -> bool:
    """Stores arrays whole or not at all; returns whether they could be stored."""
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
    with tqdm.tqdm(desc=f"Indexing the {split} split", unit="record", delay=_SILENT_S) as progress:
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
        # Objects become bytes of one width: an index holds nothing that is unpickled.
        **{name: joined[name].astype(np.bytes_) for name in ("patient_id", "film_id")},
        "masks": np.frombuffer(b"".join(masks), np.uint8),
        "mask_end": np.cumsum([len(png) for png in masks], dtype=np.int64),
    }


def _headers(path: epath.Path) -> Iterator[tuple[int, int]]:
    """Yields the length and the checksum of each record; the data between them are skipped."""
    with path.open("rb") as file:
        while header := file.read(_HEADER.size):
            if len(header) < _HEADER.size:
                raise UserError(f"{str(path)!r} is cut short; build the dataset again.")
            length, _ = _HEADER.unpack(header)
            file.seek(min(length, _MOST_BYTES), os.SEEK_CUR)
            footer = file.read(_FOOTER.size)
            if len(footer) < _FOOTER.size:
                raise UserError(f"{str(path)!r} is cut short; build the dataset again.")
            yield length, *_FOOTER.unpack(footer)


def _facts(file: str) -> Iterator[dict[str, np.ndarray]]:
    records = tf.data.TFRecordDataset(file).batch(_RECORDS_AT_ONCE)
    facts = records.map(lambda batch: tf.io.parse_example(batch, _FACTS)).prefetch(2)
    try:
        yield from facts.as_numpy_iterator()
    except tf.errors.OpError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file!r} cannot be read ({reason}); build the dataset again.") from None
