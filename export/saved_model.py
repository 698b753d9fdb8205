"""Exports a run's generator as a SavedModel with serving signatures.

    cigan-export --workdir=DIR      # in a checkout also python -m export.saved_model

writes DIR/saved_model/<version>/, with the next free number. The folder does not depend on this
package; it needs only TensorFlow.
"""

from cigan_tf import tensorflow_loading

tensorflow_loading.load_tensorflow()

import os
import pathlib
import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from etils import epath

from cigan_tf import (
    command_line,
    exported_generator,
    input_pipeline,
    provenance,
    run_folder,
    terminal,
)
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.models.generator import Generator
from cigan_tf.randomness import consecutive_seeds, noise_of_seed
from cigan_tf.training import checkpoints

from .graph import folded_generator, input_checks, png, runtime_formats
from .serving import model_card, serving_files, versions

MODEL_NAME = "cigan"
# Number of real patches for comparing other formats with the SavedModel.
_COMPARED_PATCHES = 8


def export(
    workdir: str | os.PathLike,
    output_dir: str | os.PathLike,
    best: bool = False,
    other_formats: Sequence[str] = (),
) -> epath.Path:
    """Writes the generator of the newest checkpoint, or the best, to `output_dir`/<next version>/.

    Signatures, batch size N free, p the patch size:
        serving_default: image float32 [N,p,p,1] in [0,1], mask float32 [N,p,p,1] in {0,1}, label
            int32 [N] in {0,1}, seed int32 [N] -> infilled float32 [N,p,p,1] in [0,1].
        infill_png: image_bytes string [N] (8- or 16-bit grey PNG), mask_bytes string [N] (grey
            PNG, bright on the lesion; grey edges are thresholded at half the range), label
            int32 [N], seed int32 [N] -> infilled_bytes string [N] (16-bit PNG).

    The run's provenance record is written to assets.extra/provenance.json, with the checkpoint's
    step and a hash of graph and weights. A run without a record is exported without one, with a
    warning on stderr.

    Args:
        workdir: workdir of the run.
        output_dir: the model's folder.
        best: whether to export the best checkpoint instead of the newest one.
        other_formats: some of `runtime_formats.FILE_NAMES`, written next to the SavedModel after
            comparing their outputs with the SavedModel's on validation patches of the run's
            dataset.

    Returns:
        Path of the folder.

    Raises:
        UserError: there is no trained run in `workdir`, `output_dir` cannot be written, or a format
            cannot be written or differs from the SavedModel; nothing is exported then.
    """
    runtime_formats.require_installed(other_formats)
    workdir = epath.Path(workdir)
    config = run_folder.load_config(workdir)
    patches = _patches_to_compare(config) if other_formats else None
    generator, step = checkpoints.restore_generator(workdir, config, best)
    record = provenance.read(workdir / provenance.FILE_NAME)
    if record is None:
        print(
            f"warning: the run in {str(workdir)!r} has no {provenance.FILE_NAME}: its generator "
            "can be served, but experiments refuse it.",
            file=sys.stderr,
        )
    terminal.say(f"Writing the SavedModel of step {step} ...")
    archive = build_archive(generator, config)

    def write(folder: pathlib.Path) -> None:
        archive.write_out(str(folder), verbose=False)
        serving_files.write_warmup(folder, _warmup_requests(config.model.patch_size))
        of_version = None
        if record is not None:
            weights = exported_generator.weights_sha256(folder)
            of_version = record | {"step": step, "weights_sha256": weights}
            provenance.write(folder / exported_generator.PROVENANCE_FILE, of_version)
        card = model_card.render(workdir, config, step, generator.count_params(), of_version)
        (folder / "MODEL_CARD.md").write_text(card)
        if patches is not None:
            terminal.say(f"Writing {', '.join(other_formats)}, and comparing their answers ...")
            infill = folded_generator.fold_infill(generator, config.model)
            runtime_formats.write(folder, other_formats, infill, config.model.patch_size)
            _compare(folder, other_formats, patches)

    target = versions.write_next(output_dir, write)
    serving_files.write_server_files(target.parent, MODEL_NAME)
    return target


