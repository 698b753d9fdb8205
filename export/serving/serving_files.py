"""Files that a model server needs next to a SavedModel: warm-up requests, configuration, manifests.

    DIR/<version>/assets.extra/tf_serving_warmup_requests
    DIR/models.config  batching.config  monitoring.config  compose.yaml  kserve.yaml

Every export updates models.config and keeps manual changes to it. Other files that already
exist are not changed.
"""

import pathlib

import jinja2
import numpy as np
import tensorflow as tf
from etils import epath
from google.protobuf import text_format
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from cigan_tf import file_io
from cigan_tf.errors import UserError, storage_errors

from . import versions

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
MODELS_CONFIG = "models.config"
_TEMPLATES = pathlib.Path(__file__).with_name("templates")
_WRITTEN_ONCE = ("batching.config", "monitoring.config", "compose.yaml", "kserve.yaml")


def predict_request(model: str, signature: str, inputs: dict[str, np.ndarray]):
    """Returns a PredictRequest for a server."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def classification_request(model: str, signature: str, examples: list[bytes]):
    """Returns a ClassificationRequest of serialised tf.Examples."""
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for example in examples:
        request.input.example_list.examples.add().ParseFromString(example)
    return request


def write_warmup(version_dir: pathlib.Path, requests: list) -> None:
    """Writes the requests that a server runs before it reports that it is ready.

    The first call of a graph takes longer than all later ones, because the graph is optimised then.
    """
    path = version_dir / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog()
            if isinstance(request, predict_pb2.PredictRequest):
                log.predict_log.request.CopyFrom(request)
            else:
                log.classify_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())


def write_server_files(output_dir: epath.Path, model: str) -> None:
    """Writes the files to start a server with, for the versions in `output_dir`.

    Raises:
        UserError: the existing models.config is invalid, or the folder cannot be written.
    """
    try:
        with versions.locked(output_dir):
            for name, text in _server_files(output_dir, model).items():
                file_io.write_whole(output_dir / name, text)
    except OSError as error:
        raise UserError(
            f"output_dir {str(output_dir)!r} cannot be written to: {error}. Free up "
            "disk space, change its permissions, or pass another output_dir."
        ) from None


def _server_files(output_dir: epath.Path, model: str) -> dict[str, str]:
    config = models_config(output_dir, model)
    header = "# Written by every export; labels and other manual changes are kept.\n"
    files = {MODELS_CONFIG: header + text_format.MessageToString(config)}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    for name in _WRITTEN_ONCE:
        if not (output_dir / name).exists():
            template = environment.from_string((_TEMPLATES / f"{name}.jinja").read_text())
            # Names of Kubernetes resources and of hosts cannot contain underscores.
            files[name] = template.render(model=model, host=model.replace("_", "-"))
    return files


def models_config(output_dir: epath.Path, model: str) -> model_server_config_pb2.ModelServerConfig:
    """Returns the server's list of models: `model`, and `model`_canary.

    `model` loads only versions with a label, so that an export does not change its responses. The
    label `stable` points to the first version until it is changed manually; if the version has
    been deleted, the label moves to the newest one. Requests without a version get the newest of
    the loaded versions: the stable one, unless labels have been added manually. `model`_canary is
    always the newest version.
    """
    config = read_models_config(output_dir)
    entries = {entry.name: entry for entry in config.model_config_list.config}
    for name in (model, f"{model}_canary"):
        if name not in entries:
            entries[name] = config.model_config_list.config.add(
                name=name, base_path=f"/models/{model}", model_platform="tensorflow"
            )
    present = versions.numbers(output_dir)
    entry = entries[model]
    stable = entry.version_labels.get("stable", present[-1])
    entry.version_labels["stable"] = stable if stable in present else present[-1]
    wanted = sorted(set(entry.version_labels.values()) & set(present))
    entry.model_version_policy.specific.versions[:] = wanted
    entries[f"{model}_canary"].model_version_policy.latest.num_versions = 1
    return config


def read_models_config(output_dir: epath.Path) -> model_server_config_pb2.ModelServerConfig:
    """Returns the list of models in a folder; empty if the folder has no such list.

    Raises:
        UserError: the list is invalid or cannot be read.
    """
    path = output_dir / MODELS_CONFIG
    config = model_server_config_pb2.ModelServerConfig()
    try:
        with storage_errors():
            text = path.read_text()
        text_format.Parse(text, config)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(
            f"{str(path)!r} is not a valid list of models ({error}); correct or delete it."
        ) from None
    return config
