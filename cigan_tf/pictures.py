"""Patches as pictures: a grey-level window per patch, rows of original, input and infills."""

import numpy as np

COLUMNS = ("original", "input", "same class", "opposite class")
# An additional column for the generator that training started from.
BEFORE = "opposite class before training"
GAP_PX = 4


def display_window(*images: np.ndarray) -> tuple[float, float]:
    """Returns the grey levels displayed as black and white in pictures of all the images.

    Args:
        images: a patch and its infills, so that a bright infill does not saturate; any shapes, in
            [0, 1].

    Returns:
        (black, white): the lowest 1st and the highest 99.5th percentile, slightly widened.
    """
    percentiles = [np.percentile(image, [1, 99.5]) for image in images]
    black, white = min(low for low, _ in percentiles), max(high for _, high in percentiles)
    margin = 0.1 * (white - black) + 0.01
    return float(black - margin), float(white + margin)


def to_8_bit(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Returns the image in a grey-level window, uint8 of the same shape."""
    black, white = window
    return (255 * np.clip((image - black) / (white - black), 0, 1) + 0.5).astype(np.uint8)


def comparison_rows(
    batch: dict[str, np.ndarray], infill, seed: int, before=None
) -> list[list[np.ndarray]]:
    """Returns a row per patch: original, input, infill of its class, infill of the opposite class.

    Args:
        batch: `image`, `mask` float32 [N, p, p, 1], `label` int32 [N].
        infill: function (image, mask, label, seed int32 [N]) -> [N, p, p, 1] in [0, 1] that uses
            the noise of `randomness.noise_of_seed`.
        seed: seed of the first patch; it increases by 1 from patch to patch.
        before: a function like `infill`, of the generator that training started from.

    Returns:
        N rows of uint8 [p, p] pictures: `COLUMNS`, which include those of the paper's Fig. 1, and
        `BEFORE` if `before` is given.
    """
    # Imported here, because commands that draw no noise need no TensorFlow for flags and messages.
    from cigan_tf.randomness import consecutive_seeds, noise_of_seed

    image, mask, label = batch["image"], batch["mask"], batch["label"]
    seeds = consecutive_seeds(seed, len(label))
    same = np.asarray(infill(image, mask, label, seeds))
    infills = [same, np.asarray(infill(image, mask, 1 - label, seeds))]
    if before is not None:
        infills.append(np.asarray(before(image, mask, 1 - label, seeds)))
    noise = [noise_of_seed(of_patch, image.shape[1]).numpy() for of_patch in seeds]
    rows = []
    for original, in_mask, speckle, *infilled in zip(image, mask, noise, *infills, strict=True):
        window = display_window(original, *infilled)
        # Noise is scaled to this window; otherwise it would look like a bright disc.
        speckle = window[0] + speckle * (window[1] - window[0])
        corrupted = np.where(in_mask > 0.5, speckle, original)
        columns = [original, corrupted, *infilled]
        rows.append([to_8_bit(column[..., 0], window) for column in columns])
    return rows


def grid(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Returns rows of uint8 [p, p] pictures as one picture with white gaps."""
    height, width = rows[0][0].shape
    step_y, step_x = height + GAP_PX, width + GAP_PX
    canvas = np.full((len(rows) * step_y - GAP_PX, len(rows[0]) * step_x - GAP_PX), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            canvas[r * step_y : r * step_y + height, c * step_x : c * step_x + width] = picture
    return canvas
