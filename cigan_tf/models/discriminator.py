"""The discriminator (paper section 2.1): five convolutions and one logit."""

import keras
from keras import layers, ops

from cigan_tf import masks
from cigan_tf.config import DISCRIMINATOR_VIEWS, ModelConfig

KERNELS = (32, 64, 128, 256, 512)

# Divisor of the patch's side for the width of the band around the mask. The surroundings belong to
# the patch's own class, and no infill can change them. From more of them, the discriminator would
# recognise infills of the opposite class.
_SEEN_AROUND = 16
# Differences in grey level of lesions are about 0.1; this gives them the magnitude of the detail.
_BRIGHTNESS_SCALE = 10.0
# The strength of the detail is averaged over a Gaussian of a sixteenth of the patch's width: the
# network's maxima cannot average. Infills differ from real lesions by about 0.2 in its logarithm.
_STRENGTH_SIGMAS = 16
_STRENGTH_SCALE = 5.0


@keras.saving.register_keras_serializable("cigan_tf")
class Discriminator(keras.Model):
    """Five blocks of 3x3 convolution, LeakyReLU and 2x2 max-pooling; then one logit.

    Args:
        patch_size: side of a patch in pixels, a power of two from 32 to 512.
        sees_class: whether the two class maps are concatenated with the input image, D(c, .).
        view: 'patch', as in the paper: the whole patch, without the mask. 'lesion': the lesion mask
            and a band of a sixteenth of the patch's width around it, in a window of half the
            patch's width. Its five channels are: brightness relative to the ring of pixels around
            the mask, detail relative to the film's grain inside the mask, the same in the band, the
            local strength of the detail inside the mask, and the mask. The texture fills the
            window, so the network learns it within a few hundred steps.
        dtype: dtype policy of its layers, such as 'mixed_bfloat16'; None: Keras' default.

    Inputs:
        A dict: `image` [N, p, p, 1] in [0, 1]; `label` int [N] if the network sees the class;
        `mask` [N, p, p, 1] in {0, 1} for the view 'lesion'.

    Outputs:
        [N, 1] in (-inf, inf), positive if the patch is classified as real.

    Raises:
        UserError: the patch size or the view is invalid.
    """

    def __init__(
        self,
        patch_size: int,
        sees_class: bool = True,
        view: str = DISCRIMINATOR_VIEWS[0],
        *,
        dtype=None,
        name: str = "discriminator",
        **kwargs,
    ):
        ModelConfig(patch_size, discriminator_view=view).validate()
        policy = keras.dtype_policies.get(dtype)
        inputs = {"image": keras.Input((patch_size, patch_size, 1), name="image")}
        features = inputs["image"]
        if view == "lesion":
            inputs["mask"] = keras.Input((patch_size, patch_size, 1), name="mask")
            features = _lesion_view(inputs["image"], inputs["mask"])
        seen = [features]
        if sees_class:
            inputs["label"] = keras.Input((), dtype="int32", name="label")
            seen.append(inputs["label"])
            maps = masks.class_maps(inputs["label"], features[..., :1])
            features = ops.concatenate([features, maps], axis=-1)
        for block, kernels in enumerate(KERNELS, start=1):
            features = layers.Conv2D(
                kernels,
                3,
                padding="same",
                kernel_initializer="he_normal",
                dtype=policy,
                name=f"conv{block}",
            )(features)
            # The smallest window, 16 px, has only one pixel left before the last block.
            if features.shape[1] > 1:
                # LeakyReLU is monotonic, so after the pool it gives the same result from fewer
                # pixels.
                features = layers.MaxPooling2D(dtype=policy)(features)
            features = layers.LeakyReLU(negative_slope=0.2, dtype=policy)(features)
        features = layers.Flatten(dtype=policy)(features)
        logit = layers.Dense(1, dtype="float32", name="logit")(features)
        super().__init__(inputs, logit, name=name, **kwargs)
        # Functional models ignore the argument `dtype`.
        self.dtype_policy = policy
        self.patch_size = patch_size
        self.sees_class = sees_class
        self.view = view
        parts = keras.Model(inputs, seen, name="seen"), keras.Model(seen, logit, name="judge")
        # A function, because Keras would save the shared weights twice if these were attributes.
        self._parts = lambda: parts

    def parts(self) -> tuple[keras.Model, keras.Model]:
        """Returns the network as two parts that share its weights.

        The first part maps the inputs to a list: the view, [N, w, w, c] with grey levels or
        relative brightness in the first channel, and the label if the network sees the class. The
        second maps it to the logit.
        """
        return self._parts()

    def get_config(self):
        return {
            "patch_size": self.patch_size,
            "sees_class": self.sees_class,
            "view": self.view,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
        }


def _lesion_view(image, mask):
    """Returns brightness, detail inside and outside, its strength, and mask, [N, p/2, p/2, 5]."""
    brightness = _BRIGHTNESS_SCALE * masks.relative_brightness(image, mask)
    detail = masks.relative_detail(image, mask)
    near = masks.dilate(mask, mask.shape[1] // _SEEN_AROUND)
    # In one channel, the two signs of a step at the mask's edge would cancel in a mean.
    detail_channels = [detail * mask, detail * (near - mask)]
    sigma_px = mask.shape[1] / _STRENGTH_SIGMAS
    strength = _STRENGTH_SCALE * masks.detail_strength(detail, mask, sigma_px)
    channels = [brightness * near, *detail_channels, strength, mask]
    return masks.lesion_window(ops.concatenate(channels, axis=-1), mask)
