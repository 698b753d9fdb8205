"""Health of a run: finite losses, and infills that depend on seed and class."""

import dataclasses

import numpy as np

from cigan_tf.config import TrainingConfig
from cigan_tf.errors import DivergedError
from cigan_tf.models.cigan import CiGAN, Turn
from cigan_tf.randomness import consecutive_seeds

_SEEDS = 4
# Differences between infills are measured relative to the standard deviation of the real lesion.
_LEAST_SPREAD = 1e-3
_SATURATED_ACCURACY = 0.99
# A discriminator with the same output for real and infilled patches has a loss of ln 2, and its two
# accuracies sum to 1.
_CHANCE_LOSS_MARGIN = 0.01
_CHANCE_ACCURACY_MARGIN = 0.1
# Number of consecutive checks, because the condition may hold briefly after every change of turn.
_LOOKS_AT_CHANCE = 5
# Number of ended turns after which it is judged whether all of them reached their limit.
_TURNS_TO_JUDGE = 5
# Fewer consecutive skipped steps may be a coincidence.
_MOST_SKIPPED_IN_A_ROW = 10


class FiniteCheck:
    """Checks periodically whether steps were skipped because of values that are not finite."""

    def __init__(self, model: CiGAN, settings: TrainingConfig):
        self._model = model
        self._on_nonfinite = settings.on_nonfinite
        self._step, self._skipped = self._counts()

    def check(self, newest_checkpoint: str) -> str | None:
        """Returns a warning about the steps skipped since the last check, or None.

        Raises:
            DivergedError: steps were skipped and `on_nonfinite` is 'stop', or all steps since the
                last check were skipped.
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
                f"{message}. Last good checkpoint: {newest_checkpoint}. Lower --learning_rate, or "
                "skip such steps with --on_nonfinite=skip."
            )
        if lost == since and lost >= _MOST_SKIPPED_IN_A_ROW:
            raise DivergedError(
                f"{message}, and each of the last {lost} steps was skipped. Last good checkpoint: "
                f"{newest_checkpoint}. Lower --learning_rate."
            )
        return f"{message}; skipped {lost} of the last {since} steps."

    def _counts(self) -> tuple[int, int]:
        return int(self._model.step.numpy()), int(self._model.skipped_steps.numpy())


@dataclasses.dataclass
class CollapseMonitor:
    """Measures how much infills differ and how long turns are; warns once of each sign of collapse.

    Args:
        settings: threshold and step limit of the turns.
        steps, turns: the model's counters at the last measurement; before the first measurement,
            those at the start or resumption of the run.
        warned: the signs of which the user has already been warned.
        looks_at_chance: number of consecutive checks in which the discriminator was at chance.
        judged_from: step, turns taken and steps in the turn from which turns are judged; None
            before the first measurement after pre-training.
    """

    settings: TrainingConfig
    steps: int = 0
    turns: int = 0
    warned: set[str] = dataclasses.field(default_factory=set)
    looks_at_chance: int = 0
    judged_from: tuple[int, int, int] | None = None

    def measure(self, infill, batch: dict[str, np.ndarray], model: CiGAN) -> dict[str, float]:
        """Returns the measures by TensorBoard tag.

        Args:
            infill: function (image, mask, label, seed int32 [N]) -> [N, p, p, 1] in [0, 1].
            batch: `image`, `mask` float32 [N, p, p, 1], `label` int32 [N].
            model: the model whose steps and turns are counted.
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
        at_limit = self._all_at_limit(step, turns, int(model.steps_in_turn.numpy()))
        if at_limit is not None:
            signs["health/all_turns_at_limit"] = float(at_limit)
        return signs

    def _all_at_limit(self, step: int, turns: int, steps_in_turn: int) -> bool | None:
        """Returns whether every turn since the last judgement reached its limit; None: unknown."""
        limit = self.settings.max_steps_per_turn
        if limit == 1 or step < self.settings.pretraining_steps:
            return None
        now = step, turns, steps_in_turn
        if self.judged_from is None:
            self.judged_from = now
        num_steps, num_turns, more_in_turn = np.subtract(now, self.judged_from)
        if num_turns < _TURNS_TO_JUDGE:
            return None
        self.judged_from = now
        return bool(num_steps == num_turns * limit + more_in_turn)

    def warnings(self, signs: dict[str, float], turn: Turn) -> list[str]:
        """Returns a message for each new sign of collapse.

        Args:
            signs: result of `measure`, plus the discriminator's loss and accuracies from the last
                log.
            turn: the current turn. There are no signs in pre-training, because the discriminator
                is not trained yet.
        """
        if turn == Turn.PRETRAINING:
            return []
        accuracies = [signs.get(f"discriminator/accuracy_{of}", 0.0) for of in ("real", "fake")]
        loss = signs.get("loss/adversarial_discriminator_loss")
        if loss is not None:  # the discriminator was trained since the last log
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
                "infills of the two classes are the same: the generator ignores the class.",
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
                signs.get("health/all_turns_at_limit", 0.0) > 0,
                f"every turn ends at its limit of {self.settings.max_steps_per_turn} steps: "
                "neither network's loss falls below the threshold of "
                f"{self.settings.switch_threshold:g}.",
            ),
        }
        present = {name for name, (here, _) in found.items() if here}
        lines = [found[name][1] for name in sorted(present - self.warned)]
        self.warned |= present
        return lines


def infill_spread(infill, batch: dict[str, np.ndarray], seed: int) -> tuple[float, float]:
    """Returns the differences between infills with different seeds, and between classes.

    Args:
        infill: function (image, mask, label, seed int32 [N]) -> [N, p, p, 1] in [0, 1].
        batch: `image`, `mask` float32 [N, p, p, 1], `label` int32 [N].
        seed: first of the seeds.

    Returns:
        Standard deviation over seeds, and absolute difference between the classes. Both are means
        over the masks' pixels, relative to the standard deviation of the real lesions' pixels.
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
