"""The training run: input, steps, and output during training."""

import contextlib
import os
from collections.abc import Callable

import tensorflow as tf
from etils import epath

from cigan_tf import file_io, input_pipeline, interruption, provenance, run_folder, terminal
from cigan_tf.config import Config, TrainingConfig
from cigan_tf.errors import UserError
from cigan_tf.models import presets
from cigan_tf.models.cigan import CiGAN, build_cigan
from cigan_tf.training import health, observers, start, strategies
from cigan_tf.training.checkpoints import RunCheckpoints


def train(config: Config, workdir: str | os.PathLike, resume_changed: bool = False) -> CiGAN:
    """Trains ciGAN, or resumes the run in `workdir`, up to its last step.

    Args:
        config: validated settings.
        workdir: receives config.json, provenance.json, run.json, checkpoints/ and logs/
            (TensorBoard); several workers share it.
        resume_changed: whether to resume the run even if its settings or dataset have changed.

    Returns:
        The trained model.

    Raises:
        UserError: the dataset, the weights, the hardware or the workdir cannot be used.
        DivergedError: a loss or gradient was not finite.
        Preempted: SIGTERM or Ctrl-C was received; the run is saved.
    """
    workdir = epath.Path(workdir)
    strategy = strategies.build(config)
    chief = strategies.is_chief(strategy)
    with contextlib.ExitStack() as stack:
        stack.enter_context(strategies.failing_together(strategy))
        interrupted = stack.enter_context(interruption.watch())
        measures = observers.held_out_measures(config) if chief else None
        stack.enter_context(strategy.scope())
        patches = input_pipeline.TrainingInput(config)
        held_out = input_pipeline.picture_patches(
            config,
            config.data.validation_split,
            max(observers.PICTURES_PER_KIND, config.training.held_out_per_kind),
        )
        terminal.say("Building the networks and loading VGG-19 ...")
        model = build_cigan(config)
        preset = _start_from_preset(model, workdir, config)
        if chief:
            stack.enter_context(run_folder.sole_process(workdir))
            run_folder.refuse_other_run(workdir, config, resume_changed)
        checkpoints = RunCheckpoints(model, workdir, config, writes=chief)
        # Before anything is written: with changed settings, the checkpoint may not fit.
        checkpoints.restore()
        if chief:
            run_folder.claim(workdir, config)
            record = provenance.write_training(
                workdir, config, resume_changed, preset and provenance.of_weights(preset.record)
            )
        step = int(model.step.numpy())
        agreement = strategies.Agreement(strategy, config.hardware.agree_every_steps)
        if not agreement.all_equal(step):
            raise UserError(
                "The workers have found different checkpoints; --workdir must be a folder that "
                f"all of them share. Received: workdir={str(workdir)!r}."
            )
        worker, model.num_batch_parts = strategies.worker(strategy)
        iterator = iter(patches.batches(step, worker, model.num_batch_parts))
        observer = (
            observers.Chief(model, held_out, workdir, config, measures)
            if chief
            else observers.Observer()
        )
        with contextlib.closing(observer):
            if chief:
                observer.begin(start.facts(config, record, step))
            _run_steps(
                model,
                iterator,
                checkpoints,
                observer,
                lambda *steps: agreement.is_due(*steps) and agreement.any(interrupted.requested),
                interrupted,
                config,
            )
            observer.end(checkpoints.newest)
    return model


def _start_from_preset(model: CiGAN, workdir: epath.Path, config: Config) -> presets.Preset | None:
    """Loads the initial preset's weights into a new run, and returns the preset.

    Returns None without loading if the run starts from random weights or is resumed.
    """
    if not config.training.init_from or file_io.matching(
        workdir / run_folder.CHECKPOINT_DIR, "ckpt-*.index"
    ):
        return None
    preset = presets.read(config.training.init_from)
    networks = presets.fitting(preset, config)
    presets.load_weights(preset, **{name: getattr(model, name) for name in networks})
    return preset


def _run_steps(
    model: CiGAN,
    iterator: tf.data.Iterator,
    checkpoints: RunCheckpoints,
    observer: observers.Observer,
    stop_requested: Callable[[int, int], bool],
    interrupted: interruption.Interruption,
    config: Config,
) -> None:
    # Keras' fit is not used, because a run must be able to stop after any step, save its state, and
    # resume its input at exactly that step.
    settings = config.training
    step = int(model.step.numpy())
    finite = health.FiniteCheck(model, settings)
    model.make_train_function()
    while step < settings.total_steps:
        observer.profile(step)
        num_steps = min(model.steps_per_execution, _steps_to_next_event(step, settings))
        model.run_steps(iterator, num_steps)
        step += num_steps
        observer.count(num_steps)

        last = step == settings.total_steps
        stop = not last and stop_requested(step, num_steps)
        logs, shows, saves = (
            last or step % every == 0
            for every in (
                settings.log_every_steps,
                settings.picture_every_steps,
                settings.checkpoint_every_steps,
            )
        )
        if (logs or saves or stop) and (warning := finite.check(checkpoints.newest)):
            observer.warn(step, warning)
        if logs:
            observer.log(step)
        if shows:
            observer.show(step)
        if saves:
            checkpoints.save_if_best(step, observer.held_out_loss(step))
        if saves or stop:
            checkpoints.save(step)
        if stop:
            raise interrupted.error(
                f"after step {step} and saved as {checkpoints.newest}; run the same command to "
                "resume from there."
            )


def _steps_to_next_event(step: int, settings: TrainingConfig) -> int:
    """Returns the number of steps until the next action in Python."""
    periodic = (
        settings.log_every_steps,
        settings.picture_every_steps,
        settings.checkpoint_every_steps,
    )
    first_profiled, last_profiled = settings.profiled or (0, 0)
    ahead = [every - step % every for every in periodic]
    ahead += [event - step for event in (first_profiled - 1, last_profiled, settings.total_steps)]
    return min(steps for steps in ahead if steps > 0)
