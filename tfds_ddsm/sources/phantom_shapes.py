"""Draws single lesions: masses with and without spicules, clusters of calcifications.

Shapes follow the mass and calcification descriptors of the BI-RADS Atlas (American College of
Radiology, 5th edition, 2013). Benign masses are circumscribed and either oval or lobulated;
malignant masses are irregular and spiculated. Benign calcifications are few, round and scattered.
Malignant calcifications are numerous and fine pleomorphic, and form a cluster or a line.
"""

import dataclasses
import functools
import math

import cv2
import numpy as np
from scipy import fft, spatial

# Masses and all outlines are smooth: on finer films they are drawn at this size and interpolated.
_FINEST_PIXEL_MM = 0.1


@dataclasses.dataclass(frozen=True)
class LesionPlan:
    """The properties of a lesion before drawing; two views of one lesion share a plan.

    Attributes:
        lesion_type: 'mass' or 'calcification'.
        malignant: the class.
        diameter_mm: longest extent of the mass without its spicules, or of the cluster.
        suspicion: how malignant it looks, in (0, 1); the distributions of the two classes overlap
            more with higher difficulty.
        contrast: peak step on the film's characteristic curve, in logits of brightness.
    """

    lesion_type: str
    malignant: bool
    diameter_mm: float
    suspicion: float
    contrast: float


