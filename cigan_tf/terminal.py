"""Progress output of commands: bars in a terminal, lines in a file."""

import sys
import time

import tqdm

# The interval between lines at first. Later it is this share of the elapsed time, so that the log
# of a run of days stays short.
_LINE_EVERY_S = 5.0
_LINE_EVERY_SHARE = 0.05


def progress_bar(**options) -> tqdm.tqdm:
    """Returns a progress bar on stderr.

    Args:
        **options: options of `tqdm.tqdm`.
    """
    if sys.stderr is None:
        return tqdm.tqdm(disable=True, **options)
    kind = tqdm.tqdm if sys.stderr.isatty() else _Lines
    return kind(file=sys.stderr, dynamic_ncols=True, **options)


def say(text: str) -> None:
    """Writes a line to stderr, for instance about work that takes seconds."""
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)


class _Lines(tqdm.tqdm):
    """A progress bar that writes lines, because in a file carriage returns overwrite nothing."""

    _first_at = _next_at = _last = None

    def display(self, msg=None, pos=None):
        now = time.monotonic()
        if msg is None and (self._next_at is None or now >= self._next_at):
            self._first_at = self._first_at or now
            elapsed = now - self._first_at
            self._next_at = now + max(_LINE_EVERY_S, _LINE_EVERY_SHARE * elapsed)
            self._write_line()
        return False

    def clear(self, *args, **kwargs):
        pass

    def close(self):
        if not self.disable and self._last is not None and self._last != self.n:
            self._write_line()
        self.leave = False  # the last line is already written
        super().close()

    def _write_line(self):
        self._last = self.n
        self.fp.write(f"{self}\n")
        self.fp.flush()
