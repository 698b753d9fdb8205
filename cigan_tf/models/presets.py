"""Presets: trained networks in a folder, found by name, path or address.

A preset's folder holds `config.json` (groups of `Config`), `generator.weights.h5` and
`discriminator.weights.h5` (float16 where they were written so), `README.md` (a model card with a
YAML head) and, where it is known what the weights were trained on, `provenance.json`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import sys
import warnings
from collections.abc import Callable
from typing import Any

import h5py
import keras
import numpy as np

from cigan_tf import provenance
from cigan_tf.config import Config
from cigan_tf.errors import UserError, prefix_errors

BUILT_IN = pathlib.Path(__file__).resolve().parents[1] / "presets"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
WEIGHTS_FILES = {
    "generator": "generator.weights.h5",
    "discriminator": "discriminator.weights.h5",
}
# What a generator's weights mean; the other settings of the architecture are the discriminator's.
_OF_GENERATOR = ("patch_size", "composite", "match_rim")
_OF_DISCRIMINATOR = ("discriminator_sees_class", "discriminator_view")
_HUB = "hf://"
_MOST_CONFIG_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Preset:
    """A preset on this machine.

    Args:
        folder: where it lies.
        config: its model, loss and training settings and its precision; the others are defaults.
        record: what its weights were trained on, None where that is not known.
    """

    folder: pathlib.Path
    config: Config
    record: dict[str, Any] | None

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the files of weights, in hexadecimal digits."""
        return _weights_sha256(self.folder)


def list_presets() -> list[str]:
    """Returns the names of the presets that come with the package."""
    return sorted(path.parent.name for path in BUILT_IN.glob(f"*/{CONFIG_FILE}"))


def is_preset(source: str | os.PathLike) -> bool:
    """Returns whether a name, folder or address is meant as a preset's."""
    return (
        str(source) in list_presets()
        or str(source).startswith(_HUB)
        or (pathlib.Path(source).expanduser() / WEIGHTS_FILES["generator"]).is_file()
    )


def read(preset: str | os.PathLike) -> Preset:
    """Returns a preset without its weights.

    Args:
        preset: one of `list_presets()`, a folder, or hf://OWNER/REPOSITORY[/FOLDER].

    Raises:
        UserError: there is no such preset, or its files are damaged.
    """
    folder = _folder_of(str(preset))
    with prefix_errors(f"The preset {str(preset)!r}"):
        path = folder / CONFIG_FILE
        try:
            if path.stat().st_size > _MOST_CONFIG_BYTES:
                raise UserError(f"{CONFIG_FILE} is larger than any configuration.")
            groups = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{CONFIG_FILE} cannot be read ({_first_line(error)}).") from None
        config = Config.from_groups(groups)
        record = provenance.read(folder / provenance.FILE_NAME)
        if record and record.get("weights_sha256") != _weights_sha256(folder):
            raise UserError(f"{provenance.FILE_NAME} is of other weights.")
    return Preset(folder, config, record)


def load_weights(preset: Preset, **networks: keras.Model) -> None:
    """Gives networks the weights of a preset.

    Args:
        preset: from `read`.
        networks: `generator`, `discriminator` or both, of the preset's architecture.

    Raises:
        UserError: a file is missing, damaged or of another network, or holds NaN.
    """
    for name, network in networks.items():
        path = preset.folder / WEIGHTS_FILES[name]
        try:
            with warnings.catch_warnings():
                # Keras warns of each missing group before it raises; one line is enough.
                warnings.simplefilter("ignore")
                network.load_weights(path)
        except (ValueError, OSError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(
                f"{str(path)!r} does not hold the weights of this {name} ({_first_line(error)})."
            ) from None
        if not all(np.isfinite(weight).all() for weight in network.get_weights()):
            raise UserError(f"{str(path)!r} holds weights that are NaN or infinite.")


def write(
    folder: str | os.PathLike,
    config: Config,
    networks: dict[str, keras.Model],
    record: dict[str, Any] | None = None,
    card: str | None = None,
    half_precision: bool = False,
) -> pathlib.Path:
    """Writes a preset's folder, whole or not at all.

    Args:
        folder: must not exist.
        config: settings of the networks and of their training.
        networks: `generator` and `discriminator`.
        record: what the weights were trained on (`provenance.training_record`).
        card: text of README.md; where it is None, a head and what the settings tell.
        half_precision: keep weights as float16, in half the space.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists already or cannot be written.
    """
    folder = pathlib.Path(folder).expanduser()
    if folder.exists():
        raise UserError(f"A preset is written to a folder of its own; {str(folder)!r} exists.")
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        beside.mkdir(parents=True)
        for name, network in networks.items():
            _write_weights(network, beside / WEIGHTS_FILES[name], half_precision)
        (beside / CONFIG_FILE).write_text(json.dumps(_groups(config), indent=2) + "\n")
        (beside / CARD_FILE).write_text(card or _card(folder.name, config))
        if record is not None:
            of_weights = record | {"weights_sha256": _weights_sha256(beside)}
            provenance.write(beside / provenance.FILE_NAME, of_weights)
        beside.rename(folder)
    except OSError as error:
        raise UserError(f"The preset {str(folder)!r} cannot be written: {error}.") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def with_architecture(config: Config, is_given: Callable[[str], bool]) -> Config:
    """Returns a configuration with the architecture of the preset that it starts from.

    Args:
        config: names the preset in `init_from`.
        is_given: whether the setting of a name is the user's own word; those are left.

    Raises:
        UserError: there is no such preset.
    """
    of_preset = read(config.training.init_from).config.model
    taken = {
        name: getattr(of_preset, name)
        for name in (*_OF_GENERATOR, *_OF_DISCRIMINATOR)
        if not is_given(name)
    }
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **taken)).validate()


