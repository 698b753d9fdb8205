"""SIGTERM and Ctrl-C are recorded and end a command with their own exit codes."""

import os
import signal
import threading

import pytest

from cigan_tf import interruption
from cigan_tf.errors import Preempted


@pytest.mark.parametrize(
    ("number", "name", "exit_code"),
    [(signal.SIGTERM, "SIGTERM", 75), (signal.SIGINT, "Ctrl-C", 130)],
)
def test_a_signal_is_recorded_and_does_not_stop_the_process(number, name, exit_code):
    before = signal.getsignal(number)
    with interruption.watch() as interrupted:
        assert not interrupted.requested
        os.kill(os.getpid(), number)
        assert interrupted.requested
    error = interrupted.error("after step 3")
    assert (str(error), error.exit_code) == (f"Stopped by {name} after step 3", exit_code)
    assert signal.getsignal(number) is before


def test_work_that_does_not_watch_for_signals_ends_immediately():
    with pytest.raises(Preempted) as raised, interruption.ending():
        os.kill(os.getpid(), signal.SIGINT)
    assert raised.value.exit_code == 130
    with interruption.ending(), interruption.watch() as interrupted:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted.requested


def test_ctrl_c_twice_does_not_wait():
    with interruption.watch():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_no_signal_is_recorded_outside_the_main_thread():
    seen = []

    def look():
        with interruption.watch() as interrupted:
            seen.append(interrupted.requested)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [False]
