"""Measures of held-out patches use all patches, for any batch size."""

import numpy as np
import pytest

from cigan_tf.config import Config, TrainingConfig
from cigan_tf.errors import UserError
from cigan_tf.experiment_config import ExperimentConfig
from cigan_tf.training import observers


@pytest.mark.parametrize("batch_size", [10, 20, 32, 40, 48, 64])
def test_no_kind_of_patch_drops_out_at_any_batch_size(batch_size):
    kinds = np.repeat(["malignant lesion", "benign lesion", "no lesion"], 16)
    patches = {
        "kind": kinds,
        "label": np.arange(48, dtype=np.int32),  # identifies the patch
        "image": np.zeros((48, 2, 2, 1), np.float32),
        "mask": np.zeros((48, 2, 2, 1), np.float32),
    }
    batches = observers._interleaved_batches(patches, batch_size)
    seen = [batch["label"].numpy() for batch in batches]
    assert sorted(np.concatenate(seen)) == list(range(48))
    assert all(len(labels) == batch_size for labels in seen[:-1])
    for labels in seen:
        counts = [np.count_nonzero(kinds[labels] == kind) for kind in np.unique(kinds)]
        assert max(counts) - min(counts) <= 1


def test_measures_need_other_features_than_a_classifiers():
    config = Config(
        training=TrainingConfig(evaluated_patches=20),
        experiment=ExperimentConfig(quality_features="classifier"),
    )
    with pytest.raises(UserError, match="During training there is no classifier yet"):
        observers.held_out_measures(config)


def test_a_kind_with_fewer_patches_is_measured_too():
    patches = {
        "kind": np.array(["a", "a", "a", "b"]),
        "label": np.arange(4, dtype=np.int32),
        "image": np.zeros((4, 2, 2, 1), np.float32),
        "mask": np.zeros((4, 2, 2, 1), np.float32),
    }
    (first, second) = observers._interleaved_batches(patches, 3)
    assert sorted([*first["label"].numpy(), *second["label"].numpy()]) == [0, 1, 2, 3]
    assert 3 in first["label"].numpy()
