"""Simulated scores of an experiment, with known properties."""

import dataclasses

import numpy as np
import pytest

from cigan_tf.evaluation.score_file import Scores


@pytest.fixture
def synthetic_scores():
    """Returns a function that simulates scores of several arms and seeds for the same patches."""

    def make(separations, seeds=(0, 1, 2), num_patients=60, per_patient=4, scanners=("unknown",)):
        rng = np.random.default_rng(7)
        num = num_patients * per_patient
        number = np.arange(num) // per_patient
        label = (number % 3 == 0).astype(int)
        patient, patch = rng.normal(size=num_patients)[number], rng.normal(size=num)
        of = Scores(
            patch=[f"patch_{i}" for i in range(num)],
            patient_id=[f"patient_{i}" for i in number],
            film_id=[f"film_{i // 2}" for i in range(num)],
            scanner=np.array(scanners)[(number // 2) % len(scanners)],
            label=label,
            probability=np.zeros(num),
        )

        def run(separation):
            logit = separation * (2 * label - 1) / 2 + 0.7 * patient + 0.7 * patch
            logit += 0.5 * rng.normal(size=num)
            return dataclasses.replace(of, probability=1 / (1 + np.exp(-logit)))

        return {
            arm: {seed: run(separation) for seed in seeds}
            for arm, separation in separations.items()
        }

    return make
