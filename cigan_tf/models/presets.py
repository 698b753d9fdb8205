"""Presets: trained networks in a folder, found by name, path or address.

A preset's folder contains `config.json` (groups of `Config`), `generator.weights.h5` and
`discriminator.weights.h5` (optionally float16), `README.md` (a model card with a YAML header) and,
if the training data are known, `provenance.json`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import sys
import uuid
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cigan_tf import provenance
from cigan_tf.config import Config
from cigan_tf.errors import UserError, first_line, prefix_errors

if TYPE_CHECKING:  # a command reads a preset's settings without loading Keras
    import keras

BUILT_IN = pathlib.Path(__file__).resolve().parents[1] / "presets"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
WEIGHTS_FILES = {
    "generator": "generator.weights.h5",
    "discriminator": "discriminator.weights.h5",
}
# Settings that the weights of each network depend on.
_OF_GENERATOR = ("patch_size", "composite", "match_rim")
_OF_DISCRIMINATOR = ("discriminator_sees_class", "discriminator_view")
# Settings of the preset that may be changed when training starts from its weights.
_OF_OUTPUT = ("match_grain", "rim_reach_px")
_HUB = "hf://"
_MOST_CONFIG_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Preset:
    """A preset on this machine.

    Args:
        folder: path of the preset's folder.
        config: the preset's model, loss and training settings and its precision, with defaults for
            all others.
        record: record of the preset's training data, or None if unknown.
    """

    folder: pathlib.Path
    config: Config
    record: dict[str, Any] | None

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights files, as a hexadecimal string."""
        return _weights_sha256(self.folder)


def list_presets() -> list[str]:
    """Returns the names of the presets included in the package."""
    return sorted(path.parent.name for path in BUILT_IN.glob(f"*/{CONFIG_FILE}"))


def is_preset(source: str | os.PathLike) -> bool:
    """Returns whether a name, folder or address denotes a preset."""
    return (
        str(source) in list_presets()
        or str(source).startswith(_HUB)
        or (pathlib.Path(source).expanduser() / WEIGHTS_FILES["generator"]).is_file()
    )


def read(preset: str | os.PathLike) -> Preset:
    """Returns a preset without loading its weights.

    Args:
        preset: one of `list_presets()`, a folder, or hf://OWNER/REPOSITORY[/FOLDER].

    Raises:
        UserError: the preset does not exist, or its files are damaged.
    """
    folder = _folder_of(str(preset))
    with prefix_errors(f"The preset {str(preset)!r}"):
        path = folder / CONFIG_FILE
        try:
            if path.stat().st_size > _MOST_CONFIG_BYTES:
                raise UserError(
                    f"{CONFIG_FILE} must have at most {_MOST_CONFIG_BYTES} bytes; received "
                    f"{path.stat().st_size}."
                )
            groups = json.loads(path.read_text())
        except UserError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{CONFIG_FILE} cannot be read ({first_line(error)}).") from None
        config = Config.from_groups(groups)
        record = provenance.read(folder / provenance.FILE_NAME)
        if record and record.get("weights_sha256") != _weights_sha256(folder):
            raise UserError(
                f"{provenance.FILE_NAME} belongs to different weights than those in the folder; "
                "copy the complete preset again."
            )
    return Preset(folder, config, record)


