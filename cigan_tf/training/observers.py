"""Output of a run in progress, to the terminal, TensorBoard and run.json."""

import itertools
import json
import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf
from etils import epath

from cigan_tf import file_io, run_folder, terminal
from cigan_tf.config import HELD_OUT_TERMS, Config
from cigan_tf.errors import UserError
from cigan_tf.models import quality_features
from cigan_tf.models.cigan import CiGAN, Turn
from cigan_tf.training import health, start, tensorboard
from cigan_tf.training.held_out import HeldOutMeasures

PICTURES_PER_KIND = 4
_WINDOWS_AT_A_TIME = 32


class Observer:
    """Receives the events of a run, without any output: for all workers except the chief."""

    def begin(self, facts: dict[str, Any]) -> None:
        """Shows facts about the run, from `start.facts`."""

    def count(self, num_steps: int) -> None:
        """Advances the progress bar."""

    def profile(self, step: int) -> None:
        """Starts or stops TensorFlow's profiler as the step after `step` requires."""

    def log(self, step: int) -> None:
        """Writes a point of each curve, and resets the means over steps."""

    def show(self, step: int) -> None:
        """Writes pictures, and the measures of collapse on the patches in them."""

    def held_out_loss(self, step: int) -> float:
        """Evaluates the model on validation patches; returns the value that the best one minimises.

        The value is infinity if no measure selects the best checkpoint.
        """
        del step
        return float("inf")

    def warn(self, step: int, warning: str) -> None:
        """Shows a warning in the terminal and in TensorBoard."""

    def end(self, checkpoint: str) -> None:
        """Shows where the results are and what to do next."""

    def close(self) -> None:
        """Stops the profiler and closes the progress bar and all files."""


class Chief(Observer):
    """Progress in the terminal; curves, pictures and warnings on disk.

    Args:
        model: restored to the step from which the run continues.
        held_out: patches from `input_pipeline.picture_patches`.
        workdir: folder of the run.
        config: the run's settings.
        measures: result of `held_out_measures`.
    """

    def __init__(
        self,
        model: CiGAN,
        held_out: dict,
        workdir: epath.Path,
        config: Config,
        measures: HeldOutMeasures | None = None,
    ):
        self._model = model
        self._settings = config.training
        self._held_out = _interleaved_batches(
            _first_of_each_kind(held_out, config.training.held_out_per_kind),
            config.data.batch_size,
        )
        self._shown = _first_of_each_kind(held_out, PICTURES_PER_KIND)
        self._measure = tf.function(model.measure, reduce_retracing=True, autograph=False)
        self._measures = measures
        self._values = {}
        self._workdir = workdir
        self._facts, self._facts_file = {}, workdir / run_folder.RUN_FILE
        self._timer = start.StepTimer()
        self._profiling = False
        step = int(model.step.numpy())
        self._logdir = str(workdir / run_folder.LOG_DIR)
        self._writer = tensorboard.RunWriter(self._logdir, config, step)
        self._monitor = health.CollapseMonitor(self._settings, step, int(model.turns_taken.numpy()))
        self._progress = terminal.progress_bar(
            initial=step,
            total=self._settings.total_steps,
            desc="training",
            unit="step",
            smoothing=0.05,
        )
        self._since_log, self._steps_since_log = time.monotonic(), 0
        if step == 0:
            self._write_pictures(0)

    def begin(self, facts: dict[str, Any]) -> None:
        self._facts = facts
        for line in start.lines(facts):
            self._progress.write(line)
        if self._progress.n < self._settings.total_steps:
            self._progress.write("The first steps are slow: TensorFlow traces and compiles them.")
        for warning in start.warnings(facts):
            self.warn(int(self._model.step.numpy()), warning)
        # A run that was already complete keeps the facts of its training.
        if self._progress.n < self._settings.total_steps or not self._facts_file.exists():
            self._write_facts()

    def _write_facts(self) -> None:
        text = json.dumps(self._facts, indent=2) + "\n"
        file_io.write_whole(self._facts_file, text)
        self._writer.write_text("run", "\n\n".join(start.lines(self._facts)))

    def count(self, num_steps: int) -> None:
        seconds = self._timer.count(num_steps)
        if seconds is not None and self._facts:
            self._facts |= {"seconds_per_step": seconds}
            self._progress.write(start.lines(self._facts)[-1])
            self._write_facts()
        self._progress.update(num_steps)
        self._steps_since_log += num_steps

    def profile(self, step: int) -> None:
        first, last = self._settings.profiled or (0, -1)
        wanted = first <= step + 1 <= last
        if wanted != self._profiling:
            if wanted:
                tf.profiler.experimental.start(self._logdir)
            else:
                tf.profiler.experimental.stop()
            self._profiling = wanted

    def log(self, step: int) -> None:
        rate = self._steps_since_log / (time.monotonic() - self._since_log)
        self._values = tensorboard.scalars(self._model, rate)
        self._writer.write_scalars(step, self._values)
        self._progress.set_postfix(_shown_on_terminal(self._values))
        self._model.reset_metrics()
        self._since_log, self._steps_since_log = time.monotonic(), 0

    def show(self, step: int) -> None:
        self._write_pictures(step)
        signs = self._monitor.measure(self._model.generate, self._shown, self._model)
        self._writer.write_scalars(step, signs)
        turn = Turn(int(self._model.turn.numpy()))
        for warning in self._monitor.warnings(self._values | signs, turn):
            self.warn(step, warning)

    def held_out_loss(self, step: int) -> float:
        with self._model.averaged_generator():
            measured = [self._measure(batch) for batch in self._held_out]
        # The last batch may be smaller than the others.
        sizes = [len(batch["label"]) for batch in self._held_out]
        means = {
            f"validation/{name}": float(
                np.average([terms[name] for terms in measured], weights=sizes)
            )
            for name in measured[0]
        }
        if self._measures is not None:
            means |= self._measures.measure(self._model.generate)
        self._writer.write_scalars(step, means)
        term = self._settings.selecting_term
        if term is None:
            return float("inf")
        if term == "class_auc":  # the only measure that is better if it is higher
            return -means["held_out/class_auc"]
        return means[f"held_out/{term}" if term in HELD_OUT_TERMS else f"validation/{term}"]

    def warn(self, step: int, warning: str) -> None:
        self._progress.write(f"warning: step {step}: {warning}", file=sys.stderr)
        self._writer.write_warning(step, warning)

    def end(self, checkpoint: str) -> None:
        self._progress.write(
            f"Trained to step {self._settings.total_steps}: {checkpoint}\n"
            f"Curves and pictures: tensorboard --logdir={self._logdir}\n"
            "Next, export the generator and write the report:\n"
            f"  cigan-export --workdir={self._workdir}\n"
            f"  cigan --mode=report --workdir={self._workdir}"
        )

    def close(self) -> None:
        self.profile(-1)
        self._progress.close()
        self._writer.close()

    def _write_pictures(self, step: int) -> None:
        self._writer.write_pictures(step, self._model.generate, self._shown, self._settings.seed)


