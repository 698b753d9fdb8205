"""The frame of every command: a user's mistake ends in one line and exit code 2."""

import functools
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from cigan_tf.errors import DivergedError, Preempted, UserError

# A shell's code of a command that Ctrl-C ended.
_CTRL_C = 130


def run(main: Callable[..., None], arguments: Sequence[str] = ()) -> None:
    """Parses the flags, runs `main`, exits: 0, or with one line and the code of `errors`.

    Args:
        main: takes the arguments that are no flags.
        arguments: their names; all must be given.
    """

    def guarded(argv: list[str]) -> int:
        try:
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

    app.run(guarded, flags_parser=functools.partial(_parse, arguments))


def fail(message: str, exit_code: int = UserError.exit_code) -> int:
    """Prints a mistake as one line and returns the exit code that goes with it."""
    print(f"error: {_one_line(message)}", file=sys.stderr)
    return exit_code


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _parse(arguments: Sequence[str], argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(fail(str(error)))
    if not flags.FLAGS["verbosity"].present:
        # absl would raise it to INFO now, and TFDS tells of every file that it opens.
        flags.FLAGS.verbosity = logging.WARNING
    if len(rest) - 1 != len(arguments):
        # A flagfile's line without its two dashes ends here too, instead of being ignored.
        given = " ".join(rest[1:])
        but = f" but {' '.join(arguments)}" if arguments else ""
        sys.exit(fail(f"Every argument{but} is a flag, --name=value. Received: {given!r}."))
    return rest