def load_weights(preset: Preset, **networks: "keras.Model") -> None:
    """Loads the weights of a preset into networks.

    Args:
        preset: from `read`.
        networks: `generator`, `discriminator` or both, of the preset's architecture.

    Raises:
        UserError: a file is missing, damaged or of another network, or contains a weight that is
            NaN or infinite.
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
                f"{str(path)!r} does not contain the weights of this {name} ({first_line(error)}); "
                "copy the complete preset again, or use the package version that wrote it."
            ) from None
        if not all(np.isfinite(weight).all() for weight in network.get_weights()):
            raise UserError(f"{str(path)!r} contains weights that are NaN or infinite.")


def write(
    folder: str | os.PathLike,
    config: Config,
    networks: "dict[str, keras.Model]",
    record: dict[str, Any] | None = None,
    card: str | None = None,
    half_precision: bool = False,
) -> pathlib.Path:
    """Writes a preset's folder atomically.

    Args:
        folder: must not exist.
        config: settings of the networks and of their training.
        networks: `generator` and `discriminator`.
        record: record of the training data (`provenance.training_record`).
        card: text of README.md; None: a header and a text made from the settings.
        half_precision: store weights as float16, in half the space.

    Returns:
        Path of the folder.

    Raises:
        UserError: the folder exists already or cannot be written.
    """
    folder = pathlib.Path(folder).expanduser()
    if folder.exists():
        raise UserError(f"A preset needs a new folder; {str(folder)!r} exists already.")
    beside = folder.with_name(f".{uuid.uuid4().hex}.{folder.name}")
    try:
        beside.mkdir(parents=True)
        for name, network in networks.items():
            _write_weights(network, beside / WEIGHTS_FILES[name], half_precision)
        (beside / CONFIG_FILE).write_text(json.dumps(_groups(config), indent=2) + "\n")
        (beside / CARD_FILE).write_text(card or _card(folder.name, config, record is not None))
        if record is not None:
            of_weights = record | {"weights_sha256": _weights_sha256(beside)}
            provenance.write(beside / provenance.FILE_NAME, of_weights)
        beside.rename(folder)
    except OSError as error:
        raise UserError(
            f"The preset {str(folder)!r} cannot be written: {error}. Pass another folder."
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def with_architecture(
    config: Config, is_given: Callable[[str], bool], begun: Config | None = None
) -> Config:
    """Returns a configuration with the architecture of its initial preset.

    Args:
        config: names the preset in `init_from`.
        is_given: returns whether the user has set the setting of that name; such settings are kept.
        begun: settings of the run if it has begun. If they name the same preset, they contain its
            architecture, and the preset is not read again.

    Raises:
        UserError: the preset does not exist.
    """
    preset = config.training.init_from
    is_begun = begun is not None and begun.training.init_from == preset
    of_preset = begun.model if is_begun else read(preset).config.model
    taken = {
        name: getattr(of_preset, name)
        for name in (*_OF_GENERATOR, *_OF_DISCRIMINATOR, *_OF_OUTPUT)
        if not is_given(name)
    }
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **taken)).validate()


def fitting(preset: Preset, config: Config) -> tuple[str, ...]:
    """Returns the networks that can start from a preset's weights; warns if one cannot.

    Raises:
        UserError: the generator cannot start from them.
    """
    differing = [
        f"{name}: {getattr(preset.config.model, name)!r} in the preset, "
        f"{getattr(config.model, name)!r} given"
        for names in (_OF_GENERATOR, _OF_DISCRIMINATOR)
        for name in names
        if getattr(preset.config.model, name) != getattr(config.model, name)
    ]
    if any(line.startswith(_OF_GENERATOR) for line in differing):
        raise UserError(
            f"The preset {config.training.init_from!r} has a different generator "
            f"({'; '.join(differing)}); omit these flags, or start from another preset."
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
            f"folder that contains {CONFIG_FILE}, or hf://OWNER/REPOSITORY."
        )
    return folder


def _fetched(address: str) -> pathlib.Path:
    """Downloads a preset from the Hugging Face Hub and returns its folder."""
    owner, _, rest = address.removeprefix(_HUB).partition("/")
    repository, _, inside = rest.partition("/")
    if not owner or not repository or ".." in inside.split("/"):
        raise UserError(
            f"A preset's address must be hf://OWNER/REPOSITORY[/FOLDER]. Received: {address!r}."
        )
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise UserError(
            f"{address!r} needs the package huggingface_hub: pip install 'cigan[hub]', or pass a "
            "preset's folder."
        ) from None
    files = [CONFIG_FILE, CARD_FILE, provenance.FILE_NAME, *WEIGHTS_FILES.values()]
    try:
        fetched = huggingface_hub.snapshot_download(
            f"{owner}/{repository}",
            allow_patterns=[f"{inside}/{name}" if inside else name for name in files],
        )
    except Exception as error:  # from the network, the hub or the cache
        raise UserError(
            f"{address!r} cannot be downloaded ({first_line(error)}); check the address and the "
            "network, or pass a preset's folder."
        ) from None
    return pathlib.Path(fetched) / inside


def _groups(config: Config) -> dict[str, dict]:
    """Returns the parts of a configuration that a preset stores."""
    model = dataclasses.asdict(config.model)
    if model["vgg_weights"] != "random":
        model["vgg_weights"] = "imagenet"  # a path is meaningless on another machine
    return {
        "model": model,
        "loss": dataclasses.asdict(config.loss),
        "training": dataclasses.asdict(config.training) | {"init_from": ""},
        "hardware": {"mixed_precision": config.hardware.mixed_precision},
    }


def _card(name: str, config: Config, has_record: bool) -> str:
    record = f", `{provenance.FILE_NAME}` the record of their training" if has_record else ""
    return (
        f"---\nlibrary_name: keras\ntags:\n- mammography\n- image-inpainting\n---\n\n# {name}\n\n"
        f"ciGAN's generator and discriminator for patches of {config.model.patch_size} px.\n"
        f"`{CONFIG_FILE}` has their settings{record}.\n"
    )


def _write_weights(network: "keras.Model", path: pathlib.Path, half_precision: bool) -> None:
    """Writes compressed weights in Keras' format."""
    import h5py

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
            # The low bytes of floats are almost random; the others compress when kept apart.
            packed = {"compression": "gzip", "shuffle": True} if values.ndim else {}
            small.create_dataset(name, data=values, **packed)

        whole.visititems(copy)
    whole_path.unlink()


def _weights_sha256(folder: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for name in WEIGHTS_FILES.values():
        with contextlib.suppress(FileNotFoundError):  # reported when the weights are loaded
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()