def fitting(preset: Preset, config: Config) -> tuple[str, ...]:
    """Returns the networks that can start from a preset's weights; warns where one cannot.

    Raises:
        UserError: the generator cannot.
    """
    differing = [
        f"{name}: {getattr(preset.config.model, name)!r} there, {getattr(config.model, name)!r} "
        "given"
        for names in (_OF_GENERATOR, _OF_DISCRIMINATOR)
        for name in names
        if getattr(preset.config.model, name) != getattr(config.model, name)
    ]
    if any(line.startswith(_OF_GENERATOR) for line in differing):
        raise UserError(
            f"The preset {config.training.init_from!r} is of another generator "
            f"({'; '.join(differing)}); leave these flags out, or start from another preset."
        )
    if differing:
        print(
            f"warning: the discriminator starts from random weights ({'; '.join(differing)}).",
            file=sys.stderr,
        )
        return ("generator",)
    return ("generator", "discriminator")


def _folder_of(preset: str) -> pathlib.Path:
    if preset.startswith(_HUB):
        return _fetched(preset)
    if preset in list_presets():
        return BUILT_IN / preset
    folder = pathlib.Path(preset).expanduser()
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"There is no preset {preset!r}: pass one of {', '.join(list_presets()) or 'none'}, a "
            f"folder that holds {CONFIG_FILE}, or hf://OWNER/REPOSITORY."
        )
    return folder


def _fetched(address: str) -> pathlib.Path:
    """Returns the folder into which a preset of the Hugging Face Hub has been fetched."""
    owner, _, rest = address.removeprefix(_HUB).partition("/")
    repository, _, inside = rest.partition("/")
    if not owner or not repository or ".." in inside.split("/"):
        raise UserError(
            f"A preset's address must be hf://OWNER/REPOSITORY[/FOLDER]. Received: {address!r}."
        )
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{address!r} needs the package huggingface_hub: pip install huggingface_hub, or pass "
            "a preset's folder."
        ) from None
    files = [CONFIG_FILE, CARD_FILE, provenance.FILE_NAME, *WEIGHTS_FILES.values()]
    try:
        fetched = huggingface_hub.snapshot_download(
            f"{owner}/{repository}",
            allow_patterns=[f"{inside}/{name}" if inside else name for name in files],
        )
    except Exception as error:  # of the network, of the hub, of the cache
        raise UserError(f"{address!r} cannot be fetched ({_first_line(error)}).") from None
    return pathlib.Path(fetched) / inside


def _groups(config: Config) -> dict[str, dict]:
    """Returns what a preset keeps of a configuration."""
    model = dataclasses.asdict(config.model)
    if model["vgg_weights"] != "random":
        model["vgg_weights"] = "imagenet"  # a file's path says nothing on another machine
    return {
        "model": model,
        "loss": dataclasses.asdict(config.loss),
        "training": dataclasses.asdict(config.training) | {"init_from": ""},
        "hardware": {"mixed_precision": config.hardware.mixed_precision},
    }


def _card(name: str, config: Config) -> str:
    return (
        f"---\nlibrary_name: keras\ntags:\n- mammography\n- image-inpainting\n---\n\n# {name}\n\n"
        f"ciGAN's generator and discriminator for patches of {config.model.patch_size} px.\n"
        f"`{CONFIG_FILE}` holds their settings, `{provenance.FILE_NAME}` what they were trained "
        "on.\n"
    )


def _write_weights(network: keras.Model, path: pathlib.Path, half_precision: bool) -> None:
    """Writes weights as Keras does, compressed."""
    whole_path = path.with_name(f"whole_{path.name}")
    network.save_weights(whole_path)
    with h5py.File(whole_path) as whole, h5py.File(path, "w") as small:

        def copy(name, item):
            if not isinstance(item, h5py.Dataset):
                small.require_group(name).attrs.update(item.attrs)
                return
            values = item[()]
            if half_precision and values.dtype == np.float32:
                values = values.astype(np.float16)
            # Of a float's two bytes one is almost random, the other compresses.
            packed = {"compression": "gzip", "shuffle": True} if values.ndim else {}
            small.create_dataset(name, data=values, **packed)

        whole.visititems(copy)
    whole_path.unlink()


def _weights_sha256(folder: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for name in WEIGHTS_FILES.values():
        with contextlib.suppress(FileNotFoundError):  # told when the weights are loaded
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
