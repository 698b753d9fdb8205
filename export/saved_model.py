"""Exports a run's generator as a SavedModel with serving signatures.

    cigan-export --workdir=DIR      # in a checkout also python -m export.saved_model

This writes DIR/saved_model/<version>/, with the next free number. The exported model does not
depend on this package; it needs only TensorFlow.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

from absl import flags
from etils import epath

from cigan_tf import command_line, run_folder, tensorflow_loading, terminal
from cigan_tf.errors import UserError

from .serving import versions

MODEL_NAME = "cigan"


def export(
    workdir: str | os.PathLike,
    output_dir: str | os.PathLike,
    best: bool = False,
    other_formats: Sequence[str] = (),
) -> epath.Path:
    """Writes the generator of the newest checkpoint, or the best, to `output_dir`/<next version>/.

    Signatures, for any batch size N and the generator's patch size p:
        serving_default: image float32 [N,p,p,1] in [0,1], mask float32 [N,p,p,1] in {0,1}, label
            int32 [N] in {0,1}, seed int32 [N] -> infilled float32 [N,p,p,1] in [0,1].
        infill_png: image_bytes string [N] (8- or 16-bit greyscale PNG), mask_bytes string [N]
            (greyscale PNG, bright on the lesion; the threshold is the middle of its grey levels'
            range), label int32 [N], seed int32 [N] -> infilled_bytes string [N] (16-bit PNG).

    The run's provenance record is written to assets.extra/provenance.json, with the checkpoint's
    step and a hash of graph and weights. A run without a record is exported without one, with a
    warning on stderr.

    Args:
        workdir: workdir of the run.
        output_dir: folder of the model's versions.
        best: whether to export the best checkpoint instead of the newest one.
        other_formats: some of `runtime_formats.FILE_NAMES`, written next to the SavedModel after
            comparing their outputs with the SavedModel's on validation patches of the run's
            dataset.

    Returns:
        Path of the version's folder.

    Raises:
        UserError: there is no trained run in `workdir`, `output_dir` cannot be written or contains
            an invalid models.config, or a format cannot be written or differs from the SavedModel;
            nothing is exported then.
    """
    # Imported here, so that a command's flags are parsed before TensorFlow loads.
    from cigan_tf import exported_generator, provenance
    from cigan_tf.training import checkpoints

    from .graph import folded_generator, infill_signatures, runtime_formats
    from .serving import model_card, serving_files

    runtime_formats.require_installed(other_formats)
    # Checked before a version is published: if the list were invalid, the version would remain.
    serving_files.read_models_config(epath.Path(output_dir))
    workdir = epath.Path(workdir)
    config = run_folder.load_config(workdir)
    patches = runtime_formats.compared_patches(config) if other_formats else None
    generator, step = checkpoints.restore_generator(workdir, config, best)
    record = provenance.read(workdir / provenance.FILE_NAME)
    if record is None:
        print(
            f"warning: the run in {str(workdir)!r} has no {provenance.FILE_NAME}: its generator "
            "can be served, but experiments refuse it.",
            file=sys.stderr,
        )
    terminal.say(f"Writing the SavedModel of step {step} ...")
    archive = infill_signatures.build_archive(generator, config)
    warmup_inputs = infill_signatures.warmup_inputs(config.model.patch_size)

    def write(folder: pathlib.Path) -> None:
        archive.write_out(str(folder), verbose=False)
        requests = [
            serving_files.predict_request(MODEL_NAME, signature, inputs)
            for signature, inputs in warmup_inputs.items()
        ]
        serving_files.write_warmup(folder, requests)
        of_version = None
        if record is not None:
            weights = exported_generator.weights_sha256(folder)
            of_version = record | {"step": step, "weights_sha256": weights}
            provenance.write(folder / exported_generator.PROVENANCE_FILE, of_version)
        card = model_card.render(workdir, config, step, generator.count_params(), of_version)
        (folder / "MODEL_CARD.md").write_text(card)
        if patches is not None:
            terminal.say(f"Writing {', '.join(other_formats)}, and comparing their outputs ...")
            infill = folded_generator.fold_infill(generator, config.model)
            runtime_formats.write(folder, other_formats, infill, config.model.patch_size)
            runtime_formats.compare(folder, other_formats, patches)

    target = versions.write_next(output_dir, write)
    serving_files.write_server_files(target.parent, MODEL_NAME)
    return target


def main() -> None:
    """Exports the run given by the flags."""
    workdir = flags.FLAGS.workdir
    if workdir is None:
        raise UserError("Pass --workdir=DIR, the folder of a trained run.")
    output_dir = flags.FLAGS.output_dir or epath.Path(workdir) / "saved_model"
    formats = [name for name in flags.FLAGS.format if name != "saved_model"]
    tensorflow_loading.load_tensorflow()
    print(export(workdir, output_dir, flags.FLAGS.best, formats))


def run() -> None:
    """Defines the command's flags and runs the command.

    The flags are defined here, not on import, because other commands use the same names.
    """
    flags.DEFINE_string("workdir", None, "Folder of the trained run.")
    flags.DEFINE_string("output_dir", None, "Folder for <version>/; default: WORKDIR/saved_model.")
    flags.DEFINE_bool(
        "best", False, "Export the checkpoint with the lowest --best_term, not the newest one."
    )
    flags.DEFINE_list(
        "format",
        ["saved_model"],
        "Formats of the generator: saved_model (always written), litert and onnx. The last two are "
        "compared with the SavedModel on validation patches, so the run's dataset is needed.",
    )
    command_line.run(main)


if __name__ == "__main__":
    run()
