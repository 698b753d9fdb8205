"""Judges a preset on patients that it never saw, and prints the table of its card.

    python -m benchmarks.preset_quality --init_from=cbis_mass_128 --dataset=ddsm_patches/mass128 \
        --data_dir=DIR --quality_features=VGG16.npz --picture=docs/infills.png

The classifier that says whether the class shows is a logistic regression on the same features of
training patches: it costs minutes instead of hours, and judges infills and real patches alike.
"""

import json
import pathlib

import numpy as np
from absl import flags as absl_flags
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cigan_tf import command_line, flags, input_pipeline, pictures, provenance, workdir
from cigan_tf.classifier import infill_quality
from cigan_tf.errors import UserError
from cigan_tf.evaluation import drawing, fidelity, memorisation, quality_table, roc
from cigan_tf.models import CiGAN, presets

_MAX_PATCHES = absl_flags.DEFINE_integer(
    "max_patches", 500, "Test patches that are infilled.", lower_bound=20
)
_MAX_TRAINING = absl_flags.DEFINE_integer(
    "max_training_patches", 1000, "Training patches that the classifier learns from."
)
_PICTURE = absl_flags.DEFINE_string("picture", None, "PNG that shows infills of test patches.")
_JSON = absl_flags.DEFINE_string("json", "preset_quality.json", "Receives every measure.")

_SPECIFICITY = 0.9
_SHOWN_PER_KIND = 4


def main() -> None:
    config = flags.config_from_flags()
    if not config.training.init_from:
        raise UserError("Pass --init_from=PRESET, the preset to judge.")
    config = presets.with_architecture(config, flags.is_given)
    preset = presets.read(config.training.init_from)
    generate = CiGAN.from_preset(config.training.init_from).generate
    seed, test_split = config.training.seed, config.experiment.test_split
    if _PICTURE.value:
        shown = input_pipeline.picture_patches(config, test_split, _SHOWN_PER_KIND)
        rows = pictures.comparison_rows(shown, generate, seed)
        pathlib.Path(_PICTURE.value).write_bytes(drawing.comparison_sheet(shown["kind"], rows))

    features = infill_quality.feature_function(config.experiment.quality_features)

    def of_lesions(patches):
        window_px = config.model.patch_size
        return features(fidelity.lesion_window(patches["image"], patches["mask"], window_px))

    real = input_pipeline.drawn_patches(config, test_split, _MAX_PATCHES.value)
    infills = infill_quality.infilled_patches(config, generate, _MAX_PATCHES.value)
    for patches in (real, infills):
        provenance.refuse_leaks(
            provenance.of_weights(preset.record), patches["patient_id"].tolist()
        )
    training = input_pipeline.drawn_patches(config, config.data.train_split, _MAX_TRAINING.value)
    validation = input_pipeline.drawn_patches(
        config, config.data.validation_split, _MAX_PATCHES.value
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000))
    classifier.fit(of_lesions(training), training["label"])
    threshold = roc.sensitivity_at_specificity(
        validation["label"],
        classifier.predict_proba(of_lesions(validation))[:, 1],
        _SPECIFICITY,
    ).threshold
    probabilities = {
        id(patches["image"]): classifier.predict_proba(of_lesions(patches))[:, 1]
        for patches in (real, infills)
    }
    patches = infill_quality.TrainingPatches(config)
    quality = infill_quality.judge_infills(
        real,
        infills,
        patches,
        features,
        lambda images: probabilities[id(images)],
        threshold,
        seed,
        memorisation.calibrate(real, patches, seed),
    )
    record = {
        "preset": config.training.init_from,
        "features": pathlib.Path(config.experiment.quality_features).name,
        "num_patients": len(np.unique(infills["patient_id"])),
        **quality,
    }
    path = pathlib.Path(_JSON.value)
    workdir.write_whole(path, json.dumps(record, indent=2) + "\n")
    _print_table(quality_table.read(path))


def _print_table(table) -> None:
    for row in (table.header, ["---"] * len(table.header), *table.rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    command_line.run(main)
