"""Speed-up of a generator step by feature-loss windows, for a recipe's settings and patches.

    python -m benchmarks.feature_windows --flagfile=cigan_tf/flagfiles/scratch.flags \
        --data_dir=runs/data

Two models that differ only in --windowed_feature_loss take turns, each with the same batches, so
that changes in the machine's speed affect both. Each pair of steps gives the ratio of their times;
the result is the median ratio, with its 95 % interval.
"""

import dataclasses
import os

# The same settings as in cigan_tf.main.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
from absl import flags

from benchmarks.step_time import step_seconds
from cigan_tf import command_line, input_pipeline
from cigan_tf.flags import config_from_flags
from cigan_tf.models.cigan import Turn, build_cigan

_PAIRS = flags.DEFINE_integer("pairs", 150, "Number of timed steps of each model.")

_NUM_BATCHES = 8
_WARM_UP_PAIRS = 10


def main() -> None:
    """Prints one line."""
    config = config_from_flags()
    batches = input_pipeline.training_batches(config).take(_NUM_BATCHES).cache().repeat()
    arms = {}
    for windowed in (True, False):
        loss = dataclasses.replace(config.loss, windowed_feature_loss=windowed)
        model = build_cigan(dataclasses.replace(config, loss=loss))
        model.make_train_function()
        arms[windowed] = model, iter(batches)
    ms = {windowed: [] for windowed in arms}
    for pair in range(_WARM_UP_PAIRS + _PAIRS.value):
        for windowed in (True, False) if pair % 2 else (False, True):
            ms[windowed].append(1e3 * step_seconds(*arms[windowed], Turn.GENERATOR))
    windows, whole = (np.array(ms[windowed][_WARM_UP_PAIRS:]) for windowed in (True, False))
    ratios = whole / windows
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    print(
        f"generator step: windows {np.median(windows):.0f} ms, whole patches "
        f"{np.median(whole):.0f} ms; {np.median(ratios):.3f}x as fast ({low:.3f} to {high:.3f}), "
        f"medians of {len(ratios)} pairs"
    )


if __name__ == "__main__":
    command_line.run(main)
