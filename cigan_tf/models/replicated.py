"""A Keras model whose training step distributes its own work over the replicas.

Keras 3.15 calls `train_step` once per replica, within `tf.distribute.Strategy.run`. A GAN that
trains one network at a time cannot run there. Its step branches to the optimizer of one network; an
optimizer sums gradients over the replicas (`merge_call`); and TensorFlow does not allow that inside
a branch. Here, `train_step` is called once, outside the replicas, where it may branch. It runs the
arithmetic on the replicas with `run_on_parts` and `on_replicas`.

The other differences from Keras' training loop are:

- The steps of one call run in a loop of this module. Keras' own loop (`steps_per_execution`) fails
  under MirroredStrategy (keras issue 19246), and its reduction of logs fails under
  MultiWorkerMirroredStrategy (keras issue 20585).
- Training can start at any batch. A batch, or a worker's part of it, comes from a plain `tf.data`
  iterator, and each replica takes its share. Keras' `fit`, `evaluate` and `predict` would
  distribute batches themselves, so they are given a strategy with one device.
- XLA compiles the computation of each replica, not the surrounding call, which uses all devices.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from cigan_tf.errors import UserError


class ReplicatedModel(keras.Model):
    """A model whose `train_step` gets undivided batches and is called outside the replicas.

    `make_train_function` creates `train_function(iterator)`, as Keras expects, and
    `run_steps(iterator, num_steps)`, which runs several steps in one call. `fit` works under any
    strategy in whose scope the model was created; every worker then reads all batches.

    Subclasses count the steps in a variable `step`.

    Attributes:
        num_batch_parts: 1, or the number of workers if each gets its own part of every batch.
    """

    num_batch_parts = 1

    @property
    def distribute_strategy(self):
        """A strategy with one device, so that Keras' loops do not distribute batches.

        The strategy of the replicas is `strategy`.
        """
        return _OneDevice()

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """The strategy in whose scope the model was created."""
        return self._distribute_strategy or tf.distribute.get_strategy()

    def make_train_function(self, force=False):
        """Prepares `run_steps` and `train_function`, which are traced at the first call."""
        if self.train_function is not None and not force:
            return

        def one_step(iterator, num_steps):
            del num_steps
            with self.strategy.scope():
                self.train_step(iterator.get_next())
                return self.get_metrics_result()

        def many_steps(iterator, num_steps):
            with self.strategy.scope():

                def step(done):
                    self.train_step(iterator.get_next())
                    return (done + 1,)

                tf.while_loop(lambda done: done < num_steps, step, (tf.constant(0),))
                return self.get_metrics_result()

        run = self._traced(one_step if self.steps_per_execution == 1 else many_steps)
        self.run_steps = lambda iterator, num_steps: run(iterator, tf.constant(num_steps))

        def several_steps(iterator):
            first = int(self.step.numpy())
            try:
                return self.run_steps(iterator, self.steps_per_execution)
            except tf.errors.OutOfRangeError:
                # Keras counts no steps of a call in which the dataset ends, although some may have
                # been taken.
                if int(self.step.numpy()) == first:
                    raise
                return self.get_metrics_result()

        @self._traced
        def one_batch(batch):
            with self.strategy.scope():
                self.train_step(keras.utils.unpack_x_y_sample_weight(batch)[0])
                return self.get_metrics_result()

        # Reading the step number waits for the previous step. It is not read if each call has only
        # one step.
        steps = several_steps if self.steps_per_execution > 1 else lambda it: self.run_steps(it, 1)
        # `train_on_batch` gives a Python generator of one batch.
        self.train_function = lambda batches: (
            steps(batches) if isinstance(batches, tf.data.Iterator) else one_batch(next(batches))
        )

    def make_test_function(self, force=False):
        """Prepares `test_function`, which evaluates whole batches without distributing them."""
        if self.test_function is not None and not force:
            return

        @self._traced
        def one_step(iterator):
            with self.strategy.scope():
                return self.test_step(iterator.get_next())

        @self._traced
        def one_batch(batch):
            with self.strategy.scope():
                return self.test_step(keras.utils.unpack_x_y_sample_weight(batch)[0])

        def several_steps(iterator):
            if not isinstance(iterator, tf.data.Iterator):  # from `test_on_batch`
                return one_batch(next(iterator))
            logs = one_step(iterator)
            for _ in range(self.steps_per_execution - 1):
                try:
                    logs = one_step(iterator)
                except tf.errors.OutOfRangeError:
                    break
            return logs

        self.test_function = several_steps

    def _traced(self, function: Callable) -> Callable:
        if self.run_eagerly:
            return function
        return tf.function(function, reduce_retracing=True, autograph=False)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Nothing is left to build, and Keras would consume a batch to find that out.
        del iterator, data_batch

    @property
    def num_replicas(self) -> int:
        """Number of replicas over all workers."""
        return self.strategy.num_replicas_in_sync

    def run_on_parts(self, function: Callable, batch: dict[str, tf.Tensor]):
        """Calls `function(part)` on every replica with its part of the batch.

        The call is compiled by XLA if the model was compiled with `jit_compile`.

        Args:
            function: called on every replica; must not communicate with other replicas.
            batch: tensors whose first dimension is either that of this worker's part of the batch
                or that of the whole batch.

        Returns:
            The results of `function`, with one value per replica.

        Raises:
            UserError: the batch size is not a multiple of the number of replicas.
        """
        if self.jit_compile and not self.run_eagerly:
            function = tf.function(function, jit_compile=True, autograph=False)
        return self.strategy.run(lambda: function(self._part_of(batch)))

    def on_replicas(self, function: Callable, *per_replica) -> None:
        """Calls `function` on every replica with what `run_on_parts` returned there."""
        self.strategy.run(function, args=per_replica)

    def mean_over_replicas(self, per_replica: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the mean of each scalar over the replicas; all take a single communication."""
        names = sorted(per_replica)
        stacked = self.strategy.run(
            lambda values: tf.stack([tf.cast(values[name], tf.float32) for name in names]),
            args=(per_replica,),
        )
        means = self.strategy.reduce("MEAN", stacked, axis=None)
        return dict(zip(names, tf.unstack(means, len(names)), strict=True))

    def _part_of(self, batch):
        if self.num_replicas == 1:
            return batch
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        size = min(tensor.shape[0] or 0 for tensor in batch.values()) * self.num_batch_parts
        if not size or size % self.num_replicas:
            raise UserError(
                f"With {self.num_replicas} replicas, the batch size must be a multiple of "
                f"{self.num_replicas}: batch the dataset with drop_remainder=True. "
                f"Received: batches of {size or None}."
            )
        per_replica = size // self.num_replicas

        def part(tensor):
            num_parts = tensor.shape[0] // per_replica
            parts = tf.reshape(tensor, (num_parts, per_replica, *tensor.shape[1:]))
            return parts[replica % num_parts]

        return {name: part(tensor) for name, tensor in batch.items()}


class _OneDevice:
    """A strategy with one device; it has only the methods that Keras' loops call."""

    def experimental_distribute_dataset(self, dataset):
        return dataset

    def run(self, function, args=()):
        return function(*args)


class AgreedMean(keras.metrics.Mean):
    """A mean of values that are equal on all replicas, updated and read without communication.

    The mean of no values is NaN, not 0: a term of the network that was not trained is unknown.

    Keras' own metrics keep a sum per replica. Reading such a metric, even to write a curve or a
    checkpoint, requires communication between all workers.
    """

    def result(self):
        """Returns the mean, or NaN if there are no values."""
        return self.total / self.count

    def add_variable(self, shape, initializer, dtype=None, aggregation="sum", name=None):
        """Creates a variable whose copies are equal on all replicas."""
        del aggregation
        return keras.Variable(
            initializer,
            shape=shape,
            dtype=dtype or self.dtype,
            trainable=False,
            aggregation="only_first_replica",
            name=name,
        )
