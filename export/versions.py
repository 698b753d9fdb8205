"""Numbered versions of a model in a folder that a server may be watching while they are written."""

import os
import pathlib
import shutil
from collections.abc import Callable

from cigan_tf.errors import UserError


def write_next(
    output_dir: str | os.PathLike, write: Callable[[pathlib.Path], None]
) -> pathlib.Path:
    """Writes `output_dir`/<next free number>/ whole or not at all.

    Args:
        output_dir: the model's folder; made if it is missing.
        write: fills the folder that it is given.

    Returns:
        The folder written.

    Raises:
        UserError: `output_dir` cannot be written.
    """
    output_dir = pathlib.Path(output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        target = output_dir / str(max(numbers(output_dir), default=0) + 1)
        # A server that watches output_dir looks at numbers only: it never sees this half written.
        beside = output_dir / f".writing-{target.name}"
        shutil.rmtree(beside, ignore_errors=True)
        write(beside)
        beside.rename(target)
    except OSError as error:
        raise UserError(f"output_dir {str(output_dir)!r} cannot be written: {error}.") from None
    return target


def numbers(output_dir: pathlib.Path) -> list[int]:
    """Returns the versions that a server would find in the folder."""
    return sorted(int(path.name) for path in output_dir.iterdir() if path.name.isdigit())
