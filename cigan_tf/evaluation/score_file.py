"""A classifier's score for each patch of a split, and the CSV file that stores the scores."""

import csv
import dataclasses
import io

import numpy as np
from etils import epath

from cigan_tf import file_io
from cigan_tf.errors import UserError, first_line
from cigan_tf.evaluation import checks

FILE_NAME = "scores.csv"
VALIDATION_FILE_NAME = "validation_scores.csv"
# Optional columns, and their values if they are missing.
_UNKNOWN = {"lesion_type": "unknown", "lesion_area_px": -1, "density": -1, "subtlety": -1}


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """One classifier's probabilities, and facts about the patches; all arrays are [n], n > 0.

    Ids may be any text; they are only compared for equality. The last four arrays may be omitted;
    their values are then unknown.

    Attributes:
        patch: unique id of the patch in the dataset, str.
        patient_id: str.
        film_id: str.
        scanner: make of the film digitiser, str; 'unknown' if the source does not specify it.
        label: 0 (non-malignant) or 1 (malignant), int64.
        probability: probability of malignancy, in [0, 1], float64.
        lesion_type: 'mass', 'calcification', 'other' or 'none', str; 'unknown' if it is omitted.
        lesion_area_px: pixels of the patch's lesion mask, 0 without a lesion, int64; -1 if unknown.
        density: BI-RADS density of the film, 1 to 4, int64; -1 if unknown.
        subtlety: subtlety of the lesion, 1 (subtle) to 5 (obvious), int64; -1 if unknown.

    Raises:
        UserError: no patches, unequal lengths, several scores for one patch, labels outside {0, 1},
            probabilities that are NaN or outside [0, 1].
    """

    patch: np.ndarray
    patient_id: np.ndarray
    film_id: np.ndarray
    scanner: np.ndarray
    label: np.ndarray
    probability: np.ndarray
    lesion_type: np.ndarray | None = None
    lesion_area_px: np.ndarray | None = None
    density: np.ndarray | None = None
    subtlety: np.ndarray | None = None

    def __post_init__(self):
        malignant = checks.check_labels(self.label)
        converted = {
            "label": malignant.astype(np.int64),
            "probability": checks.check_probabilities(self.probability, malignant.size),
        }
        for name in ("patch", "patient_id", "film_id", "scanner"):
            converted[name] = np.asarray(getattr(self, name), dtype=str)
            checks.check_length(name, converted[name], malignant.size)
        for name, unknown in _UNKNOWN.items():
            given = getattr(self, name)
            values = np.full(malignant.size, unknown) if given is None else np.asarray(given)
            converted[name] = values.astype(str if name == "lesion_type" else np.int64)
            checks.check_length(name, converted[name], malignant.size)
        for name, values in converted.items():
            object.__setattr__(self, name, values)
        patches, times = np.unique(self.patch, return_counts=True)
        if patches.size < self.patch.size:
            raise UserError(
                "every patch must have one score; received several for patch "
                f"{str(patches[times > 1][0])!r}."
            )


_COLUMNS = tuple(field.name for field in dataclasses.fields(Scores))
_TYPES = {
    "label": int,
    "probability": float,
    "lesion_area_px": int,
    "density": int,
    "subtlety": int,
}
_REQUIRED = tuple(name for name in _COLUMNS if name not in _UNKNOWN)


def write(path: epath.Path, scores: Scores) -> None:
    """Writes the scores as CSV with a header; probabilities have full precision."""
    table = io.StringIO()
    # All texts are quoted, so that ids may contain commas, quotes and line breaks.
    writer = csv.writer(table, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(zip(*(getattr(scores, name).tolist() for name in _COLUMNS), strict=True))
    file_io.write_whole(path, table.getvalue())


def read(path: epath.Path) -> Scores:
    """Reads a file in the format that `write` produces.

    The columns may be in any order, and other columns are ignored.

    Raises:
        UserError: there is no such file, it is not a CSV table, a column is missing, there are no
            rows, a row is truncated, or `Scores` rejects the values.
    """
    try:
        table = io.StringIO(path.read_bytes().decode("utf-8"), newline="")
        header, *rows = list(csv.reader(table)) or [[]]
    except FileNotFoundError:
        raise UserError(
            f"There are no scores in {str(path)!r}; run the experiment that writes them."
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"The scores in {str(path)!r} cannot be read ({first_line(error)}); delete the file "
            "and run the experiment again."
        ) from None
    try:
        return _from_table(header, rows)
    except (UserError, ValueError) as error:
        raise UserError(
            f"The scores in {str(path)!r} cannot be used: {first_line(error)}. Correct the file, "
            "or delete it and run the experiment again."
        ) from None


def _from_table(header: list[str], rows: list[list[str]]) -> Scores:
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        raise UserError(f"the columns {', '.join(missing)} are missing from {', '.join(header)}.")
    if not rows:
        raise UserError("there must be rows after the header; received none.")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UserError(
                f"row {number} has {len(row)} values, but the header has {len(header)}."
            )
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    present = [name for name in _COLUMNS if name in columns]
    return Scores(
        **{name: np.array([_TYPES.get(name, str)(v) for v in columns[name]]) for name in present}
    )
