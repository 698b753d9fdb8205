"""Trains ciGAN, infills patches, and runs the augmentation experiment.

    cigan --flagfile=FILE.flags --mode=MODE --workdir=DIR       # or python -m cigan_tf.main

Flags after a flagfile override it; --dry_run prints the resulting configuration.
"""

from absl import flags as absl_flags
from etils import epath

from cigan_tf import command_line, file_io, flags, run_folder, tensorflow_loading
from cigan_tf.config import Config
from cigan_tf.errors import UserError

# Without this, --help would not show them, because it shows only the flags of the main module.
absl_flags.adopt_module_key_flags(flags)


def main() -> None:
    """Runs the selected mode."""
    config = flags.unchecked_config()
    if not config.training.init_from:
        config.validate()
    else:
        from cigan_tf.models import presets

        config = presets.with_architecture(config, flags.is_given, _begun(flags.WORKDIR.value))
    if flags.DRY_RUN.value:
        print(config.to_json(), end="")
        return
    if flags.LIST_CELLS.value:
        for number, cell in enumerate(config.experiment.cells(config.classifier)):
            print(number, cell.arm, cell.generator or "-", cell.seed)
        return
    workdir = flags.WORKDIR.value
    if workdir is None:
        raise UserError("Pass --workdir=DIR, the folder of the run.")
    cells = flags.chosen_cells(config) if flags.MODE.value == "classify" else []
    # Loaded only here, so that a wrong flag is reported first.
    tensorflow_loading.load_tensorflow()
    if flags.MODE.value == "train":
        from cigan_tf.training.train import train

        train(config, workdir, flags.RESUME_CHANGED.value)
    elif flags.MODE.value == "report":
        from cigan_tf.evaluation.report import write_report

        print(write_report(workdir, flags.SAVED_MODEL.value))
    elif flags.MODE.value == "infill":
        from cigan_tf.classifier.synthetic_set import write_synthetic_set

        print(write_synthetic_set(config, workdir, flags.SAVED_MODEL.value, flags.WRITE_PNG.value))
    elif flags.MODE.value == "classify":
        from cigan_tf.classifier.experiment import train_cells

        for folder in train_cells(config, workdir, cells, flags.JOBS.value):
            print(folder)
    elif flags.MODE.value == "experiment":
        from cigan_tf.classifier.experiment import run_experiment

        print(run_experiment(config, workdir, flags.SAVED_MODEL.value, flags.JOBS.value))


def _begun(workdir: str | None) -> Config | None:
    """Returns the settings of the run in a workdir, or None if there is no run."""
    if workdir is None:
        return None
    if not file_io.on_disk(workdir):
        # TensorFlow reads buckets; its settings cannot be changed once it has been loaded.
        tensorflow_loading.load_tensorflow()
    if not (epath.Path(workdir) / run_folder.CONFIG_FILE).exists():
        return None
    return run_folder.load_config(epath.Path(workdir))


def run() -> None:
    """Runs the command."""
    command_line.run(main)


if __name__ == "__main__":
    run()
