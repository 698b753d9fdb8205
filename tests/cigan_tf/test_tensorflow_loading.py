"""The part of a library's output during loading that is shown to the user."""

import os
import re
import signal
import subprocess
import sys

import pytest

from cigan_tf import tensorflow_loading
from tests import warm_commands

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


def test_tensorflow_is_loaded_without_its_notes():
    warm_commands.address()
    loading, *others = warm_commands.loading_messages().splitlines()
    assert loading == "Loading TensorFlow ..."
    assert not [line for line in others if re.match(tensorflow_loading._NOTE, line)]


def run_beside(folder, *arguments):
    """Runs Python with a stand-in for TensorFlow, `tensorflow.py`, in a folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(warm_commands.ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [
        "cigan_tf.main --mode=report --workdir=runs",
        "cigan_tf.main --init_from=cbis_mass_128 --workdir=gs://bucket/run",
        "export.saved_model --workdir=runs",
    ],
)
def test_commands_load_it_like_this_before_anything_else_does(command, tmp_path):
    stand_in = f"import os\nos.write(2, {NOTES!r}.encode())\nraise SystemExit('and no more')\n"
    (tmp_path / "tensorflow.py").write_text(stand_in)
    finished = run_beside(tmp_path, "-m", *command.split())
    assert finished.stderr.splitlines() == ["Loading TensorFlow ...", "and no more"]


def test_what_is_loaded_is_no_garbage_and_what_follows_can_be(tmp_path):
    (tmp_path / "tensorflow.py").write_text("import gc\nis_collected = gc.isenabled()\n")
    script = """
import gc
from cigan_tf import tensorflow_loading
tensorflow_loading.load_tensorflow()
import tensorflow
print(tensorflow.is_collected, gc.isenabled(), gc.get_freeze_count() > 1000)
"""
    finished = run_beside(tmp_path, "-c", script)
    assert finished.stdout == "False True True\n"


@pytest.mark.parametrize("command", ["cigan_tf.main --mode=report", "export.saved_model"])
def test_commands_name_a_workdir_without_a_run(command, tmp_path):
    finished = warm_commands.run(*command.split(), f"--workdir={tmp_path}")
    assert finished.returncode == 2
    (error,) = finished.stderr.splitlines()
    assert error.startswith("error: There is no run in the workdir")
