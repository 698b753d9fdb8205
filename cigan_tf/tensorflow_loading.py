"""Loads TensorFlow for a command, without its libraries' log messages."""

import contextlib
import gc
import os
import subprocess
import sys
from collections.abc import Iterator

from cigan_tf import terminal

# Start of the C++ libraries' INFO lines, and their notice before the first one.
_NOTE = r"^(WARNING: All log messages before absl::InitializeLog\(\)|I[0-9]{4} )"


def load_tensorflow() -> None:
    """Imports TensorFlow with the environment for commands; prints a line first."""
    if "tensorflow" in sys.modules:
        return  # too late to change its environment
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow disables oneDNN's convolutions on processors without AVX-512, but they are faster
    # there too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    terminal.say("Loading TensorFlow ...")
    with without_notes(), _without_garbage_collection():
        import tensorflow  # noqa: F401


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Exempts what is loaded from garbage collection, now, later and when the process ends.

    None of it is garbage; to find that out would take a third of the time of loading.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Removes from stderr the INFO lines that TensorFlow's libraries write while being loaded.

    They write them before reading TF_CPP_MIN_LOG_LEVEL. If that is 0, nothing is removed. The
    filter is a separate process, so the last message of a library that aborts is still shown.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0" or sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        command = ["grep", "--text", "--line-buffered", "-vE", _NOTE]
        grep = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stderr)
    except OSError:  # no grep
        os.close(stderr)
        yield
        return
    os.dup2(grep.stdin.fileno(), 2)
    grep.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        grep.wait()
