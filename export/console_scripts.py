"""Console scripts that need an extra of the package; a missing extra is reported on one line."""

import importlib
import sys
from collections.abc import Sequence

from cigan_tf import command_line


def client() -> None:
    """Runs cigan-client."""
    _run("client", "serving", ("grpc", "requests"))


def demo() -> None:
    """Runs cigan-demo."""
    _run("demo", "demo", ("bokeh", "highdicom", "tornado"))


def insert() -> None:
    """Runs cigan-insert."""
    _run("insert_lesions", "films", ("highdicom",))


def _run(module: str, extra: str, packages: Sequence[str]) -> None:
    """Runs a command that imports packages of an extra."""
    try:
        command = importlib.import_module(f".{module}", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        sys.exit(command_line.fail(f"{error.name} is not installed: pip install 'cigan[{extra}]'."))
    command.run()
