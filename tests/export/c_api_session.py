"""A SavedModel loaded and run by TensorFlow's C API, in a process without TensorFlow's Python.

    python -I tests/export/c_api_session.py SAVED_MODEL < requests > answers

The process reads pickled requests and writes a pickled answer to each. In the tests it replaces a
server, which uses the same C++ loader (`TF_LoadSessionFromSavedModel`). Only ctypes and
NumPy are imported.
"""

import ctypes
import importlib.util
import pathlib
import pickle
import resource
import sys

import numpy as np

_STRING = 7
_DTYPES = {1: np.float32, 3: np.int32, 9: np.int64, 4: np.uint8, _STRING: object}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
_TSTRING_BYTES = 24


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocator", ctypes.c_void_p),
    )


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def _load_library() -> ctypes.CDLL:
    # The package is located but not imported: its __init__ would load TensorFlow's Python code.
    folder = pathlib.Path(importlib.util.find_spec("tensorflow").origin).parent
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    signatures = {
        "TF_NewStatus": (pointer, []),
        "TF_GetCode": (ctypes.c_int, [pointer]),
        "TF_Message": (ctypes.c_char_p, [pointer]),
        "TF_DeleteStatus": (None, [pointer]),
        "TF_NewGraph": (pointer, []),
        "TF_NewSessionOptions": (pointer, []),
        "TF_NewBuffer": (ctypes.POINTER(_Buffer), []),
        "TF_DeleteBuffer": (None, [ctypes.POINTER(_Buffer)]),
        "TF_LoadSessionFromSavedModel": (
            pointer,
            [
                *(pointer, pointer, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_int),
                *(pointer, ctypes.POINTER(_Buffer), pointer),
            ],
        ),
        "TF_GraphOperationByName": (pointer, [pointer, ctypes.c_char_p]),
        "TF_AllocateTensor": (
            pointer,
            [ctypes.c_int, ctypes.POINTER(ctypes.c_int64), ctypes.c_int, size],
        ),
        "TF_TensorData": (pointer, [pointer]),
        "TF_TensorType": (ctypes.c_int, [pointer]),
        "TF_NumDims": (ctypes.c_int, [pointer]),
        "TF_Dim": (ctypes.c_int64, [pointer, ctypes.c_int]),
        "TF_TensorByteSize": (size, [pointer]),
        "TF_DeleteTensor": (None, [pointer]),
        "TF_StringInit": (None, [pointer]),
        "TF_StringCopy": (None, [pointer, ctypes.c_char_p, size]),
        "TF_StringGetDataPointer": (pointer, [pointer]),
        "TF_StringGetSize": (size, [pointer]),
        "TF_SessionRun": (
            None,
            [pointer, pointer]
            + [ctypes.POINTER(_Output), ctypes.POINTER(pointer), ctypes.c_int] * 2
            + [pointer, ctypes.c_int, pointer, pointer],
        ),
    }
    for name, (returned, taken) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = returned, taken
    return library


class CApiError(Exception):
    """A TensorFlow status other than OK, with the code in args[0] and the message in args[1]."""


class Session:
    """A session with a SavedModel's serving graph."""

    def __init__(self, path: str):
        self._library = tf = _load_library()
        self._status = tf.TF_NewStatus()
        self._graph = tf.TF_NewGraph()
        tags = (ctypes.c_char_p * 1)(b"serve")
        self._session = tf.TF_LoadSessionFromSavedModel(
            tf.TF_NewSessionOptions(), None, path.encode(), tags, 1, self._graph, None, self._status
        )
        self._check()

    def run(self, inputs: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
        """Returns the outputs; inputs and outputs are named by tensor, as in signatures."""
        tf = self._library
        fed = [self._to_tensor(value) for value in inputs.values()]
        fetched = (ctypes.c_void_p * len(outputs))()
        try:
            tf.TF_SessionRun(
                self._session,
                None,
                self._outputs(inputs),
                (ctypes.c_void_p * len(fed))(*fed),
                len(fed),
                self._outputs(outputs),
                fetched,
                len(outputs),
                None,
                0,
                None,
                self._status,
            )
            self._check()
            return [self._to_numpy(tensor) for tensor in fetched]
        finally:
            for tensor in (*fed, *filter(None, fetched)):
                tf.TF_DeleteTensor(tensor)

    def _check(self) -> None:
        code = self._library.TF_GetCode(self._status)
        if code:
            raise CApiError(code, self._library.TF_Message(self._status).decode(errors="replace"))

    def _outputs(self, names):
        outputs = (_Output * len(names))()
        for output, name in zip(outputs, names, strict=True):
            operation, _, index = name.partition(":")
            output.operation = self._library.TF_GraphOperationByName(
                self._graph, operation.encode()
            )
            assert output.operation, f"no operation {operation}"
            output.index = int(index)
        return outputs

    def _to_tensor(self, value: np.ndarray) -> int:
        tf, value = self._library, np.asarray(value, order="C")
        dims = (ctypes.c_int64 * value.ndim)(*value.shape)
        code = _CODES[value.dtype]
        num_bytes = value.size * _TSTRING_BYTES if code == _STRING else value.nbytes
        tensor = tf.TF_AllocateTensor(code, dims, value.ndim, num_bytes)
        data = tf.TF_TensorData(tensor)
        if code != _STRING:
            ctypes.memmove(data, value.ctypes.data, num_bytes)
            return tensor
        for i, text in enumerate(value.flat):
            tf.TF_StringInit(data + i * _TSTRING_BYTES)
            tf.TF_StringCopy(data + i * _TSTRING_BYTES, text, len(text))
        return tensor

    def _to_numpy(self, tensor: int) -> np.ndarray:
        tf = self._library
        shape = [tf.TF_Dim(tensor, axis) for axis in range(tf.TF_NumDims(tensor))]
        data, dtype = tf.TF_TensorData(tensor), _DTYPES[tf.TF_TensorType(tensor)]
        if dtype is not object:
            raw = ctypes.string_at(data, tf.TF_TensorByteSize(tensor))
            return np.frombuffer(raw, dtype).reshape(shape)
        strings = np.empty(int(np.prod(shape)), object)
        for i in range(strings.size):
            at = data + i * _TSTRING_BYTES
            strings[i] = ctypes.string_at(tf.TF_StringGetDataPointer(at), tf.TF_StringGetSize(at))
        return strings.reshape(shape)


def main() -> None:
    """Answers requests until there are no more."""
    session = Session(sys.argv[1])
    foreign = {name.split(".")[0] for name in sys.modules} & {"tensorflow", "keras", "cigan_tf"}
    assert not foreign, foreign
    while True:
        try:
            inputs, outputs = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = session.run(inputs, outputs)
        except CApiError as error:
            answer = error.args
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pickle.dump((answer, peak_mb), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
