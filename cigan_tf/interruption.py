"""Handling of SIGTERM and Ctrl-C: long work saves its state and ends."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from cigan_tf.errors import Preempted

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
# The shell's exit code after Ctrl-C.
_EXIT_CODES = {signal.SIGTERM: Preempted.exit_code, signal.SIGINT: 130}


class Interruption:
    """Whether a signal has asked the process to end, and which one.

    Attributes:
        signal: the first signal received, or None.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """Whether the process was asked to end."""
        return self.signal is not None

    def error(self, done: str) -> Preempted:
        """Returns the exception that ends the command.

        Args:
            done: end of the message "Stopped by SIGTERM ...": what was saved and how to resume.
        """
        # The signal may have been received by another worker.
        asked = self.signal or signal.SIGTERM
        return Preempted(f"Stopped by {_NAMES[asked]} {done}", _EXIT_CODES[asked])

    def _handle(self, number: int, frame: object) -> None:
        del frame
        if self.signal == signal.SIGINT == number:
            # A second Ctrl-C means that the user does not want to wait.
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Makes SIGTERM and Ctrl-C raise Preempted at any point of the work in the context.

    For work that can stop at any point and that the same command resumes or repeats. Work that must
    save first uses `watch`, inside this context or not.
    """

    def end(number: int, frame: object) -> None:
        del frame
        interruption = Interruption()
        interruption.signal = signal.Signals(number)
        raise interruption.error("without saving; the same command resumes from the last save.")

    with _handled_by(end):
        yield


@contextlib.contextmanager
def watch() -> Iterator[Interruption]:
    """Records SIGTERM and Ctrl-C inside the context instead of acting on them.

    Work in the context checks `requested` between its steps. Python handles signals only in its
    main thread; in other threads nothing is recorded.
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
