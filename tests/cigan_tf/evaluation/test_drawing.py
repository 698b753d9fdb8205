"""Tests of the figures: size, and dependence on the data."""

import cv2
import numpy as np
import pytest

from cigan_tf import pictures
from cigan_tf.evaluation import drawing
from cigan_tf.evaluation.experiment_table import compare_arms


def decode(png):
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


@pytest.fixture
def make_table(synthetic_scores):
    """Returns a function that computes a table from separations by arm and pairs."""

    def make(arms, *pairs):
        scores = synthetic_scores(arms)
        return compare_arms(scores, scores, pairs, 50, 0)

    return make


def test_small_pictures_are_enlarged():
    image = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
    assert decode(drawing.picture(image)).shape == (256, 256, 3)
    assert decode(drawing.picture(np.zeros((300, 300), np.uint8))).shape == (300, 300, 3)


@pytest.mark.parametrize("columns", [pictures.COLUMNS, (*pictures.COLUMNS, pictures.BEFORE)])
@pytest.mark.parametrize("counts", [(5, 5, 5), (1,), (5, 2)])
def test_all_words_of_a_sheet_of_infills_are_inside_it(monkeypatch, columns, counts):
    kinds = np.repeat(["malignant lesion", "benign lesion", "no lesion"][: len(counts)], counts)
    rows = [[np.zeros((32, 32), np.uint8)] * len(columns)] * len(kinds)
    monkeypatch.setattr(drawing, "_encode", lambda figure: figure)
    figure = drawing.comparison_sheet(kinds, rows, columns)
    figure.draw_without_rendering()
    page, boxes = figure.bbox.padded(0.5), []
    for axes in figure.axes:
        boxes += [text.get_window_extent() for text in (axes.title, *axes.get_xticklabels())]
    assert len(boxes) == len(counts) * (1 + len(columns))
    for number, box in enumerate(boxes):
        assert page.contains(*box.min) and page.contains(*box.max)  # noqa: PT018
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_a_forest_has_a_row_per_arm_and_pair(make_table):
    one = decode(drawing.forest(make_table({"only": 1.0})))
    pair = make_table({"baseline": 0.5, "cigan": 2.0}, ("cigan", "baseline"))
    two = decode(drawing.forest(pair))
    twelve = decode(drawing.forest(make_table({f"arm_{i}": 0.3 * i for i in range(12)})))
    assert one.shape[0] < two.shape[0] < twelve.shape[0]
    assert one.shape[1] == two.shape[1] == twelve.shape[1] == 1200
    # Two colours, one per arm: a pair has the colour of its first arm.
    assert (len(hues(one)), len(hues(two))) == (1, 2)


def test_a_forest_shows_the_mean_of_the_generators(synthetic_scores):
    scores = synthetic_scores({"baseline": 0.5, "cigan (a)": 1.0, "cigan (b)": 2.0})
    rows = {"baseline": {None: "baseline"}, "cigan": {"a": "cigan (a)", "b": "cigan (b)"}}
    pooled = compare_arms(scores, scores, [("cigan", "baseline")], 50, 0, rows)
    alone = compare_arms(scores, scores, [(row, "baseline") for row in list(scores)[1:]], 50, 0)
    heights = [decode(drawing.forest(table)).shape[0] for table in (pooled, alone)]
    assert heights[0] > heights[1]


def test_every_arm_has_a_curve_in_its_own_colour(make_table):
    table = make_table({"baseline": 0.5, "cigan": 2.0})
    assert len(hues(decode(drawing.roc_and_calibration(table)))) == 2


def hues(image):
    """Returns the hues of which there are many saturated pixels."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    counts = np.bincount(hsv[..., 0][hsv[..., 1] > 150] // 6)
    return np.flatnonzero(counts > 100).tolist()
