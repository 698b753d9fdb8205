"""Whether a run is worth going on with: losses that are numbers, infills that differ."""

import dataclasses

import numpy as np

from cigan_tf.config import TrainingConfig
from cigan_tf.errors import DivergedError
from cigan_tf.models.cigan import CiGAN, Turn
from cigan_tf.randomness import consecutive_seeds

_SEEDS = 4
# Differences of infills are measured in the contrast (standard deviation) of the real lesion.
_LEAST_SPREAD = 1e-3
_SATURATED_ACCURACY = 0.99
# A discriminator that says the same of real and infilled patches has a loss of ln 2, and its two
# accuracies add up to 1.
_CHANCE_LOSS_MARGIN = 0.01
_CHANCE_ACCURACY_MARGIN = 0.1
# Looks in a row: it may be there for a moment whenever the turn passes.
_LOOKS_AT_CHANCE = 5
# Fewer skipped steps in a row may be bad luck.
_MOST_SKIPPED_IN_A_ROW = 10


class FiniteCheck:
    """Looks, now and then, whether steps were skipped because something was not finite."""

    def __init__(self, model: CiGAN, settings: TrainingConfig):
        self._model = model
        self._on_nonfinite = settings.on_nonfinite
        self._step, self._skipped = self._counts()

    def check(self, newest_checkpoint: str) -> str | None:
        """Returns a warning of the steps that were skipped since the last check, or None.

        Raises:
            DivergedError: there were some and the run is to stop, or there were no others.
        """
        failure = self._model.take_nonfinite()
        step, skipped = self._counts()
        since, lost = step - self._step, skipped - self._skipped
        self._step, self._skipped = step, skipped
        if failure is None:
            return None
        message = f"{failure[1]} is NaN or infinite at step {failure[0]}"
        if self._on_nonfinite == "stop":
            raise DivergedError(
                f"{message}. The last good checkpoint is {newest_checkpoint}. Lower "
                "--learning_rate, or skip such steps with --on_nonfinite=skip."
            )
        if lost == since and lost >= _MOST_SKIPPED_IN_A_ROW:
            raise DivergedError(
                f"{message}, and each of the {lost} steps since could only be skipped. "
                f"The last good checkpoint is {newest_checkpoint}."
            )
        return f"{message}; skipped {lost} of the last {since} steps."

    def _counts(self) -> tuple[int, int]:
        return int(self._model.step.numpy()), int(self._model.skipped_steps.numpy())


@dataclasses.dataclass
class CollapseMonitor:
    """Measures how infills differ and how turns pass; warns once when a sign of collapse appears.

    Args:
        settings: threshold and cap of the turns.
        steps, turns: counters where the run begins or is taken up.
    """

    settings: TrainingConfig
    steps: int = 0
    turns: int = 0
    warned: set[str] = dataclasses.field(default_factory=set)
    looks_at_chance: int = 0

    def measure(self, infill, batch: dict[str, np.ndarray], model: CiGAN) -> dict[str, float]:
        """Returns the signs by TensorBoard tag.

        Args:
            infill: function (image, mask, label, seed int32 [N]) -> [N, p, p, 1] in [0, 1].
            batch: `image`, `mask` float32 [N, p, p, 1], `label` int32 [N].
            model: its counters and its discriminator's accuracy since the last log.
        """
        over_seeds, over_classes = infill_spread(infill, batch, self.settings.seed)
        step, turns = int(model.step.numpy()), int(model.turns_taken.numpy())
        signs = {
            "health/infill_spread_over_seeds": over_seeds,
            "health/infill_spread_over_classes": over_classes,
            "health/skipped_steps": float(model.skipped_steps.numpy()),
        }
        if step > self.steps:
            signs["health/turns_per_1000_steps"] = 1000 * (turns - self.turns) / (step - self.steps)
        self.steps, self.turns = step, turns
        return signs

    def warnings(self, signs: dict[str, float], turn: Turn) -> list[str]:
        """Returns a line for each sign of collapse that was not there before.

        Args:
            signs: what `measure` returned, and the discriminator's loss and accuracies of the last
                log.
            turn: pre-training shows no collapse: there is no discriminator yet.
        """
        if turn == Turn.PRETRAINING:
            return []
        # One turn may end by its cap at the window's edge.
        slowest = 1000 / self.settings.max_steps_per_turn
        accuracies = [signs.get(f"discriminator/accuracy_{of}", 0.0) for of in ("real", "fake")]
        loss = signs.get("loss/adversarial_discriminator_loss")
        if loss is not None:  # it has had steps since the last look
            at_chance = (
                abs(loss - np.log(2)) < _CHANCE_LOSS_MARGIN
                and abs(sum(accuracies) - 1) < _CHANCE_ACCURACY_MARGIN
            )
            self.looks_at_chance = self.looks_at_chance + 1 if at_chance else 0
        found = {
            "seeds": (
                signs["health/infill_spread_over_seeds"] < _LEAST_SPREAD,
                "infills hardly depend on their seed: the generator ignores the noise.",
            ),
            "classes": (
                signs["health/infill_spread_over_classes"] < _LEAST_SPREAD,
                "infills of both classes are the same: the generator ignores the class.",
            ),
            "saturation": (
                min(accuracies) > _SATURATED_ACCURACY,
                "the discriminator is always right: the generator learns little from it.",
            ),
            "chance": (
                self.looks_at_chance >= _LOOKS_AT_CHANCE,
                "the discriminator stays at chance: the generator learns nothing from it. Train it "
                "longer per turn (--max_steps_per_turn, a lower --switch_threshold) or raise "
                "--learning_rate.",
            ),
            "turns": (
                signs.get("health/turns_per_1000_steps", np.inf) <= slowest,
                f"every turn ends at its cap of {self.settings.max_steps_per_turn} steps: neither "
                f"network's loss falls below the threshold of {self.settings.switch_threshold:g}.",
            ),
        }
        present = {name for name, (here, _) in found.items() if here}
        lines = [found[name][1] for name in sorted(present - self.warned)]
        self.warned = present
        return lines


def infill_spread(infill, batch: dict[str, np.ndarray], seed: int) -> tuple[float, float]:
    """Returns how much infills differ between seeds and between the classes, within their masks.

    Args:
        infill: function (image, mask, label, seed int32 [N]) -> [N, p, p, 1] in [0, 1].
        batch: `image`, `mask` float32 [N, p, p, 1], `label` int32 [N].
        seed: the first of the seeds.

    Returns:
        Standard deviation over seeds and absolute difference of the classes: means over the masks,
        in units of the real lesions' own standard deviation.
    """
    image, mask, label = batch["image"], batch["mask"], batch["label"]
    inside = mask > 0.5

    def infilled(of_label, draw):
        return infill(image, mask, of_label, np.full(len(label), draw))

    seeds = consecutive_seeds(seed, _SEEDS)
    draws = np.stack([infilled(label, draw) for draw in seeds])
    contrast = np.mean([patch[where].std() for patch, where in zip(image, inside, strict=True)])
    scale = max(float(contrast), 1e-6)
    over_seeds = draws.std(axis=0)[inside].mean() / scale
    over_classes = np.abs(draws[0] - infilled(1 - label, seeds[0]))[inside].mean() / scale
    return float(over_seeds), float(over_classes)
