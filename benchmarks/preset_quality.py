"""Evaluates a preset on unseen patients, and prints the table for its card.

    python -m benchmarks.preset_quality --init_from=cbis_mass_128 --dataset=ddsm_patches/mass128 \
        --data_dir=DIR --quality_features=VGG16.npz --picture=docs/infills.png

Whether the requested class is recognised is measured with a logistic regression on the same
features, fitted to training patches. It takes minutes, where the training of a classifier takes
hours, and it is applied to infills and real patches alike.

With --transplants, lesions and tissue of training patches take the place of the preset's infills.
"""

import hashlib
import json
import pathlib

import numpy as np
from absl import flags as absl_flags
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import transplants
from cigan_tf import command_line, file_io, flags, input_pipeline, pictures, provenance
from cigan_tf.classifier import infill_quality
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.evaluation import (
    drawing,
    fidelity,
    infill_measures,
    memorisation,
    quality_table,
    roc,
)
from cigan_tf.models import CiGAN, presets

MAX_PATCHES = absl_flags.DEFINE_integer(
    "max_patches", 500, "Maximum number of test patches to infill.", lower_bound=20
)
MAX_TRAINING = absl_flags.DEFINE_integer(
    "max_training_patches", 1000, "Maximum number of patches to fit the classifier to."
)
_PICTURE = absl_flags.DEFINE_string("picture", None, "PNG file for pictures of some infills.")
_JSON = absl_flags.DEFINE_string("json", "preset_quality.json", "JSON file for all measures.")
_TRANSPLANTS = absl_flags.DEFINE_bool(
    "transplants", False, "Evaluate transplants of training patches, as a control."
)

_SPECIFICITY = 0.9
_SHOWN_PER_KIND = 4


def main() -> None:
    config = flags.config_from_flags()
    if not config.training.init_from:
        raise UserError("Pass the preset to evaluate as --init_from=PRESET. Received: none.")
    config = presets.with_architecture(config, flags.is_given)
    preset = presets.read(config.training.init_from)
    if _TRANSPLANTS.value:
        generate = transplants.Transplants(config).generate
    else:
        generate = CiGAN.from_preset(config.training.init_from).generate
    seed, test_split = config.training.seed, config.experiment.test_split
    if _PICTURE.value:
        shown = input_pipeline.picture_patches(config, test_split, _SHOWN_PER_KIND)
        rows = pictures.comparison_rows(shown, generate, seed)
        pathlib.Path(_PICTURE.value).write_bytes(drawing.comparison_sheet(shown["kind"], rows))

    features = remembering(infill_quality.feature_function(config.experiment.quality_features))

    real = input_pipeline.drawn_patches(config, test_split, MAX_PATCHES.value)
    infills = infill_quality.infilled_patches(config, generate, MAX_PATCHES.value)
    tested_on = provenance.dataset_record(config)
    for patches in (real, infills):
        provenance.refuse_leaks(
            provenance.of_weights(preset.record), patches["patient_id"].tolist(), tested_on
        )
    probability, threshold = linear_classifier(config, features)
    patches = infill_quality.TrainingPatches(config)
    quality = infill_measures.judge_infills(
        real,
        infills,
        patches,
        features,
        probability,
        threshold,
        seed,
        memorisation.calibrate(real, patches, seed),
    )
    record = {
        "infills": "transplants" if _TRANSPLANTS.value else config.training.init_from,
        "features": pathlib.Path(config.experiment.quality_features).name,
        "num_patients": len(np.unique(infills["patient_id"])),
        **quality,
    }
    path = pathlib.Path(_JSON.value)
    file_io.write_whole(path, json.dumps(record, indent=2) + "\n")
    _print_table(quality_table.read(path))


def remembering(features: infill_measures.Features) -> infill_measures.Features:
    """Returns the same function with a cache of its results."""
    known = {}

    def remembered(images: np.ndarray) -> np.ndarray:
        key = hashlib.sha256(np.ascontiguousarray(images)).digest()
        if key not in known:
            known[key] = features(images)
        return known[key]

    return remembered


def linear_classifier(
    config: Config, features: infill_measures.Features
) -> tuple[infill_measures.PatchProbability, float]:
    """Returns the probability function of a logistic regression, and its threshold.

    Args:
        config: names the split to which the regression is fitted, and the split on which its
            threshold is chosen.
        features: function from patches to features; it receives lesion windows.
    """

    def of_lesions(patches):
        window_px = config.model.patch_size
        return features(fidelity.lesion_window(patches["image"], patches["mask"], window_px))

    training = input_pipeline.drawn_patches(config, config.data.train_split, MAX_TRAINING.value)
    validation = input_pipeline.drawn_patches(
        config, config.data.validation_split, MAX_PATCHES.value
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000))
    classifier.fit(of_lesions(training), training["label"])

    def probability(patches):
        return classifier.predict_proba(of_lesions(patches))[:, 1]

    threshold = roc.sensitivity_at_specificity(
        validation["label"], probability(validation), _SPECIFICITY
    ).threshold
    return probability, threshold


def _print_table(table) -> None:
    for row in (table.header, ["---"] * len(table.header), *table.rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    command_line.run(main)
