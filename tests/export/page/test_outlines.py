import cv2
import numpy as np
import pytest

from cigan_tf.errors import UserError
from export.page import outlines

SHAPE = (400, 300)


def test_a_mask_is_restored_from_its_outline():
    mask = np.zeros(SHAPE, bool)
    mask[40:140, 0:90] = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (90, 100)) > 0
    mask[300, 200] = True  # a smaller part, which does not get an outline
    lesion = outlines.lesion_of(*outlines.outline_of(mask), True, SHAPE)
    mask[300, 200] = False
    assert lesion.malignant
    different = lesion.on_film(SHAPE) != mask
    assert different.sum() < 0.01 * mask.sum()


def test_a_circle_has_its_size_and_place():
    xs, ys = outlines.circle(80)
    lesion = outlines.lesion_of(xs + 150, ys + 200, False, SHAPE)
    on_film = lesion.on_film(SHAPE)
    assert on_film.sum() == pytest.approx(np.pi * 40**2, rel=0.05)
    rows, columns = np.nonzero(on_film)
    assert abs(rows.mean() + 0.5 - 200) < 0.5
    assert abs(columns.mean() + 0.5 - 150) < 0.5


def test_parts_outside_the_film_are_cut_off():
    lesion = outlines.lesion_of([-50, 30, 30, -50], [-1e9, -1e9, 40, 40], True, SHAPE)
    rows, columns = np.nonzero(lesion.on_film(SHAPE))
    assert (rows.min(), columns.min()) == (0, 0)
    assert abs(rows.max() - 40) <= 1
    assert abs(columns.max() - 30) <= 1


@pytest.mark.parametrize(
    ("xs", "ys", "message"),
    [
        ([], [], "3 to 20000 points"),
        ([1, 2], [1, 2], "3 to 20000 points"),
        ([1, 2, 3], [1, 2], "3 to 20000 points"),
        ([1, 2, float("nan")], [1, 2, 3], "with finite coordinates"),
        ([1, 2, float("inf")], [1, 2, 3], "with finite coordinates"),
        (["a", "b", "c"], [1, 2, 3], "with finite coordinates"),
        (None, [1, 2, 3], "with finite coordinates"),
        ([[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [5, 6]], "3 to 20000 points"),
        ([1] * 20001, [1] * 20001, "3 to 20000 points"),
        ([900, 950, 950], [10, 10, 50], "enclose a part of the film"),
    ],
)
def test_a_broken_outline_is_refused(xs, ys, message):
    with pytest.raises(UserError, match=message):
        outlines.lesion_of(xs, ys, True, SHAPE)


def test_an_empty_mask_has_no_outline():
    with pytest.raises(UserError, match="mask has no bright pixels"):
        outlines.outline_of(np.zeros((5, 5), bool))
