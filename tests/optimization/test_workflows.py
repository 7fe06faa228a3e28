"""Traces: what nodes remember, bundled functions, minimal subgraphs, gradients, modules."""

import asyncio
import copy
import gc
import json
import threading
import warnings
import weakref

import numpy as np
import pytest

from paperworks.optimization import (
    GRAPH,
    AutodiffPropagator,
    ExecutionError,
    Module,
    Sandbox,
    StepLimitError,
    SumPropagator,
    TraceGraph,
    TraceMissingInputsError,
    UnsafeCodeError,
    batchify,
    bundle,
    check_safe,
    minimal_subgraph,
    model,
    new_graph,
    node,
    stop_tracing,
    strict_tracing,
)


def number(value, **options):
    return node(value, trainable=True, **options)


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (lambda x, y: x + y, (2, 3)),
        (lambda x, y: 10 - x * y, (2, 3)),
        (lambda x, y: x / y // 1, (7.0, 2.0)),
        (lambda x, y: x**y % 5, (2, 3)),
        (lambda x, y: divmod(x, y), (7, 2)),
        (lambda x, y: (x << y) | (x & y) ^ ~x >> 1, (6, 3)),
        (lambda x, y: -x + +y + abs(x), (2, 3)),
        (lambda x, y: x < y, (2, 3)),
        (lambda x, y: x >= y, (2, 3)),
        (lambda x, y: x == y, (2, 3)),
        (lambda x, y: x != y, (2, 3)),
        (lambda x, y: round(x / y, 2), (2, 3)),
        (lambda x, y: x[y], ([4, 5, 6], 1)),
        (lambda x, y: x[y:], ("text", 1)),
        (lambda x, y: x.upper() + y, ("ab", "c")),
        (lambda x, y: x.format(y), ("<{}>", 3)),
        (lambda x, y: x(y), (len, [1, 2])),
        (lambda x, y: np.exp(x) * np.array([1.0, 2.0]) + y, (1.0, 2.0)),
        (lambda x, y: np.float64(3.0) * x @ y, (np.ones(2), np.ones(2))),
        (lambda x, y: sum(item * y for item in x), ([1, 2, 3], 2)),
        (lambda x, y: next(a + y for a in x), ({5}, 1)),
        (lambda x, y: x["a"] + y, ({"a": 1}, 2)),
        (lambda x, y: x.real + y.imag, (1 + 2j, 3j)),
    ],
)
def test_operators_compute_what_python_computes_and_remember_it(function, values):
    x, y = map(number, values)
    result, plain = function(x, y), function(*values)
    assert np.all(result.data == plain)
    assert type(result.data) is type(plain)
    assert x in set(minimal_subgraph(result).nodes)


def test_nodes_know_their_arguments():
    x, y = node(1, name="left"), node(2)
    z = x + y
    assert z.parents[0] is x
    assert z.parents[1] is y
    assert (z.level, x.level, (z * z).level) == (1, 0, 2)
    assert len((z * z).parents) == 1
    assert (z * z).arg_names == ("x", "y")
    assert z.description == "[add] Add."
    assert x.name.startswith("left:")
    assert x.py_name == x.name.replace(":", "")
    assert x.eq(1).data
    assert x.neq(2).data
    assert node([1]).len().data == 1
    assert node([1]).contains(1).data
    assert {x: 1}[x] == 1
    assert not hasattr(x, "nothing")
    with pytest.raises(AttributeError):
        _ = x.nothing


def test_what_would_change_a_value_in_place_gives_a_changed_copy():
    items = number([3, 1, 2])
    longer, ordered, put = items.append(9), items.sort(), items.set_item(0, 7)
    assert (items.data, longer.data, ordered.data, put.data) == ([3, 1, 2], [3, 1, 2, 9], [1, 2, 3], [7, 1, 2])
    assert items.pop().data == 2
    assert items.data == [3, 1, 2]
    with pytest.raises(TypeError, match="set_item"):
        items[0] = 5
    items += [4]
    assert items.data == [3, 1, 2, 4]
    assert items.parents


