"""Tests of the distances between real and generated patches."""

import numpy as np
import pytest
from scipy import linalg

from cigan_tf.errors import UserError
from cigan_tf.evaluation import fidelity


def with_moments(rng, num, mean, covariance):
    """Draws features with exactly this sample mean and covariance."""
    features = rng.normal(size=(num, len(mean)))
    features -= features.mean(axis=0)
    features = np.linalg.solve(np.linalg.cholesky(np.cov(features.T)), features.T).T
    return mean + features @ np.linalg.cholesky(covariance).T


def test_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    a = with_moments(rng, 50, np.array([1.0, 2.0, 3.0]), np.diag([1.0, 4.0, 9.0]))
    b = with_moments(rng, 80, np.array([1.0, 0.0, 6.0]), np.diag([4.0, 4.0, 1.0]))
    # |(0, 2, -3)|^2 + (1 - 2)^2 + (2 - 2)^2 + (3 - 1)^2
    assert fidelity.frechet_distance(a, b) == (pytest.approx(18.0), 50, 80)


@pytest.mark.parametrize("num", [8, 100])
def test_frechet_distance_agrees_with_the_matrix_root(num):
    rng = np.random.default_rng(num)
    a = rng.normal(size=(num, 20)) @ rng.normal(size=(20, 20))
    b = rng.normal(size=(num + 5, 20)) @ rng.normal(size=(20, 20)) + 1

    # As in the paper, with the product of the covariances in symmetric form.
    covariance_a, covariance_b = np.cov(a.T), np.cov(b.T)
    values, vectors = linalg.eigh(covariance_a)
    root_a = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    shared = np.sqrt(np.maximum(linalg.eigvalsh(root_a @ covariance_b @ root_a), 0)).sum()
    shift = a.mean(axis=0) - b.mean(axis=0)
    expected = shift @ shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * shared

    assert fidelity.frechet_distance(a, b).distance == pytest.approx(expected, rel=1e-6)
    assert fidelity.frechet_distance(a, a).distance == pytest.approx(0, abs=1e-9)


def test_frechet_distance_is_biased_upwards_and_kernel_distance_is_not():
    rng = np.random.default_rng(1)
    frechet, kernel = [], []
    for seed in range(30):
        a, b = rng.normal(size=(2, 60, 10))
        frechet.append(fidelity.frechet_distance(a, b).distance)
        kernel.append(fidelity.kernel_distance(a, b, seed, num_subsets=20).distance)
    assert min(frechet) > 0.5
    assert abs(np.mean(kernel)) < 3 * np.std(kernel) / np.sqrt(30)
    assert min(kernel) < 0 < max(kernel)


def test_kernel_distance_is_the_mean_of_unbiased_estimates():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(9, 3)) + 0.5
    result = fidelity.kernel_distance(a, b, seed=4, num_subsets=5)

    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / 3 + 1) ** 3

    rng = np.random.default_rng(4)
    expected = []
    for _ in range(5):
        x, y = rng.choice(a, 3, replace=False), rng.choice(b, 3, replace=False)
        pairs = [(i, j) for i in range(3) for j in range(3)]
        within = sum(kernel(s[i], s[j]) for s in (x, y) for i, j in pairs if i != j) / 6
        between = sum(kernel(x[i], y[j]) for i, j in pairs) / 9
        expected.append(within - 2 * between)

    assert result.distance == pytest.approx(np.mean(expected))
    assert result.sd == pytest.approx(np.std(expected))
    assert result[2:] == (3, 6, 9)


def test_kernel_distance_grows_with_the_shift_and_repeats_by_seed():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 400, 8))
    near, far = (fidelity.kernel_distance(a, b + s, 0, 10, 100).distance for s in (0.1, 1.0))
    assert far > 10 * max(near, 0.01)
    assert fidelity.kernel_distance(a, b, 7) == fidelity.kernel_distance(a, b, 7)
    assert fidelity.kernel_distance(a, b, 7) != fidelity.kernel_distance(a, b, 8)


def test_halves_share_no_patient_and_have_about_as_many_patches():
    groups = np.repeat([f"p{i}" for i in range(40)], np.arange(1, 41))
    for seed in range(20):
        first = fidelity.first_half(groups, seed)
        assert not set(groups[first]) & set(groups[~first])
        assert abs(first.sum() - groups.size / 2) <= 20
    assert set(fidelity.first_half(["a", "b"], 0).tolist()) == {True, False}
    assert fidelity.first_half(["a"] * 9 + ["b"], 0).sum() in (1, 9)


def test_window_contains_the_lesion_with_a_little_context():
    image = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:36, 30:38] = 1  # 16 rows, 8 columns: a window of 20 px, from row 18 and column 24

    window = fidelity.lesion_window(image[None, ..., None], mask[None, ..., None], size=20)

    assert window.shape == (1, 20, 20, 1)
    assert window.dtype == np.float32
    np.testing.assert_array_equal(window[0, ..., 0], image[18:38, 24:44])


def test_window_is_moved_inwards_and_resized():
    image = np.arange(32 * 32, dtype=np.float32).reshape(32, 32)
    masks = np.zeros((2, 32, 32, 1))
    masks[0, :16, 24:] = 1  # in the corner: rows 0 to 20, columns 12 to 32
    masks[1] = 1  # larger than padding allows: the whole patch
    images = np.stack([image, image])[..., None]

    windows = fidelity.lesion_window(images, masks, size=10)[..., 0]

    corner = image[:20, 12:].reshape(10, 2, 10, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(windows[0], corner, rtol=1e-5)
    assert windows[1].mean() == pytest.approx(image.mean(), rel=1e-5)
    assert fidelity.lesion_window(images, masks, size=64).shape == (2, 64, 64, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fidelity.frechet_distance(np.ones((5, 2)), np.ones((5, 3))),
            r"\(5, 2\), \(5, 3\)",
        ),
        (lambda: fidelity.frechet_distance(np.ones((1, 2)), np.ones((5, 2))), "at least 2 patches"),
        (lambda: fidelity.frechet_distance(np.full((5, 2), np.nan), np.ones((5, 2))), "finite"),
        (lambda: fidelity.kernel_distance(np.ones((3, 2)), np.ones((5, 2)), 0), "at least 4"),
        (lambda: fidelity.kernel_distance(np.ones((4, 2)), np.ones((5, 2)), 0, 0), "num_subsets=0"),
        (lambda: fidelity.first_half(["a"] * 5, 0), "two patients; received 1"),
        (lambda: fidelity.lesion_window(np.ones((1, 8, 8)), np.ones((1, 8, 8)), 4), "height"),
        (lambda: fidelity.lesion_window(*np.zeros((2, 1, 8, 8, 1)), 4), "empty mask for patch 0"),
    ],
)
def test_wrong_input_gets_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
