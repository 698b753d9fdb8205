"""Measures of opposite-class infills of held-out patches, for which there is no ground truth."""

from collections.abc import Callable

import numpy as np

from cigan_tf import input_pipeline
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.evaluation import fidelity, roc
from cigan_tf.randomness import consecutive_seeds

_WINDOW_PX = 64
_KID_SUBSETS = 20
_PENALTY = 1e-2
_NEWTON_STEPS = 20


class HeldOutMeasures:
    """KID and class consistency of infills, and the same measures of real patches for reference.

    The infills are made in validation patches and compared with real patches of the training split,
    so no patient is on both sides. The reference values are those of the real validation patches.
    The class is predicted by a logistic regression fitted to the features of the real training
    patches.

    Args:
        config: names the splits, the number of patches and the seed.
        features: function from windows, [n, s, s, 1] in [0, 1], to features, [n, d].
    """

    def __init__(self, config: Config, features: Callable[[np.ndarray], np.ndarray]):
        count, data = config.training.evaluated_patches, config.data
        real = input_pipeline.drawn_patches(
            config, data.train_split, count, data.train_patient_share
        )
        self._patches = input_pipeline.drawn_patches(config, data.validation_split, count)
        self._features = features
        self._seed = config.training.seed
        self._real = self._of(real["image"], real["mask"])
        self._probe = fit_probe(self._real, real["label"])
        held_out = self._of(self._patches["image"], self._patches["mask"])
        self._real_values = self._values(held_out, self._patches["label"])

    def measure(self, infill) -> dict[str, float]:
        """Returns the measures by TensorBoard tag.

        Args:
            infill: function (image, mask, label, seed int32 [N]) -> [N, p, p, 1] in [0, 1].
        """
        image, mask, asked = (
            self._patches["image"],
            self._patches["mask"],
            1 - self._patches["label"],
        )
        infilled = infill(image, mask, asked, consecutive_seeds(self._seed, len(asked)))
        values = self._values(self._of(infilled, mask), asked)
        real = {f"held_out/{name}_of_real_patches": v for name, v in self._real_values.items()}
        return {f"held_out/{name}": value for name, value in values.items()} | real

    def _of(self, images, masks) -> np.ndarray:
        return self._features(fidelity.lesion_window(images, masks, _WINDOW_PX))

    def _values(self, features: np.ndarray, label: np.ndarray) -> dict[str, float]:
        distance = fidelity.kernel_distance(
            features, self._real, seed=self._seed, num_subsets=_KID_SUBSETS
        )
        return {
            "kid": distance.distance,
            "class_auc": float(roc.auc(label == 1, self._probe(features))),
        }


def fit_probe(features: np.ndarray, label: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a logistic regression with an L2 penalty, as a function from features to logits.

    Args:
        features: [n, d].
        label: int [n] in {0, 1}.

    Raises:
        UserError: there is only one class.
    """
    if len(np.unique(label)) < 2:
        raise UserError(
            "The patches drawn from the training split are of one class; pass a larger "
            "--evaluated_patches, or 0 for no measures during training."
        )
    mean, sd = features.mean(axis=0), features.std(axis=0) + 1e-6

    def standardized(values):
        return np.concatenate([(values - mean) / sd, np.ones((len(values), 1))], axis=1)

    inputs = standardized(np.asarray(features, np.float64))
    penalty = np.full(inputs.shape[1], _PENALTY * len(inputs))
    penalty[-1] = 1e-9  # the intercept is not penalised
    weights = np.zeros(inputs.shape[1])
    for _ in range(_NEWTON_STEPS):
        probability = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        gradient = inputs.T @ (probability - label) + penalty * weights
        curvature = inputs.T * (probability * (1 - probability)) @ inputs + np.diag(penalty)
        weights -= np.linalg.solve(curvature, gradient)
    return lambda values: standardized(np.asarray(values, np.float64)) @ weights