def draw_lesion(
    plan: LesionPlan, pixel_size_mm: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a lesion in the middle of a square window.

    Returns:
        The step that it adds to the logit of the film's brightness, float32 [n, n], and its
        mask, bool [n, n], one smooth region without holes; n is odd.
    """
    draw = _mass if plan.lesion_type == "mass" else _cluster
    return draw(plan, pixel_size_mm, rng)


def power_law_noise(
    shape: tuple[int, int],
    pixel_size_mm: float,
    rng: np.random.Generator,
    *,
    beta: float = 3.0,
    longest_mm: float = 60.0,
    shortest_mm: float = 0.0,
    stretch: float = 1.0,
) -> np.ndarray:
    """Returns noise with the power spectrum 1 / f**beta, like breast tissue on a film.

    beta is about 3 in mammograms: Burgess, Jacobson and Judy, "Human observer detection
    experiments with mammograms and power-law noise", Medical Physics 28(4), 2001.

    Args:
        shape: height and width in pixels.
        pixel_size_mm: side of one pixel.
        rng: random generator.
        beta: the exponent.
        longest_mm: the spectrum is flat at wavelengths above this.
        shortest_mm: wavelengths below this are faded out.
        stretch: factor by which structures are longer along the rows.

    Returns:
        float32 [height, width], mean 0, standard deviation 1; it wraps around at its edges.
    """
    height, width = (fft.next_fast_len(n, real=True) for n in shape)
    spectrum = fft.rfft2(rng.standard_normal((height, width), dtype=np.float32))
    for factor in _amplitudes(height, width, pixel_size_mm, beta, longest_mm, shortest_mm, stretch):
        spectrum *= factor
    spectrum[0, 0] = 0
    noise = fft.irfft2(spectrum, s=(height, width))[: shape[0], : shape[1]]
    return (noise / max(float(noise.std()), 1e-12)).astype(np.float32)


@functools.lru_cache(maxsize=8)  # one for each noise layer of a film; films have similar sizes
def _amplitudes(
    height: int,
    width: int,
    pixel_size_mm: float,
    beta: float,
    longest_mm: float,
    shortest_mm: float,
    stretch: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the power law's amplitudes on the grid of `rfft2`, and those of the fade-out."""
    f_rows = fft.fftfreq(height, pixel_size_mm)[:, None].astype(np.float32)
    f_columns = fft.rfftfreq(width, pixel_size_mm)[None, :].astype(np.float32)
    squared = f_rows**2 + (stretch * f_columns) ** 2
    law = (squared + 1 / longest_mm**2) ** (-beta / 4)
    return law, np.exp(-squared * (shortest_mm / 2) ** 2)


def _grid(radius_mm: float, pixel_size_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns y [n, 1] and x [1, n] in mm around the middle of a square window, n odd."""
    reach_px = math.ceil(radius_mm / pixel_size_mm)
    axis = np.arange(-reach_px, reach_px + 1, dtype=np.float32) * np.float32(pixel_size_mm)
    return axis[:, None], axis[None, :]


def _wavy_radius(angle, first_order, last_order, amplitude, rng):
    """Returns the radius of a closed outline, around 1: a Fourier series that decays."""
    turns = np.linspace(-np.pi, np.pi, 361)
    radius = np.ones_like(turns)
    for order in range(first_order, last_order + 1):
        size = amplitude * rng.normal() * (first_order / order) ** 1.2
        radius += size * np.cos(order * turns + rng.uniform(0, 2 * np.pi))
    return np.interp(angle, turns, np.maximum(radius, 0.4)).astype(np.float32)


def _between(low: float, high: float, share: float, rng: np.random.Generator) -> float:
    """Returns the point about `share` of the way from low to high.

    A normal error with standard deviation 0.15 is added to the share.
    """
    return low + (high - low) * min(max(share + 0.15 * rng.normal(), 0.0), 1.0)


def _mass(plan, pixel_size_mm, rng):
    """Draws a mass: step float32 [n, n] in logits and mask bool [n, n], n odd."""
    fine_mm = max(pixel_size_mm, _FINEST_PIXEL_MM)
    radius_mm = plan.diameter_mm / 2
    look = plan.suspicion
    y, x = _grid(2.1 * radius_mm + 2, fine_mm)

    turn = rng.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    across = across * rng.uniform(1.1, 1.5)
    angle = np.arctan2(across, along)
    outline = _wavy_radius(angle, 2, 4, 0.05, rng)
    outline *= _wavy_radius(angle, 3, 14, _between(0.0, 0.12, look, rng), rng)
    texture = power_law_noise(angle.shape, fine_mm, rng, longest_mm=radius_mm, shortest_mm=0.5)
    reach = np.hypot(along, across) / (radius_mm * outline)
    reach *= 1 + _between(0.01, 0.10, look, rng) * texture

    # A projected ellipsoid if circumscribed; denser towards the middle if infiltrating.
    core = np.clip(1 - reach**2, 0, None) ** _between(0.5, 0.9, look, rng)
    core = _blur(core, _between(0.25, 0.8, look, rng) / fine_mm)
    core *= (1 + 0.12 * texture) / core.max()
    if look < 0.4 and rng.random() < 0.4:  # the thin dark halo of some circumscribed masses
        core -= 0.10 * np.exp(-(((reach - 1.07) / 0.06) ** 2))

    num_spicules = round(_between(-8, 28, look, rng))
    spicules = _spicules(y, x, radius_mm, max(num_spicules, 0), rng)
    # Strands are visible outside the core and disappear in its brightness.
    profile = core + np.clip(1 - core, 0, 1) ** 2 * spicules
    fade = np.clip((2.1 * radius_mm + 2 - np.hypot(y, x)) / 2, 0, 1)
    contrast = plan.contrast * (plan.diameter_mm / 12) ** 0.3
    step = (contrast * profile * fade).astype(np.float32)

    seen = _blur(np.abs(profile), 0.5 / fine_mm) > 0.10
    mask = _smooth_blob(seen, fine_mm)
    if fine_mm > pixel_size_mm:
        size = 2 * round(step.shape[0] * fine_mm / pixel_size_mm / 2) + 1
        step, mask = _interpolate(step, size), _interpolate_mask(mask, size)
    return step, mask


def _spicules(y, x, radius_mm, count, rng):
    """Draws thin, bent, tapering strands that start at the core; float32 [n, n] in 0..1."""
    strands = np.zeros((y.size, x.size), np.float32)
    for _ in range(count):
        turn = rng.uniform(0, 2 * np.pi)
        length_mm = radius_mm * (1.15 + min(rng.exponential(0.35), 0.9))
        root_mm = rng.uniform(0.15, 0.45)
        bend = float(rng.normal()) * 0.12 / radius_mm
        strength = rng.uniform(0.3, 0.7)
        cosine, sine = math.cos(turn), math.sin(turn)
        along = x * cosine + y * sine
        across = y * cosine - x * sine - bend * along**2
        # Elsewhere a strand's brightness is at most 0.0003.
        near = np.nonzero(
            (along > 0.3 * radius_mm)
            & (along < length_mm)
            & (np.abs(across) < 4 * (0.12 + root_mm))
        )
        along, across = along[near], across[near]
        left = 1 - along / length_mm  # 1 in the middle, 0 at the tip
        strand = strength * np.minimum(1, 2.5 * left)
        strand *= np.exp(-0.5 * (across / (0.12 + root_mm * left)) ** 2)
        strand *= np.clip(along / (0.6 * radius_mm) - 0.5, 0, 1)
        strands[near] = np.maximum(strands[near], strand)
    return strands


def _cluster(plan, pixel_size_mm, rng):
    """Draws a cluster of calcifications: step float32 [n, n] and mask bool [n, n], n odd."""
    look = plan.suspicion
    radius_mm = plan.diameter_mm / 2
    y, x = _grid(1.1 * radius_mm + 4, pixel_size_mm)
    centres = _speck_centres(plan, round(_between(5, 45, look, rng)), rng)

    step = np.zeros((y.size, x.size), np.float32)
    edge_mm = max(0.06, 0.7 * pixel_size_mm)
    spread = _between(0.1, 0.55, look, rng)
    roughness = _between(0.02, 0.3, look, rng)
    typical_mm = _between(0.35, 0.15, look, rng)  # radius
    for row_mm, column_mm in centres:
        size_mm = float(np.clip(typical_mm * np.exp(spread * rng.normal()), 0.1, 0.8))
        near = math.ceil((3 * size_mm + 2 * edge_mm) / pixel_size_mm)
        row = round(row_mm / pixel_size_mm) + y.size // 2
        column = round(column_mm / pixel_size_mm) + x.size // 2
        window = (slice(row - near, row + near + 1), slice(column - near, column + near + 1))
        down, right = y[window[0]] - row_mm, x[:, window[1]] - column_mm
        angle = np.arctan2(down, right)
        radius = size_mm * _wavy_radius(angle, 2, 5, roughness, rng)
        inside = np.clip((radius - np.hypot(down, right)) / edge_mm + 0.5, 0, 1)
        inside *= np.clip(1.1 - 0.6 * np.hypot(down, right) / radius, 0.3, 1)  # thick in the middle
        bright = plan.contrast * rng.uniform(1 - spread, 1)
        step[window] = np.maximum(step[window], bright * inside)

    # The convex hull of the specks plus a millimetre; inside, a faint haze of dense tissue.
    fine_mm = max(pixel_size_mm, _FINEST_PIXEL_MM)
    y, x = _grid(1.1 * radius_mm + 4, fine_mm)
    beyond_mm = np.full((y.size, x.size), -np.inf, np.float32)
    for row_normal, column_normal, offset in spatial.ConvexHull(centres).equations.tolist():
        np.maximum(beyond_mm, row_normal * y + column_normal * x + offset, out=beyond_mm)
    haze = 0.10 * plan.contrast * look * np.clip(0.5 - beyond_mm / 3, 0, 1)
    outline = _smooth_blob(beyond_mm < 0.8, fine_mm)
    if fine_mm > pixel_size_mm:
        size = step.shape[0]
        haze, outline = _interpolate(haze, size), _interpolate_mask(outline, size)
    return step + haze, outline


def _speck_centres(plan, count, rng):
    """Returns [count, 2] positions in mm: scattered in an oval, or along a bent line."""
    radius_mm = plan.diameter_mm / 2
    flatness = rng.uniform(0.5, 0.9)
    if rng.random() < 0.45 * plan.suspicion:
        flatness = rng.uniform(0.12, 0.25)  # linear or segmental
    bend = rng.uniform(-0.25, 0.25) / radius_mm
    distance = radius_mm * np.sqrt(rng.random(count)) ** (1 + plan.suspicion)
    angle = rng.uniform(0, 2 * np.pi, count)
    along, across = distance * np.cos(angle), flatness * distance * np.sin(angle)
    across = across + bend * along**2
    turn = rng.uniform(0, np.pi)
    rows = along * np.sin(turn) + across * np.cos(turn)
    columns = along * np.cos(turn) - across * np.sin(turn)
    return np.stack([rows, columns], axis=1)


def _smooth_blob(seen: np.ndarray, pixel_size_mm: float) -> np.ndarray:
    """Returns one smooth region without holes, slightly larger than the visible part."""
    solid = _fill_holes(seen).astype(np.float32)
    # The threshold is far below one half, so the outline moves outwards by about half a millimetre.
    wide = _fill_holes(_blur(solid, 1.0 / pixel_size_mm) > 0.3)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(wide.astype(np.uint8), connectivity=4)
    return labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Returns the mask with its holes filled: all pixels not connected to the outside."""
    around = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(around, connectivity=4)
    return (labels != labels[0, 0])[1:-1, 1:-1]


def _blur(array: np.ndarray, sigma_px: float) -> np.ndarray:
    """Smooths with a Gaussian that is cut off at 4 sigma; float32."""
    size = 2 * math.ceil(4 * sigma_px) + 1
    array = array.astype(np.float32, copy=False)
    return cv2.GaussianBlur(array, (size, size), sigma_px, borderType=cv2.BORDER_REFLECT)


def _interpolate_mask(mask: np.ndarray, size: int) -> np.ndarray:
    return _interpolate(mask.astype(np.float32), size) > 0.5


def _interpolate(array, size):
    """Returns a square array resized to [size, size] by linear interpolation."""
    places = np.linspace(0, array.shape[0] - 1, size, dtype=np.float32)
    low = np.minimum(places.astype(int), array.shape[0] - 2)
    share = (places - low).astype(np.float32)[:, None]
    for _ in range(2):  # along the rows, then, transposed, along the columns
        array = (array[low] * (1 - share) + array[low + 1] * share).T
    return array
