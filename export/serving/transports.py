"""TensorFlow Serving's two interfaces: REST with JSON in columnar format, and gRPC."""

import base64
import binascii
from typing import Protocol

import numpy as np
import requests

from cigan_tf.errors import UserError

UNAVAILABLE = "UNAVAILABLE"
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
# gRPC names for the server's HTTP statuses, from TensorFlow Serving's own table.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: UNAVAILABLE,
    504: DEADLINE_EXCEEDED,
}

# gRPC's default limit is 4 MiB: 16 patches of 256 px.
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class ServerError(RuntimeError):
    """The server refused the request, did not answer, or sent an unusable answer.

    Attributes:
        code: the name of a gRPC status code; for REST, of the code that corresponds to the HTTP
            status.
    """

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {' '.join(message.split())}")
        self.code = code


class Transport(Protocol):
    """Protocol for calling a server."""

    def predict(
        self, signature: str, inputs: dict[str, np.ndarray], output: str, timeout_s: float
    ) -> np.ndarray:
        """Returns one output of a signature; strings are object arrays of bytes.

        Raises:
            ServerError: the server refused the request, did not answer, or sent an unusable answer.
        """

    def close(self) -> None:
        """Closes the connections to the server."""


def connect(server: str, model: str, version: str) -> Transport:
    """Returns the transport for a server's address, without connecting.

    Raises:
        UserError: the address is invalid.
    """
    scheme, _, host = server.partition("://")
    if scheme in ("http", "https") and host:
        return RestTransport(server.rstrip("/"), model, version)
    if scheme in ("grpc", "grpcs") and host:
        return GrpcTransport(host.rstrip("/"), model, version, secure=scheme == "grpcs")
    raise UserError(
        "server must be http://HOST:PORT, https://HOST:PORT, grpc://HOST:PORT or "
        f"grpcs://HOST:PORT. Received: {server!r}."
    )


class RestTransport:
    """Posts to `SERVER/v1/models/MODEL[/versions/N|/labels/LABEL]:predict`."""

    def __init__(self, server: str, model: str, version: str):
        part = "versions" if version.isdigit() else "labels"
        self.url = f"{server}/v1/models/{model}{f'/{part}/{version}' if version else ''}:predict"
        self._session = requests.Session()

    def predict(self, signature, inputs, output, timeout_s) -> np.ndarray:
        """See `Transport`."""
        body = {
            "signature_name": signature,
            "inputs": {name: _to_json(value) for name, value in inputs.items()},
        }
        try:
            response = self._session.post(self.url, json=body, timeout=timeout_s)
        except requests.Timeout:
            raise ServerError(
                DEADLINE_EXCEEDED, f"no answer from {self.url} within {timeout_s:.1f} s."
            ) from None
        except requests.exceptions.SSLError as error:  # a retry would get the same certificate
            raise ServerError("UNKNOWN", f"{self.url}: {error}") from None
        except requests.ConnectionError:
            raise ServerError(UNAVAILABLE, f"{self.url} cannot be reached.") from None
        except requests.RequestException as error:
            raise ServerError("UNKNOWN", f"{self.url}: {error}") from None
        return _from_response(response, output)

    def close(self) -> None:
        """See `Transport`."""
        self._session.close()


def _to_json(value: np.ndarray) -> list:
    if value.dtype == object:
        return [{"b64": base64.b64encode(element).decode()} for element in value]
    return value.tolist()


def _from_response(response: requests.Response, output: str) -> np.ndarray:
    try:
        answer = response.json()
        if response.status_code != 200:
            code = _CODES.get(response.status_code, "UNKNOWN")
            raise ServerError(code, str(answer["error"]))
        # For a signature with one output, the answer is only its value, without its name.
        column = answer["outputs"]
        column = column[output] if isinstance(column, dict) else column
        if output.endswith("_bytes"):
            strings = np.empty(len(column), object)
            strings[:] = [base64.b64decode(element["b64"], validate=True) for element in column]
            return strings
        return np.asarray(column, np.float32)
    except (ValueError, KeyError, TypeError, binascii.Error):
        status = response.status_code
        code = "UNKNOWN" if status == 200 else _CODES.get(status, "UNKNOWN")
        raise ServerError(
            code,
            f"{response.url} sent an unexpected response (status {status}): "
            f"{response.text[:200]!r}.",
        ) from None


class GrpcTransport:
    """Calls PredictionService.Predict."""

    def __init__(self, host: str, model: str, version: str, secure: bool):
        # Imported here, because gRPC's messages import all of TensorFlow, which REST does not need.
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._model, self._version, self._host = model, version, host
        if secure:
            self._channel = grpc.secure_channel(host, grpc.ssl_channel_credentials(), _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(host, _OPTIONS)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def predict(self, signature, inputs, output, timeout_s) -> np.ndarray:
        """See `Transport`."""
        import grpc
        import tensorflow as tf

        from . import serving_files

        request = serving_files.predict_request(self._model, signature, inputs)
        if self._version.isdigit():
            request.model_spec.version.value = int(self._version)
        elif self._version:
            request.model_spec.version_label = self._version
        try:
            response = self._stub.Predict(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise ServerError(error.code().name, f"{self._host}: {error.details()}") from None
        if output not in response.outputs:
            raise ServerError(
                "UNKNOWN", f"{self._host} returned no {output}, only {list(response.outputs)}."
            )
        return tf.make_ndarray(response.outputs[output])

    def close(self) -> None:
        """See `Transport`."""
        self._channel.close()
