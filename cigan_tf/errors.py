"""The one exception that stands for a mistake which the user can mend."""


class UserError(ValueError):
    """A user's mistake; the message is one line: the rule, the value received, what to do.

    Command-line entry points print the message and exit with code 2, without a traceback.
    """
