"""The client with both of the server's interfaces, checked against the protocol's definitions.

The servers here are small, but they use the protocol of TensorFlow Serving: gRPC through the
service class of tensorflow-serving-api, REST as documented (column format). The answers come from
the exported generator.
"""

import base64
import concurrent.futures
import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time

import cv2
import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from cigan_tf import input_pipeline
from cigan_tf.errors import UserError
from export import client
from export.client import Client
from export.serving.transports import ServerError

NONE = np.zeros((0, 32, 32, 1))
STATUS = {"UNAVAILABLE": 503, "INVALID_ARGUMENT": 400, "NOT_FOUND": 404}


class GrpcServer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """PredictionService.Predict that records every request and refuses a given number of them."""

    def __init__(self, signatures):
        self.signatures, self.requests, self.refusals, self.delay_s = signatures, [], [], 0
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"grpc://127.0.0.1:{port}"
        self._server.start()

    def Predict(self, request, context):  # noqa: N802  the protocol's name
        self.requests.append(request)
        time.sleep(self.delay_s)
        if self.refusals:
            context.abort(getattr(grpc.StatusCode, self.refusals.pop()), "not now")
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        signature = self.signatures[request.model_spec.signature_name]
        response = predict_pb2.PredictResponse()
        try:
            answer = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        for name, value in answer.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    def close(self):
        self._server.stop(None).wait()


class RestServer:
    """Handles POST .../v1/models/MODEL...:predict with inputs in column format."""

    def __init__(self, signatures):
        self.signatures, self.requests, self.refusals, self.delay_s = signatures, [], [], 0
        self.raw_answer = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, self.headers["Content-Type"], body))
                time.sleep(outer.delay_s)
                status, answer = outer.answer(body)
                encoded = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, body):
        if self.raw_answer is not None:
            return self.raw_answer
        if self.refusals:
            return STATUS[self.refusals.pop()], {"error": "not now"}
        signature = self.signatures[body["signature_name"]]
        _, specs = signature.structured_input_signature
        inputs = {}
        for name, column in body["inputs"].items():
            if specs[name].dtype == tf.string:
                column = [base64.b64decode(element["b64"]) for element in column]
            inputs[name] = tf.constant(column, specs[name].dtype)
        try:
            ((name, value),) = signature(**inputs).items()
        except tf.errors.InvalidArgumentError as error:
            return 400, {"error": error.message}
        if name.endswith("_bytes"):
            encoded = [{"b64": base64.b64encode(png).decode()} for png in value.numpy()]
            return 200, {"outputs": encoded}
        return 200, {"outputs": value.numpy().tolist()}

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture(params=[GrpcServer, RestServer])
def server(request, loaded):
    made = request.param(loaded.signatures)
    yield made
    made.close()


@pytest.fixture
def grpc_server(loaded):
    made = GrpcServer(loaded.signatures)
    yield made
    made.close()


@pytest.fixture
def rest_server(loaded):
    made = RestServer(loaded.signatures)
    yield made
    made.close()


@pytest.fixture(scope="module")
def arrays(tiny_config):
    patches = input_pipeline.picture_patches(tiny_config, "validation", 1)
    seeds = np.arange(len(patches["label"]))
    return {**{name: patches[name] for name in ("image", "mask", "label")}, "seed": seeds}


@pytest.fixture(scope="module")
def pngs(arrays):
    def encode(pictures):
        return [cv2.imencode(".png", picture)[1].tobytes() for picture in pictures]

    return {
        "image_bytes": encode(np.round(arrays["image"] * 65535).astype(np.uint16)),
        "mask_bytes": encode((arrays["mask"] * 255).astype(np.uint8)),
        "label": arrays["label"],
        "seed": arrays["seed"],
    }


def answered_by(loaded, signature, inputs):
    """Returns the output of the SavedModel itself."""
    tensors = {
        name: tf.constant(values, tf.int32 if name in ("label", "seed") else None)
        for name, values in inputs.items()
    }
    (outputs,) = loaded.signatures[signature](**tensors).values()
    return outputs.numpy()


def test_arrays_come_back_infilled(server, loaded, arrays):
    infilled = Client(server.address).infill(**arrays)
    assert infilled.dtype == np.float32
    np.testing.assert_array_equal(infilled, answered_by(loaded, "serving_default", arrays))


def test_pngs_come_back_as_pngs(server, loaded, pngs):
    infilled = Client(server.address).infill_png(**pngs)
    assert infilled == list(answered_by(loaded, "infill_png", pngs))


