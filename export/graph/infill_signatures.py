"""The generator's signatures: the same infill for arrays and for PNGs."""

import keras
import numpy as np
import tensorflow as tf

from cigan_tf.config import Config
from cigan_tf.models.generator import Generator
from cigan_tf.randomness import noise_of_seed

from . import folded_generator, input_checks, png


def build_archive(generator: Generator, config: Config) -> keras.export.ExportArchive:
    """Returns both signatures, ready for writing; `export.saved_model.export` lists them."""
    side = config.model.patch_size
    infill_with_noise = folded_generator.fold_infill(generator, config.model)

    def infill_of_seed(image, mask, label, seed):
        # One draw per patch from its own seed, independent of the rest of the batch. The loop is
        # over indices, because shapes may be read before the checks have run: every tensor has a
        # size, but a scalar has no first dimension.
        noise = tf.map_fn(
            lambda i: noise_of_seed(seed[i], side),
            tf.range(tf.size(seed)),
            fn_output_signature=tf.float32,
        )
        return infill_with_noise(image, mask, label, noise)

    # One function for both signatures, so that the file contains the weights only once.
    @tf.function(autograph=False)
    def infill(*inputs):
        return input_checks.never_on_empty(infill_of_seed, *inputs)

    def checked_infill(image, mask, label, seed):
        values = input_checks.value_checks(image=image, mask=mask, label=label)
        return infill(*input_checks.after(values, image, mask, label, seed))

    def serving_default(image, mask, label, seed):
        patch = (side, side, 1)
        shapes = input_checks.shape_checks(
            image=(image, patch), mask=(mask, patch), label=(label, ()), seed=(seed, ())
        )
        inputs = input_checks.after(shapes, image, mask, label, seed)
        return {"infilled": checked_infill(*inputs)}

    def infill_png(image_bytes, mask_bytes, label, seed):
        vectors = {"image_bytes": image_bytes, "mask_bytes": mask_bytes}
        vectors |= {"label": label, "seed": seed}
        shapes = input_checks.shape_checks(**{n: (vector, ()) for n, vector in vectors.items()})
        image_bytes, mask_bytes, label, seed = input_checks.after(shapes, *vectors.values())
        image = png.decode(image_bytes, "image_bytes", side)
        mask = _lesion_of(png.decode(mask_bytes, "mask_bytes", side))
        return {"infilled_bytes": png.encode(checked_infill(image, mask, label, seed))}

    def spec(dtype, name, shape=()):
        return tf.TensorSpec((None, *shape), dtype, name)

    label_and_seed = [spec(tf.int32, "label"), spec(tf.int32, "seed")]
    archive = keras.export.ExportArchive()
    archive.add_endpoint(
        "serving_default",
        serving_default,
        input_signature=[
            spec(tf.float32, "image", (side, side, 1)),
            spec(tf.float32, "mask", (side, side, 1)),
            *label_and_seed,
        ],
    )
    archive.add_endpoint(
        "infill_png",
        infill_png,
        input_signature=[
            spec(tf.string, "image_bytes"),
            spec(tf.string, "mask_bytes"),
            *label_and_seed,
        ],
    )
    return archive


def _lesion_of(pictures: tf.Tensor) -> tf.Tensor:
    """Returns masks of 0 and 1 from greyscale images, bright on the lesion.

    The threshold is the middle of the range of each image.

    Args:
        pictures: float32 [N, p, p, 1]; a constant level above 0 is a mask of the whole patch.
    """
    low, high = (
        reduce(pictures, axis=(1, 2, 3), keepdims=True) for reduce in (tf.reduce_min, tf.reduce_max)
    )
    cut = tf.where(low < high, (low + high) / 2, tf.zeros_like(low))
    return tf.cast(pictures > cut, tf.float32)


def warmup_inputs(side: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns inputs for each signature: a grey patch with a round mask, once per class."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    disc = (np.hypot(rows, columns) < side / 4)[None, :, :, None].repeat(2, axis=0)
    grey = np.full(disc.shape, 0.5, np.float32)
    label_and_seed = {"label": np.array([0, 1], np.int32), "seed": np.array([0, 0], np.int32)}
    encoded = {
        "image_bytes": png.encode(grey).numpy(),
        "mask_bytes": png.encode(disc.astype(np.float32)).numpy(),
    }
    floats = {"image": grey, "mask": disc.astype(np.float32)}
    return {
        "serving_default": floats | label_and_seed,
        "infill_png": encoded | label_and_seed,
    }
