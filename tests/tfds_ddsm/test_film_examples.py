import dataclasses

import numpy as np
import pytest

from tfds_ddsm import film_examples, patches
from tfds_ddsm.mammogram import Description, Film, Lesion, Mammogram

SIZE = 32
FILM = Film("P_1_LEFT_CC", "P_1", "LEFT", "CC", "unknown", 2, 1)


@dataclasses.dataclass(frozen=True)
class Settings:
    patch_size: int = SIZE
    film_size: tuple[int, int] = (200, 150)
    mask_margin_px: int = 0
    seed: int = 0


class OneFilm:
    """Half a disc of breast with two malignant lesions, close together, and a benign one."""

    def __init__(self, lesions=None, left_out=()):
        rng = np.random.default_rng(0)
        image = rng.normal(500, 50, (400, 300))
        self.breast = disc(200, 0, 190)
        image[self.breast] += 30_000 + rng.normal(0, 3000, self.breast.sum())
        self.lesions = lesions or (
            Lesion("mass", True, disc(120, 60, 9)),
            Lesion("calcification", True, disc(120, 85, 9), simulated=True),
            Lesion("mass", False, disc(260, 70, 12)),
        )
        self.image = image.clip(0, 65_535).astype(np.uint16)
        self.left_out = left_out

    def read(self, film):
        return Mammogram(film, self.image, self.lesions, self.left_out)


def disc(row, column, radius):
    rows, columns = np.ogrid[:400, :300]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def draw(counts, source=None, **settings):
    source = source or OneFilm()
    report, examples = film_examples.film_examples(source, FILM, counts, Settings(**settings))
    return report, dict(examples)


def test_every_example_is_cut_from_the_rescaled_film_by_the_rules():
    source = OneFilm()
    report, examples = draw((30, 20, 25), source)

    factor = patches.rescale_factor(FILM.film_id, 400, 300, (200, 150))
    image = patches.rescale(source.image, factor)
    first, second, benign = (patches.rescale(lesion.mask, factor) for lesion in source.lesions)
    breast = patches.breast_mask(image)
    assert report.made == report.planned == (30, 20, 25)
    assert report.left_out == ()
    assert len(examples) == 75
    for key, example in examples.items():
        row, column = example["corner"].tolist()
        kind = key.split("/")[1]
        window = np.s_[row : row + SIZE, column : column + SIZE]
        lesions_of_class = {
            "malignant": first | second,
            "benign": benign,
            "background": np.zeros_like(breast),
        }[kind]
        assert key == f"P_1_LEFT_CC/{kind}/{row}/{column}"
        assert np.array_equal(example["image"][..., 0], image[window])
        assert np.array_equal(example["mask"][..., 0], lesions_of_class[window])
        assert example["image"].dtype == np.uint16
        assert example["mask"].dtype == np.uint8
        assert example["label"] == ("malignant" if kind == "malignant" else "non_malignant")
        assert example["simulated"] == second[window].any()
        assert example["tissue_fraction"] == pytest.approx(breast[window].mean())
        assert example["tissue_fraction"] > 0.75
        assert example["rescale_factor"] == np.float32(factor)
        match kind:
            case "malignant":
                lesion = first if example["lesion_type"] == "mass" else second
                assert lesion[window].sum() >= 0.9 * lesion.sum()
            case "benign":
                assert benign[window].sum() >= 0.9 * benign.sum()
                assert not (first | second)[window].any()
            case "background":
                assert example["lesion_type"] == "none"
                assert not (first | second | benign)[window].any()


def described(example):
    return Description(**{f.name: example[f.name] for f in dataclasses.fields(Description)})


def test_masks_and_rules_include_the_margin():
    source = OneFilm([Lesion("mass", True, disc(120, 60, 9))])
    _, examples = draw((5, 0, 60), source, mask_margin_px=4)
    # The film is rescaled to half its size.
    rows, columns = np.ogrid[:200, :150]
    distance_px = np.hypot(rows - 60, columns - 30)
    for key, example in examples.items():
        row, column = example["corner"]
        place = np.s_[row : row + SIZE, column : column + SIZE]
        mask = example["mask"][..., 0] > 0
        if "malignant" in key:
            assert mask[distance_px[place] < 4.5 + 4 - 1].all()
            assert not mask[distance_px[place] > 4.5 + 4 + 1].any()
        else:
            assert (distance_px[place] > 4.5 + 4 - 1).all()


