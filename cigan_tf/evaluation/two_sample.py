"""Can a classifier separate infills from real lesions? An AUC of 0.5 means that it cannot.

The classifier is tested on patients that were not used to fit it. Each fold has its own AUC,
because scores of different folds are not comparable: pooling them pulls the AUC of identical sides
below 0.5.
"""

from typing import NamedTuple

import numpy as np
import sklearn.base
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cigan_tf.errors import UserError
from cigan_tf.evaluation import patient_bootstrap, roc
from cigan_tf.patch_format import WHITE

_FOLDS = 5
_RESAMPLES = 1000
# Width of the ring of tissue around the mask that the inside is compared with.
_RING_PX = 6
# One grey level of 16 bits, so that ratios of flat regions are finite.
_GREY_LEVEL = 1 / WHITE

TEXTURE_NUMBERS = ("laplacian", "gradient", "deviation", "brightness", "edge_step")


class TwoSampleTest(NamedTuple):
    """Result of `two_sample_test`.

    Attributes:
        auc: AUC of generated against real patches, averaged over the folds.
        interval: 95 % interval of `auc` from resampled patients; the classifiers are not refitted.
        num_folds: 5, or the number of patients of a side if that is smaller.
    """

    auc: float
    interval: roc.Interval
    num_folds: int


def two_sample_test(
    values: np.ndarray,
    generated: np.ndarray,
    patients: np.ndarray,
    classifier: sklearn.base.ClassifierMixin,
    seed: int,
) -> TwoSampleTest | None:
    """Trains a classifier to separate generated from real patches, and tests it on other patients.

    Args:
        values: features of each patch for the classifier, [n, d].
        generated: bool, [n].
        patients: patient of each patch, [n]. A patient must be on only one side; otherwise the
            classifier could recognise the patient instead of the side.
        classifier: a scikit-learn classifier with `predict_proba`; a copy is fitted in each fold.
        seed: seed of the folds and resamples.

    Returns:
        The result of the test, or None if a side has fewer than two patients.

    Raises:
        UserError: a patient is on both sides.

    References:
        Lopez-Paz, Oquab. Revisiting Classifier Two-Sample Tests. ICLR 2017.
    """
    values, generated = np.asarray(values), np.asarray(generated, bool)
    names, patient_of_patch = np.unique(patients, return_inverse=True)
    is_generated = np.bincount(patient_of_patch, generated, len(names)) > 0
    on_both = is_generated & (np.bincount(patient_of_patch, ~generated, len(names)) > 0)
    if on_both.any():
        raise UserError(
            "A patient must be on only one side of a two-sample test; received "
            f"{str(names[on_both][0])!r} on both."
        )
    num_folds = int(min(_FOLDS, is_generated.sum(), (~is_generated).sum()))
    if num_folds < 2:
        return None
    draws, _ = patient_bootstrap.draw_patients(
        np.random.default_rng(seed),
        patient_bootstrap.patches_by_class(generated, patient_of_patch),
        _RESAMPLES,
    )
    draws = np.concatenate([np.ones_like(draws[:1]), draws])
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    aucs = []
    for _, tested_patients in folds.split(names, is_generated):
        tested = np.isin(patient_of_patch, tested_patients)
        fitted = sklearn.base.clone(classifier).fit(values[~tested], generated[~tested])
        auc = patient_bootstrap.WeightedAuc(
            generated[tested],
            fitted.predict_proba(values[tested])[:, 1],
            np.searchsorted(tested_patients, patient_of_patch[tested]),
        )
        # A resample may contain no patient of one side of this fold.
        with np.errstate(invalid="ignore"):
            aucs.append(auc(draws[:, tested_patients]))
    aucs = np.stack(aucs, axis=1)
    known = ~np.isnan(aucs)
    aucs, known = aucs[known.any(axis=1)], known[known.any(axis=1)]
    means = np.where(known, aucs, 0).sum(axis=1) / known.sum(axis=1)
    low, high = np.quantile(means[1:], [0.025, 0.975])
    return TwoSampleTest(float(means[0]), roc.Interval(float(low), float(high)), num_folds)


def feature_classifier() -> sklearn.base.ClassifierMixin:
    """Returns a logistic regression for network features, which outnumber the patients."""
    return make_pipeline(
        StandardScaler(),
        LogisticRegression(C=0.001, class_weight="balanced", max_iter=1000),
    )


def texture_classifier(seed: int) -> sklearn.base.ClassifierMixin:
    """Returns a random forest for `texture_numbers`."""
    # No leaves of a single patch, because patches of one patient are similar.
    return RandomForestClassifier(
        50, min_samples_leaf=5, class_weight="balanced", random_state=seed
    )


def texture_numbers(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns a few features that reveal a difference in texture between mask and tissue.

    Args:
        images: in [0, 1], [n, p, p, 1].
        masks: {0, 1}, none of them empty, [n, p, p, 1].

    Returns:
        float64 [n, 5], in the order of `TEXTURE_NUMBERS`. The first three are logarithms of ratios
        between the inside of the mask and a ring of 6 px around it: standard deviation of the
        Laplacian, mean gradient, standard deviation of grey levels. The other two are the
        difference between the mean grey levels of inside and ring, and the step of the mean grey
        level across the edge. All five are 0 if the mask covers the whole patch.

    Raises:
        UserError: shapes differ, or a mask is empty.
    """
    images, masks = np.asarray(images, np.float64), np.asarray(masks)
    if images.ndim != 4 or images.shape[-1] != 1 or images.shape != masks.shape:
        raise UserError(
            "images and masks must both be of shape [n, height, width, 1]; received "
            f"{images.shape} and {masks.shape}."
        )
    empty = np.flatnonzero(~masks.any(axis=(1, 2, 3)))
    if empty.size:
        raise UserError(
            "every mask must cover at least one pixel; received an empty mask for patch "
            f"{empty[0]}."
        )
    pairs = zip(images[..., 0], masks[..., 0] != 0, strict=True)
    numbers = [_texture_numbers(image, inside) for image, inside in pairs]
    return np.reshape(numbers, (len(images), len(TEXTURE_NUMBERS)))


def _texture_numbers(image: np.ndarray, inside: np.ndarray) -> list[float]:
    if inside.all():
        return [0.0] * len(TEXTURE_NUMBERS)
    depth = ndimage.distance_transform_edt(inside)
    distance = ndimage.distance_transform_edt(~inside)
    # Differences across the edge belong to the edge, not to the texture.
    core = depth > 1 if (depth > 1).any() else inside
    ring = (distance > 1) & (distance <= _RING_PX)
    if not ring.any():
        ring = ~inside
    laplacian = ndimage.laplace(image)
    gradient = np.hypot(*np.gradient(image))

    def log_ratio(of_inside: float, of_ring: float) -> float:
        return float(np.log((of_inside + _GREY_LEVEL) / (of_ring + _GREY_LEVEL)))

    return [
        log_ratio(laplacian[core].std(), laplacian[ring].std()),
        log_ratio(gradient[core].mean(), gradient[ring].mean()),
        log_ratio(image[core].std(), image[ring].std()),
        float(image[core].mean() - image[ring].mean()),
        float(image[depth == 1].mean() - image[distance == 1].mean()),
    ]