def _interleaved_batches(patches: dict[str, np.ndarray], batch_size: int) -> list[dict]:
    """Returns all patches in batches, with one patch of each kind in turn.

    The last batch may be smaller.
    """
    of_kinds = [np.flatnonzero(patches["kind"] == kind) for kind in np.unique(patches["kind"])]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*of_kinds))
    order = [index for index in in_turn if index is not None]
    return [
        {
            name: tf.constant(patches[name][order[start : start + batch_size]])
            for name in ("image", "mask", "label")
        }
        for start in range(0, len(order), batch_size)
    ]


def held_out_measures(config: Config) -> HeldOutMeasures | None:
    """Returns the measures of infills during training, or None if they are switched off.

    Call it outside the strategy's scope. There, every worker would have to create the variables of
    the network, but only the chief measures infills.
    """
    if not config.training.evaluated_patches:
        return None
    if config.experiment.quality_features == "classifier":
        raise UserError(
            "During training there is no classifier yet: pass --quality_features=imagenet or a "
            "file with the weights of VGG-16, or --evaluated_patches=0. Received: "
            "quality_features='classifier'."
        )
    network = quality_features.build(config.experiment.quality_features)
    # `predict` would distribute its batches with the strategy.
    call = tf.function(network, reduce_retracing=True, autograph=False)

    def features(windows: np.ndarray) -> np.ndarray:
        parts = range(0, len(windows), _WINDOWS_AT_A_TIME)
        return np.concatenate(
            [call(tf.constant(windows[at : at + _WINDOWS_AT_A_TIME])).numpy() for at in parts]
        )

    return HeldOutMeasures(config, features)


def _first_of_each_kind(patches: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    chosen = [
        index
        for kind in dict.fromkeys(patches["kind"])
        for index in np.flatnonzero(patches["kind"] == kind)[:count]
    ]
    return {name: values[chosen] for name, values in patches.items()}


def _shown_on_terminal(values: dict[str, float]) -> dict[str, str]:
    short = {
        "loss/feature_loss": "feature",
        "loss/boundary_loss": "boundary",
        "loss/adversarial_generator_loss": "G",
        "loss/adversarial_discriminator_loss": "D",
    }
    losses = {name: f"{values[tag]:.3g}" for tag, name in short.items() if tag in values}
    return losses | {"turn": Turn(int(values["turn/network"])).name.lower()}
