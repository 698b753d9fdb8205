"""Parses the workers in TF_CONFIG, and waits for them before TensorFlow connects to them.

TensorFlow itself would wait an hour for a missing worker, without a message and without handling
signals.
"""

import dataclasses
import json
import os
import re
import socket
import time
from typing import Any

from cigan_tf.errors import UserError

_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)
_ADDRESS = re.compile(r"(.+):(\d{1,5})")
_LARGEST_PORT = 65535
_RETRY_S = 0.2
_CONNECT_TIMEOUT_S = 2.0


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers as `host:port`, the chief first, and the index of this process among them."""

    workers: tuple[str, ...]
    index: int

    def __post_init__(self):
        for worker in self.workers:
            address = _ADDRESS.fullmatch(str(worker))
            _require(
                address and 0 < int(address[2]) <= _LARGEST_PORT,
                f"the worker {worker!r} is not 'host:port'",
            )


def from_environment() -> Cluster:
    """Returns the cluster in the environment variable TF_CONFIG.

    Raises:
        UserError: TF_CONFIG is missing or malformed.
    """
    text = os.environ.get("TF_CONFIG", "")
    _require(text, "it is not set")
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError as error:
        _require(False, f"it is not JSON ({error})")
    cluster, task = _field(parsed, "cluster", dict), _field(parsed, "task", dict)
    others = set(cluster) - {"chief", "worker"}
    _require(not others, f"its cluster has {sorted(others)}; only chief and worker are supported")
    task_type = task.get("type")
    _require(task_type in cluster, f"its task's type is {task_type!r}, which its cluster lacks")
    chiefs, workers = (tuple(_as_list(cluster, name)) for name in ("chief", "worker"))
    index = task.get("index")
    of_type = chiefs if task_type == "chief" else workers
    _require(
        type(index) is int and 0 <= index < len(of_type),
        f"its task's index is {index!r}, but must be an integer from 0 to {len(of_type) - 1}, "
        f"because its cluster has {len(of_type)} of type {task_type!r}",
    )
    return Cluster(chiefs + workers, index if task_type == "chief" else len(chiefs) + index)


def wait_for_peers(cluster: Cluster, timeout_s: float) -> None:
    """Returns when every other worker listens on its port.

    Meanwhile, this worker listens on its own port.

    Raises:
        UserError: a worker did not start in time, or this worker cannot listen on its own port.
    """
    own_port = int(cluster.workers[cluster.index].rpartition(":")[2])
    missing = [w for i, w in enumerate(cluster.workers) if i != cluster.index]
    deadline = time.monotonic() + timeout_s
    try:
        listening = socket.create_server(("", own_port))
    except OSError as error:
        raise UserError(
            f"This worker cannot listen on its port {own_port} in TF_CONFIG: {error.strerror}. End "
            "the process that uses the port, or set another port in every worker's TF_CONFIG."
        ) from None
    with listening:
        while missing := [worker for worker in missing if not _answers(worker)]:
            if time.monotonic() > deadline:
                raise UserError(
                    f"These workers in TF_CONFIG did not start within {timeout_s:g} s: "
                    f"{', '.join(missing)}. Start the same command on them, or wait longer with "
                    "--peer_timeout_s."
                )
            time.sleep(_RETRY_S)


def _answers(worker: str) -> bool:
    host, _, port = worker.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _as_list(cluster: dict, name: str) -> list:
    return _field(cluster, name, list) if name in cluster else []


def _field(parsed: Any, name: str, kind: type) -> Any:
    value = parsed.get(name) if isinstance(parsed, dict) else None
    what = {dict: "a JSON object", list: "a JSON list"}[kind]
    _require(isinstance(value, kind) and value, f"its {name!r} is not {what} or is empty")
    return value


def _require(condition: Any, what_is_wrong: str) -> None:
    if not condition:
        raise UserError(
            "--strategy=multi_worker reads the workers from the environment variable TF_CONFIG, "
            f"but {what_is_wrong}. Example: {_EXAMPLE}. "
            f"Received: TF_CONFIG={os.environ.get('TF_CONFIG', '')!r}."
        )
