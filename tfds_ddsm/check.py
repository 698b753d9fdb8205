"""Lists available and missing files in a folder of mammograms, before a build that takes hours.

    cigan-check --manual_dir=DIR        # or python -m tfds_ddsm.check

For CBIS-DDSM and DDSM, the command reads file names and small text files, but no pixels. For a
user's own films (films.csv), it reads every film and mask. The exit code is 2 if a build would
stop: at an error in films.csv or its films, a missing CSV file or too many missing films.
"""

import collections
import sys
from collections.abc import Iterator, Mapping, Sequence

from absl import app, flags
from etils import epath

from tfds_ddsm import films_check, patches, selection
from tfds_ddsm.dataset_config import DatasetError, DdsmPatchesConfig
from tfds_ddsm.ddsm_patches.ddsm_patches_dataset_builder import Builder
from tfds_ddsm.mammogram import (
    LESION_TYPES,
    SPLITS,
    Film,
    Skipped,
    StorageError,
    UnreadableFilmError,
)
from tfds_ddsm.sources import folders, storage
from tfds_ddsm.sources.cbis_ddsm import CbisDdsmSource
from tfds_ddsm.sources.cbis_ddsm_index import CbisDdsmIndex
from tfds_ddsm.sources.cbis_ddsm_rows import CSV_NAMES
from tfds_ddsm.sources.ddsm import DdsmSource
from tfds_ddsm.sources.films import FilmsSource
from tfds_ddsm.sources.films_table import TABLE_NAME

_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir", None, "Folder with CBIS-DDSM, DDSM or both, or with films.csv and your own films."
)
_PATCHES_PER_CLASS = flags.DEFINE_integer(
    "patches_per_class",
    None,
    "Number of patches per class, over all splits, in the config to build; default: that of the "
    "config named after the source.",
    lower_bound=1,
)

_SOURCE = flags.DEFINE_enum(
    "source",
    None,
    ("cbis_ddsm", "ddsm", "films"),
    "Source to check; default: films.csv if the folder has one, otherwise CBIS-DDSM and DDSM.",
)

_DDSM_SUFFIXES = (".ics", ".overlay", ".ljpeg")
_NUM_EXAMPLES = 3


def describe(
    manual_dir: str, patches_per_class: int | None = None, source: str | None = None
) -> tuple[str, bool]:
    """Returns the text to print, and whether a build would stop.

    Args:
        manual_dir: the folder.
        patches_per_class: value in the config to build; None: that of the config named after the
            source.
        source: 'cbis_ddsm', 'ddsm' or 'films'; None: all sources found in the folder.

    Raises:
        ValueError: the folder does not exist, is in an unreadable bucket, or has no source of
            films.
        StorageError: a file is temporarily unreadable.
    """
    storage.check_location(manual_dir, "--manual_dir")
    root = epath.Path(manual_dir).expanduser()
    if not storage.exists(root):
        raise ValueError(f"--manual_dir must be an existing folder; received {manual_dir!r}.")
    if source is None and storage.exists(root / TABLE_NAME):
        source = "films"
    if source == "films":
        own = FilmsSource(root)
        findings = films_check.read_all(own)
        count = patches_per_class or _patches_per_class("films")
        lines = _describe_films_table(own, findings, root, count)
        return "\n".join(lines), findings.has_faults
    found = {source} if source else _sources_in(root)
    lines, stops = [], False
    for config_name, source_class, describer in (
        ("cbis_ddsm", CbisDdsmSource, _describe_cbis_ddsm),
        ("ddsm", DdsmSource, _describe_ddsm),
    ):
        if config_name in found:
            own = source_class(root)
            films, skipped = own.index(), own.skipped()
            unusable = _unusable(own, films) if config_name == "ddsm" else []
            count = patches_per_class or _patches_per_class(config_name)
            lines += [f"ddsm_patches/{config_name} from {root}"]
            lines += describer(own, films, unusable, count)
            try:
                selection.check_complete(
                    len(films) - len(unusable),
                    [*skipped, *unusable],
                    Builder.builder_configs[config_name],
                )
            except DatasetError as error:
                lines.append(f"A build stops: {error}")
                stops = True
            lines.append("")
    return "\n".join(lines[:-1]), stops


