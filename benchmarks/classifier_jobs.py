"""Speed of training classifiers in parallel, compared with training them one after another.

    python -m benchmarks.classifier_jobs --flagfile=cigan_tf/flagfiles/experiment.flags \
        --data_dir=runs/data

Each timed command trains N classifiers of one arm, with N seeds, where N is `--jobs`, at least 2.
Commands with `--jobs=1` and `--jobs=N` alternate. The time is that of the whole command, including
start-up and tracing. The flags name the dataset; `make experiment` builds that of the flag file.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags

from cigan_tf import command_line
from cigan_tf import flags as cigan_flags
from cigan_tf.errors import UserError

_ROUNDS = flags.DEFINE_integer("rounds", 3, "Number of timed runs of each command.")
_ARM = flags.DEFINE_string("timed_arm", "baseline", "Arm whose classifiers are trained.")


def main() -> None:
    """Prints one line."""
    jobs = max(2, cigan_flags.JOBS.value)
    ratios, alone_s, together_s = [], [], []
    for _ in range(_ROUNDS.value):
        alone_s.append(_seconds(1, jobs))
        together_s.append(_seconds(jobs, jobs))
        ratios.append(alone_s[-1] / together_s[-1])
    print(
        f"{jobs} classifiers on {len(os.sched_getaffinity(0))} cores: --jobs=1 "
        f"{statistics.median(alone_s):.0f} s, --jobs={jobs} {statistics.median(together_s):.0f} s; "
        f"{statistics.median(ratios):.2f}x as fast ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"{len(ratios)} pairs"
    )


def _seconds(jobs: int, num_classifiers: int) -> float:
    """Trains classifiers of the arm in a new folder, and returns the time in seconds."""
    seeds = ",".join(map(str, range(num_classifiers)))
    with tempfile.TemporaryDirectory() as workdir:
        chosen = (f"--arms={_ARM.value}", f"--classifier_seeds={seeds}", "--comparisons=")
        command = [sys.executable, "-m", "cigan_tf.main", *_other_arguments(), *chosen]
        start = time.perf_counter()
        finished = subprocess.run(
            [*command, "--mode=classify", f"--jobs={jobs}", f"--workdir={workdir}"],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - start
    if finished.returncode:
        raise UserError(
            f"A training command exited with code {finished.returncode}: {finished.stderr}"
        )
    return seconds


def _other_arguments() -> Iterator[str]:
    """Yields the arguments of this command that are flags of `cigan`."""
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        name, equals, _ = argument.lstrip("-").partition("=")
        if name not in (_ROUNDS.name, _ARM.name):
            yield argument
        elif not equals:
            next(arguments, None)  # the value


if __name__ == "__main__":
    command_line.run(main)
