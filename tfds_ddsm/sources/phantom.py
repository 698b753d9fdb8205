"""Draws simulated screen-film mammograms with simulated lesions, without any data.

A film is drawn in the order of its formation: a breast of uneven thickness, fat and fibroglandular
tissue mixed by power-law noise, strands of connective tissue, the pectoral muscle on MLO views;
then the film's characteristic curve, grain, a lead marker and bright film edges.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from tfds_ddsm import mammogram
from tfds_ddsm.grey_levels import WHITE
from tfds_ddsm.sources import phantom_lesions
from tfds_ddsm.sources.phantom_lesions import insert_lesions
from tfds_ddsm.sources.phantom_shapes import power_law_noise

__all__ = ["PIXEL_SIZE_MM", "PhantomSource", "insert_lesions"]

PIXEL_SIZE_MM = 0.14
_HEIGHT_PX, _WIDTH_PX = 1700, 1000
_EDGE_PX = 16  # bright strips at the film's edges are at most this wide
_LEAST_LESION_DEPTH_MM = 5.0  # below the skin, where the breast is thick enough to show them
_BREASTS = ("LEFT", "RIGHT")
_VIEWS = ("CC", "MLO")

# Lead letters, 7 rows of 5 columns.
_LETTERS = {
    "C": (".###.", "#...#", "#....", "#....", "#....", "#...#", ".###."),
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "M": ("#...#", "##.##", "#.#.#", "#.#.#", "#...#", "#...#", "#...#"),
    "O": (".###.", "#...#", "#...#", "#...#", "#...#", "#...#", ".###."),
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
}


@dataclasses.dataclass(frozen=True)
class PhantomSource(mammogram.Source):
    """Simulated patients with four films each; implements `mammogram.Source`.

    Two patients in five have a malignant lesion in one breast, and two in five have only benign
    lesions; both views of a breast show the same lesions.

    Attributes:
        num_patients: number of patients.
        difficulty: 0 (lesions stand out and the classes look different) to 1 (faint, overlapping).
        seed: the same seed gives the same films.

    Raises:
        ValueError: a field is out of its range.
    """

    num_patients: int
    difficulty: float = 0.5
    seed: int = 0

    def __post_init__(self):
        if self.num_patients < 1:
            raise ValueError(f"num_patients must be 1 or more; received {self.num_patients}.")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more; received {self.seed}.")
        phantom_lesions.check_difficulty(self.difficulty)

    def index(self) -> Sequence[mammogram.Film]:
        """Returns every film, sorted by film_id, without drawing pixels."""
        films = []
        for number in range(self.num_patients):
            patient_id = f"phantom_{number:06d}"
            plans = self._lesion_plans(patient_id)
            for laterality in _BREASTS:
                num_malignant = sum(plan.malignant for plan in plans[laterality])
                films += [
                    mammogram.Film(
                        film_id=f"{patient_id}_{laterality}_{view}",
                        patient_id=patient_id,
                        laterality=laterality,
                        view=view,
                        scanner="phantom",
                        num_malignant=num_malignant,
                        num_benign=len(plans[laterality]) - num_malignant,
                    )
                    for view in _VIEWS
                ]
        return sorted(films, key=lambda film: film.film_id)

    def read(self, film: mammogram.Film) -> mammogram.Mammogram:
        """Draws a film of the index; its image has 1700 x 1000 pixels of `PIXEL_SIZE_MM`."""
        plans = self._lesion_plans(film.patient_id)[film.laterality]
        rng = self._rng(film.film_id)
        anatomy = _Anatomy.draw(self._rng(film.patient_id + "_anatomy"))
        exposure, tissue = _breast(anatomy, film.view, rng)
        if film.laterality == "RIGHT":
            exposure, tissue = exposure[:, ::-1], tissue[:, ::-1]
        image = _develop(exposure, rng)
        image, lesions = phantom_lesions.insert_planned(
            image, tissue, np.zeros_like(tissue), plans, PIXEL_SIZE_MM, rng
        )
        image = _mark_film(image, film, rng)
        if len(lesions) != len(plans):
            raise mammogram.UnreadableFilmError(
                f"{film.film_id}: the simulated breast has room for only {len(lesions)} of "
                f"{len(plans)} lesions"
            )
        return mammogram.Mammogram(film=film, image=image, lesions=lesions)

    def _rng(self, name: str) -> np.random.Generator:
        """Returns a random generator seeded from a name; Python's hash() differs between runs."""
        digest = hashlib.sha256(name.encode()).digest()
        entropy = [self.seed, int.from_bytes(digest[:8], "big")]
        return np.random.default_rng(np.random.SeedSequence(entropy))

    def _lesion_plans(self, patient_id: str) -> dict[str, list[phantom_lesions.LesionPlan]]:
        """Returns the lesions of both breasts."""
        rng = self._rng(patient_id)
        kind = rng.random()
        side, other = rng.permutation(_BREASTS)
        malignant = {side: [], other: []}
        if kind < 0.4:
            malignant[side] = [True] + [True] * (rng.random() < 0.15)
            malignant[side] += [False] * (rng.random() < 0.25)
            malignant[other] = [False] * (rng.random() < 0.2)
        elif kind < 0.8:
            malignant[side] = [False] * int(rng.choice([1, 2, 3], p=[0.65, 0.25, 0.1]))
            malignant[other] = [False] * (rng.random() < 0.3)
        return {
            breast: [
                phantom_lesions.plan_lesion(bool(is_malignant), self.difficulty, rng)
                for is_malignant in malignant[breast]
            ]
            for breast in _BREASTS
        }