def _patches_per_class(config_name: str) -> int:
    return Builder.builder_configs[config_name].patches_per_class


def _sources_in(root: epath.Path) -> set[str]:
    """Returns the names of the configs for which the folder has films, judging by file names."""
    found, counts = set(), collections.Counter()
    for _, file_names in folders.walk(root):
        counts.update(map(folders.kind_of, file_names))
        for name in map(str.lower, file_names):
            if name in CSV_NAMES:
                found.add("cbis_ddsm")
            elif name.endswith(_DDSM_SUFFIXES):
                found.add("ddsm")
        if len(found) == 2:
            break
    if not found:
        raise ValueError(
            f"{root}: neither {TABLE_NAME}, nor a CSV file of CBIS-DDSM ({CSV_NAMES[0]}, ...), nor "
            f"an .ics, .OVERLAY or .LJPEG file of DDSM is here or below{folders.advice(counts)}."
        )
    return found


def _describe_films_table(
    source: FilmsSource, findings: films_check.Findings, root: epath.Path, patches_per_class: int
) -> Iterator[str]:
    table, films = source.table, findings.films
    lesions = [table.films[film.film_id].lesions for film in films]
    yield f"ddsm_patches/films from {root}"
    yield _line("table", f"{TABLE_NAME}, {table.num_lines} lines")
    if table.unused_columns:
        yield _line("", f"unused columns: {', '.join(table.unused_columns)}")
    yield from _describe_films(films)
    counts = collections.Counter(lesion.malignant for of_film in lesions for lesion in of_film)
    yield _line("lesions", f"{counts.total()}: {counts[True]} malignant, {counts[False]} benign")
    yield _line("", f"{sum(not of_film for of_film in lesions)} films are normal")
    for title, values in (("depth", findings.depths), ("size", findings.sizes)):
        names = [f"{value} ({count} films)" for value, count in values.most_common(_NUM_EXAMPLES)]
        more = len(values) - len(names)
        yield _line(title, ", ".join(names) + (f" and {more} others" if more else ""))
    for title, lines in findings.problems.items():
        yield from _missing(f"{len(lines)} {title}", lines)
    yield from _missing(f"{len(findings.warnings)} films of unknown depth", findings.warnings)
    if len(findings.guessed_depths) > 1:
        yield "  the depths differ: if the films are from one device, use the column 'bits'"
    split_of = {film.film_id: source.split_of(film) for film in films}
    yield from _describe_splits(films, split_of)
    plan = patches.plan_patches(films, patches_per_class, DdsmPatchesConfig.background_share)
    yield from _expected_patches(plan, split_of)
    if findings.has_faults:
        yield (
            "A build stops at lines and films that cannot be used: correct them, or set "
            "allow_skipped in the config to skip these films."
        )


def _describe_splits(films: Sequence[Film], split_of: Mapping[str, str]) -> Iterator[str]:
    yield "splits"
    yield f"  {'':12}{'patients':>10}{'films':>8}{'malignant':>11}{'benign':>8}"
    for split in SPLITS:
        of_split = [film for film in films if split_of[film.film_id] == split]
        patients = len({film.patient_id for film in of_split})
        malignant = sum(film.num_malignant for film in of_split)
        benign = sum(film.num_benign for film in of_split)
        yield f"  {split:12}{patients:>10}{len(of_split):>8}{malignant:>11}{benign:>8}"
        if not malignant:
            yield f"  {split} has no malignant lesion; the column 'split' can put some there"


def _describe_cbis_ddsm(
    source: CbisDdsmSource,
    films: Sequence[Film],
    unusable: Sequence[Skipped],
    patches_per_class: int,
) -> Iterator[str]:
    catalogue = source.catalogue
    layouts = [f"{name} ({count} files)" for name, count in catalogue.num_files_by_layout.items()]
    yield _line("layout", ", ".join(layouts))
    if "JPEG copy" in catalogue.num_files_by_layout:
        yield _line("", "the JPEG copy has 8 bits per pixel; TCIA's films have 16")
    yield _line("CSV files", f"{len(catalogue.csv_paths)} of {len(CSV_NAMES)}")
    for name in catalogue.missing_csv_names:
        yield _line("", f"{name} is missing: its lesions could be treated as healthy tissue")
    yield from _describe_films(films)
    yield from _describe_lesions(catalogue)
    patients = {film.patient_id for film in films if source.official_split(film) is None}
    yield _line("TCIA's split", f"{len(patients)} patients in both train and test")
    yield from _missing(
        f"{len(catalogue.left_out)} of {len(catalogue.left_out) + len(films)} films are skipped",
        [f"{film.path}: {film.reason}" for film in catalogue.left_out],
    )
    yield from _missing(
        f"{len(catalogue.rejected_rows)} CSV rows cannot be used",
        [f"{row.where}: {row.reason}" for row in catalogue.rejected_rows],
    )
    if catalogue.num_unknown_files:
        yield f"{catalogue.num_unknown_files} .dcm or .jpg files are in folders without a CSV row"
    yield from _expected_by_hash(films, patches_per_class)


