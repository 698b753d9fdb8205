"""SIGTERM and Ctrl-C: long work saves what it has and ends, instead of being cut off."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from cigan_tf.errors import Preempted

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
# A shell's code of a command that Ctrl-C ended.
_EXIT_CODES = {signal.SIGTERM: Preempted.exit_code, signal.SIGINT: 130}


class Interruption:
    """Whether a signal has asked the process to end, and which.

    Attributes:
        signal: the first signal that came, None before.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """Whether the process is asked to end."""
        return self.signal is not None

    def error(self, done: str) -> Preempted:
        """Returns the exception that ends the command.

        Args:
            done: what was saved and how to resume, after "Stopped by SIGTERM".
        """
        # Another worker may be the one that was asked.
        asked = self.signal or signal.SIGTERM
        return Preempted(f"Stopped by {_NAMES[asked]} {done}", _EXIT_CODES[asked])

    def _handle(self, number: int, frame: object) -> None:
        del frame
        if self.signal == signal.SIGINT == number:
            # Whoever presses Ctrl-C twice does not want to wait.
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Lets SIGTERM and Ctrl-C raise Preempted wherever the work in the context stands.

    For work that can be cut off at any place and is resumed, or repeated, by the same command.
    What must be saved first runs in `watch`, inside of this context or not.
    """

    def end(number: int, frame: object) -> None:
        del frame
        interruption = Interruption()
        interruption.signal = signal.Signals(number)
        raise interruption.error("between two saves; the same command resumes.")

    with _handled_by(end):
        yield


@contextlib.contextmanager
def watch() -> Iterator[Interruption]:
    """Notes SIGTERM and Ctrl-C for the time of the context instead of acting on them.

    Work in the context looks at `requested` between its steps. Python handles signals in its main
    thread only: in another one nothing is noted.
    """
    interruption = Interruption()
    with _handled_by(interruption._handle):
        yield interruption


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _NAMES}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
