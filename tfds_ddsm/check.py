"""Says what a folder of mammograms holds and what is missing, before hours of building.

    python -m tfds_ddsm.check --manual_dir=DIR

Reads names and the small text files only, no pixels. Exit code 2 where no dataset can be built.
"""

import collections
import sys
from collections.abc import Iterable, Iterator, Sequence

from absl import app, flags
from etils import epath

from tfds_ddsm import patches
from tfds_ddsm.dataset_config import DdsmPatchesConfig
from tfds_ddsm.mammogram import LESION_TYPES, Film, UnreadableFilmError
from tfds_ddsm.sources import folders
from tfds_ddsm.sources.cbis_ddsm import CbisDdsmSource
from tfds_ddsm.sources.cbis_ddsm_index import CbisDdsmIndex
from tfds_ddsm.sources.cbis_ddsm_rows import CSV_NAMES
from tfds_ddsm.sources.ddsm import DdsmSource

_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir", None, "Folder with the downloaded films: CBIS-DDSM, DDSM or both."
)
_PATCHES_PER_CLASS = flags.DEFINE_integer(
    "patches_per_class",
    DdsmPatchesConfig.patches_per_class,
    "Patches per class, over all splits, that the config to build asks for.",
    lower_bound=1,
)

_DDSM_SUFFIXES = (".ics", ".overlay", ".ljpeg")
_NUM_EXAMPLES = 3
_SPLITS = ("train", "validation", "test")


def describe(manual_dir: str, patches_per_class: int) -> str:
    """Returns the whole text.

    Raises:
        ValueError: the folder does not exist, or holds nothing that a dataset can be built from.
    """
    root = epath.Path(manual_dir).expanduser()
    if not root.exists():
        raise ValueError(f"--manual_dir must be an existing folder, received {manual_dir!r}.")
    found = _sources_in(root)
    if not found:
        raise ValueError(
            f"{root}: neither a CSV file of CBIS-DDSM ({CSV_NAMES[0]}, ...) nor an .ics, .OVERLAY "
            "or .LJPEG file of DDSM is here or below."
        )
    describers = {"cbis_ddsm": _describe_cbis_ddsm, "ddsm": _describe_ddsm}
    lines = []
    for config_name, describer in describers.items():
        if config_name in found:
            lines += [*describer(root, patches_per_class), ""]
    return "\n".join(lines[:-1])


def _sources_in(root: epath.Path) -> set[str]:
    """Returns the names of the configs that the folder can feed, from file names alone."""
    found = set()
    for _, file_names in folders.walk(root):
        for name in map(str.lower, file_names):
            if name in CSV_NAMES:
                found.add("cbis_ddsm")
            elif name.endswith(_DDSM_SUFFIXES):
                found.add("ddsm")
        if len(found) == 2:
            break
    return found


def _describe_cbis_ddsm(root: epath.Path, patches_per_class: int) -> Iterator[str]:
    source = CbisDdsmSource(root)
    catalogue, films = source.catalogue, source.index()
    layouts = [f"{name} ({count} files)" for name, count in catalogue.num_files_by_layout.items()]
    yield f"ddsm_patches/cbis_ddsm from {root}"
    yield _line("layout", ", ".join(layouts))
    if "JPEG copy" in catalogue.num_files_by_layout:
        yield _line("", "the JPEG copy has 8 bits a pixel, TCIA's films have 16")
    yield _line("CSV files", f"{len(catalogue.csv_paths)} of {len(CSV_NAMES)}")
    for name in catalogue.missing_csv_names:
        yield _line("", f"{name} is missing: the lesions it lists could pass for healthy tissue")
    yield from _describe_films(films)
    yield from _describe_lesions(catalogue)
    patients = {film.patient_id for film in films if source.official_split(film) is None}
    yield _line("TCIA's split", f"{len(patients)} patients in both train and test")
    yield from _missing(
        f"{len(catalogue.left_out)} of {len(catalogue.left_out) + len(films)} films are left out",
        [f"{film.path}: {film.reason}" for film in catalogue.left_out],
    )
    yield from _missing(
        f"{len(catalogue.rejected_rows)} CSV rows are refused",
        [f"{row.where}: {row.reason}" for row in catalogue.rejected_rows],
    )
    if catalogue.num_unknown_files:
        yield f"{catalogue.num_unknown_files} .dcm or .jpg files lie in folders of no CSV row"
    yield from _expected_patches(films, patches_per_class)


