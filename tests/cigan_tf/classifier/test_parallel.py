"""Processes that work at once, and what becomes of one that fails."""

import os
import pathlib
import signal
import time

import pytest

from cigan_tf.classifier import parallel
from cigan_tf.errors import Preempted, UserError


def write_environment(folder):
    name = f"{os.getpid()}"
    threads = os.environ["TF_NUM_INTRAOP_THREADS"]
    pathlib.Path(folder, name).write_text(threads)


def fail_in_one(folder):
    """The process that makes the file first fails; the other one would take a minute."""
    try:
        pathlib.Path(folder, "first").touch(exist_ok=False)
    except FileExistsError:
        time.sleep(60)
    else:
        raise UserError("this is what the user did wrong")


def kill_itself(folder):
    del folder
    os.kill(os.getpid(), signal.SIGKILL)


def be_asked_to_stop(folder):
    del folder
    raise Preempted("Stopped by Ctrl-C", 130)


def test_each_process_has_its_share_of_the_cores(tmp_path):
    parallel.run(write_environment, (str(tmp_path),), jobs=2)
    written = [path.read_text() for path in tmp_path.iterdir()]
    assert written == [str(max(1, len(os.sched_getaffinity(0)) // 2))] * 2
    assert "TF_NUM_INTRAOP_THREADS" not in os.environ


def test_a_users_mistake_in_one_process_ends_the_others(tmp_path):
    with pytest.raises(UserError, match="what the user did wrong"):
        parallel.run(fail_in_one, (str(tmp_path),), jobs=2)


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [(kill_itself, UserError, "code -9"), (be_asked_to_stop, Preempted, "Ctrl-C")],
)
def test_how_a_process_ended_is_said(function, error, says, tmp_path):
    with pytest.raises(error, match=says) as raised:
        parallel.run(function, (str(tmp_path),), jobs=1)
    assert raised.value.exit_code == {UserError: 2, Preempted: 130}[error]
