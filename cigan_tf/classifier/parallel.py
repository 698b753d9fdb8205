"""Parallel processes on one machine, each with its own GPU or an equal share of the cores."""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import pickle
import signal
from collections.abc import Callable, Iterator

from cigan_tf import interruption, tensorflow_loading
from cigan_tf.errors import Preempted, UserError, storage_errors

# Interval between checks for signals while the processes work.
_POLL_S = 0.5


def run(function: Callable, arguments: tuple, jobs: int) -> None:
    """Calls a function in several processes at once, with the same arguments.

    The function itself divides the work. If one process fails, the others are stopped.

    Args:
        function: function that other processes can import.
        arguments: arguments of the function; they must be picklable.
        jobs: number of processes, at least 1.

    Raises:
        UserError: the machine has GPUs, but fewer than `jobs`; the function raised a UserError; a
            process was killed.
        Preempted: this process or one of the others received SIGTERM or Ctrl-C.
    """
    environments = _environments(jobs)
    # TensorFlow hangs in forked processes; spawned ones import it again, in their own environment.
    context = multiprocessing.get_context("spawn")
    task = pickle.dumps((function, arguments))
    with interruption.watch() as interrupted, contextlib.ExitStack() as stack:
        workers = {}
        for environment in environments:
            receiver, sender = context.Pipe(duplex=False)
            worker = context.Process(target=_call, args=(sender, task), daemon=True)
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
                raise interrupted.error("and saved; run the same command to resume.")
            for sentinel in ended:
                _raise_failure(*workers.pop(sentinel))


def _call(sender, task: bytes) -> None:
    """Calls the function, and sends the parent process any error that the user must see."""
    with tensorflow_loading.without_notes():
        function, arguments = pickle.loads(task)  # imports TensorFlow if the function needs it
    try:
        with interruption.ending(), storage_errors():
            function(*arguments)
    except (UserError, Preempted) as error:
        sender.send(error)


def _raise_failure(worker, receiver) -> None:
    worker.join()
    with contextlib.suppress(EOFError):
        if receiver.poll():
            raise receiver.recv()
    if worker.exitcode == -signal.SIGTERM:  # the process ended before it handled signals
        raise Preempted("Stopped by SIGTERM; run the same command to resume.")
    if worker.exitcode:
        raise UserError(
            f"A training process exited with code {worker.exitcode}; see its output above. Code -9 "
            "may mean that memory ran out: pass a smaller --jobs. Run the same command to resume."
        )


def _end(worker) -> None:
    """Asks a process to save its state and end, and waits until it has ended."""
    if worker.is_alive():
        worker.terminate()
    worker.join()


def _environments(jobs: int) -> list[dict[str, str]]:
    """Returns the environment variables of each process."""
    # Imported here, so that a spawned process loads TensorFlow only if its function needs it.
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
    # Each process shows its progress bar on its own line.
    return [variables | {"TQDM_POSITION": str(job)} for job, variables in enumerate(devices)]


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Blocks Ctrl-C in the processes started in the context: a terminal sends it to every process.

    Only this process handles Ctrl-C, and asks the others to stop. A Ctrl-C that arrives inside the
    context is handled on exit from it.
    """
    # Otherwise the start of the first process would also start the tracker, and unblock the signal.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables that are inherited by processes started in the context."""
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
