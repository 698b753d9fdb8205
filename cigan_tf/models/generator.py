"""The infilling generator (paper section 2.1, Fig. 2): a cascaded refinement network."""

import keras
from keras import layers, ops

from cigan_tf import masks
from cigan_tf.config import ModelConfig

SMALLEST_SCALE_PX = 4
# Kernels of the blocks from 4x4 to 256x256; the additional block of 512 px also has 32.
KERNELS = (128, 128, 64, 64, 32, 32, 32, 32)


@keras.saving.register_keras_serializable("cigan_tf")
class Generator(keras.Model):
    """Refines features at every scale from 4x4 to the patch size, given context, mask and class.

    Args:
        patch_size: side of a patch in pixels, a power of two from 32 to 512.
        dtype: dtype policy of its layers, such as 'mixed_bfloat16'; None: Keras' default.

    Inputs:
        A dict: `context` [N, p, p, 1] in [0, 1], `mask` [N, p, p, 1] in {0, 1}, `label` int [N].

    Outputs:
        [N, p, p, 1] in (0, 1), the generated patch; `masks.composite` uses only the pixels inside
        the mask.

    Raises:
        UserError: the patch size is invalid.
    """

    def __init__(self, patch_size: int, *, dtype=None, name: str = "generator", **kwargs):
        ModelConfig(patch_size).validate()
        policy = keras.dtype_policies.get(dtype)
        inputs = {
            "context": keras.Input((patch_size, patch_size, 1), name="context"),
            "mask": keras.Input((patch_size, patch_size, 1), name="mask"),
            "label": keras.Input((), dtype="int32", name="label"),
        }
        stack = masks.input_stack(inputs["context"], inputs["mask"], inputs["label"])
        features = None
        for block in range(masks.num_scales(patch_size)):
            scale_px = SMALLEST_SCALE_PX * 2**block
            stack_at_scale = ops.image.resize(stack, (scale_px, scale_px), interpolation="nearest")
            if features is None:
                features = stack_at_scale
            else:
                features = layers.UpSampling2D(interpolation="nearest", dtype=policy)(features)
                features = layers.Concatenate(dtype=policy)([features, stack_at_scale])
            for convolution in (1, 2):
                features = layers.Conv2D(
                    KERNELS[block],
                    3,
                    padding="same",
                    activation="relu",
                    kernel_initializer="he_normal",
                    dtype=policy,
                    name=f"scale{scale_px}_conv{convolution}",
                )(features)
        # Always float32: half precision cannot represent 16-bit grey levels.
        generated = layers.Conv2D(1, 1, activation="sigmoid", dtype="float32", name="to_grey")(
            features
        )
        super().__init__(inputs, generated, name=name, **kwargs)
        # Functional models ignore the argument `dtype`.
        self.dtype_policy = policy
        self.patch_size = patch_size

    def get_config(self):
        return {
            "patch_size": self.patch_size,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
        }