def test_containers_of_nodes_are_computed_from_them():
    x, y = number(1), number(2)
    made = node({"a": [x, 5], "b": (y,)})
    assert made.data == {"a": [1, 5], "b": (2,)}
    assert len(minimal_subgraph(made).variables) == 2
    assert batchify(x, y, 3).data == [1, 2, 3]
    with pytest.raises(ValueError, match="outputs is empty"):
        batchify()


def test_errors_keep_their_class_and_take_feedback():
    x = number(0)
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / x
    assert isinstance(caught.value, ExecutionError)
    caught.value.node.backward("divide by something else")
    assert x.feedback[0].feedback == ("divide by something else",)
    with pytest.raises(KeyError):
        _ = node({})["a"]
    assert "ZeroDivisionError" in str(caught.value)


def test_tracing_can_stop_and_strict_mode_warns():
    x = number(2)
    with stop_tracing():
        assert (x + 1).parents == ()
    with strict_tracing(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _ = bool(x), int(x), float(x), f"{x}", str(x), [1, 2, 3][x]
        assert len(caught) == 6
        items = number([1])
        doubled = items * 2
        items._data.append(5)
        with pytest.raises(ValueError, match="changed in place"):
            doubled.backward("x")
    assert f"{number(2.5):.2f}" == "2.50"


def test_nothing_is_kept_alive_and_names_are_local_to_contexts():
    with new_graph("run") as registry:
        x = node(1, name="x")
        assert (x.name, x.py_name, len(GRAPH)) == ("run/x:0", "run_x0", 1)
        assert registry.get(x.name) is x
    y = number(1.0)
    out = y + 1
    dead = weakref.ref(out)
    del out
    gc.collect()
    assert dead() is None

    seen = []

    def work():
        with stop_tracing():
            seen.append((number(1) + 1).parents)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [()]
    assert (number(1) + 1).parents


def test_a_deep_trace_is_no_recursion():
    x = number(1.0)
    y = x
    for _ in range(30_000):
        y = y + 1
    y.backward("lower")
    assert len(x.feedback[0]) == 60_001
    del y


def test_backward_frees_and_refuses_what_makes_no_sense():
    x = number(1.0)
    y = x + 1
    z = y * 2
    with pytest.raises(ValueError, match="feedback is None"):
        z.backward(None)
    z.backward("a", retain_graph=True)
    z.backward("b")
    assert len(x.feedback) == 2
    for freed in (z, y):
        with pytest.raises(RuntimeError, match="retain_graph"):
            freed.backward("c")
    fixed = node(1) + 1
    fixed.backward("nobody hears it")
    fixed.backward("nor this")


def test_a_cycle_made_by_hand_is_found():
    x = number(1.0)
    y = x + 1
    y.args = (x, y + 1)
    with pytest.raises(ValueError, match="cycle"):
        y.backward("a")


def test_the_minimal_subgraph_has_paths_and_their_direct_arguments():
    a, b, c = number(1, name="pa"), number(2, name="pb"), node(3)
    deep = (c + 1) * 2  # no parameter leads there: its value is an input, what is behind it is not shown
    out = a * deep + b
    unused = number(9) + out
    graph = minimal_subgraph(out, "low")
    assert graph.nodes[graph.inputs[0]] is deep
    assert len(graph.inputs) == 1
    assert len(graph) == 5
    assert unused.level == 5
    assert len(graph.variables) == 2
    assert len(graph.others) == 1
    assert len(graph.outputs) == 1
    assert graph.code().splitlines()[-1].startswith("add0 = add(x=mul1")
    only = graph.restricted(b)
    assert len(only) == 3
    assert graph.position(a) is not None
    assert only.position(a) is None
    with pytest.raises(ValueError, match="not in the graph"):
        graph.restricted(number(1))
    assert json.loads(graph.to_json())["feedback"] == ["low"]
    assert graph.to_dot().count("->") == 4


def test_unions_keep_all_feedback():
    x, y = number(1, name="ux"), number(2, name="uy")
    shared = x * 2
    first, second = shared + 1, shared * y
    union = TraceGraph.union([minimal_subgraph(first, "a"), minimal_subgraph(second, "b")])
    assert union.feedback == ("a", "b")
    assert len(union.variables) == 2


def test_the_same_workflow_has_the_same_names():
    def code():
        with new_graph():
            x = number(1, name="x")
            return minimal_subgraph((x + 1) * (x + 2)).code()

    assert code() == code() == "add0 = add(x=x0, y=int0)\nadd1 = add(x=x0, y=int1)\nmul0 = mul(x=add0, y=add1)"


def test_sums_of_words_and_numbers():
    x = number(1)
    (x + x * 1).backward("up", propagator=SumPropagator())
    (x + x * 1).backward(2, propagator=SumPropagator())
    assert x.feedback == ["up", 4]


@pytest.mark.parametrize(
    ("function", "derivative"),
    [
        (lambda x: x**3, lambda x: 3 * x**2),
        (lambda x: 2.0**x, lambda x: 2**x * np.log(2)),
        (lambda x: np.exp(x) / (1 + np.log(x)), None),
        (lambda x: np.sqrt(x) - np.tanh(x) * np.sin(x) + np.cos(x) - np.tan(x), None),
        (lambda x: np.maximum(x, 2.0) * np.minimum(x, 2.0) + abs(-x), None),
        (lambda x: np.square(x) + np.reciprocal(x) + np.log1p(x) + np.expm1(x), None),
        (lambda x: np.sinh(x) * np.cosh(x) + np.arctan(x), None),
    ],
)
def test_derivatives_are_right(function, derivative):
    at = 1.3
    x = number(at)
    function(x).backward(1.0, propagator=AutodiffPropagator())
    exact = derivative(at) if derivative else (function(at + 1e-6) - function(at - 1e-6)) / 2e-6
    assert x.feedback[0] == pytest.approx(exact, rel=1e-7)


def test_gradients_have_the_shapes_of_their_values():
    matrix, row, scalar = number(np.ones((3, 2))), number(np.arange(2.0)), number(2.0)
    out = matrix * row + scalar
    out.backward(np.ones((3, 2)), propagator=AutodiffPropagator())
    assert [np.shape(p.feedback[0]) for p in (matrix, row, scalar)] == [(3, 2), (2,), ()]
    assert row.feedback[0].tolist() == [3, 3]
    assert scalar.feedback[0] == 6
    with pytest.raises(ValueError, match="'getitem' has no derivative"):
        number([1.0])[0].backward(1.0, propagator=AutodiffPropagator())


# Bundled functions.


def test_a_bundle_is_one_operator():
    @bundle
    def combine(a, *rest, scale=2, **more):
        "Combine."
        return (a + sum(rest)) * scale + sum(more.values())

    x = number(1)
    out = combine(x, 2, 3, scale=x, extra=10)
    assert (out.data, out.arg_names) == (16, ("a", "rest_0", "rest_1", "scale", "extra"))
    assert out.description == "[combine] Combine."
    assert "return (a" in out.info["source"]
    assert len(out.parents) == 4
    with pytest.raises(TypeError, match="missing 1 required"):
        combine()


def test_inputs_are_not_changed():
    @bundle
    def spoil(items):
        items.append(1)
        return items

    x = number([])
    assert (spoil(x).data, x.data) == ([1], [])


def test_nodes_that_are_read_must_be_passed_or_allowed():
    hidden = number(3)

    def reads(x):
        return x + hidden.data

    def computes(x):
        return x * hidden

    for function in (reads, computes):
        with pytest.raises(TraceMissingInputsError, match="without being given"):
            bundle(function)(1)
        out = bundle(allow_external_dependencies=True)(function)(1)
        assert any(p is hidden for p in out.parents)


def test_errors_show_their_line():
    @bundle
    def fail(x):
        y = x + 1
        return y / 0

    with pytest.raises(ZeroDivisionError) as caught:
        fail(number(1))
    found = caught.value.node
    assert found.line == 3
    assert found.data.splitlines()[-1].endswith("return y / 0  <--- (ZeroDivisionError) division by zero")
    with pytest.raises(ZeroDivisionError) as plain:
        bundle(catch_execution_error=False)(fail.function)(number(1))
    assert not isinstance(plain.value, ExecutionError)


def test_trainable_code_is_a_parameter():
    @bundle(trainable=True)
    def factorial(n):
        return 1 if n < 2 else n * factorial(n - 1)

    assert factorial(4).data == 24
    factorial.parameter.data = "def factorial(n):\n    return 1 if n < 2 else n + factorial(n - 1)"
    assert factorial(4).data == 10  # recursion calls the new code
    out = factorial(4)
    assert out.parents[0] is factorial.parameter
    for wrong, why in {
        "x = 1": "one function",
        "def f(n): pass": "begins with: def factorial",
        "def factorial(n, m): pass": "begins with",
        "def factorial(n) pass": "not Python",
        "@x\ndef factorial(n): pass": "decorates",
    }.items():
        with pytest.raises(ValueError, match=why):
            factorial.parameter.data = wrong
    factorial.parameter.data = "def factorial(n):\n    m = n\n    return m / 0"
    with pytest.raises(ZeroDivisionError) as caught:
        factorial(1)
    assert (caught.value.node.line, caught.value.node.code) == (3, factorial.parameter)


def test_closures_and_sources_that_python_cannot_find():
    offset = 5

    @bundle(trainable=True)
    def shifted(x):
        return x + offset

    assert shifted(1).data == 6
    space = {}
    exec("def typed(x):\n    return x + 1", space)
    with pytest.raises(ValueError, match="takes source"):
        bundle(trainable=True)(space["typed"])
    assert bundle(trainable=True, source="def typed(x):\n    return x + 2")(space["typed"])(1).data == 3
    with pytest.raises(ValueError, match="trainable=True"):
        bundle(sandbox=True)(space["typed"])


def test_the_inside_can_be_traced_too():
    @bundle(traceable_code=True)
    def square(x):
        return x * x

    x = number(3.0)
    out = square(x) + 1
    assert len(minimal_subgraph(out)) == 4
    expanded = minimal_subgraph(out, expand=True)
    assert any(n.op is not None and n.op.name == "mul" for n in expanded)


def test_async_functions():
    @bundle
    async def double(x):
        await asyncio.sleep(0)
        return 2 * x

    @bundle
    async def fail(x):
        await asyncio.sleep(0)
        return x / 0

    async def main():
        x = number(1)
        found = await asyncio.gather(*[double(x + i) for i in range(3)])
        with pytest.raises(ZeroDivisionError) as caught:
            await fail(x)
        return [f.data for f in found], [len(f.parents) for f in found], caught.value.node.line

    assert asyncio.run(main()) == ([2, 4, 6], [1, 1, 1], 3)


def test_modules_find_their_parameters_and_keep_them_apart(tmp_path):
    @model
    class Greeter:
        def __init__(self):
            self.word = node("Hello", trainable=True)
            self.parts = [{"mark": node("!", trainable=True)}]

        @bundle(trainable=True)
        def join(self, name):
            return self.word.data + " " + name

        def forward(self, name):
            return self.join(name) + self.parts[0]["mark"]

    first, second = Greeter(), Greeter()
    out = first("Ada")
    assert out.data == "Hello Ada!"
    assert isinstance(first, Module)
    assert len(minimal_subgraph(out).variables) == 3
    assert [name for name, _ in first.named_parameters()] == ["join", "word", "parts.0.mark"]
    first.join.parameter.data = "def join(self, name):\n    return name"
    assert (first("Ada").data, second("Ada").data) == ("Ada!", "Hello Ada!")
    twin = copy.deepcopy(first)
    twin.word.data = "Bye"
    assert (twin("Ada").data, first.word.data) == ("Ada!", "Hello")
    first.save(tmp_path / "state.json")
    with pytest.raises(ValueError, match="allow_code=True"):
        second.load(tmp_path / "state.json")
    second.load(tmp_path / "state.json", allow_code=True)
    assert second("Ada").data == "Ada!"
    with pytest.raises(KeyError, match="differ"):
        second.load_state_dict({})
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        second.load(tmp_path / "broken.json")
    second.word.data = object()
    with pytest.raises(TypeError, match="can't be saved"):
        second.save(tmp_path / "state.json")
    assert json.loads((tmp_path / "state.json").read_text())


def test_parameters_hold_their_constraints():
    with pytest.raises(ValueError, match="from 0 to 1"):
        node(2.0, trainable=True, bounds=(0, 1))
    with pytest.raises(ValueError, match="one of"):
        node("c", trainable=True, choices=["a", "b"])
    with pytest.raises(ValueError, match="least < greatest"):
        node(0.5, trainable=True, bounds=(1, 0))
    with pytest.raises(ValueError, match="not trainable"):
        node(node(1), trainable=True)
    assert node(1, name="for class").py_name.isidentifier()


@pytest.mark.usefixtures("untyped")
def test_what_is_of_the_wrong_type_is_named():
    for call, words in [
        (lambda: model(3), "decorates a class"),
        (lambda: node(1, name=3), "name is 3"),
        (lambda: node(1).backward("a", propagator=3), "propagator is 3"),
        (lambda: bundle(3), "takes a function"),
    ]:
        with pytest.raises(TypeError, match=words):
            call()


# Code of others.


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "return ().__class__",
        "return open('x')",
        "return getattr(x, 'y')",
        "return '{0.__class__}'.format(x)",
        "return x.format(1)",
        "return (i for i in x).gi_frame",
        "global y",
        "return eval('1')",
        "try:\n        pass\n    except:\n        pass",
        "return __builtins__",
        "return _paperworks_tick()",
    ],
)
def test_the_sandbox_refuses(line):
    with pytest.raises(UnsafeCodeError):
        check_safe(f"def f(x):\n    {line}")


