"""The devices that run the steps: one device, all GPUs of a machine, several machines or a TPU."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.eager import context

from cigan_tf import accelerators
from cigan_tf.config import Config
from cigan_tf.errors import Preempted, UserError, first_line, is_storage_error
from cigan_tf.hardware_config import HardwareConfig
from cigan_tf.training import cluster

# A worker's message to the others about its failure, and how they find it in TensorFlow's message.
_TELL = "ciGAN's worker {index} failed: {reason} [end of its reason]"
_TOLD = re.compile(r"ciGAN's worker (\d+) failed: (.*?) \[end of its reason\]")


def build(config: Config) -> tf.distribute.Strategy:
    """Returns the configured strategy; call before any other use of TensorFlow.

    If configured, it also sets deterministic mode, for the rest of the process.

    Raises:
        UserError: TF_CONFIG is malformed, a worker did not start, the TPU does not respond, XLA
            cannot compile for the GPU, or the batch size is not a multiple of the number of
            replicas.
    """
    accelerators.refuse_xla_where_it_aborts(config.hardware)
    if config.hardware.deterministic:
        tf.config.experimental.enable_op_determinism()
    makers = {
        "one_device": lambda hardware: tf.distribute.get_strategy(),
        "mirrored": _mirrored,
        "multi_worker": _multi_worker,
        "tpu": _tpu,
    }
    strategy = makers[config.hardware.strategy](config.hardware)
    replicas = strategy.num_replicas_in_sync
    if config.data.batch_size % replicas:
        raise UserError(
            f"batch_size must be a multiple of the number of replicas, which is {replicas} with "
            f"--strategy={config.hardware.strategy}. "
            f"Received: batch_size={config.data.batch_size}."
        )
    return strategy


def worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Returns the index of this process among those that train together, and their number."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    workers = cluster.from_environment()
    return workers.index, len(workers.workers)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the one worker that writes the files of the run."""
    return worker(strategy)[0] == 0


@contextlib.contextmanager
def failing_together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Stops all workers within seconds if one of them fails, and reports its error.

    Otherwise, the other workers would wait for the failed one in their next communication.

    Raises:
        UserError: another worker has failed, or can no longer be reached.
    """
    index, num_workers = worker(strategy)
    if num_workers == 1:
        yield
        return
    try:
        yield
    except Preempted:
        raise  # all workers agreed to stop
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, tf.errors.OpError) and not is_storage_error(error):
            if told := _TOLD.search(reason):
                raise UserError(f"Worker {told[1]} has failed: {told[2]}") from None
            if isinstance(error, (tf.errors.UnavailableError, tf.errors.AbortedError)):
                raise UserError(
                    "Another worker in TF_CONFIG can no longer be reached; run the same command "
                    "again on all of them."
                ) from None
        with contextlib.suppress(tf.errors.OpError, ValueError):
            context.context().report_error_to_cluster(
                tf.errors.ABORTED, _TELL.format(index=index, reason=reason)
            )
        raise


class Agreement:
    """Decisions made by all workers together, so that no worker waits for one that has left.

    Args:
        strategy: strategy of all workers.
        every_steps: number of steps between checks.
    """

    def __init__(self, strategy: tf.distribute.Strategy, every_steps: int = 1):
        self._every_steps = every_steps
        self._alone = worker(strategy)[1] == 1

        @tf.function
        def total(value):
            return strategy.reduce("SUM", strategy.run(lambda: value), axis=None)

        self._total = total
        self._num_replicas = strategy.num_replicas_in_sync

    def is_due(self, step: int, num_steps: int) -> bool:
        """Returns whether a check is due after `num_steps` steps that led to `step`.

        A check is a communication among the workers, and waits for the steps in progress.
        """
        before = step - num_steps
        return self._alone or step // self._every_steps > before // self._every_steps

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set on at least one worker; every worker must call this."""
        return flag if self._alone else float(self._total(tf.constant(float(flag)))) > 0

    def all_equal(self, number: int) -> bool:
        """Returns whether all workers passed the same number; every worker must call this."""
        if self._alone:
            return True
        mean = float(self._total(tf.constant(float(number)))) / self._num_replicas
        return not self.any(mean != number)


def _mirrored(hardware: HardwareConfig) -> tf.distribute.Strategy:
    del hardware
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multi_worker(hardware: HardwareConfig) -> tf.distribute.Strategy:
    workers = cluster.from_environment()
    cluster.wait_for_peers(workers, hardware.peer_timeout_s)
    return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu(hardware: HardwareConfig) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(hardware.tpu or "local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, OSError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            f"No TPU responds at --tpu={hardware.tpu!r}: {first_line(error)}. A TPU also needs a "
            "build of TensorFlow for it (pip install tensorflow-tpu)."
        ) from None
