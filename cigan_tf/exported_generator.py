"""Generators for inference, loaded from a SavedModel's folder or from a preset."""

import functools
import hashlib
import os

import numpy as np
import tensorflow as tf
from etils import epath

from cigan_tf import file_io, provenance
from cigan_tf.errors import UserError, first_line, is_storage_error
from cigan_tf.models import CiGAN, presets

_GRAPH_FILE = "saved_model.pb"
PROVENANCE_FILE = f"assets.extra/{provenance.FILE_NAME}"


class ExportedGenerator:
    """Infills patches with the `serving_default` signature of a SavedModel.

    Args:
        path: the SavedModel's folder, or a folder of numbered versions (the newest is used).
        batch_size: patches per call of the signature.

    Attributes:
        kind: kind of source, for messages.
        path: the loaded folder.
        patch_size: side of the generator's patches in pixels.
        provenance: the record of its training run with `step` and `weights_sha256`; None if the
            SavedModel has no record.

    Raises:
        UserError: there is no SavedModel, or it is damaged or not a generator, or its record is
            damaged or belongs to weights other than its own.
    """

    kind = "SavedModel"

    def __init__(self, path: str | os.PathLike, batch_size: int = 32):
        self.path = _newest_version(epath.Path(path))
        self._batch_size = batch_size
        # The signature's tensors live only as long as the loaded object.
        self._loaded = _load(self.path)
        try:
            self._signature = self._loaded.signatures["serving_default"]
            _, inputs = self._signature.structured_input_signature
            self.patch_size = inputs["image"].shape[1]
        except (KeyError, IndexError):
            raise UserError(
                f"The SavedModel {str(self.path)!r} is not an infilling generator; export one with "
                "cigan-export."
            ) from None
        self.provenance = provenance.read(self.path / PROVENANCE_FILE)
        if self.provenance and self.provenance.get("weights_sha256") != self.sha256:
            raise UserError(
                f"The provenance record of the SavedModel {str(self.path)!r} belongs to different "
                "weights; export the run again with cigan-export --workdir=DIR."
            )

    def __call__(self, image, mask, label, seed) -> np.ndarray:
        """Returns the patches with their masks infilled as the given class.

        Args:
            image: float32 [N, p, p, 1] in [0, 1].
            mask: float32 [N, p, p, 1] in {0, 1}.
            label: int32 [N], 0 non-malignant, 1 malignant.
            seed: int32 [N]; the same seed gives the same infill.

        Returns:
            float32 [N, p, p, 1] in [0, 1]; equal to the image outside the mask, unless the run was
            trained with --nocomposite.
        """
        infilled = [
            self._signature(
                image=tf.constant(image[rows], tf.float32),
                mask=tf.constant(mask[rows], tf.float32),
                label=tf.constant(label[rows], tf.int32),
                seed=tf.constant(seed[rows], tf.int32),
            )["infilled"].numpy()
            for rows in self._batches(len(image))
        ]
        side = self.patch_size
        return np.concatenate(infilled) if infilled else np.zeros((0, side, side, 1), np.float32)

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the SavedModel's graph and weights, as a hexadecimal string."""
        return weights_sha256(self.path)

    def _batches(self, count: int):
        return [slice(at, at + self._batch_size) for at in range(0, count, self._batch_size)]


class PresetGenerator:
    """A preset with the same interface as `ExportedGenerator`.

    Args:
        preset: a name, a folder or an address; see `presets.read`.

    Raises:
        UserError: the preset does not exist, or its files are damaged.
    """

    kind = "Preset"

    def __init__(self, preset: str):
        self._model = CiGAN.from_preset(preset)
        self.path = self._model.preset.folder
        self.patch_size = self._model.patch_size
        self.provenance = self._model.preset.record
        self.sha256 = self._model.preset.weights_sha256

    def __call__(self, image, mask, label, seed) -> np.ndarray:
        """Returns the patches with their masks infilled; see `ExportedGenerator.__call__`."""
        return self._model.generate(image, mask, label, seed)


def open_generator(source: str | os.PathLike) -> ExportedGenerator | PresetGenerator:
    """Returns the generator of a preset or a SavedModel.

    Args:
        source: an argument of `presets.read` or of `ExportedGenerator`.
    """
    if presets.is_preset(source):
        return PresetGenerator(str(source))
    return ExportedGenerator(source)


def _load(path: epath.Path):
    try:
        return tf.saved_model.load(file_io.literal_path(path))
    except (OSError, ValueError, tf.errors.OpError) as error:
        if is_storage_error(error):
            raise
        raise UserError(
            f"The SavedModel {str(path)!r} cannot be read ({first_line(error)}); copy it again, or "
            "export the run again with cigan-export --workdir=DIR."
        ) from None


def weights_sha256(path: epath.Path) -> str:
    """Returns the SHA-256 of a SavedModel's graph and weights, as a hexadecimal string."""
    digest = hashlib.sha256()
    for file in [path / _GRAPH_FILE, *file_io.matching(path / "variables", "*")]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _newest_version(path: epath.Path) -> epath.Path:
    path = path.expanduser()
    if (path / _GRAPH_FILE).exists():
        return path
    numbered = [p for p in path.iterdir() if p.name.isdigit()] if path.is_dir() else []
    versions = [version for version in numbered if (version / _GRAPH_FILE).exists()]
    if not versions:
        raise UserError(
            f"There is no SavedModel in {str(path)!r}; export a trained run with "
            "cigan-export --workdir=DIR."
        )
    return max(versions, key=lambda version: int(version.name))
