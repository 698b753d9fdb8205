"""Exports a run's generator as a SavedModel with serving signatures.

    python -m export.saved_model --workdir=DIR --output_dir=DIR/saved_model

writes DIR/saved_model/<version>/, the next free number. The folder needs nothing of this package:
TensorFlow alone loads it.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pathlib
import shutil

import keras
import tensorflow as tf
from absl import flags

from cigan_tf import command_line, masks
from cigan_tf import workdir as workdir_lib
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.models.generator import Generator
from cigan_tf.training import checkpoints

_WHITE = 65535.0

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the trained run.")
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Receives <version>/; default: WORKDIR/saved_model."
)


def export(workdir: str | os.PathLike, output_dir: str | os.PathLike) -> pathlib.Path:
    """Writes the newest checkpoint's generator to `output_dir`/<next version>/.

    Signatures, batch size N free, p the patch size:
        serving_default: image float32 [N,p,p,1] in [0,1], mask float32 [N,p,p,1] in {0,1}, label
            int32 [N] in {0,1}, seed int32 [N] -> infilled float32 [N,p,p,1] in [0,1].
        infill_png: image_bytes string [N] (8- or 16-bit grey PNG), mask_bytes string [N], label
            int32 [N], seed int32 [N] -> infilled_bytes string [N] (16-bit PNG).

    Returns:
        The folder written.

    Raises:
        UserError: there is no trained run in `workdir`, or `output_dir` cannot be written.
    """
    workdir, output_dir = pathlib.Path(workdir), pathlib.Path(output_dir)
    config = workdir_lib.load_config(workdir)
    generator, _ = checkpoints.restore_generator(workdir, config)
    archive = build_archive(generator, config)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        versions = [int(p.name) for p in output_dir.iterdir() if p.name.isdigit()]
        target = output_dir / str(max(versions, default=0) + 1)
        # A server that watches output_dir looks at numbers only: it never sees this half written.
        beside = output_dir / f".writing-{target.name}"
        shutil.rmtree(beside, ignore_errors=True)
        archive.write_out(str(beside), verbose=False)
        beside.rename(target)
    except OSError as error:
        raise UserError(f"output_dir {str(output_dir)!r} cannot be written: {error}.") from None
    return target


def build_archive(generator: Generator, config: Config) -> keras.export.ExportArchive:
    side = config.model.patch_size

    def infill(image, mask, label, seed):
        # One draw per patch from its own seed: an answer does not depend on the rest of a batch.
        noise = tf.map_fn(
            lambda s: tf.random.stateless_uniform((side, side, 1), tf.stack([s, 0])),
            seed,
            fn_output_signature=tf.float32,
        )
        context = masks.corrupt(image, mask, noise)
        generated = generator({"context": context, "mask": mask, "label": label})
        return masks.composite(image, mask, generated) if config.model.composite else generated

    def serving_default(image, mask, label, seed):
        with tf.control_dependencies(_input_checks(image, mask, label, seed)):
            return {"infilled": infill(image, mask, label, seed)}

    def infill_png(image_bytes, mask_bytes, label, seed):
        image = _decode(image_bytes, "image_bytes", side)
        mask = tf.cast(_decode(mask_bytes, "mask_bytes", side) > 0, tf.float32)
        with tf.control_dependencies(_input_checks(image, mask, label, seed)):
            infilled = infill(image, mask, label, seed)
        grey = tf.cast(tf.round(infilled * _WHITE), tf.uint16)
        encoded = tf.map_fn(tf.io.encode_png, grey, fn_output_signature=tf.string)
        return {"infilled_bytes": encoded}

    def spec(dtype, name, shape=()):
        return tf.TensorSpec((None, *shape), dtype, name)

    label_and_seed = [spec(tf.int32, "label"), spec(tf.int32, "seed")]
    archive = keras.export.ExportArchive()
    archive.track(generator)
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


def _decode(encoded, name: str, side: int):
    """Returns grey PNGs as float32 [N, side, side, 1] in [0, 1]; 8-bit ones are widened."""

    def decode_one(png):
        picture = tf.io.decode_png(png, dtype=tf.uint16)
        shape = tf.shape(picture)
        expected = f"{name} must hold grey PNGs of {side}x{side} pixels. Received the shape:"
        fits = tf.debugging.Assert(tf.reduce_all(shape == (side, side, 1)), [expected, shape])
        with tf.control_dependencies([fits]):
            grey = tf.cast(picture, tf.float32) / _WHITE
        # Not tf.ensure_shape: the graph optimiser lets that fail first, in words of its own.
        return tf.reshape(grey, (side, side, 1))

    return tf.map_fn(decode_one, encoded, fn_output_signature=tf.float32)


def _input_checks(image, mask, label, seed) -> list:
    """Returns assertions that name the input which breaks the contract."""
    batch = tf.shape(image)[0]
    checks = [
        tf.debugging.Assert(
            tf.reduce_all((image >= 0) & (image <= 1)), ["image must lie in [0, 1], without NaN."]
        ),
        tf.debugging.Assert(
            tf.reduce_all((mask == 0) | (mask == 1)), ["mask must hold 0 and 1 alone."]
        ),
        tf.debugging.Assert(
            tf.reduce_all((label == 0) | (label == 1)),
            ["label must be 0 (non-malignant) or 1 (malignant). Received:", label],
        ),
    ]
    for name, value in (("mask", mask), ("label", label), ("seed", seed)):
        checks.append(
            tf.debugging.assert_equal(
                tf.shape(value)[0], batch, message=f"{name} must be one per image."
            )
        )
    return checks


def main() -> None:
    """Exports as the flags say."""
    workdir = _WORKDIR.value
    if workdir is None:
        raise UserError("Pass --workdir=DIR, the folder of a trained run.")
    print(export(workdir, _OUTPUT_DIR.value or pathlib.Path(workdir) / "saved_model"))


if __name__ == "__main__":
    command_line.run(main)