def test_a_grpc_request_is_the_protocols_field_by_field(grpc_server, arrays, pngs):
    Client(grpc_server.address, model="other").infill(**arrays)
    Client(grpc_server.address, version="12").infill_png(**pngs)
    Client(grpc_server.address, version="").infill_png(**pngs)
    floats, strings, newest = grpc_server.requests
    assert (floats.model_spec.name, floats.model_spec.version_label) == ("other", "stable")
    assert not floats.model_spec.HasField("version")
    assert (strings.model_spec.name, strings.model_spec.version.value) == ("cigan", 12)
    assert newest.model_spec.WhichOneof("version_choice") is None
    assert floats.model_spec.signature_name == "serving_default"
    assert strings.model_spec.signature_name == "infill_png"
    sent = {
        name: (tf.as_dtype(tensor.dtype), [d.size for d in tensor.tensor_shape.dim])
        for request in (floats, strings)
        for name, tensor in request.inputs.items()
    }
    assert sent == {
        "image": (tf.float32, [3, 32, 32, 1]),
        "mask": (tf.float32, [3, 32, 32, 1]),
        "image_bytes": (tf.string, [3]),
        "mask_bytes": (tf.string, [3]),
        "label": (tf.int32, [3]),
        "seed": (tf.int32, [3]),
    }
    assert not floats.output_filter
    np.testing.assert_array_equal(tf.make_ndarray(floats.inputs["image"]), arrays["image"])
    assert list(strings.inputs["mask_bytes"].string_val) == pngs["mask_bytes"]


def test_a_rest_request_is_the_pages_field_by_field(rest_server, arrays, pngs):
    Client(rest_server.address + "/", model="other").infill(**arrays)
    Client(rest_server.address, version="12").infill_png(**pngs)
    Client(rest_server.address, version="").infill_png(**pngs)
    (path, content_type, floats), (numbered, _, strings), (newest, _, _) = rest_server.requests
    assert path == "/v1/models/other/labels/stable:predict"
    assert numbered == "/v1/models/cigan/versions/12:predict"
    assert newest == "/v1/models/cigan:predict"
    assert content_type == "application/json"
    assert set(floats) == {"signature_name", "inputs"}
    assert floats["signature_name"] == "serving_default"
    assert set(floats["inputs"]) == {"image", "mask", "label", "seed"}
    np.testing.assert_array_equal(np.float32(floats["inputs"]["image"]), arrays["image"])
    assert floats["inputs"]["seed"] == [0, 1, 2]
    assert strings["signature_name"] == "infill_png"
    assert set(strings["inputs"]) == {"image_bytes", "mask_bytes", "label", "seed"}
    for sent, png in zip(strings["inputs"]["image_bytes"], pngs["image_bytes"], strict=True):
        assert set(sent) == {"b64"}
        assert base64.b64decode(sent["b64"], validate=True) == png


def test_an_unavailable_server_is_asked_again(server, pngs):
    server.refusals = ["UNAVAILABLE", "UNAVAILABLE"]
    assert len(Client(server.address).infill_png(**pngs)) == 3
    assert len(server.requests) == 3


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "NOT_FOUND"])
def test_any_other_refusal_is_final(server, pngs, code):
    server.refusals = [code]
    with pytest.raises(ServerError, match="not now") as refusal:
        Client(server.address).infill_png(**pngs)
    assert refusal.value.code == code
    assert len(server.requests) == 1


def test_the_servers_reason_is_passed_on(server, pngs):
    colour = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    wrong = {**pngs, "mask_bytes": [*pngs["mask_bytes"][:-1], colour]}
    with pytest.raises(ServerError, match="mask_bytes must be grey PNGs") as refusal:
        Client(server.address).infill_png(**wrong)
    assert refusal.value.code == "INVALID_ARGUMENT"


def test_a_silent_server_times_out(server, pngs):
    server.delay_s = 1
    with pytest.raises(ServerError) as refusal:
        Client(server.address, timeout_s=0.2).infill_png(**pngs)
    assert refusal.value.code == "DEADLINE_EXCEEDED"
    assert len(server.requests) <= 1


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_missing_server_is_unavailable(pngs, scheme, monkeypatch):
    # A retry just before the time-out would report the time-out.
    monkeypatch.setattr(client, "_FIRST_PAUSE_S", 60.0)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # without listening
        missing = Client(f"{scheme}://127.0.0.1:{reserved.getsockname()[1]}", timeout_s=60)
        with pytest.raises(ServerError) as refusal:
            missing.infill_png(**pngs)
    assert refusal.value.code == "UNAVAILABLE"


