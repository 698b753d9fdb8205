"""Several processes on one machine, each with a GPU of its own or its share of the cores."""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
from collections.abc import Callable, Iterator

from cigan_tf import interruption
from cigan_tf.errors import Preempted, UserError

# How often signals are looked for while the processes work.
_POLL_S = 0.5


def run(function: Callable, arguments: tuple, jobs: int) -> None:
    """Calls a function in several processes at once, all with the same arguments.

    The function divides the work itself. Where one process fails, the others are ended.

    Args:
        function: importable, as are its arguments.
        arguments: of the function.
        jobs: how many processes, at least 1.

    Raises:
        UserError: more jobs than GPUs; what the function raises; a process was killed.
        Preempted: SIGTERM or Ctrl-C came, to this process or to one of the others.
    """
    environments = _environments(jobs)
    # A forked TensorFlow hangs; spawned processes import it anew, with their own environment.
    context = multiprocessing.get_context("spawn")
    with interruption.watch() as interrupted, contextlib.ExitStack() as stack:
        workers = {}
        for environment in environments:
            receiver, sender = context.Pipe(duplex=False)
            worker = context.Process(target=_call, args=(sender, function, arguments), daemon=True)
            with _environment(environment), _ctrl_c_blocked():
                worker.start()
            sender.close()
            stack.callback(_end, worker)
            workers[worker.sentinel] = worker, receiver
        while workers:
            ended = multiprocessing.connection.wait(list(workers), _POLL_S)
            if interrupted.requested:
                for worker, _ in workers.values():
                    worker.terminate()
                raise interrupted.error("and saved; the same command resumes.")
            for sentinel in ended:
                _raise_failure(*workers.pop(sentinel))


def _call(sender, function: Callable, arguments: tuple) -> None:
    """Runs in a process of its own; sends the failure that the user is to see."""
    try:
        with interruption.ending():
            function(*arguments)
    except (UserError, Preempted) as error:
        sender.send(error)


def _raise_failure(worker, receiver) -> None:
    worker.join()
    with contextlib.suppress(EOFError):
        if receiver.poll():
            raise receiver.recv()
    if worker.exitcode == -signal.SIGTERM:  # before its work began
        raise Preempted("Stopped by SIGTERM; the same command resumes.")
    if worker.exitcode:
        raise UserError(
            f"One of the --jobs ended with code {worker.exitcode}; its output is above (-9 may "
            "mean that memory ran out: pass fewer --jobs). The same command resumes."
        )


def _end(worker) -> None:
    """Asks a process to save and end, and waits for it."""
    if worker.is_alive():
        worker.terminate()
    worker.join()


def _environments(jobs: int) -> list[dict[str, str]]:
    """Returns the environment variables of each process."""
    # Here, so that a process that is spawned loads it only if its function needs it.
    import tensorflow as tf

    num_gpus = len(tf.config.list_physical_devices("GPU"))
    if num_gpus:
        if jobs > num_gpus:
            raise UserError(
                f"jobs must be at most the number of GPUs, {num_gpus}. Received: jobs={jobs}."
            )
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(num_gpus)))
        devices = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in visible.split(",")[:jobs]]
    else:
        threads = str(max(1, len(os.sched_getaffinity(0)) // jobs))
        names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
        devices = [dict.fromkeys(names, threads)] * jobs
    # Progress bars stand one below the other.
    return [variables | {"TQDM_POSITION": str(job)} for job, variables in enumerate(devices)]


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Blocks Ctrl-C in processes that are started in the context: a terminal sends it to all.

    This process alone answers it, and asks the others to end. One that comes meanwhile is kept.
    """
    # Started by the first process otherwise, which would unblock the signal.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables that a process started in the context inherits."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
