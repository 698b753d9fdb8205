"""Commands, each in a process of its own that need not load TensorFlow.

The processes are forks of one that has loaded it and never starts it: loading takes longer than
most commands of a test. Each runs its module as `python -m` does. Other tests start processes that
load everything. The workers of pytest-xdist share that one process.

`python -S tests/warm_commands.py ADDRESS MODULE ARGUMENTS` runs a command for another process, with
that process's environment, folder and files.
"""

import contextlib
import fcntl
import functools
import gc
import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[1]
_SERVE = "--serve"
_ENVIRONMENT = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
_WITHOUT_PATCHES = os.environ | _ENVIRONMENT
# The workers of one run of the tests are children of one process, with which the tests end.
_OWNER = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
_ADDRESS = os.path.join(tempfile.gettempdir(), f"warm_{_RUN[:12]}")
_TIMEOUT_S = 600


def run(module: str, *arguments: object, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess:
    """Runs `python -m MODULE ARGUMENTS` in a folder; returns its exit code and its output."""
    command = [module, *map(str, arguments)]
    with contextlib.ExitStack() as opened:
        nothing = opened.enter_context(open(os.devnull))
        outputs = [opened.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)]
        files = [file.fileno() for file in (nothing, *outputs)]
        code = _ask(address(), command, str(cwd), dict(os.environ) | _ENVIRONMENT, files)
        for file in outputs:
            file.seek(0)
        return subprocess.CompletedProcess(command, code, *(file.read() for file in outputs))


@functools.cache
def address() -> str:
    """Returns the address of the process with TensorFlow, which the first call starts."""
    with open(f"{_ADDRESS}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(_ADDRESS):
            with open(f"{_ADDRESS}.log", "w") as log:
                code = subprocess.run(
                    [sys.executable, "-m", "tests.warm_commands", _SERVE, _ADDRESS, str(_OWNER)],
                    cwd=ROOT,
                    env=_WITHOUT_PATCHES,
                    stderr=log,
                ).returncode
            assert code == 0, loading_messages()
    return _ADDRESS


def loading_messages() -> str:
    """Returns what the process has shown while it loaded TensorFlow and other packages."""
    return pathlib.Path(f"{_ADDRESS}.log").read_text()


def _ask(address: str, command: list[str], cwd: str, environment: dict, files: list[int]) -> int:
    """Has a command run with three files as its input and outputs; returns its exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(address)
        socket.send_fds(connection, [b"."], files)
        connection.sendall(json.dumps([command, cwd, environment]).encode())
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile() as answer:
            return int(answer.readline())


def _serve(address: str, owner: int) -> None:
    """Returns in the process that starts this one, and serves in another until the owner ends."""
    from cigan_tf import tensorflow_loading

    tensorflow_loading.load_tensorflow()

    from tensorflow_datasets.scripts.cli import convert_format, croissant  # noqa: F401

    import tfds_ddsm  # noqa: F401

    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    server.settimeout(1)
    if os.fork():
        return
    gc.freeze()  # otherwise each fork takes a second to free at its end what it has not used
    _set_files([os.open(os.devnull, os.O_RDWR) for _ in range(3)])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner ends after it
    while _is_running(owner):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        connection.settimeout(_TIMEOUT_S)
        _, files, _, _ = socket.recv_fds(connection, 1, 3)
        try:
            with connection.makefile() as request:
                command, cwd, environment = json.load(request)
        except (OSError, ValueError):  # who asked has ended
            command = None
        if command and not os.fork():
            return _answer(connection, command, cwd, environment, files)
        connection.close()
        for file in files:
            os.close(file)
    for suffix in ("", ".lock", ".log"):
        pathlib.Path(address + suffix).unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, PermissionError):  # the number may be another user's by now
        return False
    return True


def _answer(
    connection: socket.socket, command: list[str], cwd: str, environment: dict, files: list[int]
) -> None:
    """Makes this process wait for a command, and another one the command's."""
    if process := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        connection.sendall(f"{code}\n".encode())
        os._exit(0)
    connection.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _set_files(files)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[0], sys.argv = cwd, command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def _set_files(files: list[int]) -> None:
    """Replaces this process's input and outputs."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)


if __name__ == "__main__":
    if sys.argv[1] == _SERVE:
        _serve(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(_ask(sys.argv[1], sys.argv[2:], os.getcwd(), dict(os.environ), [0, 1, 2]))
