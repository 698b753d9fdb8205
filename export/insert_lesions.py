"""Inserts lesions into a whole film, or removes them.

    cigan-insert FILM.dcm --lesion=2100,900,mask.png,malignant --output=OUT.dcm

FILM is a DICOM, PNG, PGM, TIFF or JPEG file. OUT.dcm is the infilled film at full resolution.
OUT_seg.dcm and OUT_mask.png mark the synthetic pixels, and OUT_before_after.png shows both films.
The generator is the package's preset unless --saved_model names another generator.
"""

import functools
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags

from cigan_tf import command_line
from cigan_tf.errors import UserError
from cigan_tf.patch_format import CLASS_NAMES

from . import film_flags
from .films import film_files, film_infill
from .films.film_infill import FilmInfiller, FilmLesion, off_the_breast

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_PLACE_AND_PATH = re.compile(rf"(?:({_NUMBER}),({_NUMBER}),)?(.+)")


def insert_lesions(
    film_path: str,
    lesions: Sequence[str],
    open_infiller: Callable[[], FilmInfiller],
    output: pathlib.Path,
    seed: int,
    bits: int | None = None,
    voi: bool = False,
    keep_patient: bool = False,
    overwrite: bool = False,
) -> list[pathlib.Path]:
    """Writes the film with its lesions infilled, and their masks.

    A lesion outside the breast is infilled too, with a warning on stderr.

    Args:
        film_path: a DICOM, PNG, PGM, TIFF or JPEG file of a film.
        lesions: values of the flag --lesion.
        open_infiller: returns the generator for whole films; called after all other arguments have
            been checked, because it loads TensorFlow.
        output: the DICOM file to write.
        seed: seed of the first infill.
        bits: bit depth of the film; None: taken from the file, or estimated with a warning.
        voi: whether to apply a DICOM film's VOI LUT or window.
        keep_patient: whether the new film stays with the source's patient and study.
        overwrite: whether existing files may be replaced.

    Returns:
        The files written; the film is the last.

    Raises:
        UserError: a file is invalid, a lesion does not fit, or a file would be replaced.
    """
    if output.suffix != ".dcm":
        raise UserError(f"output must be a name ending in .dcm. Received: {str(output)!r}.")
    film = film_files.read_film(film_files.read_file(film_path), film_path, bits, voi)
    if film.warning:
        print(f"warning: {film.warning}", file=sys.stderr)
    placed = [parse_lesion(text, film.pixels.shape) for text in lesions]
    masks = [_split(text)[2] for text in lesions]
    film_files.check_outputs(output, [film_path, *masks], overwrite)
    film_infill.check_lesions(film.pixels.shape, placed, seed)
    infill = open_infiller()
    pixels, infilled = infill(film.pixels, placed, seed)
    if warning := off_the_breast(infilled):
        print(f"warning: {warning}", file=sys.stderr)
    files = film_files.files_of(film, pixels, placed, seed, infill.generator_id, keep_patient)
    return film_files.write_files(output, files)


def parse_lesion(text: str, film_shape: tuple[int, int]) -> FilmLesion:
    """Returns the lesion of a --lesion flag; raises UserError if it is invalid."""
    row, column, path, label = _split(text)
    mask = film_files.read_mask(film_files.read_file(path), path)
    if row is not None:
        return FilmLesion.centred(mask, int(row), int(column), label == "malignant")
    if mask.shape != film_shape:
        raise UserError(
            "A mask without ROW,COLUMN must have the film's size, {} x {} pixels. Received: {} "
            "x {} in {!r}.".format(*film_shape, *mask.shape, path)
        )
    return FilmLesion(mask, 0, 0, label == "malignant")


def _split(text: str) -> tuple[str | None, str | None, str, str]:
    """Returns row, column, path and class; raises UserError if --lesion is invalid."""
    # The mask's path may contain commas.
    place_and_path, _, label = text.rpartition(",")
    match = _PLACE_AND_PATH.fullmatch(place_and_path)
    if label not in CLASS_NAMES or match is None:
        raise UserError(
            "lesion must be ROW,COLUMN,MASK,CLASS or MASK,CLASS with the class malignant or "
            f"non_malignant. Received: {text!r}."
        )
    row, column, path = match.groups()
    for value in (row, column):
        if value is not None and not re.fullmatch(r"[0-9]{1,6}", value):
            raise UserError(
                "lesion must have a row and column that are integers of at least 0, in pixels. "
                f"Received: {value!r} in {text!r}."
            )
    return row, column, path, label


def main(film: str) -> None:
    """Infills the film with the lesions given by the flags."""
    options = flags.FLAGS
    if options.output is None:
        raise UserError("Pass --output=OUT.dcm.")
    film_size = film_flags.parse_film_size(options.film_size)
    output = pathlib.Path(options.output).expanduser()
    for path in insert_lesions(
        film,
        options.lesion,
        functools.partial(film_flags.open_infiller, film_size),
        output,
        options.seed,
        options.bits,
        options.voi,
        options.keep_patient,
        options.overwrite,
    ):
        print(path)


def run() -> None:
    """Defines the command's flags and runs the command.

    The flags are defined here, not on import, because other commands use the same names.
    """
    flags.DEFINE_multi_string(
        "lesion",
        [],
        "A lesion, ROW,COLUMN,MASK,CLASS; repeat the flag for each lesion. MASK: a greyscale image "
        "of the lesion in pixels of the film, bright inside (threshold: the middle of its range); "
        "its centre is placed at ROW, COLUMN of the film. Or MASK,CLASS for a mask of the film's "
        "size. CLASS: malignant, or non_malignant to remove a lesion.",
    )
    film_flags.define()
    flags.DEFINE_string("output", None, "The DICOM file to write: a name ending in .dcm.")
    flags.DEFINE_integer("seed", 0, "Seed of the first infill; each following infill adds 1.")
    flags.DEFINE_integer(
        "bits",
        None,
        "Bit depth of the film, if its values use fewer bits than its file: 12 for values up to "
        "4095.",
        8,
        16,
    )
    flags.DEFINE_bool(
        "keep_patient",
        False,
        "Keep the source's patient and study. By default, the film is in a new study without "
        "patient data.",
    )
    flags.DEFINE_bool("overwrite", False, "Replace existing files; inputs are never replaced.")
    flags.DEFINE_bool("voi", False, "Apply the VOI LUT or window of a DICOM film.")
    command_line.run(main, arguments=("FILM",))


if __name__ == "__main__":
    run()
