r"""Requests infills from a model server, over REST or gRPC.

    cigan-client --server=http://localhost:8501 --image=patch.png --mask=mask.png \
        --label=malignant --seed=7 --output=infilled.png

or, from Python, with arrays or PNGs:

    with Client("grpc://localhost:8500") as client:
        infilled = client.infill(image, mask, label, seed)
"""

import pathlib
import time

import numpy as np
from absl import flags

from cigan_tf import command_line, file_io, infill_inputs, tensorflow_loading
from cigan_tf.errors import UserError
from cigan_tf.patch_format import CLASS_NAMES

from .serving.transports import UNAVAILABLE, ServerError, connect

_FIRST_PAUSE_S = 0.1
_PNG_START = b"\x89PNG\r\n\x1a\n"


class Client:
    """Infills patches with a model server.

    The connections are closed by `close`, or on leaving a `with` block of the client.

    Args:
        server: `http://HOST:PORT` or `https://...` for REST, `grpc://HOST:PORT` or `grpcs://...`
            (TLS) for gRPC. The certificate of the server is checked against the authorities that
            requests (REST) or gRPC trusts by default, which are not those of the system;
            REQUESTS_CA_BUNDLE=FILE and GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=FILE replace them.
        model: name of the model on the server.
        version: number ("3") or label of a version; empty: the newest loaded version.
        timeout_s: seconds for a call, including retries and the pauses before them. REST applies it
            to connecting and to each wait for further bytes, so a server that sends its response
            slowly can take longer in total.

    Raises:
        UserError: `server` is not an address of this form.
    """

    def __init__(
        self, server: str, model: str = "cigan", version: str = "stable", timeout_s: float = 30.0
    ):
        self._transport = connect(server, model, version)
        self._timeout_s = timeout_s

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections to the server; the client must not be used afterwards."""
        self._transport.close()

    def infill(self, image, mask, label, seed) -> np.ndarray:
        """Returns patches with their masks infilled as the given class.

        Args:
            image: float [N, p, p, 1] in [0, 1]: grey level / 65535.
            mask: [N, p, p, 1] in {0, 1}.
            label: int [N], 0 non-malignant, 1 malignant.
            seed: int [N]; the same seed gives the same infill.

        Returns:
            float32 [N, p, p, 1] in [0, 1]; equal to the image outside the mask.

        Raises:
            UserError: an input is invalid; no request is sent.
            ServerError: the server refused the request, or did not answer in time.
        """
        inputs = infill_inputs.check(image, mask, label, seed)
        _require(len(inputs["image"]) > 0, "image must contain at least one patch. Received: none.")
        return self._predict("serving_default", inputs, "infilled")

    def infill_png(self, image_bytes, mask_bytes, label, seed) -> list[bytes]:
        """Returns patches as 16-bit PNGs, with their masks infilled as the given class.

        Args:
            image_bytes: N greyscale PNGs of 8 or 16 bits.
            mask_bytes: N greyscale PNGs, bright on the lesion.
            label: int [N], 0 non-malignant, 1 malignant.
            seed: int [N]; the same seed gives the same infill.

        Raises:
            UserError: an input is invalid; no request is sent.
            ServerError: the server refused the request, or did not answer in time.
        """
        inputs = {
            "image_bytes": _pngs("image_bytes", image_bytes, len(image_bytes)),
            "mask_bytes": _pngs("mask_bytes", mask_bytes, len(image_bytes)),
            **infill_inputs.check_label_and_seed(label, seed, len(image_bytes)),
        }
        return list(self._predict("infill_png", inputs, "infilled_bytes"))

    def _predict(self, signature: str, inputs: dict[str, np.ndarray], output: str) -> np.ndarray:
        """Sends the request until there is an answer; retries only if the server is unavailable.

        A retry is safe, because an infill changes nothing on the server.
        """
        end, pause_s = time.monotonic() + self._timeout_s, _FIRST_PAUSE_S
        while True:
            try:
                remaining_s = max(end - time.monotonic(), 1e-3)
                return self._transport.predict(signature, inputs, output, remaining_s)
            except ServerError as error:
                if error.code != UNAVAILABLE or time.monotonic() + pause_s >= end:
                    raise
            time.sleep(pause_s)
            pause_s *= 2


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _pngs(name: str, encoded, count: int) -> np.ndarray:
    _require(
        count > 0 and len(encoded) == count,
        f"{name} must be one PNG per image, at least one. Received: {len(encoded)} for {count} "
        "images.",
    )
    for i, data in enumerate(encoded):
        _require(
            isinstance(data, bytes) and data.startswith(_PNG_START),
            f"{name} must be PNG files as bytes. Element {i} is not a PNG file.",
        )
    strings = np.empty(count, object)
    strings[:] = list(encoded)
    return strings


def _read(name: str, path: str | None) -> bytes:
    if path is None:
        raise UserError(f"Pass --{name}=FILE.png.")
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--{name}={path} cannot be read: {error.strerror}.") from None


def main() -> None:
    """Sends the patch given by the flags, and writes the infilled patch."""
    if flags.FLAGS.output is None:
        raise UserError("Pass --output=FILE.png.")
    image, mask = _read("image", flags.FLAGS.image), _read("mask", flags.FLAGS.mask)
    label = int(flags.FLAGS.label == "malignant")
    server = flags.FLAGS.server, flags.FLAGS.model, flags.FLAGS.version, flags.FLAGS.timeout_s
    if flags.FLAGS.server.startswith("grpc"):
        tensorflow_loading.load_tensorflow()
    try:
        with Client(*server) as client:
            (infilled,) = client.infill_png([image], [mask], [label], [flags.FLAGS.seed])
    except ServerError as error:
        raise UserError(f"{flags.FLAGS.server} returned no infill. {error}") from None
    try:
        file_io.write_whole(pathlib.Path(flags.FLAGS.output), infilled)
    except OSError as error:
        raise UserError(
            f"--output={flags.FLAGS.output} cannot be written: {error.strerror}."
        ) from None
    print(flags.FLAGS.output)


def run() -> None:
    """Defines the command's flags and runs the command.

    The flags are defined here, not on import, because other commands use the same names.
    """
    flags.DEFINE_string(
        "server",
        "http://localhost:8501",
        "Address of the server: http(s)://HOST:PORT (REST) or grpc(s)://HOST:PORT.",
    )
    flags.DEFINE_string("model", "cigan", "Name of the model on the server.")
    flags.DEFINE_string(
        "version", "stable", "Number or label of a version; empty: the newest loaded version."
    )
    flags.DEFINE_string("image", None, "Patch: an 8- or 16-bit greyscale PNG file.")
    flags.DEFINE_string("mask", None, "Lesion mask: a greyscale PNG file, bright on the lesion.")
    flags.DEFINE_enum("label", "malignant", CLASS_NAMES, "Class of the infill.")
    flags.DEFINE_integer("seed", 0, "Seed; the same seed gives the same infill.")
    flags.DEFINE_string("output", None, "File for the infilled patch, a 16-bit PNG.")
    flags.DEFINE_float(
        "timeout_s", 30.0, "Number of seconds to wait for a response, including retries."
    )
    command_line.run(main)


if __name__ == "__main__":
    run()
