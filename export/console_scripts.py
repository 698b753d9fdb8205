"""Console scripts that need an extra of the package; a missing extra is reported in one line."""

import importlib
import sys

from cigan_tf import command_line


def client() -> None:
    """Runs cigan-client."""
    _run("client", extra="serving")


def demo() -> None:
    """Runs cigan-demo."""
    _run("demo", extra="demo")


def insert() -> None:
    """Runs cigan-insert."""
    _run("insert_lesions", extra="films")


def _run(module: str, extra: str) -> None:
    try:
        command = importlib.import_module(f".{module}", __package__)
    except ModuleNotFoundError as error:
        sys.exit(command_line.fail(f"{error.name} is not installed: pip install 'cigan[{extra}]'."))
    command.run()
