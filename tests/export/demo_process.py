"""Runs the demo with its output in a file, after a line with the number of the process: a command.

The first argument is the file; the others are the demo's.
"""

import os
import runpy
import sys

if __name__ == "__main__":
    file = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT)
    os.dup2(file, sys.stdout.fileno())
    print(os.getpid(), flush=True)
    runpy.run_module("export.demo", run_name="__main__", alter_sys=True)