def test_a_server_without_a_trusted_certificate_is_asked_once(pngs, tmp_path):
    subject = ["-subj", "/CN=localhost", "-days", "2", "-nodes", "-batch"]
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "certificate.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", *subject, *files],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    handler = http.server.BaseHTTPRequestHandler
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stranger = Client(f"https://localhost:{server.server_port}", timeout_s=60)
        with pytest.raises(ServerError, match="certificate verify failed") as refusal:
            stranger.infill_png(**pngs)
        server.shutdown()
    assert refusal.value.code == "UNKNOWN"


@pytest.mark.parametrize(
    "answer",
    [(200, b"<html>"), (200, {"predictions": []}), (200, {"outputs": [{"b64": "!"}]}), (200, [1])],
)
def test_an_answer_that_no_model_server_gives_is_an_error(rest_server, pngs, answer):
    rest_server.raw_answer = answer
    with pytest.raises(ServerError, match="sent an unexpected response"):
        Client(rest_server.address).infill_png(**pngs)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"image": np.full((3, 32, 32, 1), 40000)}, "divide 16-bit grey levels"),
        ({"image": NONE, "mask": NONE, "label": [], "seed": []}, "at least one patch"),
    ],
)
def test_a_wrong_array_is_named_before_anything_is_sent(rest_server, arrays, changed, named):
    with pytest.raises(UserError, match=named):
        Client(rest_server.address).infill(**{**arrays, **changed})
    assert not rest_server.requests


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"image_bytes": []}, "image_bytes must be one PNG"),
        ({"mask_bytes": []}, "mask_bytes must be one PNG per image"),
        ({"mask_bytes": [b"", b"", b""]}, "mask_bytes must be PNG files"),
    ],
)
def test_a_wrong_png_is_named_before_anything_is_sent(rest_server, pngs, changed, named):
    with pytest.raises(UserError, match=named):
        Client(rest_server.address).infill_png(**{**pngs, **changed})
    assert not rest_server.requests


def test_an_invalid_address_is_named():
    with pytest.raises(UserError, match="Received: 'localhost:8501'"):
        Client("localhost:8501")


def test_a_closed_client_has_no_connection():
    image, png = np.zeros((1, 8, 8, 1)), b"\x89PNG\r\n\x1a\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        sent_later, answered = [], b'{"outputs": [{"b64": ""}]}'

        def answer():
            connection, _ = listener.accept()
            connection.settimeout(60)
            with connection, connection.makefile("rb") as request:
                (length,) = (
                    int(line.split(b":")[1])
                    for line in iter(request.readline, b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                request.read(length)
                header = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answered)}\r\n\r\n"
                connection.sendall(header.encode() + answered)
                sent_later.append(request.read())

        thread = threading.Thread(target=answer)
        thread.start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as by_rest:
            assert by_rest.infill_png([png], [png], [1], [0]) == [b""]
        thread.join()
    assert sent_later == [b""]
    with Client("grpc://127.0.0.1:9", timeout_s=0.1) as by_grpc:
        pass
    with pytest.raises(ValueError, match="closed channel"):
        by_grpc.infill(image, image, [1], [0])


def test_the_command_writes_an_infilled_png(rest_server, pngs, tmp_path):
    for name in ("image", "mask"):
        (tmp_path / f"{name}.png").write_bytes(pngs[f"{name}_bytes"][0])

    def run(*arguments):
        command = [sys.executable, "-m", "export.client", f"--server={rest_server.address}"]
        files = [f"--{name}={tmp_path / name}.png" for name in ("image", "mask", "output")]
        return subprocess.run(
            [*command, *files, *arguments], capture_output=True, text=True, timeout=120, check=False
        )

    done = run("--label=malignant", "--seed=3")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "output.png"))
    one = {"image_bytes": pngs["image_bytes"][:1], "mask_bytes": pngs["mask_bytes"][:1]}
    expected = Client(rest_server.address).infill_png(**one, label=[1], seed=[3])
    assert [(tmp_path / "output.png").read_bytes()] == expected

    rest_server.refusals = ["NOT_FOUND"]
    done = run("--label=non_malignant")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "NOT_FOUND: not now" in done.stderr
    assert "Traceback" not in done.stderr
