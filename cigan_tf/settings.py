"""Declaration and validation of settings."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cigan_tf.errors import UserError


def setting(default: Any, help_text: str, repeated: bool = False) -> Any:
    """Declares one field of a configuration: its default, help text and kind of flag.

    Args:
        default: the value if the flag is not given.
        help_text: help text of the flag.
        repeated: whether the flag is repeated for each entry; otherwise a tuple is a
            comma-separated list.
    """
    return dataclasses.field(default=default, metadata={"help": help_text, "repeated": repeated})


def require(condition: bool, rule: str, **received: Any) -> None:
    """Raises UserError with the rule and the received values unless the condition holds."""
    if not condition:
        values = ", ".join(f"{name}={value!r}" for name, value in received.items())
        raise UserError(f"{rule} Received: {values}." if values else rule)


def require_positive(settings: Any, *names: str) -> None:
    """Raises UserError unless each of these settings is above 0."""
    for name in names:
        value = getattr(settings, name)
        require(value > 0, f"{name} must be positive.", **{name: value})


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises UserError unless the value is one of the choices."""
    require(value in choices, f"{name} must be one of {', '.join(choices)}.", **{name: value})