def _describe_ddsm(root: epath.Path, patches_per_class: int) -> Iterator[str]:
    source = DdsmSource(root)
    films = source.index()
    yield f"ddsm_patches/ddsm from {root}"
    yield from _describe_films(films)
    malignant = sum(film.num_malignant for film in films)
    benign = sum(film.num_benign for film in films)
    yield _line("lesions", f"{malignant + benign}: {malignant} malignant, {benign} benign")
    unusable = [film for film in films if film.scanner == "unknown"]
    yield from _missing(
        f"{len(unusable)} of {len(films)} films cannot be used",
        [_why_unusable(source, film) for film in unusable],
    )
    yield from _expected_patches(films, patches_per_class)


def _why_unusable(source: DdsmSource, film: Film) -> str:
    """Returns what stops the film's reading before its pixels are reached."""
    try:
        source.read(film)
    except UnreadableFilmError as error:
        return str(error)
    return film.film_id


def _describe_films(films: Sequence[Film]) -> Iterator[str]:
    scanners = collections.Counter(film.scanner for film in films)
    by_scanner = ", ".join(f"{count} {name}" for name, count in sorted(scanners.items()))
    yield _line("films", f"{len(films)} (scanner: {by_scanner})")
    yield _line("patients", str(len({film.patient_id for film in films})))


def _describe_lesions(catalogue: CbisDdsmIndex) -> Iterator[str]:
    counts = collections.Counter(
        (lesion.lesion_type, lesion.malignant)
        for files in catalogue.films.values()
        for lesion in files.lesions
    )
    yield _line("lesions", str(counts.total()))
    for lesion_type in LESION_TYPES:
        malignant, benign = counts[lesion_type, True], counts[lesion_type, False]
        yield _line("", f"{lesion_type}: {malignant} malignant, {benign} benign")


def _missing(title: str, reasons: Sequence[str]) -> Iterator[str]:
    if reasons:
        yield f"{title}:"
        yield from (f"  {reason}" for reason in reasons[:_NUM_EXAMPLES])
    if len(reasons) > _NUM_EXAMPLES:
        yield f"  and {len(reasons) - _NUM_EXAMPLES} more"


def _expected_patches(films: Iterable[Film], patches_per_class: int) -> Iterator[str]:
    """Yields the plan's sums. A film gives fewer patches where it has no room for its share."""
    films = list(films)
    plan = patches.plan_patches(films, patches_per_class, DdsmPatchesConfig.background_share)
    sums = {split: [0, 0, 0] for split in _SPLITS}
    for film in films:
        counts = sums[patches.split_of(film.patient_id)]
        for kind, count in enumerate(plan[film.film_id]):
            counts[kind] += count
    yield "patches to expect, at most"
    yield f"  {'':12}{'malignant':>10}{'non-malignant':>15}{'benign lesion':>15}{'background':>12}"
    for split, (malignant, benign, background) in sums.items():
        yield f"  {split:12}{malignant:>10}{benign + background:>15}{benign:>15}{background:>12}"


def _line(title: str, text: str) -> str:
    return f"  {title:14}{text}"


def main(argv: Sequence[str]) -> int:
    """Prints the text; returns the exit code."""
    try:
        if len(argv) > 1:
            raise ValueError(f"unknown argument {argv[1]!r}; the folder goes to --manual_dir=DIR.")
        if not _MANUAL_DIR.value:
            raise ValueError("--manual_dir=DIR must name the folder with the downloaded films.")
        print(describe(_MANUAL_DIR.value, _PATCHES_PER_CLASS.value))
    except ValueError as error:
        print(f"tfds_ddsm.check: {error}", file=sys.stderr)
        return 2
    return 0


def _parse_flags(argv: Sequence[str]) -> Sequence[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"tfds_ddsm.check: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
