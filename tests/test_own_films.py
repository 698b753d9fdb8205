"""From ten films in five formats, listed in films.csv, to an infill, with commands only."""

import csv

import cv2
import numpy as np
import PIL.Image
import pydicom
from pydicom.uid import generate_uid

from tests import warm_commands
from tests.tfds_ddsm.sources import cbis_ddsm_tree

SHAPE = (400, 300)
# Format, depth, split and class of each film; films of one patient follow each other.
FILMS = (
    ("png", 16, "train", "malignant"),
    ("png", 8, "train", "benign"),
    ("tif", 12, "train", "malignant"),
    ("pgm", 16, "train", "normal"),
    ("jpg", 8, "train", "benign"),
    ("dcm", 16, "train", "malignant"),
    ("dcm", 12, "validation", "malignant"),
    ("tif", 16, "validation", "normal"),
    ("png", 12, "test", "malignant"),
    ("pgm", 8, "test", "benign"),
)
CENTER, RADIUS = (200, 100), 20


def write_film(path, bits, lesion_level, seed):
    rows, columns = np.indices(SHAPE)
    breast = (rows - 200) ** 2 + columns**2 < 190**2
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, SHAPE), (0, 0), 3)
    level = np.where(breast, 0.5 + 0.2 * noise, 0.01)
    disc = np.hypot(rows - CENTER[0], columns - CENTER[1]) <= RADIUS
    level[disc] += lesion_level
    level[0, 0] = 1  # a white label, from which the depth can be determined
    stored = np.clip(np.round(level * (2**bits - 1)), 0, 2**bits - 1)
    stored = stored.astype(np.uint8 if bits == 8 else np.uint16)
    if path.suffix != ".dcm":
        PIL.Image.fromarray(stored).save(path)
        return
    cbis_ddsm_tree.write_image(path, stored)
    header = pydicom.dcmread(path)
    header.BitsStored, header.HighBit = bits, bits - 1
    header.StudyInstanceUID, header.SeriesInstanceUID = (generate_uid() for _ in range(2))
    header.save_as(path)


def lesion_columns(number, root):
    """Returns the same disc with a different kind of outline for each film."""
    row, column = CENTER
    if number % 4 == 0:
        return {"center_row": row, "center_col": column, "radius": RADIUS}
    if number % 4 == 1:
        mask = np.zeros(SHAPE, np.uint8)
        cv2.circle(mask, CENTER[::-1], RADIUS, 255, -1)
        PIL.Image.fromarray(mask).save(root / f"mask_{number}.png")
        return {"mask": f"mask_{number}.png"}
    if number % 4 == 2:
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        points = [
            f"{row + RADIUS * np.sin(a):.1f},{column + RADIUS * np.cos(a):.1f}" for a in angles
        ]
        return {"polygon": " ".join(points)}
    return {
        **{"row_min": SHAPE[0] - 1 - row - RADIUS, "row_max": SHAPE[0] - 1 - row + RADIUS},
        **{"col_min": column - RADIUS, "col_max": column + RADIUS, "origin": "bottom"},
    }


def run(*command):
    finished = warm_commands.run(*command)
    assert finished.returncode == 0, finished.stderr
    return finished


def test_ten_films_in_five_formats_become_patches_a_generator_and_an_infill(tmp_path):
    # Brackets are a pattern for glob and a space is a separator in a shell; here both are literal.
    tmp_path = tmp_path / "year [2024]"
    films = tmp_path / "films"
    films.mkdir(parents=True)
    rows = []
    for number, (suffix, bits, split, label) in enumerate(FILMS):
        level = {"malignant": 0.3, "benign": 0.15, "normal": 0}[label]
        write_film(films / f"{number}.{suffix}", bits, level, number)
        row = {"film": f"{number}.{suffix}", "patient_id": f"P{number // 2}", "label": label}
        lesion = {} if label == "normal" else lesion_columns(number, films)
        rows.append(row | {"split": split, "lesion_type": "mass"} | lesion)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (films / "films.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)

    checked = run("tfds_ddsm.check", f"--manual_dir={films}")
    assert "films         10 " in checked.stdout

    run(
        *("tensorflow_datasets.scripts.cli.main", "build", "ddsm_patches"),
        *("--imports", "tfds_ddsm", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={films}"),
        "-c",
        '{"name": "own", "source": "films", "patch_size": 32, "film_size": [200, 150], '
        '"patches_per_class": 60}',
    )
    built = tmp_path / "data" / "ddsm_patches" / "own"
    assert len(list(built.glob("*"))) == 1
    assert not list(built.rglob("unfinished*"))

    workdir = tmp_path / "run"
    steps = "--pretraining_steps=0 --adversarial_steps=4 --checkpoint_every_steps=4"
    run(
        *("cigan_tf.main", "--dataset=ddsm_patches/own", f"--workdir={workdir}"),
        *(f"--data_dir={tmp_path / 'data'}", "--patch_size=32", "--batch_size=4"),
        *("--vgg_weights=random", "--feature_layers=input,pool1", *steps.split()),
        "--nowindowed_feature_loss",
    )
    run("export.saved_model", f"--workdir={workdir}")

    mask = tmp_path / "lesion.png"
    PIL.Image.fromarray(np.full((21, 21), 255, np.uint8)).save(mask)
    film, output = films / "6.dcm", tmp_path / "infilled.dcm"
    infilled = run(
        *("export.insert_lesions", film, f"--lesion=150,60,{mask},malignant"),
        *(f"--saved_model={workdir / 'saved_model'}", f"--output={output}"),
    )
    # At the scale of its own films there is nothing to warn of.
    assert "warning: The generator was" not in infilled.stderr
    before, after = (pydicom.dcmread(path).pixel_array for path in (film, output))
    changed = np.argwhere(before != after)
    assert len(changed) > 300
    assert changed.min(axis=0).tolist() >= [140, 50]
    assert changed.max(axis=0).tolist() <= [160, 70]
