"""What users, servers and code of others do to traced workflows."""

import contextlib
import json
import pickle
import socket
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

from paperworks.optimization import (
    ExecutionError,
    LLMError,
    OpenAICompatibleClient,
    SearchOptimizer,
    StepLimitError,
    SymbolicInverse,
    UnsafeCodeError,
    bundle,
    check_safe,
    minimal_subgraph,
    new_graph,
    node,
    train_workflow,
)
from paperworks.papers.trace.bugs import BUGS, RAISING
from paperworks.papers.trace.bugs_seen import SEEN


def test_methods_of_values_are_not_hidden_by_what_a_node_has():
    assert node([1, 2, 1]).index(2).data == 1
    assert list(node({"a": 1}).keys().data) == ["a"]
    assert node(types.SimpleNamespace(name="Ada"), name="x").getattr("name").data == "Ada"


def test_functions_of_numpy_are_one_operation():
    x = node(np.arange(6.0).reshape(2, 3), trainable=True)
    for found, wanted in [
        (np.dot(x, np.ones(3)), [3.0, 12.0]),
        (np.concatenate([x, x])[3], [3.0, 4.0, 5.0]),
        (np.linalg.norm(x[0]), 5**0.5),
        (np.where(x > 2, x, 0.0)[0], [0.0, 0.0, 0.0]),
    ]:
        np.testing.assert_allclose(found.data, wanted)
        assert len(minimal_subgraph(found).variables) == 1


def test_pickles_hold_values_and_take_names_and_places_of_the_process_they_come_to():
    x = node(1.0, trainable=True, name="x", bounds=(0, 2))
    y = x
    for _ in range(20_000):
        y = y + 0.0
    assert pickle.loads(pickle.dumps(y)).data == 1.0
    twin = pickle.loads(pickle.dumps(x))
    assert (twin.data, twin.bounds) == (1.0, (0, 2))
    assert twin.name != x.name
    assert (twin + 1).data == 2.0
    assert minimal_subgraph(twin + 1).variables
    with pytest.raises(KeyError) as caught:
        node({})["a"]
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, KeyError)
    assert isinstance(again, ExecutionError)
    assert str(again) == str(caught.value)


def test_a_pickled_parameter_is_read_in_a_process_that_has_made_fewer_nodes(tmp_path):
    for _ in range(1000):
        node(0)
    (tmp_path / "x").write_bytes(pickle.dumps(node(2.0, trainable=True)))
    code = (
        f"import pickle; x = pickle.load(open({str(tmp_path / 'x')!r}, 'rb')); y = x * 2; y.backward('up'); "
        "print(y.data)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "4.0\n", done.stderr


def test_equal_names_of_two_registries_stay_apart_in_one_graph():
    with new_graph():
        a = node(1.0, trainable=True, name="a")
    with new_graph():
        b = node(2.0, trainable=True, name="a")
    graph = minimal_subgraph(a + b)
    assert len({graph.name(i) for i in range(len(graph))}) == 3


def test_a_node_as_default_is_an_argument():
    y = node(5.0, trainable=True)

    @bundle
    def add(x, y=y):
        return x + y.data

    assert add(1).parents[-1] is y


@pytest.mark.parametrize(
    "body",
    [
        "match x:\n        case int(real=c):\n            return c",
        "try:\n        1 / 0\n    except Exception as __builtins__:\n        return 1",
        "match {}:\n        case {**_paperworks_tick}:\n            return 1",
        "match x:\n        case _paperworks_tick:\n            return 1",
        "return dict(__class__=1)",
        "@print\n    def g():\n        return 1",
    ],
)
def test_names_that_are_bound_elsewhere_than_in_names_are_seen(body):
    with pytest.raises(UnsafeCodeError):
        check_safe(f"def f(x):\n    {body}")


def test_pow_has_the_limit_of_its_operator():
    @bundle(trainable=True, sandbox=True, source="def f(x):\n    return pow(x, 3 * 10**8)")
    def f(x):
        return x

    with pytest.raises(StepLimitError):
        f(10)


# Servers.
def drip(connection, data):
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 4000, "doesn't end"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4000\r\n\r\n" + b"a" * 4000, "doesn't end|status 500|timed out"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"[" * 200_000, "no JSON"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", "status 302"),
    ],
    ids=["slow header", "slow refusal", "deep JSON", "redirect"],
)
def test_no_reply_makes_the_client_wait_without_an_end(reply, words):
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(1)
            asked = b""
            while not asked.endswith(b"}"):  # what is unread when a socket closes resets the connection
                asked += connection.recv(65536)
            with contextlib.suppress(OSError):
                connection.sendall(reply) if len(reply) > 10_000 or len(reply) < 200 else drip(connection, reply)

    threading.Thread(target=serve, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    llm = OpenAICompatibleClient(url, "stub", timeout=0.1, max_retries=0)
    with listener, pytest.raises(LLMError, match=words):
        llm([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    "held",
    [
        "{",
        "[]",
        "{}",
        '{"scores": 3, "optimizer": {}}',
        '{"scores": [], "optimizer": {}}',
        '{"scores": [], "optimizer": {"values": [{"__kind__": "os", "items": []}], "memory": {}, "log": []}}',
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_changes_nothing(tmp_path, held):
    x = node(1.0, trainable=True)
    (tmp_path / "file").write_text(held)
    with pytest.raises(ValueError, match=r"path|checkpoint|state"):
        train_workflow(lambda _: x * 2.0, [None], lambda *_: -1.0, SearchOptimizer([x]), checkpoint=tmp_path / "file")
    assert (x.data, (tmp_path / "file").read_text()) == (1.0, held)


def test_a_state_of_another_kind_of_optimiser_changes_nothing():
    x = node(1.0, trainable=True)
    state = json.loads(json.dumps({**SymbolicInverse([x]).state_dict(), "values": [7.0]}))
    with pytest.raises(ValueError, match="another kind"):
        SearchOptimizer([x]).load_state_dict(state)
    assert x.data == 1.0


# Bugs that repairs are judged on.
def test_each_bug_fails_its_tests_and_its_right_source_passes_them():
    import math

    for bug in BUGS:
        found = {}
        for source in (bug.source, bug.right):
            space = {"math": math}
            exec(source, space)
            results = []
            for arguments, wanted in bug.tests:
                try:
                    results.append(space[bug.name](*arguments) == wanted)
                except Exception:
                    results.append(None)
            found[source] = results
        assert found[bug.right] == [True] * len(bug.tests), bug.name
        assert (None in found[bug.source]) == (bug in RAISING), bug.name
        assert found[bug.source] != found[bug.right]


def test_no_bug_is_one_that_the_search_was_developed_on():
    assert len(BUGS) == len(SEEN) == 20
    assert not {b.name for b in BUGS} & {b.name for b in SEEN}
