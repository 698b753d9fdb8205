import numpy as np
import pytest
from scipy import ndimage

from tfds_ddsm.sources import phantom_shapes


def _draw(lesion_type, suspicion, seed=0, pixel_size_mm=0.2, diameter_mm=14.0):
    plan = phantom_shapes.LesionPlan(
        lesion_type=lesion_type,
        malignant=suspicion > 0.5,
        diameter_mm=diameter_mm,
        suspicion=suspicion,
        contrast=0.7,
    )
    return phantom_shapes.draw_lesion(plan, pixel_size_mm, np.random.default_rng(seed))


@pytest.mark.parametrize("lesion_type", ["mass", "calcification"])
@pytest.mark.parametrize("suspicion", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("pixel_size_mm", [0.045, 0.2, 1.0])
def test_step_and_outline_share_an_odd_window_that_contains_the_lesion(
    lesion_type, suspicion, pixel_size_mm
):
    step, outline = _draw(lesion_type, suspicion, pixel_size_mm=pixel_size_mm)
    assert step.shape == outline.shape == (len(step), len(step))
    assert len(step) % 2 == 1
    assert step.dtype == np.float32
    assert outline.dtype == bool
    assert np.isfinite(step).all()
    assert np.abs(np.concatenate([step[0], step[-1], step[:, 0], step[:, -1]])).max() < 0.01
    assert ndimage.label(outline)[1] == 1
    assert not outline[[0, -1]].any()
    assert (step[outline] ** 2).sum() > 0.7 * (step**2).sum()


def test_suspicious_masses_have_rougher_outlines():
    def roughness(suspicion):
        values = []
        for seed in range(6):
            _, outline = _draw("mass", suspicion, seed)
            edge = outline & ~ndimage.binary_erosion(outline)
            values.append(edge.sum() ** 2 / outline.sum())
        return np.mean(values)

    assert roughness(0.95) > 1.1 * roughness(0.05)


def test_suspicious_clusters_have_more_specks():
    def specks(suspicion):
        counts = []
        for seed in range(6):
            step, outline = _draw("calcification", suspicion, seed, pixel_size_mm=0.05)
            counts.append(ndimage.label((step > 0.3 * step.max()) & outline)[1])
        return np.mean(counts)

    assert specks(0.95) > 2 * specks(0.05)


@pytest.mark.parametrize("lesion_type", ["mass", "calcification"])
def test_a_lesion_has_the_same_size_in_mm_at_any_pixel_size(lesion_type):
    extents_mm = []
    for pixel_size_mm in (0.05, 0.1, 0.2):
        _, outline = _draw(lesion_type, 0.02, pixel_size_mm=pixel_size_mm)
        extents_mm.append(np.sqrt(outline.sum()) * pixel_size_mm)
    np.testing.assert_allclose(extents_mm, extents_mm[0], rtol=0.25)


def test_power_law_noise_falls_with_the_requested_exponent():
    noise = phantom_shapes.power_law_noise((512, 512), 0.2, np.random.default_rng(0), beta=3.0)
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(1, abs=1e-3)
    power = np.abs(np.fft.fft2(noise)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(512, 0.2), np.fft.fftfreq(512, 0.2)))
    band = (frequency > 0.1) & (frequency < 1.5)
    slope, _ = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)
    assert slope == pytest.approx(-3.0, abs=0.1)
