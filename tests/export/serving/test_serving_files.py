"""The files next to the SavedModel can be read by a server."""

import threading

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from cigan_tf.errors import UserError
from export.serving import serving_files, versions

FILES = ("models.config", "batching.config", "monitoring.config", "compose.yaml", "kserve.yaml")


@pytest.fixture
def folder(tmp_path):
    def with_versions(*numbers):
        for number in numbers:
            (tmp_path / str(number)).mkdir(exist_ok=True)
        return tmp_path

    return with_versions


def labels(folder):
    """Returns the model's version labels; checks that exactly these and a canary are loaded."""
    config = text_format.Parse(
        (folder / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    entry, canary = config.model_config_list.config
    assert set(entry.model_version_policy.specific.versions) == set(entry.version_labels.values())
    assert canary.name == f"{entry.name}_canary"
    assert canary.base_path == entry.base_path
    assert canary.model_version_policy.latest.num_versions == 1
    return dict(entry.version_labels)


def test_the_export_writes_every_file(exported):
    for name in FILES:
        assert (exported.parent / name).read_text().strip(), name
    assert labels(exported.parent) == {"stable": 1}


def test_warm_up_requests_are_answered_by_the_model(exported):
    signatures = tf.saved_model.load(str(exported)).signatures
    answered = set()
    for record in tf.data.TFRecordDataset(str(exported / serving_files.WARMUP_FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "cigan"
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        signature = signatures[request.model_spec.signature_name]
        (output,) = signature(**{k: tf.constant(v) for k, v in inputs.items()}).values()
        assert len(output) == len(inputs["label"])
        answered.add(request.model_spec.signature_name)
    assert answered == set(signatures)


def test_stable_is_only_moved_by_hand(folder):
    serving_files.write_server_files(folder(1), "cigan")
    serving_files.write_server_files(folder(2), "cigan")
    assert labels(folder()) == {"stable": 1}
    path = folder() / "models.config"
    path.write_text(path.read_text().replace("value: 1", "value: 2"))
    serving_files.write_server_files(folder(3), "cigan")
    assert labels(folder()) == {"stable": 2}


def test_a_label_whose_version_is_gone_moves_to_the_newest(folder):
    serving_files.write_server_files(folder(1), "cigan")
    (folder() / "1").rmdir()
    serving_files.write_server_files(folder(2), "cigan")
    assert labels(folder()) == {"stable": 2}


def test_another_model_in_the_list_stays(folder):
    serving_files.write_server_files(folder(1), "cigan")
    path = folder() / "models.config"
    path.write_text(path.read_text().replace('"cigan', '"other'))
    serving_files.write_server_files(folder(), "cigan")
    for name in ("other", "other_canary", "cigan", "cigan_canary"):
        assert f'name: "{name}"' in path.read_text()


def test_manual_changes_are_kept(folder):
    serving_files.write_server_files(folder(1), "cigan")
    (folder() / "compose.yaml").write_text("services: {}\n")
    serving_files.write_server_files(folder(2), "cigan")
    assert (folder() / "compose.yaml").read_text() == "services: {}\n"


def test_a_broken_list_is_named_and_kept(folder):
    (folder(1) / "models.config").write_text("model_config_list {")
    with pytest.raises(UserError, match=r"models\.config' is not a valid list"):
        serving_files.write_server_files(folder(), "cigan")
    assert (folder() / "models.config").read_text() == "model_config_list {"


def message(package, name, fields):
    """Returns a message class of the server that is missing from its Python package.

    Args:
        package: a unique file name.
        name: the name of the message.
        fields: number, type and whether repeated, by name, as in descriptor.proto.
    """
    file = descriptor_pb2.FileDescriptorProto(name=package, package=package, syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    for kind, members in fields.items():
        described = file.message_type.add(name=kind)
        for field, (number, of_type, repeated) in members.items():
            added = described.field.add(name=field, number=number, label=3 if repeated else 1)
            if isinstance(of_type, str):
                added.type, added.type_name = 11, of_type
            else:
                added.type = of_type
    pool = descriptor_pool.DescriptorPool()
    from google.protobuf import wrappers_pb2

    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))


def test_batching_and_monitoring_use_the_servers_own_fields(exported):
    # tensorflow_serving/servables/tensorflow/session_bundle_config.proto, BatchingParameters, and
    # tensorflow_serving/config/monitoring_config.proto: both are missing from the Python package.
    int64_value, string, boolean, int64 = ".google.protobuf.Int64Value", 9, 8, 3
    batching_class = message(
        "batching",
        "BatchingParameters",
        {
            "BatchingParameters": {
                "max_batch_size": (1, int64_value, False),
                "batch_timeout_micros": (2, int64_value, False),
                "max_enqueued_batches": (3, int64_value, False),
                "num_batch_threads": (4, int64_value, False),
                "allowed_batch_sizes": (6, int64, True),
                "pad_variable_length_inputs": (7, boolean, False),
            }
        },
    )
    batching = text_format.Parse(
        (exported.parent / "batching.config").read_text(), batching_class()
    )
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(sizes)
    assert sizes[-1] == batching.max_batch_size.value
    monitoring_class = message(
        "monitoring",
        "MonitoringConfig",
        {
            "PrometheusConfig": {"enable": (1, boolean, False), "path": (2, string, False)},
            "MonitoringConfig": {"prometheus_config": (1, ".monitoring.PrometheusConfig", False)},
        },
    )
    monitoring = text_format.Parse(
        (exported.parent / "monitoring.config").read_text(), monitoring_class()
    )
    assert monitoring.prometheus_config.enable


def test_manifests_point_at_existing_files(exported):
    compose = yaml.safe_load((exported.parent / "compose.yaml").read_text())
    (service,) = compose["services"].values()
    (mounted,) = service["volumes"]
    inside = mounted.split(":")[1]
    for argument in service["command"]:
        flag, _, value = argument.removeprefix("--").partition("=")
        if flag.endswith("_file"):
            assert (exported.parent / value.removeprefix(inside + "/")).is_file(), argument
    config = text_format.Parse(
        (exported.parent / "models.config").read_text(),
        model_server_config_pb2.ModelServerConfig(),
    )
    assert config.model_config_list.config[0].base_path == inside
    # The server is ready when the stable version answers, not when the port is open.
    assert f"/v1/models/{inside.removeprefix('/models/')}" in service["healthcheck"]["test"][-1]
    assert "AVAILABLE" in service["healthcheck"]["test"][-1]
    assert service["mem_limit"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])

    kserve = yaml.safe_load((exported.parent / "kserve.yaml").read_text())
    model = kserve["spec"]["predictor"]["model"]
    assert model["readinessProbe"]["httpGet"]["path"] == "/v1/models/cigan"
    assert model["resources"]["limits"]["memory"]
    assert model["modelFormat"]["name"] == "tensorflow"
    for argument in model["args"]:
        value = argument.partition("=")[2]
        assert (exported.parent / value.removeprefix("/mnt/models/")).is_file(), argument


def test_a_predict_request_carries_arrays_and_bytes():
    request = serving_files.predict_request(
        "cigan", "infill_png", {"image_bytes": [b"\x89\xff"], "seed": np.int32([7])}
    )
    assert request.model_spec.signature_name == "infill_png"
    assert request.inputs["image_bytes"].string_val == [b"\x89\xff"]
    assert request.inputs["seed"].dtype == tf.int32.as_datatype_enum


def test_the_list_is_brought_up_to_date_by_one_export_at_a_time(folder):
    with versions.locked(folder(1)):
        other = threading.Thread(target=serving_files.write_server_files, args=(folder(), "cigan"))
        other.start()
        other.join(timeout=0.3)
        assert other.is_alive()
        assert not (folder() / "models.config").exists()
        folder(2)
    other.join()
    assert labels(folder()) == {"stable": 2}
