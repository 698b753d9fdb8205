"""Evaluates generators trained by `benchmarks.jax_training`, and prints a row per recipe.

    python -m benchmarks.ablation RUNS --dataset=ddsm_patches/mass64 --patch_size=64 \
        --data_dir=DIR --quality_features=VGG16.npz --max_patches=300

RUNS contains a folder RECIPE_sSEED for each run, with its generator.weights.h5 and run.json. Test
patches are infilled as the opposite class, in the same way as for the synthetic set. A cell shows
the mean and standard deviation over the seeds. The first row has the values for real patches of
other patients. RUNS/ablation.json keeps the measures of each run, so that a stopped command
resumes; a run whose weights or settings have changed is evaluated again.
"""

import hashlib
import json
import pathlib
from collections import defaultdict

import numpy as np

from benchmarks import preset_quality
from cigan_tf import command_line, file_io, flags, input_pipeline
from cigan_tf.classifier import infill_quality
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.evaluation import infill_measures
from cigan_tf.models import CiGAN
from cigan_tf.models.discriminator import Discriminator
from cigan_tf.models.generator import Generator
from cigan_tf.patch_format import CLASS_NAMES

_COLUMNS = {
    "kernel_distance": "KID",
    "coverage": "coverage",
    "texture_auc": "texture AUC",
    "seam_ratio": "seam",
}
_REAL = "real patches"


def main(runs: str) -> None:
    config = flags.config_from_flags()
    root = pathlib.Path(runs)
    folders = sorted(path.parent for path in root.glob("*_s*/run.json"))
    if not folders:
        raise UserError(
            f"The folder of the runs must contain RECIPE_sSEED/run.json. Received: {runs}."
        )
    num_patches = preset_quality.MAX_PATCHES.value
    features = preset_quality.remembering(
        infill_quality.feature_function(config.experiment.quality_features)
    )
    real = input_pipeline.drawn_patches(config, config.experiment.test_split, num_patches)
    probability, _ = preset_quality.linear_classifier(config, features)
    kept = root / "ablation.json"
    before = json.loads(kept.read_text()) if kept.exists() else {}
    judged = {}
    for folder in folders:
        of = _fingerprint(folder, config, num_patches)
        if before.get(folder.name, {}).get("of") == of:
            judged[folder.name] = before[folder.name]
            continue
        record = json.loads((folder / "run.json").read_text())
        generate = _generator(folder, Config.from_json(json.dumps(record["config"]))).generate
        infills = infill_quality.infilled_patches(config, generate, num_patches)
        measures = infill_measures.compare(
            real, infills, features, probability, config.training.seed
        )
        judged[folder.name] = {"of": of, "steps": record["steps"], "measures": measures}
        file_io.write_whole(kept, json.dumps(before | judged) + "\n")
        print(f"evaluated {folder.name}", flush=True)
    _print_table(judged)


def _fingerprint(folder: pathlib.Path, config: Config, num_patches: int) -> str:
    """Returns a SHA-256 of everything on which the measures of a run depend."""
    digest = hashlib.sha256(json.dumps([config.to_json(), num_patches]).encode())
    for name in ("run.json", "generator.weights.h5"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _generator(folder: pathlib.Path, config: Config) -> CiGAN:
    patch_size = config.model.patch_size
    generator = Generator(patch_size)
    generator.load_weights(folder / "generator.weights.h5")
    return CiGAN(
        generator,
        Discriminator(patch_size),
        match_rim=config.model.match_rim,
        rim_reach_px=config.model.rim_reach_px,
    )


def _print_table(judged: dict[str, dict]) -> None:
    rows = defaultdict(lambda: defaultdict(list))
    for name, run in judged.items():
        recipe = name.rpartition("_s")[0]
        rows[recipe]["steps"].append(run["steps"])
        for entry in run["measures"]:
            what = entry["measure"], entry["of_class"]
            rows[recipe][what].append(entry["infills"]["value"])
            if entry["real"] is not None:
                rows[_REAL][what] = [entry["real"]["value"]]
    columns = {
        "steps": "steps",
        **{
            (measure, of_class): f"{title}, {of_class.replace('_', '-')}"
            for measure, title in _COLUMNS.items()
            for of_class in CLASS_NAMES
        },
        ("class_auc", "both"): "class AUC",
    }
    print(f"| recipe | {' | '.join(columns.values())} |")
    print("| --- " * (len(columns) + 1) + "|")
    for recipe in [_REAL, *(name for name in rows if name != _REAL)]:
        cells = (_cell(rows[recipe].get(column)) for column in columns)
        print(f"| {recipe.replace('_', ' ')} | {' | '.join(cells)} |")


def _cell(values: list[float] | None) -> str:
    if not values:
        return ""
    mean = np.mean(values)
    if mean >= 100:
        return f"{mean:,.0f}"
    spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"{mean:.3g}{spread}"


if __name__ == "__main__":
    command_line.run(main, ["RUNS"])