@pytest.mark.parametrize(
    "body",
    [
        "while True:\n        x = x + 1",
        "return f(x)",
        "return [i for i in range(10**6) for j in range(10**6)]",
        "y = 2\n    for i in range(100):\n        y = y * y\n    return y",
        "y = 'a'\n    for i in range(100):\n        y += y\n    return y",
        "return sum(range(10**12))",
        "return 10 ** 10 ** 10",
    ],
)
def test_the_sandbox_ends_what_does_not_end(body):
    function = bundle(trainable=True, sandbox=Sandbox(steps=500), source=f"def f(x):\n    {body}")(lambda x: x)
    function.name = "f"
    with pytest.raises(StepLimitError) as caught:
        function(number(1))
    assert isinstance(caught.value, ExecutionError)


def test_a_process_of_its_own():
    def made(body):
        function = bundle(trainable=True, sandbox=Sandbox(seconds=1.0), source=f"def f(x):\n    {body}")(lambda x: x)
        function.name = "f"
        return function

    assert made("return {'a': [x, math.pi > 3]}")(number(2)).data == {"a": [2, True]}
    with pytest.raises(ZeroDivisionError) as caught:
        made("y = x\n    return y / 0")(number(2))
    assert caught.value.node.line == 3
    with pytest.raises(StepLimitError):
        made("while True:\n        pass")(number(2))
    with pytest.raises(MemoryError):
        made("return len('a' * 10**10)")(number(2))
    with pytest.raises(ValueError, match="steps"):
        Sandbox(steps=0)
