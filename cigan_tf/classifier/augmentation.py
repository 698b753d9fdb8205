"""Traditional augmentation: rotation, mirroring and scaling of a patch (paper section 3.2).

The operations have no state, unlike Keras' random layers: the same patch and seed give the same
result in every run, also in a resumed one.
"""

import math

import tensorflow as tf

from cigan_tf.experiment_config import ClassifierConfig


def augment(image: tf.Tensor, seed: tf.Tensor, settings: ClassifierConfig) -> tf.Tensor:
    """Rotates, mirrors and scales a patch about its centre by amounts drawn with `seed`.

    Args:
        image: float32 [p, p, 1].
        seed: int64 [2].
        settings: rotation is uniform in +-max_rotation_degrees; magnification is uniform in
            [min_scale, max_scale], and above 1 enlarges the lesion; half of the patches are
            mirrored left to right.

    Returns:
        float32 [p, p, 1], bilinear. The patch is continued beyond its border by reflection, so that
        no black corner reveals a rotation.
    """
    angle_seed, scale_seed, mirror_seed = tf.unstack(tf.random.split(seed, 3))
    limit = math.radians(settings.max_rotation_degrees)
    angle = tf.random.stateless_uniform((), angle_seed, -limit, limit)
    scale = tf.random.stateless_uniform((), scale_seed, settings.min_scale, settings.max_scale)
    mirrored = tf.random.stateless_uniform((), mirror_seed) < 0.5
    return transform(image, angle, scale, mirrored)


def transform(image: tf.Tensor, angle: tf.Tensor, scale: tf.Tensor, mirrored: tf.Tensor):
    """Rotates a patch by `angle` radians (anticlockwise), magnifies it, mirrors it left to right.

    Args:
        image: float32 [p, p, 1].
        angle: scalar.
        scale: scalar magnification, above 0; 2 shows the middle half of the patch.
        mirrored: scalar bool.

    Returns:
        float32 [p, p, 1].
    """
    # Position of an output pixel in the input, relative to the centre.
    cos, sin = tf.cos(angle) / scale, tf.sin(angle) / scale
    sign = tf.where(mirrored, -1.0, 1.0)
    centre = (tf.cast(tf.shape(image)[0], tf.float32) - 1) / 2
    x_from_x, x_from_y = sign * cos, -sign * sin
    y_from_x, y_from_y = sin, cos
    matrix = tf.stack(
        [
            *(x_from_x, x_from_y, centre - centre * (x_from_x + x_from_y)),
            *(y_from_x, y_from_y, centre - centre * (y_from_x + y_from_y)),
            *(0.0, 0.0),
        ]
    )
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=matrix[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )[0]