@dataclasses.dataclass(frozen=True)
class _Anatomy:
    """Properties shared by both breasts and views of a patient. Levels are logits of brightness."""

    depth_mm: float  # chest wall to nipple
    half_height_mm: float
    roundness: float  # 0.5 is an ellipse, more is pointed
    glandularity: float  # -1 almost all fat .. 1 almost all gland
    fat_level: float
    gland_level: float
    roll_off_mm: float  # from the skin to full thickness
    skin_fat_mm: float  # layer of fat under the skin

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "_Anatomy":
        glandularity = rng.uniform(-1, 1)
        fat_level = rng.uniform(-1.5, -0.7) + 0.2 * glandularity
        return cls(
            depth_mm=rng.uniform(65, 105),
            half_height_mm=rng.uniform(70, 98),
            roundness=rng.uniform(0.5, 0.72),
            glandularity=glandularity,
            fat_level=fat_level,
            gland_level=fat_level + rng.uniform(1.1, 1.7),
            roll_off_mm=rng.uniform(14, 28),
            skin_fat_mm=rng.uniform(4, 12),
        )


def _breast(anatomy, view, rng):
    """Draws a left breast, chest wall at column 0.

    Returns:
        Exposure float32 [height, width] in logits of brightness, and bool [height, width], where
        lesions may be: well under the skin, not over the pectoral muscle or at the film's ends.
    """
    shape = (_HEIGHT_PX, _WIDTH_PX)
    y = (np.arange(_HEIGHT_PX, dtype=np.float32) * PIXEL_SIZE_MM)[:, None]
    x = (np.arange(_WIDTH_PX, dtype=np.float32) * PIXEL_SIZE_MM)[None, :]
    nipple_mm = (0.5 if view == "CC" else 0.62) * _HEIGHT_PX * PIXEL_SIZE_MM + rng.uniform(-8, 8)
    skin_mm = _skin_line(y, view, nipple_mm, anatomy, rng)
    depth_mm = _depth_under_skin(x < skin_mm)

    gland = _gland_share(x, y, depth_mm, nipple_mm, anatomy, rng)
    level = anatomy.fat_level + (anatomy.gland_level - anatomy.fat_level) * gland
    fine = power_law_noise(shape, PIXEL_SIZE_MM, rng, beta=3.2, longest_mm=15, stretch=1.5)
    level += (0.05 + 0.10 * gland) * fine
    level += (0.25 + 0.2 * gland) * _strands(shape, depth_mm, nipple_mm, anatomy, rng)
    muscle = np.zeros(shape, bool)
    if view == "MLO":
        level, muscle = _with_pectoral(level, x, y, nipple_mm, anatomy, rng)
    level += 0.25 * np.exp(-(((depth_mm - 1.0) / 0.8) ** 2))  # the skin itself

    air = -6.5
    thickness = np.sqrt(1 - (1 - np.clip(depth_mm / anatomy.roll_off_mm, 0, 1)) ** 2)
    exposure = air + thickness * (level - air)
    room = (depth_mm > _LEAST_LESION_DEPTH_MM) & ~muscle
    room[:_EDGE_PX] = room[-_EDGE_PX:] = False
    return exposure, room