def _describe_ddsm(
    source: DdsmSource, films: Sequence[Film], unusable: Sequence[Skipped], patches_per_class: int
) -> Iterator[str]:
    yield from _describe_films(films)
    malignant = sum(film.num_malignant for film in films)
    benign = sum(film.num_benign for film in films)
    yield _line("lesions", f"{malignant + benign}: {malignant} malignant, {benign} benign")
    yield from _missing(
        f"{len(unusable)} of {len(films)} films cannot be used",
        [item.reason for item in unusable],
    )
    skipped = source.skipped()
    yield from _missing(
        f"{len(skipped)} of {len(skipped) + len(films)} films are skipped",
        [item.reason for item in skipped],
    )
    yield from _expected_by_hash(films, patches_per_class)


def _unusable(source: DdsmSource, films: Sequence[Film]) -> list[Skipped]:
    """Returns the films that a build will fail to read, judging by their text files."""
    unusable = [film for film in films if film.scanner == "unknown"]
    return [Skipped("film", film.film_id, _why_unusable(source, film)) for film in unusable]


def _why_unusable(source: DdsmSource, film: Film) -> str:
    """Returns the error that prevents reading the film; reads no pixels."""
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


def _expected_by_hash(films: Sequence[Film], patches_per_class: int) -> Iterator[str]:
    plan = patches.plan_patches(films, patches_per_class, DdsmPatchesConfig.background_share)
    return _expected_patches(plan, {f.film_id: patches.split_of(f.patient_id) for f in films})


def _expected_patches(
    plan: Mapping[str, tuple[int, int, int]], split_of: Mapping[str, str]
) -> Iterator[str]:
    """Yields the plan's totals. A film without enough room gives fewer patches."""
    sums = {split: [0, 0, 0] for split in SPLITS}
    for film_id, split in split_of.items():
        for kind, count in enumerate(plan[film_id]):
            sums[split][kind] += count
    yield "maximum number of patches"
    yield f"  {'':12}{'malignant':>10}{'non-malignant':>15}{'benign lesion':>15}{'background':>12}"
    for split, (malignant, benign, background) in sums.items():
        yield f"  {split:12}{malignant:>10}{benign + background:>15}{benign:>15}{background:>12}"


def _line(title: str, text: str) -> str:
    return f"  {title:14}{text}"


def main(argv: Sequence[str]) -> int:
    """Prints the text; returns the exit code."""
    try:
        if len(argv) > 1:
            raise ValueError(f"unknown argument {argv[1]!r}; pass the folder as --manual_dir=DIR.")
        if not _MANUAL_DIR.value:
            raise ValueError("--manual_dir=DIR must name the folder with the downloaded films.")
        with storage.bucket_errors():
            text, has_faults = describe(_MANUAL_DIR.value, _PATCHES_PER_CLASS.value, _SOURCE.value)
        print(text)
    except (ValueError, StorageError) as error:
        print(f"tfds_ddsm.check: {error}", file=sys.stderr)
        return 2
    return 2 if has_faults else 0


def _parse_flags(argv: Sequence[str]) -> Sequence[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"tfds_ddsm.check: {error}", file=sys.stderr)
        sys.exit(2)


def run() -> None:
    """Runs the command."""
    # absl's --help shows the text and flags of the script that was started, here a stub from pip.
    sys.modules["__main__"].__doc__ = __doc__
    for flag in flags.FLAGS.get_key_flags_for_module(__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main, flags_parser=_parse_flags)


if __name__ == "__main__":
    run()
