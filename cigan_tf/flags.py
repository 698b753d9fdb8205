"""All flags of `main.py`: one for each field of the configuration, and the command's own."""

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
    "synthetic set with the exported generator; classify: train the classifiers of --arms, "
    "--generators and --classifier_seeds; experiment: train the missing classifiers and write the "
    "tables and the report.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: settings, checkpoints, logs.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the resolved configuration and stop.")
RESUME_CHANGED = flags.DEFINE_bool(
    "resume_changed",
    False,
    "Resume the run in --workdir even if its settings or the records of its dataset have changed.",
)
SAVED_MODEL = flags.DEFINE_string(
    "saved_model",
    None,
    "Folder of the exported generator; default: the newest version in WORKDIR/saved_model.",
)
WRITE_PNG = flags.DEFINE_bool(
    "write_png", False, "Also write every patch and mask as PNG files, with --mode=infill."
)

JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "Number of classifiers trained in parallel, each in its own process with its own GPU or its "
    "share of the cores.",
    lower_bound=1,
)
CELL_INDEX = flags.DEFINE_integer(
    "cell_index",
    None,
    "Number of the only classifier to train with --mode=classify (see --list_cells), for an array "
    "of cluster jobs.",
    lower_bound=0,
)
LIST_CELLS = flags.DEFINE_bool(
    "list_cells", False, "Print the number, arm, generator and seed of every classifier and stop."
)


def define_config_flags() -> None:
    """Defines one flag for each field of the configuration, with its default and help text."""
    for group in dataclasses.fields(Config):
        for field in dataclasses.fields(group.default_factory):
            # absl returns lists; the frozen configuration uses tuples.
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            repeated = field.metadata["repeated"]
            define = flags.DEFINE_multi_string if repeated else _DEFINE[field.type]
            define(field.name, default, field.metadata["help"])


def config_from_flags() -> Config:
    """Returns the validated configuration given by the command line and its flagfiles."""
    return unchecked_config().validate()


def unchecked_config() -> Config:
    """Returns the configuration without validating it, for `presets.with_architecture`."""
    return Config(
        **{
            group.name: group.default_factory(
                **{field.name: _value(field) for field in dataclasses.fields(group.default_factory)}
            )
            for group in dataclasses.fields(Config)
        }
    )


def is_given(name: str) -> bool:
    """Returns whether the command line or a flagfile sets a flag."""
    return flags.FLAGS[name].present > 0


def chosen_cells(config: Config) -> list[Cell]:
    """Returns the experiment's cells, or only cell number --cell_index if the flag is given."""
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
            f"{field.name} must be integers separated by commas. Received: {','.join(value)}."
        ) from None


define_config_flags()
