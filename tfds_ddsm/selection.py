"""Selects a dataset's films and splits before any pixels are read, and lists what is skipped."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from tfds_ddsm import patches
from tfds_ddsm.dataset_config import DatasetError, DdsmPatchesConfig
from tfds_ddsm.film_examples import FilmReport
from tfds_ddsm.mammogram import SPLITS, Film, Skipped, Source, StorageError

MAX_SKIPPED_SHARE = 0.05

# A hash cannot spread two patients over three splits. All malignant lesions belong to P_00820.
_SAMPLE_SPLITS = {"P_00820": "train", "P_00173": "validation"}


@dataclasses.dataclass(frozen=True)
class Selection:
    """The films to build from, and the items known to be missing before any film is read.

    Attributes:
        films: by split, the films that give patches.
        plan: by film_id, numbers of malignant, benign and background patches.
        skipped: items skipped by the source's index.
        allowed_failures: maximum number of films that may turn out unreadable; None: no limit.
    """

    films: Mapping[str, tuple[Film, ...]]
    plan: Mapping[str, tuple[int, int, int]]
    skipped: tuple[Skipped, ...]
    allowed_failures: int | None


def select(source: Source, config: DdsmPatchesConfig) -> Selection:
    """Reads the source's index and divides the patches among its films.

    Raises:
        DatasetError: the index cannot be read, or too much is missing and the config does not allow
            it.
    """
    try:
        films = source.index()
        skipped = list(source.skipped())
    except (ValueError, OSError, StorageError) as error:
        raise DatasetError(str(error)) from error
    allowed = check_complete(len(films), skipped, config)
    split_of = {film.film_id: _split_of(source, film, config) for film in films}
    skipped += _patients_in_both(films, split_of)
    films = [film for film in films if split_of[film.film_id]]
    plan = patches.plan_patches(films, config.patches_per_class, config.background_share)
    by_split = {
        split: tuple(
            film for film in films if split_of[film.film_id] == split and any(plan[film.film_id])
        )
        for split in SPLITS
    }
    return Selection(
        films={split: films for split, films in by_split.items() if films},
        plan=plan,
        skipped=tuple(skipped),
        allowed_failures=allowed,
    )


def check_complete(
    num_films: int, skipped: Sequence[Skipped], config: DdsmPatchesConfig
) -> int | None:
    """Returns the number of films that may turn out unreadable; None: no limit.

    Args:
        num_films: number of films in the index of the source.
        skipped: items that the index skips.
        config: says where the films are from, and whether any may be skipped.

    Raises:
        DatasetError: too much is missing, and the config does not allow it.
    """
    if config.allow_skipped:
        return None
    missing = [item.reason for item in skipped if item.kind == "CSV file"]
    if missing:
        raise DatasetError(
            f"{missing[0]}; download it from the CBIS-DDSM page of cancerimagingarchive.net, or "
            "set allow_skipped in the config to continue without it."
        )
    lost = [item for item in skipped if item.kind in ("film", "CSV row")]
    # A user's own table can be corrected, unlike a public collection, so no film may be skipped.
    share = 0 if config.source == "films" else MAX_SKIPPED_SHARE
    allowed = int(share * (num_films + len(lost))) - len(lost)
    if allowed < 0:
        raise too_many_skipped(lost[0].reason, config)
    return allowed


def too_many_skipped(example: str, config: DdsmPatchesConfig) -> DatasetError:
    """Returns the error for a build with too many missing films."""
    if config.source == "films":
        return DatasetError(
            f"{example}. Use cigan-check to list all items that cannot be used. Correct them, or "
            "set allow_skipped in the config to continue without these films."
        )
    return DatasetError(
        f"More than {MAX_SKIPPED_SHARE:.0%} of the films cannot be used, for example {example}. "
        "Download them again, or set allow_skipped in the config to continue without them."
    )


def picture_check(source_name: str) -> Callable[[FilmReport], FilmReport]:
    """Returns a function to call with the reports of all films in order.

    For a user's own films, the function detects an image that is listed under two patients, who
    could be in different splits. It then returns a report with an error for the later film.
    """
    if source_name != "films":
        return lambda report: report
    films_by_picture: dict[str, Film] = {}

    def checked(report: FilmReport) -> FilmReport:
        if report.error:
            return report
        first = films_by_picture.setdefault(report.picture_sha256, report.film)
        if first.patient_id == report.film.patient_id:
            return report
        error = f"the same image as {first.film_id} of the patient {first.patient_id}"
        return FilmReport(report.film, report.planned, error=error)

    return checked


def _split_of(source: Source, film: Film, config: DdsmPatchesConfig) -> str | None:
    """Returns the film's split, or None if TCIA lists its patient in both train and test."""
    if config.source == "sample":
        return _SAMPLE_SPLITS[film.patient_id]
    if config.source == "films":
        return source.split_of(film)
    split = patches.split_of(film.patient_id)
    if not config.official_split:
        return split
    official = source.official_split(film)
    # TCIA has no validation split: use a tenth of its training patients, by the same hash.
    return split if (official, split) == ("train", "validation") else official


def _patients_in_both(films: Sequence[Film], split_of: Mapping[str, str | None]) -> list[Skipped]:
    patients = sorted({film.patient_id for film in films if split_of[film.film_id] is None})
    reason = "in both a train and a test file of TCIA, and therefore in neither split"
    return [Skipped("patient", patient, reason) for patient in patients]
