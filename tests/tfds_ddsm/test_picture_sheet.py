import cv2
import numpy as np

from tfds_ddsm import picture_sheet


def example(label, lesion_type, seed=0):
    image = np.random.default_rng(seed).integers(0, 65536, (32, 32, 1), np.uint16)
    mask = np.zeros((32, 32, 1), np.uint8)
    if lesion_type:
        mask[8:20, 6:22] = 1
    return {"image": image, "mask": mask, "label": label, "lesion_type": lesion_type}


def test_a_rare_kind_does_not_make_it_read_the_whole_split():
    rest = iter([example(1, 1)] * 2500)
    assert len(picture_sheet.choose(rest)["malignant"]) == 16
    assert len(list(rest)) == 500


def test_the_first_patches_of_every_kind_are_chosen_and_no_more_are_read():
    examples = [example(1, 1), example(0, 2), example(0, 0)] * 16
    rest = iter([*examples, example(1, 1), example(1, 1)])

    chosen = picture_sheet.choose(rest)

    assert {kind: len(found) for kind, found in chosen.items()} == {
        "malignant": 16,
        "benign": 16,
        "background": 16,
    }
    assert len(list(rest)) == 1
    assert list(picture_sheet.choose([example(0, 0)])) == ["background"]


def test_outlines_are_drawn_where_the_masks_are():
    chosen = picture_sheet.choose([example(1, 1), example(0, 2), example(0, 0)])

    sheet = cv2.imdecode(np.frombuffer(picture_sheet.draw(chosen, "test"), np.uint8), 1)

    assert sheet.shape[1] == 1200
    blue, red = sheet[..., 0].astype(int), sheet[..., 2].astype(int)
    assert (red > blue + 100).sum() > 100  # malignant outlines are red
    assert (blue > red + 100).sum() > 100  # benign outlines are blue
    np.testing.assert_array_equal(
        picture_sheet.draw(chosen, "test"), picture_sheet.draw(chosen, "test")
    )