def _skin_line(y, view, nipple_mm, anatomy, rng):
    """Returns the distance of the skin from the chest wall, in mm, for every row."""
    t = (y - nipple_mm) / anatomy.half_height_mm
    profile = np.clip(1 - t**2, 0, 1) ** anatomy.roundness
    skin = anatomy.depth_mm * profile
    if view == "MLO":
        axilla_mm = rng.uniform(50, 65)
        upper = np.clip(1 - (t / 1.7) ** 2, 0, 1) ** anatomy.roundness
        skin = np.where(t < 0, axilla_mm + (anatomy.depth_mm - axilla_mm) * upper, skin)
        lower = np.clip(1 - (t / 0.85) ** 2, 0, 1) ** anatomy.roundness
        skin = np.where(t > 0, np.maximum(anatomy.depth_mm * lower, 5), skin)
    wave = ndimage.gaussian_filter1d(rng.standard_normal(y.size), 12 / PIXEL_SIZE_MM)
    skin += (1.2 * wave / wave.std())[:, None] * (skin > 10)
    nipple = rng.uniform(1, 6) * np.exp(-0.5 * ((y - nipple_mm) / rng.uniform(3, 5)) ** 2)
    return np.minimum(skin + nipple, 0.93 * _WIDTH_PX * PIXEL_SIZE_MM)


def _depth_under_skin(breast: np.ndarray) -> np.ndarray:
    """Returns the distance from the skin in mm, negative outside, computed on a coarser grid."""
    coarse = 4
    small = breast[::coarse, ::coarse]
    small = np.pad(small, ((40, 40), (40, 0)), mode="edge")  # no skin at the film's edges
    signed = ndimage.distance_transform_edt(small) - ndimage.distance_transform_edt(~small)
    signed = ndimage.gaussian_filter(signed.astype(np.float32), 2)[40:-40, 40:]
    zoom = [full / part for full, part in zip(breast.shape, signed.shape, strict=True)]
    return ndimage.zoom(signed, zoom, order=1) * np.float32(coarse * PIXEL_SIZE_MM)


def _gland_share(x, y, depth_mm, nipple_mm, anatomy, rng):
    """Returns the share of fibroglandular tissue along the ray, 0..1, float32."""
    noise = power_law_noise(
        depth_mm.shape, PIXEL_SIZE_MM, rng, beta=3.4, shortest_mm=4, stretch=1.3
    )
    under_skin = 1 / (1 + np.exp(-(depth_mm - anatomy.skin_fat_mm - 2 * noise) / 2.0))
    # A fan, wide at medium depth and narrow at the nipple; fat behind it and below.
    across = (y - nipple_mm + 6) / anatomy.half_height_mm
    along = x / anatomy.depth_mm
    fan = np.exp(-0.5 * (across / 0.45) ** 2) * np.exp(-0.5 * ((along - 0.5) / 0.35) ** 2)
    amount = 1.1 * noise + 3.0 * fan - 2.2 + 1.3 * anatomy.glandularity
    return under_skin / (1 + np.exp(-amount / 0.9))


