"""Film formats that the whole-film tools and the dataset's builder read, and damaged files.

    python -m benchmarks.film_formats [--damaged=1000]

For the first table, a film of each transfer syntax, depth and photometric interpretation is written
and read, a square in it is filled, and the resulting film is written and read again. For the
second, pydicom's test files are read, and the pixels are compared with those that pydicom reads.
For the third, damaged copies of DICOM films are read: truncated, with a part missing or repeated,
or with bytes changed in the attributes, the lengths or the pixels' stream.
"""

import collections
import os
import pathlib
import signal
import time
import warnings

import numpy as np
import pydicom
from absl import app, flags
from pydicom import uid

from benchmarks import process_counters
from export.films import film_files
from export.films.film_infill import FilmLesion
from tests.tfds_ddsm.sources import dicom_films
from tfds_ddsm.mammogram import UnreadableFilmError
from tfds_ddsm.sources import image_file

_DAMAGED = flags.DEFINE_integer("damaged", 1000, "Number of damaged files to read.", 0)
_DEPTHS = ((8, False), (10, False), (12, False), (12, True), (14, False), (16, False), (16, True))
_SYNTAXES = (*dicom_films.LOSSLESS, *dicom_films.LOSSY)
_HANGS_AFTER_S = 150


def main(_):
    """Prints the three tables."""
    warnings.simplefilter("ignore")
    _print_formats()
    _print_pydicoms_files()
    if _DAMAGED.value:
        _print_damage()


def _print_formats() -> None:
    depths = [f"{bits}{' signed' if signed else ''}" for bits, signed in _DEPTHS]
    print(f"| transfer syntax | {' | '.join(depths)} |")
    print("|---" * (len(depths) + 1) + "|")
    for syntax in _SYNTAXES:
        cells = [_there_and_back(syntax, *depth) for depth in _DEPTHS]
        print(f"| {syntax.name} | {' | '.join(cells)} |", flush=True)


def _there_and_back(syntax: uid.UID, bits: int, signed: bool) -> str:
    """Returns the result for an infilled film: 'exact' or the largest error; '-' if not tried."""
    if signed and syntax == uid.JPEGLSNearLossless:
        return "-"  # the encoder's error of 1 may turn the darkest value into the brightest
    stored = dicom_films.tissue(bits, signed)
    lesion = FilmLesion(np.ones((20, 20), bool), 30, 20, malignant=True)
    outside = ~lesion.on_film(stored.shape)
    errors = []
    for interpretation in ("MONOCHROME1", "MONOCHROME2"):
        source = dicom_films.film(stored, bits, PhotometricInterpretation=interpretation)
        try:
            data = dicom_films.encoded(source, syntax)
        except (ValueError, RuntimeError, NotImplementedError):
            return "-"
        film = film_files.read_film(data, "film.dcm")
        infilled = np.where(outside, film.pixels, 30_000).astype(np.uint16)
        files = film_files.files_of(film, infilled, [lesion], 0, "SavedModel 0")
        written = film_files.read_film(files[".dcm"], "written.dcm")
        difference = written.film.stored.astype(int) - stored
        errors.append(int(np.abs(difference[outside]).max()))
        kept = written.header.PhotometricInterpretation, written.header.BitsStored
        if kept != (interpretation, bits):
            return f"became {kept}"
    return "exact" if max(errors) == 0 else f"+-{max(errors)}"


def _print_pydicoms_files() -> None:
    found = collections.defaultdict(list)
    folder = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
    for path in sorted(folder.glob("*.dcm")):
        try:
            stored = image_file.decode_film(path.read_bytes(), "file").stored
        except UnreadableFilmError as error:
            result = str(error).removeprefix("file: ")
        else:
            same = np.array_equal(stored, pydicom.dcmread(path).pixel_array)
            result = "read as pydicom reads it" if same else "READ DIFFERENTLY"
        found[result].append(path.stem)
    print()
    for result, names in sorted(found.items(), key=lambda item: -len(item[1])):
        print(f"{len(names):3} {result}: {', '.join(names)}")


def _print_damage() -> None:
    def hangs(signum, frame):
        raise AssertionError(f"a file took more than {_HANGS_AFTER_S} s")

    signal.signal(signal.SIGALRM, hangs)
    print(f"\n{'damaged films of':58}{'read':>6}{'refused':>9}{'slowest s':>11}")
    before = process_counters.peak_gb()
    for number, syntax in enumerate(_SYNTAXES):
        bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
        data = dicom_films.encoded(dicom_films.film(bits=bits), syntax)
        count = len(range(number, _DAMAGED.value, len(_SYNTAXES)))
        results, slowest = collections.Counter(), 0.0
        for copy in dicom_films.damaged(data, count, seed=number):
            start = time.perf_counter()
            signal.alarm(_HANGS_AFTER_S)
            try:
                image_file.decode_film(copy, "film.dcm")
                results["read"] += 1
            except UnreadableFilmError:
                results["refused"] += 1
            signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - start)
        read, refused = results["read"], results["refused"]
        print(f"{syntax.name[:56]:58}{read:6}{refused:9}{slowest:11.1f}", flush=True)
    print(f"peak memory: {before:.2f} GB before, {process_counters.peak_gb():.2f} GB after")
    print(f"on {os.cpu_count()} cores; the mean load was {os.getloadavg()[2]:.1f}")


if __name__ == "__main__":
    app.run(main)
