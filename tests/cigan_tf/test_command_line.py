"""How a command ends: one line and the exit code that says why."""

import subprocess
import sys

import pytest

SCRIPT = """
from cigan_tf import command_line, errors
def main():
    raise errors.{error}("what happened\\nand what to do")
command_line.run(main)
"""


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        ("UserError", 2, "error: what happened and what to do"),
        ("DivergedError", 3, "error: what happened and what to do"),
        ("Preempted", 75, "what happened and what to do"),
    ],
)
def test_an_early_end_is_one_line_and_a_code_of_its_own(error, exit_code, line):
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(error=error)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == exit_code
    assert finished.stderr.splitlines() == [line]


@pytest.mark.parametrize(
    ("given", "shown"), [([], ["careful"]), (["--verbosity=0"], ["by the way", "careful"])]
)
def test_notes_of_libraries_are_shown_where_they_are_asked_for(given, shown):
    script = """
from absl import logging
from cigan_tf import command_line
def main():
    logging.info("by the way")
    logging.warning("careful")
command_line.run(main)
"""
    finished = subprocess.run(
        [sys.executable, "-c", script, *given], capture_output=True, text=True, check=True
    )
    assert [line.partition("] ")[2] for line in finished.stderr.splitlines()] == shown
