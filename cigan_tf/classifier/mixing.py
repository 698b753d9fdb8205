"""Share of real patches in each step (paper section 3.2)."""

import numpy as np

from cigan_tf.experiment_config import ClassifierConfig


def real_share_by_step(settings: ClassifierConfig) -> np.ndarray:
    """Returns the probability of a real patch at every training step, float32 [steps] in [0, 1].

    The paper says: "We train the classifier by initially training on equal proportions of real and
    synthetic data. Every 1000 iterations, we increase the relative proportion of real data used by
    20%, such that the final iteration is trained on 90% real data." Three readings of this reach
    90 %. After k intervals of `real_share_steps`, the probability is:

    - share_x1.2: min(0.9, 0.5 * 1.2^k);
    - synthetic_x0.8: 1 / (1 + 0.8^k), from the proportions real : synthetic = 1 : 0.8^k;
    - plus_20_points: min(0.9, 0.5 + 0.2 k).
    """
    steps = np.arange(settings.classifier_steps)
    if settings.synthetic_use == "none":
        share = np.ones(steps.size)
    elif settings.synthetic_use == "only":
        share = np.zeros(steps.size)
    elif settings.synthetic_use == "pretraining":
        share = steps >= settings.synthetic_pretraining_share * steps.size
    else:
        stage = steps // settings.real_share_steps
        share = {
            "share_x1.2": np.minimum(0.9, 0.5 * 1.2 ** np.minimum(stage, 10)),
            "synthetic_x0.8": 1 / (1 + 0.8**stage),
            "plus_20_points": np.minimum(0.9, 0.5 + 0.2 * stage),
        }[settings.real_share_reading]
    return share.astype(np.float32)


def draw_synthetic(settings: ClassifierConfig, seed: int) -> np.ndarray:
    """Draws which patches are synthetic, by the probability of each step (`real_share_by_step`).

    Args:
        settings: number of steps and of patches per step, and the share of real patches.
        seed: seed of the draw. The numbers drawn for a step do not depend on how many steps follow.

    Returns:
        True for synthetic patches, bool [steps, patches].
    """
    share = real_share_by_step(settings)
    drawn = np.random.default_rng(seed).random((share.size, settings.classifier_batch_size))
    return drawn >= share[:, None]


def places_in_streams(stream: np.ndarray) -> np.ndarray:
    """Returns the number of earlier patches of the same stream for each patch.

    Args:
        stream: number of each patch's stream, in training order.

    Returns:
        int64, same shape as `stream`.
    """
    places = np.empty(stream.shape, np.int64)
    for number in np.unique(stream):
        of_stream = stream == number
        places[of_stream] = np.arange(np.count_nonzero(of_stream))
    return places
