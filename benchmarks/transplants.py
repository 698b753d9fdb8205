"""Lesions and tissue of real training patches in place of infills: a control for the measures.

A generator should be better than cutting and pasting. The content of transplants is real. Measures
differ from those of real patches because of the surroundings, which belong to the other class,
because masks fit only approximately, and because some patches are used several times. The linear
classifier of the class is fitted to some of the same patches, which favours transplants. The search
for copies does not find transplants, which are shifted by more than it tries.
"""

import dataclasses

import numpy as np
from keras import ops

from cigan_tf import input_pipeline, masks
from cigan_tf.config import Config


class Transplants:
    """Infills patches with real ones from training patients, without a network.

    The chosen patch of the requested class has the lesion mask that, shifted by whole pixels, has
    the highest intersection over union with the mask to infill. With `match_grain`, its detail is
    scaled to the grain of the tissue around the mask. It is placed like an infill.

    Args:
        config: names the dataset, its training split, the seed of the draw, and in `model` how
            infills are placed.
        num_patches: maximum number of training patches to choose from.
    """

    def __init__(self, config: Config, num_patches: int = 1500):
        self._match_grain = config.model.match_grain
        # `masks.match_grain` assumes content with the usual grain, which that of films is not.
        self._placing = dataclasses.replace(config.model, match_grain=False)
        patches = input_pipeline.drawn_patches(config, config.data.train_split, num_patches)
        self._images, self._masks = patches["image"], patches["mask"]
        self._labels = patches["label"]
        self._areas_px = self._masks.sum(axis=(1, 2, 3))
        self._spectra = np.conj(np.fft.rfft2(self._masks[..., 0]))

    def generate(self, image, mask, label, seed):
        """Infills like `CiGAN.generate`; the seed has no influence."""
        del seed
        image, mask = (np.asarray(array, np.float32) for array in (image, mask))
        chosen = [self._shifted(*of) for of in zip(mask, np.asarray(label), strict=True)]
        content, content_mask = (np.stack(arrays) for arrays in zip(*chosen, strict=True))
        if self._match_grain:
            change = masks.grain(image, mask) - masks.grain(content, content_mask)
            content = content + change * masks.relative_detail(content, content_mask)
            content = ops.clip(content, 0.0, 1.0)
        return ops.convert_to_numpy(masks.place(image, mask, content, self._placing))

    def _shifted(self, mask: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the image and mask of the patch that fits best, shifted into place.

        The shift is cyclic: what it moves across the patch's edge is seldom inside the mask.
        """
        of_class = np.flatnonzero(self._labels == label)
        spectrum = np.fft.rfft2(mask[..., 0])
        overlaps_px = np.fft.irfft2(spectrum * self._spectra[of_class], s=mask.shape[:2])
        most_px = overlaps_px.max(axis=(1, 2))
        best = np.argmax(most_px / (self._areas_px[of_class] + mask.sum() - most_px))
        shift = np.unravel_index(np.argmax(overlaps_px[best]), mask.shape[:2])
        patch = of_class[best]
        return (
            np.roll(self._images[patch], shift, axis=(0, 1)),
            np.roll(self._masks[patch], shift, axis=(0, 1)),
        )