def test_a_patch_has_the_description_of_its_largest_lesion():
    large, small, benign = Description(5, 4, "OVAL"), Description(4, 2), Description(2, 5)
    lesions = (
        Lesion("mass", True, disc(120, 60, 9), description=large),
        Lesion("mass", True, disc(120, 75, 4), description=small),
        Lesion("mass", False, disc(260, 70, 12), description=benign),
    )
    film = dataclasses.replace(FILM, density=3)
    _, examples = film_examples.film_examples(OneFilm(lesions), film, (30, 10, 10), Settings())
    factor = patches.rescale_factor(FILM.film_id, 400, 300, (200, 150))
    first, second, _ = (patches.rescale(lesion.mask, factor) for lesion in lesions)
    found = set()
    for key, example in examples:
        row, column = example["corner"].tolist()
        window = np.s_[row : row + SIZE, column : column + SIZE]
        if "/malignant/" in key:
            expected = large if first[window].sum() >= second[window].sum() else small
        else:
            expected = benign if "/benign/" in key else Description()
        assert described(example) == expected
        assert example["density"] == 3
        found.add(expected)
    assert {large, benign, Description()} <= found


def test_unrecorded_descriptions_are_minus_one_or_empty():
    _, examples = draw((5, 5, 5))
    for example in examples.values():
        assert example["density"] == example["assessment"] == example["subtlety"] == -1
        assert example["mass_shape"] == example["mass_margins"] == ""


def test_lesions_of_a_class_share_its_patches_evenly():
    _, examples = draw((30, 0, 0))

    types = [example["lesion_type"] for example in examples.values()]
    assert (types.count("mass"), types.count("calcification")) == (15, 15)


def test_the_same_film_gives_the_same_examples_and_another_seed_others():
    _, first = draw((10, 10, 10))
    _, second = draw((10, 10, 10))
    _, other = draw((10, 10, 10), seed=1)

    assert list(first) == list(second)
    assert all(np.array_equal(first[key]["image"], second[key]["image"]) for key in first)
    assert list(first) != list(other)


def test_a_film_with_too_few_windows_gives_fewer_patches_and_is_reported():
    report, examples = draw((100_000, 0, 0))

    assert 0 < report.made[0] < 100_000
    assert len(examples) == report.made[0]


def test_benign_and_background_patches_replace_each_other():
    report, _ = draw((0, 100_000, 10))
    assert report.made[2] > 10

    everywhere = Lesion("mass", False, disc(200, 0, 190))
    report, _ = draw((0, 10, 10), OneFilm(lesions=(everywhere,)))
    assert report.made == (0, 20, 0)


def test_only_requested_kinds_replace_missing_patches():
    everywhere = Lesion("mass", False, disc(200, 0, 190))
    report, _ = draw((0, 0, 10), OneFilm(lesions=(everywhere,)))

    assert report.made == (0, 0, 0)


def test_a_lesion_outside_the_breast_is_counted_and_gives_no_patch():
    outside = Lesion("mass", True, disc(40, 270, 10))
    report, examples = draw((10, 0, 0), OneFilm(lesions=(outside,)))

    assert report.lesions_without_patch == 1
    assert not examples


def test_a_film_with_a_skipped_lesion_gives_only_malignant_patches():
    report, examples = draw((10, 10, 10), OneFilm(left_out=("mask: empty (mass 3)",)))

    assert report.left_out == ("mask: empty (mass 3)",)
    assert report.made == (10, 0, 0)
    assert report.lesions_without_patch == 1  # the benign one
    assert {example["label"] for example in examples.values()} == {"malignant"}


def test_no_patch_is_on_a_lesion_that_is_too_small_for_the_rescaled_film():
    mask = np.zeros((400, 300), bool)
    mask[200, [60, 62]] = True  # at half the size, it covers a quarter of two pixels
    source = OneFilm((Lesion("calcification", True, mask),))
    report, examples = draw((0, 0, 2000), source)

    factor = patches.rescale_factor(FILM.film_id, 400, 300, (200, 150))
    assert not patches.rescale(mask, factor).any()
    covered = np.argwhere(patches.touched(mask, factor))
    assert 2 <= len(covered) <= 6
    corners = np.array([example["corner"] for example in examples.values()])
    assert len(corners) == report.made[2] > 1000
    for pixel in covered:
        inside = (corners <= pixel).all(axis=1) & (pixel < corners + SIZE).all(axis=1)
        assert not inside.any()
    is_near = np.abs(corners - covered[0]).max(axis=1) <= SIZE
    assert is_near.any()


def test_a_film_too_narrow_to_be_rescaled_is_left_out_with_its_id():
    source = OneFilm()
    source.image, source.lesions = np.ones((4, 100_000), np.uint16), ()
    report, examples = film_examples.encoded_examples(source, FILM, (0, 0, 5), Settings())

    assert report.error.startswith("P_1_LEFT_CC: a film must have at most ")
    assert "received 4 x 100000 pixels, which would become " in report.error
    assert list(examples) == []
