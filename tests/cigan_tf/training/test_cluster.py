"""Common mistakes in TF_CONFIG, and workers that start late or never."""

import json
import socket
import threading

import pytest

from cigan_tf.errors import UserError
from cigan_tf.training import cluster
from cigan_tf.training.cluster import Cluster

TWO = {"worker": ["host0:2222", "host1:2222"]}


def set_config(monkeypatch, content):
    text = content if isinstance(content, str) else json.dumps(content)
    monkeypatch.setenv("TF_CONFIG", text)


def free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.mark.parametrize(
    ("workers", "task", "expected"),
    [
        (TWO, ("worker", 1), Cluster(("host0:2222", "host1:2222"), 1)),
        (
            {"chief": ["c:1"], "worker": ["w:1", "[::1]:2"]},
            ("worker", 1),
            Cluster(("c:1", "w:1", "[::1]:2"), 2),
        ),
        ({"chief": ["c:1"], "worker": ["w:1"]}, ("chief", 0), Cluster(("c:1", "w:1"), 0)),
    ],
)
def test_the_chief_comes_first(monkeypatch, workers, task, expected):
    task_type, index = task
    set_config(monkeypatch, {"cluster": workers, "task": {"type": task_type, "index": index}})
    assert cluster.from_environment() == expected


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "it is not set"),
        ("{'cluster'", "it is not JSON"),
        ("[]", "'cluster' is not a JSON object"),
        ({"cluster": {}}, "'cluster' is not a JSON object or is empty"),
        ({"cluster": TWO}, "'task' is not a JSON object"),
        ({"cluster": TWO, "task": {"index": 0}}, "type is None"),
        ({"cluster": TWO, "task": {"type": "worker", "index": 2}}, "index is 2, but"),
        ({"cluster": TWO, "task": {"type": "worker", "index": "0"}}, "index is '0'"),
        ({"cluster": TWO, "task": {"type": "ps", "index": 0}}, "type is 'ps'"),
        ({"cluster": {**TWO, "ps": ["p:1"]}, "task": {"type": "worker", "index": 0}}, "['ps']"),
        ({"cluster": {"worker": ["host"]}, "task": {"type": "worker", "index": 0}}, "'host'"),
        ({"cluster": {"worker": "h:1"}, "task": {"type": "worker", "index": 0}}, "not a JSON list"),
    ],
)
def test_a_malformed_tf_config_is_explained(monkeypatch, content, named):
    set_config(monkeypatch, content)
    with pytest.raises(UserError) as error:
        cluster.from_environment()
    assert named in str(error.value)
    assert '{"cluster": {"worker": ["host0:2222"' in str(error.value)


def test_a_missing_worker_is_named():
    own, absent = free_ports(2)
    workers = Cluster((f"localhost:{own}", f"localhost:{absent}"), 0)
    with pytest.raises(UserError, match=f"did not start .*: localhost:{absent}.*--peer_timeout_s"):
        cluster.wait_for_peers(workers, timeout_s=0.3)


def test_workers_started_one_after_another_find_each_other():
    addresses = tuple(f"localhost:{port}" for port in free_ports(2))
    first = threading.Thread(target=cluster.wait_for_peers, args=(Cluster(addresses, 0), 30))
    first.start()
    # As in TensorFlow, the port of this worker stays open after the wait.
    with socket.create_server(("", int(addresses[1].rpartition(":")[2]))):
        first.join(timeout=30)
    assert not first.is_alive()


def test_an_occupied_port_is_named():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on its port {port}"):
            cluster.wait_for_peers(Cluster((f"localhost:{port}",), 0), timeout_s=1)
