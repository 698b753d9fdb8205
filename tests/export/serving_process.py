"""The tests' side of `c_api_session`, with signatures and outputs by name."""

import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
from tensorflow.core.protobuf import saved_model_pb2

_PROGRAM = pathlib.Path(__file__).with_name("c_api_session.py")
# `make test-server` sets it to a Python with the server's version of TensorFlow.
_PYTHON = os.environ.get("SERVER_PYTHON", sys.executable)


class RefusedError(Exception):
    """A TensorFlow status other than OK."""


class ServingProcess:
    """A process that loads a SavedModel and runs its signatures through the C API.

    Attributes:
        signatures: the SavedModel's definitions of its signatures, by name.
        peak_mb: peak memory of the process after its last answer, in MB.
    """

    def __init__(self, saved_model: pathlib.Path):
        stored = saved_model_pb2.SavedModel.FromString(
            (saved_model / "saved_model.pb").read_bytes()
        )
        self.signatures = dict(stored.meta_graphs[0].signature_def)
        del self.signatures["__saved_model_init_op"]
        self.peak_mb = 0.0
        self._process = subprocess.Popen(
            [_PYTHON, "-I", str(_PROGRAM), str(saved_model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def run(self, name: str, inputs: dict[str, object]) -> dict[str, np.ndarray]:
        """Returns a signature's outputs; raises RefusedError with TensorFlow's message."""
        signature = self.signatures[name]
        fed = {signature.inputs[alias].name: _as_array(v) for alias, v in inputs.items()}
        outputs = [output.name for output in signature.outputs.values()]
        pickle.dump((fed, outputs), self._process.stdin)
        self._process.stdin.flush()
        answer, self.peak_mb = pickle.load(self._process.stdout)
        if isinstance(answer, tuple):
            raise RefusedError(answer[1])
        return dict(zip(signature.outputs, answer, strict=True))

    def close(self) -> None:
        """Ends the process; raises if it has crashed."""
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(timeout=120) == 0


def _as_array(value) -> np.ndarray:
    if isinstance(value, list):
        strings = np.empty(len(value), object)
        strings[:] = value
        return strings
    return np.asarray(value)
