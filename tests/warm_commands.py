"""Commands, each in a process of its own that need not load TensorFlow.

The processes are forks of one that has loaded it and never starts it: loading takes longer than
most commands of a test. Each runs its module as `python -m` does. Other tests start processes that
load everything.
"""

import atexit
import functools
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
_ENVIRONMENT = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(module: str, *arguments: object, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess:
    """Runs `python -m MODULE ARGUMENTS` in a folder; returns its exit code and its output."""
    with tempfile.TemporaryDirectory() as folder:
        files = [pathlib.Path(folder) / name for name in ("stdout", "stderr")]
        command, outputs = [module, *map(str, arguments)], [str(file) for file in files]
        request = command, str(cwd), outputs, dict(os.environ) | _ENVIRONMENT
        server = _server()
        print(json.dumps(request), file=server.stdin, flush=True)
        line = server.stdout.readline()
        if not line:
            raise RuntimeError(f"The process with TensorFlow has ended: {server.wait()}.")
        code = int(line)
        return subprocess.CompletedProcess(command, code, *(file.read_text() for file in files))


@functools.cache
def _server() -> subprocess.Popen:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm_commands"],
        cwd=ROOT,
        env=os.environ | _ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def _serve() -> None:
    import tensorflow  # noqa: F401

    import tfds_ddsm  # noqa: F401

    for request in sys.stdin:
        process = os.fork()
        if not process:
            return _become(*json.loads(request))
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def _become(command: list[str], cwd: str, outputs: list[str], environment: dict[str, str]) -> None:
    """Makes this process the command's."""
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate([os.devnull, *outputs]):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    sys.path[0], sys.argv = cwd, command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve()
