"""The part of a library's output during loading that is shown to the user."""

import os
import signal
import subprocess
import sys

import pytest

NOTES = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1 99 port.cc:153] oneDNN custom operations are on.\n"
)
SCRIPT = f"""
import os
from cigan_tf import tensorflow_loading
with tensorflow_loading.without_notes():
    os.write(2, {NOTES!r}.encode())
    os.write(2, b"F0000 00:00:1 99 cpu.cc:1] needs AVX\\n")
    {{last}}
os.write(2, b"I0000 afterwards\\n")
"""


def output_of(last="pass", level="2"):
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(last=last)],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": level},
        capture_output=True,
        text=True,
        check=False,
    )
    return finished.returncode, finished.stderr


def test_notes_are_removed_and_everything_else_is_shown():
    assert output_of() == (0, "F0000 00:00:1 99 cpu.cc:1] needs AVX\nI0000 afterwards\n")


def test_the_last_message_of_a_library_that_aborts_is_shown():
    code, output = output_of("os.abort()")
    assert code == -signal.SIGABRT
    assert output.startswith("F0000 00:00:1 99 cpu.cc:1] needs AVX\n")


def test_notes_are_shown_on_request():
    assert output_of(level="0")[1].startswith(NOTES)


@pytest.mark.parametrize("command", ["cigan_tf.main --mode=report", "export.saved_model"])
def test_commands_load_tensorflow_without_its_notes(command, tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", *command.split(), f"--workdir={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    loading, error = finished.stderr.splitlines()
    assert loading == "Loading TensorFlow ..."
    assert error.startswith("error: There is no run in the workdir")