def _strands(shape, depth_mm, nipple_mm, anatomy, rng):
    """Returns thin bent lines that converge at the nipple, 0..1: ducts, septa, ligaments."""
    count, step_mm = 420, 0.1
    length = rng.integers(80, 700, count)[:, None]
    walked = np.arange(700)
    y = rng.uniform(nipple_mm - anatomy.half_height_mm, nipple_mm + anatomy.half_height_mm, count)
    x = rng.uniform(0, anatomy.depth_mm, count)
    to_nipple = np.arctan2(nipple_mm - y, anatomy.depth_mm + 10 - x)
    bends = ndimage.gaussian_filter1d(rng.standard_normal((count, 700)), 60, axis=1)
    turn = to_nipple + rng.normal(size=count) * rng.choice([0.3, 0.9], count)
    heading = turn[:, None] + np.cumsum(bends, axis=1) * 0.06
    rows = y[:, None] + step_mm * np.cumsum(np.sin(heading), axis=1)
    columns = x[:, None] + step_mm * np.cumsum(np.cos(heading), axis=1)
    strength = rng.gamma(1.5, 0.4, count)[:, None] * np.sin(np.pi * np.clip(walked / length, 0, 1))

    lines = np.zeros(shape, np.float32)
    width_mm = rng.choice([0.14, 0.24, 0.45], count, p=[0.55, 0.35, 0.1])
    for width in np.unique(width_mm):
        chosen = width_mm == width
        row, column = ((mm[chosen] / PIXEL_SIZE_MM).astype(int).ravel() for mm in (rows, columns))
        on_film = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
        where = row[on_film] * shape[1] + column[on_film]
        weight = strength[chosen].ravel()[on_film]
        drawn = np.bincount(where, weight, minlength=lines.size).reshape(shape)
        sigma_px = width / PIXEL_SIZE_MM
        # A blurred line loses height as it gains width.
        lines += ndimage.gaussian_filter(drawn.astype(np.float32), sigma_px, truncate=3) * (
            sigma_px * np.sqrt(2 * np.pi) * step_mm / PIXEL_SIZE_MM
        )
    return np.tanh(lines) * np.clip(depth_mm / 6, 0, 1)


def _with_pectoral(level, x, y, nipple_mm, anatomy, rng):
    """Draws the pectoral muscle over the corner at the chest wall."""
    top_mm, end_mm = rng.uniform(38, 58), nipple_mm * rng.uniform(0.75, 1.0)
    down = y / end_mm
    edge_mm = top_mm * (1 - down) + rng.uniform(0, 7) * np.sin(np.pi * np.clip(down, 0, 1))
    fibres = power_law_noise(level.shape, PIXEL_SIZE_MM, rng, beta=2.5, longest_mm=20, stretch=0.4)
    muscle = anatomy.gland_level + rng.uniform(-0.4, 0.1) + 0.05 * fibres
    muscle += 0.25 * (level - anatomy.gland_level)  # breast tissue in front of it
    share = np.clip((edge_mm - x) / 4.0 + 0.5, 0, 1)
    return level + share**2 * (3 - 2 * share) * (muscle - level), share > 0.5


def _develop(exposure, rng):
    """Converts exposure in logits to a film with grain; uint16 [height, width]."""
    grain = ndimage.gaussian_filter(
        rng.standard_normal(exposure.shape, dtype=np.float32), 0.6, truncate=3
    )
    brightness = 1 / (1 + np.exp(-(exposure + 0.05 * grain)))
    return np.clip(np.rint(WHITE * (brightness - 0.0015)), 0, WHITE).astype(np.uint16)


def _mark_film(image, film, rng):
    """Adds the lead marker in the air next to the breast and, in some films, bright film edges."""
    image = image.copy()
    marker = _marker(film.laterality[0] + film.view, rng)
    height, width = marker.shape
    top = round(rng.uniform(0.03, 0.09) * _HEIGHT_PX)
    from_edge = round(rng.uniform(0.03, 0.12) * _WIDTH_PX)
    left = _WIDTH_PX - width - from_edge if film.laterality == "LEFT" else from_edge
    corner = image[top : top + height, left : left + width]
    np.maximum(corner, marker, out=corner)
    if rng.random() < 0.4:
        for rows in (slice(0, rng.integers(3, _EDGE_PX)), slice(-rng.integers(3, _EDGE_PX), None)):
            image[rows] = rng.integers(48000, 62000)
    if rng.random() < 0.3:
        thick = rng.integers(2, 10)
        columns = slice(-thick, None) if film.laterality == "LEFT" else slice(0, thick)
        image[:, columns] = rng.integers(30000, 62000)
    return image


def _marker(text, rng):
    """Returns a rotated lead marker; uint16, 0 outside."""
    gap = np.zeros((7, 1))
    letters = [np.array([[c == "#" for c in row] for row in _LETTERS[t]], float) for t in text]
    word = np.hstack([part for letter in letters for part in (letter, gap)])
    word = np.kron(np.pad(word, 1), np.ones((9, 9)))
    word = ndimage.rotate(word, rng.uniform(-50, 50), order=1)
    return (np.clip(word, 0, 1) * rng.uniform(30000, 60000)).astype(np.uint16)
