"""Every command-line flag: the configuration's fields by their own names, and the run's frame."""

import dataclasses

from absl import flags

from cigan_tf.config import Config

MODES = ("train", "report")

_DEFINE = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    tuple[str, ...]: flags.DEFINE_list,
}

MODE = flags.DEFINE_enum(
    "mode", "train", MODES, "train: train ciGAN; report: write report.html of an exported run."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: settings, checkpoints, logs.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the resolved configuration and stop.")
SAVED_MODEL = flags.DEFINE_string(
    "saved_model", None, "Exported generator; default: the newest below WORKDIR/saved_model."
)


def define_config_flags() -> None:
    """Defines one flag for each field of the configuration, with its default and help text."""
    for group in dataclasses.fields(Config):
        for field in dataclasses.fields(group.default_factory):
            # absl's lists are lists; the configuration is frozen and holds tuples.
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            _DEFINE[field.type](field.name, default, field.metadata["help"])


def config_from_flags() -> Config:
    """Returns the configuration that the command line and its flagfiles describe, validated."""
    return Config(
        **{
            group.name: group.default_factory(
                **{
                    field.name: _value(field.name)
                    for field in dataclasses.fields(group.default_factory)
                }
            )
            for group in dataclasses.fields(Config)
        }
    ).validate()


def _value(name: str):
    value = flags.FLAGS[name].value
    return tuple(value) if isinstance(value, list) else value


define_config_flags()
