"""The one exception that stands for a mistake which the user can mend."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """A user's mistake; the message is one line: the rule, the value received, what to do.

    Command-line entry points print the message and exit with code 2, without a traceback.
    """


@contextlib.contextmanager
def concerning(what: str) -> Iterator[None]:
    """Puts before the message of a UserError raised inside what it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
