"""Every command-line flag: the configuration's fields by their own names, and the run's frame."""

import dataclasses

from absl import flags

from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.experiment_config import Cell

MODES = ("train", "report", "infill", "classify", "experiment")

_DEFINE = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    tuple[str, ...]: flags.DEFINE_list,
    tuple[int, ...]: flags.DEFINE_list,
}

MODE = flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "train: train ciGAN; report: write report.html of an exported run; infill: write the "
    "synthetic set through the exported generator; classify: train the classifiers of --arms, "
    "--generators and --classifier_seeds; experiment: train those that are missing, and write the "
    "table.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: settings, checkpoints, logs.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the resolved configuration and stop.")
RESUME_CHANGED = flags.DEFINE_bool(
    "resume_changed", False, "Take up the run in the workdir although its settings were others."
)
SAVED_MODEL = flags.DEFINE_string(
    "saved_model", None, "Exported generator; default: the newest below WORKDIR/saved_model."
)
WRITE_PNG = flags.DEFINE_bool(
    "write_png", False, "With --mode=infill: write every patch and mask as PNG files, too."
)

JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "Classifiers that are trained at once, each in a process with a GPU of its own or its share of "
    "the cores.",
    lower_bound=1,
)
CELL_INDEX = flags.DEFINE_integer(
    "cell_index",
    None,
    "With --mode=classify: train the classifier of this number only (see --list_cells), for an "
    "array of cluster jobs.",
    lower_bound=0,
)
LIST_CELLS = flags.DEFINE_bool(
    "list_cells", False, "Print the number, arm, generator and seed of every classifier and stop."
)


def define_config_flags() -> None:
    """Defines one flag for each field of the configuration, with its default and help text."""
    for group in dataclasses.fields(Config):
        for field in dataclasses.fields(group.default_factory):
            # absl's lists are lists; the configuration is frozen and holds tuples.
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            repeated = field.metadata["repeated"]
            define = flags.DEFINE_multi_string if repeated else _DEFINE[field.type]
            define(field.name, default, field.metadata["help"])


def config_from_flags() -> Config:
    """Returns the configuration that the command line and its flagfiles describe, validated."""
    return Config(
        **{
            group.name: group.default_factory(
                **{field.name: _value(field) for field in dataclasses.fields(group.default_factory)}
            )
            for group in dataclasses.fields(Config)
        }
    ).validate()


def is_given(name: str) -> bool:
    """Returns whether the command line or a flagfile sets a flag."""
    return flags.FLAGS[name].present > 0


def chosen_cells(config: Config) -> list[Cell]:
    """Returns the experiment's cells, or the one of --cell_index."""
    cells = config.experiment.cells(config.classifier)
    index = CELL_INDEX.value
    if index is None:
        return cells
    if index >= len(cells):
        raise UserError(
            f"cell_index must be below the number of classifiers, {len(cells)}; --list_cells "
            f"prints them. Received: cell_index={index}."
        )
    return [cells[index]]


def _value(field: dataclasses.Field):
    value = flags.FLAGS[field.name].value
    if not isinstance(value, list):
        return value
    try:
        return tuple(int(v) for v in value) if field.type == tuple[int, ...] else tuple(value)
    except ValueError:
        raise UserError(
            f"{field.name} must be whole numbers with commas between. Received: {','.join(value)}."
        ) from None


define_config_flags()
