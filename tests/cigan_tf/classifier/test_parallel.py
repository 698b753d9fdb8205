"""Parallel processes and the effect of failures."""

import os
import pathlib
import signal
import time

import pytest

from cigan_tf import interruption
from cigan_tf.classifier import parallel
from cigan_tf.errors import Preempted, UserError


def write_environment(folder):
    name = f"{os.getpid()}"
    threads = os.environ["TF_NUM_INTRAOP_THREADS"]
    pathlib.Path(folder, name).write_text(threads)


def fail_in_one(folder):
    """The process that creates the file fails; the other one would take a minute."""
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


def stop_everything(folder, number):
    """One of two processes sends a signal to their parent; both save when asked to stop."""
    file = pathlib.Path(folder, str(os.getpid()))
    with interruption.watch() as interrupted:
        os.kill(os.getpid(), signal.SIGINT)  # as a terminal does; only the parent handles it
        file.touch()
        while len(both := sorted(pathlib.Path(folder).iterdir())) < 2:
            time.sleep(0.01)
        if file == both[0]:
            os.kill(os.getppid(), number)
        while not interrupted.requested:
            time.sleep(0.01)
        file.write_text(f"saved after {interrupted.signal.name}")
        raise interrupted.error("after step 3")


def stop_before_work(folder):
    del folder
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


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
def test_the_end_of_a_process_is_reported(function, error, says, tmp_path):
    with pytest.raises(error, match=says) as raised:
        parallel.run(function, (str(tmp_path),), jobs=1)
    assert raised.value.exit_code == {UserError: 2, Preempted: 130}[error]


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_all_processes_save_when_the_first_is_stopped(number, exit_code, tmp_path):
    with pytest.raises(Preempted, match="saved; run the same command to resume") as raised:
        parallel.run(stop_everything, (str(tmp_path), number), jobs=2)
    assert raised.value.exit_code == exit_code
    assert {path.read_text() for path in tmp_path.iterdir()} == {"saved after SIGTERM"}


def test_a_process_stopped_before_its_work_is_not_an_error(tmp_path):
    with pytest.raises(Preempted, match="same command to resume") as raised:
        parallel.run(stop_before_work, (str(tmp_path),), jobs=1)
    assert raised.value.exit_code == 75
