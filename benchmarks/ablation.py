"""Evaluates generators trained with different recipes, and prints a row per recipe.

    python -m benchmarks.ablation RUNS --dataset=ddsm_patches/mass64 --patch_size=64 \
        --data_dir=DIR --quality_features=VGG16.npz --max_patches=300

RUNS contains a folder RECIPE_sSEED for each run: a workdir of `cigan`, or a folder written by
`benchmarks.jax_training`. Test patches are infilled as the opposite class, in the same way as for
the synthetic set. A cell shows the mean and standard deviation over the seeds. The first row has
the values for real patches of other patients, and the second for real lesions and tissue that were
transplanted (`transplants`), placed as --match_grain, --match_rim and --rim_reach_px say.
RUNS/ablation.json keeps the measures of each run, so that a stopped command resumes; a run whose
weights, settings, data or code have changed is evaluated again.
"""

import hashlib
import json
import pathlib
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from etils import epath

from benchmarks import preset_quality, transplants
from cigan_tf import command_line, file_io, flags, input_pipeline, provenance, run_folder
from cigan_tf.classifier import infill_quality
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.evaluation import fidelity, infill_measures, two_sample
from cigan_tf.models import CiGAN
from cigan_tf.models.discriminator import Discriminator
from cigan_tf.models.generator import Generator
from cigan_tf.patch_format import CLASS_NAMES
from cigan_tf.training import checkpoints

_COLUMNS = {
    "kernel_distance": "KID",
    "coverage": "coverage",
    "texture_auc": "texture AUC",
    "texture_auc_same_class": "texture AUC, same class",
    "seam_ratio": "seam",
}
_REAL = "real patches"
_TRANSPLANTED = "transplants"


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
    tested_on = provenance.dataset_record(config)
    shared = [
        config.to_json(),
        num_patches,
        preset_quality.MAX_TRAINING.value,
        tested_on["fingerprint"],
        provenance.code_version(),
        list(_COLUMNS),
    ]
    kept = root / "ablation.json"
    before = json.loads(kept.read_text()) if kept.exists() else {}
    judged = {}

    def judge(
        name: str, steps: int | None, of: str, generator: Callable[[], Callable[..., np.ndarray]]
    ) -> None:
        if before.get(name, {}).get("of") == of:
            judged[name] = before[name]
            return
        infills = infill_quality.infilled_patches(config, generator(), num_patches)
        measures = infill_measures.compare(
            real, infills, features, probability, config.training.seed
        )
        measures.append(_texture_auc_of_both(real, infills, config.training.seed))
        judged[name] = {"of": of, "steps": steps, "measures": measures}
        file_io.write_whole(kept, json.dumps(before | judged) + "\n")
        print(f"evaluated {name}", flush=True)

    of = _fingerprint(shared, config.model, [])
    judge(_TRANSPLANTED, None, of, lambda: transplants.Transplants(config).generate)
    for folder in folders:
        if record := provenance.read(folder / provenance.FILE_NAME):
            provenance.refuse_leaks(record, real["patient_id"].tolist(), tested_on)
        model, steps = _trained(folder, config)
        of = _fingerprint(shared, model, model.generator.get_weights())
        judge(folder.name, steps, of, lambda model=model: model.generate)
    _print_table(judged)


def _texture_auc_of_both(real, infills, seed: int) -> dict:
    """Returns the AUC by texture of all infills against all real patches, of both classes."""
    first = fidelity.first_half(real["patient_id"], seed)
    against = real["patient_id"][~first]
    apart = ~np.isin(infills["patient_id"], against)
    texture_of_real, texture_of_infills = (
        two_sample.texture_numbers(patches["image"], patches["mask"]) for patches in (real, infills)
    )

    def auc(texture: np.ndarray, patients: np.ndarray) -> dict:
        return infill_measures.told_apart(
            (texture, texture_of_real[~first]),
            (patients, against),
            two_sample.texture_classifier(seed),
            seed,
        )

    return {
        "measure": "texture_auc",
        "of_class": "both",
        "infills": auc(texture_of_infills[apart], infills["patient_id"][apart]),
        "real": auc(texture_of_real[first], real["patient_id"][first]),
    }


def _trained(folder: pathlib.Path, config: Config) -> tuple[CiGAN, int]:
    """Returns the model of a run and its number of steps."""
    if (folder / run_folder.CONFIG_FILE).exists():
        trained = run_folder.load_config(epath.Path(folder))
        generator, steps = checkpoints.restore_generator(epath.Path(folder), trained)
    else:
        record = json.loads((folder / "run.json").read_text())
        trained, steps = Config.from_json(json.dumps(record["config"])), record["steps"]
        generator = Generator(trained.model.patch_size)
        generator.load_weights(folder / "generator.weights.h5")
    if trained.model.patch_size != config.model.patch_size:
        raise UserError(
            f"patch_size must be that of the runs. Received: {config.model.patch_size}, and "
            f"{trained.model.patch_size} in {str(folder)!r}."
        )
    model = CiGAN(
        generator,
        Discriminator(trained.model.patch_size),
        composite=trained.model.composite,
        match_grain=trained.model.match_grain,
        match_rim=trained.model.match_rim,
        rim_reach_px=trained.model.rim_reach_px,
    )
    return model, steps


def _fingerprint(shared: list, placing, weights: list[np.ndarray]) -> str:
    """Returns a SHA-256 of everything on which the measures of infills depend."""
    infilling = placing.match_grain, placing.match_rim, placing.rim_reach_px, placing.composite
    digest = hashlib.sha256(json.dumps([shared, infilling]).encode())
    for weight in weights:
        digest.update(weight.tobytes())
    return digest.hexdigest()


def _print_table(judged: dict[str, dict]) -> None:
    rows = defaultdict(lambda: defaultdict(list))
    for name, run in judged.items():
        recipe = name.rpartition("_s")[0] or name
        if run["steps"] is not None:
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
        ("texture_auc", "both"): "texture AUC, both classes",
        ("class_auc", "both"): "class AUC",
    }
    print(f"| recipe | {' | '.join(columns.values())} |")
    print("| --- " * (len(columns) + 1) + "|")
    for recipe in sorted(rows, key=lambda recipe: (recipe != _REAL, recipe != _TRANSPLANTED)):
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