def _patches_to_compare(config: Config) -> dict[str, np.ndarray]:
    """Returns validation patches of the run's dataset as arguments of `serving_default`."""
    drawn = input_pipeline.drawn_patches(config, config.data.validation_split, _COMPARED_PATCHES)
    inputs = {name: np.asarray(drawn[name], np.float32) for name in ("image", "mask")}
    count = len(drawn["label"])
    # Both classes, independent of the patches.
    label = np.arange(count, dtype=np.int32) % 2
    return inputs | {"label": label, "seed": consecutive_seeds(0, count)}


def _compare(folder: pathlib.Path, formats: Sequence[str], patches: dict[str, np.ndarray]) -> None:
    """Raises UserError if a format's output differs from that of the SavedModel in `folder`."""
    expected = exported_generator.ExportedGenerator(folder)(**patches)
    inputs = {name: patches[name] for name in ("image", "mask", "label")}
    side = expected.shape[1]
    inputs["noise"] = np.stack([noise_of_seed(seed, side).numpy() for seed in patches["seed"]])
    for name in formats:
        runtime_formats.check(folder / runtime_formats.FILE_NAMES[name], inputs, expected)


def _warmup_requests(side: int) -> list:
    """Returns one request for each signature: a grey patch with a round mask, both classes."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    disc = (np.hypot(rows, columns) < side / 4)[None, :, :, None].repeat(2, axis=0)
    grey = np.full(disc.shape, 0.5, np.float32)
    label_and_seed = {"label": np.array([0, 1], np.int32), "seed": np.array([0, 0], np.int32)}
    encoded = {
        "image_bytes": png.encode(grey).numpy(),
        "mask_bytes": png.encode(disc.astype(np.float32)).numpy(),
    }
    floats = {"image": grey, "mask": disc.astype(np.float32)}
    return [
        serving_files.predict_request(MODEL_NAME, name, inputs | label_and_seed)
        for name, inputs in (("serving_default", floats), ("infill_png", encoded))
    ]


def build_archive(generator: Generator, config: Config) -> keras.export.ExportArchive:
    """Returns both signatures, ready for writing; see `export`."""
    side = config.model.patch_size
    infill_with_noise = folded_generator.fold_infill(generator, config.model)

    # One function for both signatures, so that the file has the weights only once.
    @tf.function(autograph=False)
    def infill(image, mask, label, seed):
        # One draw per patch from its own seed, independent of the rest of the batch. The size is
        # read by index, because shapes are inspected before the checks run: every shape has a size.
        noise = tf.map_fn(
            lambda i: noise_of_seed(seed[i], side),
            tf.range(tf.size(seed)),
            fn_output_signature=tf.float32,
        )
        return infill_with_noise(image, mask, label, noise)

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
    """Returns masks of 0 and 1 from grey images, bright on the lesion.

    The threshold is the middle of the range of each image.

    Args:
        pictures: float32 [N, p, p, 1]; a constant level above 0 is a mask of the whole patch.
    """
    low, high = (
        reduce(pictures, axis=(1, 2, 3), keepdims=True) for reduce in (tf.reduce_min, tf.reduce_max)
    )
    cut = tf.where(low < high, (low + high) / 2, tf.zeros_like(low))
    return tf.cast(pictures > cut, tf.float32)


def main() -> None:
    """Exports the run given by the flags."""
    workdir = flags.FLAGS.workdir
    if workdir is None:
        raise UserError("Pass --workdir=DIR, the folder of a trained run.")
    output_dir = flags.FLAGS.output_dir or epath.Path(workdir) / "saved_model"
    formats = [name for name in flags.FLAGS.format if name != "saved_model"]
    print(export(workdir, output_dir, flags.FLAGS.best, formats))


def run() -> None:
    """Defines the command's flags, whose names other programs use too, and runs the command."""
    flags.DEFINE_string("workdir", None, "Folder of the trained run.")
    flags.DEFINE_string("output_dir", None, "Folder for <version>/; default: WORKDIR/saved_model.")
    flags.DEFINE_bool(
        "best", False, "Export the checkpoint with the lowest --best_term, not the newest one."
    )
    flags.DEFINE_list(
        "format",
        ["saved_model"],
        "Formats of the generator: saved_model (always written), litert and onnx. They are "
        "compared with the SavedModel on validation patches, for which the run's dataset is read.",
    )
    command_line.run(main)


if __name__ == "__main__":
    run()
