"""Entry point of every command: a user's mistake ends with one line and exit code 2."""

import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags, logging

from cigan_tf.errors import DivergedError, Preempted, UserError, storage_errors

# The shell's exit code after Ctrl-C.
_CTRL_C = 130
# Schemes of remote file systems; `_READABLE` is the only one that TensorFlow supports here.
_BUCKETS = ("gs", "s3", "s3a", "hdfs", "abfs", "az", "azure", "wasb")
_READABLE = "gs"
# Flags whose folders may be in a bucket; all other paths must be on this machine.
_IN_BUCKETS = ("data_dir", "generators", "output_dir", "saved_model", "synthetic_dir", "workdir")
_RECIPES = pathlib.Path(__file__).with_name("flagfiles")
# A recipe is given by its name or by its path in a checkout; these are the folders of the two. In
# any other folder, a missing file is an error.
_RECIPES_AS_TYPED = (pathlib.Path(), pathlib.Path("cigan_tf/flagfiles"))


def run(main: Callable[..., None], arguments: Sequence[str] = ()) -> None:
    """Parses the flags, runs `main` and exits.

    A failure is reported on one line, with the exit code that `errors` defines for it.

    Args:
        main: called with the positional arguments.
        arguments: names of the positional arguments; all are required.
    """

    def guarded(argv: list[str]) -> int:
        try:
            with storage_errors():
                main(*argv[1:])
        except (UserError, DivergedError) as error:
            return fail(str(error), error.exit_code)
        except Preempted as stop:
            print(_one_line(stop), file=sys.stderr)
            return stop.exit_code
        except KeyboardInterrupt:
            print("Stopped by Ctrl-C.", file=sys.stderr)
            return _CTRL_C
        return 0

    _show_help_of(main)
    # Flush every line, so that a log file is up to date while the command runs.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    app.run(guarded, flags_parser=functools.partial(_parse, arguments))


def _show_help_of(main: Callable[..., None]) -> None:
    """Makes --help show the docstring and flags of `main`'s module.

    absl would use the script that was started; for installed commands, it is a stub written by pip.
    """
    sys.modules["__main__"].__doc__ = sys.modules[main.__module__].__doc__
    for flag in flags.FLAGS.get_key_flags_for_module(main.__module__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def fail(message: str, exit_code: int = UserError.exit_code) -> int:
    """Prints an error as one line and returns its exit code."""
    print(f"error: {_one_line(message)}", file=sys.stderr)
    return exit_code


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _parse(arguments: Sequence[str], argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(list(_expand_flagfiles(argv)))
    except flags.Error as error:
        sys.exit(fail(str(error)))
    if not flags.FLAGS["verbosity"].present:
        # absl would set it to INFO here, and TFDS logs every file that it opens.
        flags.FLAGS.verbosity = logging.WARNING
    if len(rest) - 1 != len(arguments):
        # This also catches a line of a flagfile without its two dashes.
        given = " ".join(rest[1:])
        but = f" but {' '.join(arguments)}" if arguments else ""
        sys.exit(fail(f"Every argument{but} must be a flag, --name=value. Received: {given!r}."))
    try:
        _make_paths_local()
        return [rest[0], *(_local("argument", value) for value in rest[1:])]
    except UserError as error:
        sys.exit(fail(str(error)))


def _expand_flagfiles(argv: Sequence[str], inside: tuple[str, ...] = ()) -> Iterator[str]:
    """Replaces each --flagfile=FILE, or --flagfile FILE, by the lines of the file.

    absl does so too, but cannot find the recipes of an installed package by name. Here, a FILE that
    does not exist may be the name of a recipe, e.g. paper.flags. A FILE that is neither is left to
    absl, which reports it.

    Args:
        argv: arguments, or the lines of a flagfile.
        inside: the flagfiles that include these lines.
    """
    arguments = iter(argv)
    for argument in arguments:
        name, _, value = argument.strip().partition("=")
        is_flagfile = name in ("--flagfile", "-flagfile")
        if is_flagfile and "=" not in argument:
            value = next(arguments, "")
            argument = f"{name}={value}" if value else argument
        path = pathlib.Path(value).expanduser() if is_flagfile and value else None
        if path is not None and not path.is_file() and path.parent in _RECIPES_AS_TYPED:
            path = _RECIPES / path.name
        if path is None or not path.is_file():
            yield argument
        elif str(path) in inside:
            raise flags.Error(f"The flagfile {str(path)!r} includes itself.")
        else:
            try:
                text = path.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise flags.Error(f"The flagfile {str(path)!r} cannot be read: {error}.") from None
            lines = [line.strip() for line in text.splitlines()]
            lines = [line for line in lines if line and not line.startswith(("#", "//"))]
            yield from _expand_flagfiles(lines, (*inside, str(path)))


def _make_paths_local() -> None:
    """Expands ~ in every flag, which shells do not do after `=`, and refuses unsupported buckets.

    Every flag's value that begins with a tilde is a path.
    """
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag.value, str):
            local = _local(name, flag.value)
        elif isinstance(flag.value, list) and all(isinstance(value, str) for value in flag.value):
            local = [_local(name, value) for value in flag.value]
        else:
            continue
        flag.value = local


def _local(name: str, value: str) -> str:
    scheme, _, rest = value.partition("://")
    in_buckets = name in _IN_BUCKETS
    if rest and scheme.lower() in _BUCKETS and not (in_buckets and scheme == _READABLE):
        where = "on this machine or mounted"
        if in_buckets:
            where = "on this machine, mounted, or in a bucket at gs://"
        raise UserError(
            f"{name} must be {where}; {scheme}:// is not supported here. Received: {value!r}."
        )
    return os.path.expanduser(value) if value.startswith("~") else value
