"""Runs a module like `python -m`, in a process that cannot see the folder HIDDEN."""

import os
import runpy
import sys

HIDDEN = os.environ["HIDDEN"]
EVENTS = "open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove"


def hide(event, args):
    is_path = event in EVENTS and isinstance(args[0], str | bytes | os.PathLike)
    if is_path and f"{os.path.abspath(os.fsdecode(args[0]))}/".startswith(f"{HIDDEN}/"):
        raise FileNotFoundError(2, "No such file or directory", args[0])


if __name__ == "__main__":
    os.chdir("/")
    sys.addaudithook(hide)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
