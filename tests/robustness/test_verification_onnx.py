"""Networks in ONNX: they agree with ONNX's own evaluation, and files that aren't sound are refused."""

import gzip
import sys

import numpy as np
import pytest
import torch

from paperworks.robustness import (
    BoundedModule,
    BoundedTensor,
    PerturbationLpNorm,
    Property,
    bounds_from_onnx,
    load_onnx,
    verify,
)

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

rng = np.random.default_rng(0)


def weight(name, *shape, dtype=np.float32, positive=False):
    values = rng.normal(size=shape) / max(1, np.prod(shape[1:])) ** 0.5
    return numpy_helper.from_array((np.abs(values) + 0.5 if positive else values).astype(dtype), name)


def number(name, value):
    return numpy_helper.from_array(np.float32(value), name)


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def model(nodes, shape, weights=(), *, opset=15, kind=TensorProto.FLOAT, listed=False, out="y"):
    x = helper.make_tensor_value_info("x", kind, shape)
    inputs = [x]
    if listed:  # weights stand among the inputs, as in old files
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights]
    y = helper.make_tensor_value_info(out, kind, None)
    graph = helper.make_graph(nodes, "g", inputs, [y], list(weights))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return onnx.shape_inference.infer_shapes(made)


def node(kind, inputs, output="y", **attributes):
    return helper.make_node(kind, inputs.split(), output.split(), **attributes)


IMAGE, ROW = [1, 2, 6, 6], [1, 4]
OPERATORS = {
    "Gemm": ([node("Gemm", "x w b", transB=1, alpha=0.5, beta=2.0)], ROW, [weight("w", 3, 4), weight("b", 3)]),
    "MatMul, Add": ([node("MatMul", "x w", "h"), node("Add", "h b")], ROW, [weight("w", 4, 3), weight("b", 3)]),
    "Sub": ([node("Sub", "x b")], ROW, [weight("b", 4)]),
    "Sub from": ([node("Sub", "b x")], ROW, [weight("b", 4)]),
    "Mul": ([node("Mul", "x b")], ROW, [weight("b", 4)]),
    "Div": ([node("Div", "x b")], ROW, [weight("b", 4, positive=True)]),
    "Neg": ([node("Neg", "x")], ROW, []),
    "Relu": ([node("Relu", "x")], ROW, []),
    "LeakyRelu": ([node("LeakyRelu", "x", alpha=0.1)], ROW, []),
    "Sigmoid": ([node("Sigmoid", "x")], ROW, []),
    "Tanh": ([node("Tanh", "x")], ROW, []),
    "Softmax": ([node("Softmax", "x", axis=1)], ROW, []),
    "Clip": ([node("Clip", "x low high")], ROW, [number("low", -0.5), number("high", 0.5)]),
    "Abs": ([node("Abs", "x")], ROW, []),
    "Concat": ([node("Relu", "x", "h"), node("Concat", "x h", axis=1)], ROW, []),
    "Slice": ([node("Slice", "x from to axes")], ROW, [ints("from", 1), ints("to", 3), ints("axes", 1)]),
    "Squeeze": ([node("Unsqueeze", "x a", "h"), node("Squeeze", "h a")], ROW, [ints("a", 2)]),
    "ReduceSum": ([node("ReduceSum", "x a", keepdims=1)], ROW, [ints("a", 1)]),
    "ReduceMean": ([node("ReduceMean", "x", axes=[2, 3], keepdims=0)], IMAGE, []),
    "Conv": ([node("Conv", "x w b", strides=[2, 2], pads=[1] * 4)], IMAGE, [weight("w", 3, 2, 3, 3), weight("b", 3)]),
    "Conv, groups": ([node("Conv", "x w", group=2, dilations=[2, 2])], IMAGE, [weight("w", 4, 1, 3, 3)]),
    "BatchNormalization": (
        [node("BatchNormalization", "x s b m v")], IMAGE,
        [*(weight(name, 2) for name in "sbm"), weight("v", 2, positive=True)],
    ),
    "MaxPool": ([node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2])], IMAGE, []),
    "AveragePool": ([node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2])], IMAGE, []),
    "GlobalAveragePool": ([node("GlobalAveragePool", "x")], IMAGE, []),
    "Flatten": ([node("Flatten", "x")], IMAGE, []),
    "Reshape": ([node("Reshape", "x shape")], IMAGE, [ints("shape", -1, 72)]),
    "Reshape, one sample": ([node("Reshape", "x shape")], IMAGE, [ints("shape", 1, 72)]),
    "Reshape, copied axis": ([node("Reshape", "x shape")], IMAGE, [ints("shape", 0, 72)]),
    "Transpose": ([node("Transpose", "x", perm=[0, 2, 3, 1])], IMAGE, []),
    "Pad": ([node("Pad", "x pads")], IMAGE, [ints("pads", 0, 0, 1, 1, 0, 0, 1, 1)]),
    "Constant": ([node("Constant", "", "c", value=weight("c", 4)), node("Add", "x c")], ROW, []),
    "Dropout": ([node("Dropout", "x")], ROW, []),
    "Identity": ([node("Identity", "x")], ROW, []),
}  # fmt: skip


def saved(folder, made, name="net.onnx"):
    path = folder / name
    data = made.SerializeToString()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def check(path, made, rtol=1e-5):
    """Compare a batch with ONNX's evaluation of each of its samples, and bounds with points of their boxes."""
    network = load_onnx(path)
    kind = made.graph.input[0].type.tensor_type
    dtype = torch.float64 if kind.elem_type == TensorProto.DOUBLE else torch.float32
    axes = [a.dim_value or 1 for a in kind.shape.dim]
    x = torch.randn(4, *network.input_shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    reference = ReferenceEvaluator(made)
    name = made.graph.input[0].name
    found = network(x).detach()
    for sample, ours in zip(x, found, strict=True):
        (theirs,) = reference.run(None, {name: sample.reshape(axes).numpy()})
        torch.testing.assert_close(ours.flatten(), torch.from_numpy(np.array(theirs)).flatten(), rtol=rtol, atol=1e-6)
    lower, upper = bounds_from_onnx(path, x - 0.05, x + 0.05)
    assert bool(((lower <= found) & (found <= upper)).all())
    return network


@pytest.mark.parametrize("name", list(OPERATORS))
def test_every_operator_agrees_with_the_reference(tmp_path, name):
    nodes, shape, weights = OPERATORS[name]
    made = model(nodes, shape, weights)
    check(saved(tmp_path, made), made)


WEIGHTS = [weight("w", 8, 4), weight("b", 8)]
NORM = [*(weight(name, 4) for name in "smc"), weight("v", 4, positive=True)]
VERSIONS = {
    "Gemm 7": (7, [node("Gemm", "x w b", transB=1)], ROW, WEIGHTS),
    "BatchNormalization 9, of rows": (9, [node("BatchNormalization", "x s m c v")], ROW, NORM),
    "Slice 9": (9, [node("Slice", "x", starts=[1], ends=[3], axes=[1])], ROW, []),
    "Slice 9, all axes": (9, [node("Slice", "x", starts=[0, 1], ends=[1, 3])], ROW, []),
    "Upsample 9": (9, [node("Upsample", "x s")], IMAGE, [numpy_helper.from_array(np.float32([1, 1, 2, 2]), "s")]),
    "Constant, Reshape 21": (
        21, [node("Constant", "", "c", value=ints("c", 1, 72)), node("Reshape", "x c")], IMAGE, [],
    ),
    "Flatten, Transpose 21": (21, [node("Transpose", "x", "h", perm=[0, 2, 3, 1]), node("Flatten", "h")], IMAGE, []),
    "Conv, MaxPool 22": (
        22, [node("Conv", "x w", "h"), node("MaxPool", "h", kernel_shape=[2, 2])], IMAGE, [weight("w", 3, 2, 3, 3)],
    ),
    "ReduceMean 18": (18, [node("ReduceMean", "x a", keepdims=0)], IMAGE, [ints("a", 2, 3)]),
    "ReduceMax 18": (18, [node("ReduceMax", "x a")], IMAGE, [ints("a", 3)]),
    "ReduceMin 18, of nothing": (18, [node("ReduceMin", "x a", noop_with_empty_axes=1)], IMAGE, [ints("a")]),
    "Pad 19, computed": (
        19, [node("Concat", "n e n e", "p", axis=0), node("Pad", "x p")], IMAGE, [ints("n", 0, 0), ints("e", 1, 2)],
    ),
    "Clip from above": (15, [helper.make_node("Clip", ["x", "", "c"], ["y"])], ROW, [number("c", 0.5)]),
    "Pow of 2": (15, [node("Pow", "x c")], ROW, [number("c", 2.0)]),
    "Dropout, its mask unread": (15, [node("Dropout", "x", "h m"), node("Relu", "h")], ROW, []),
    "MaxPool, its indices unread": (
        15, [node("MaxPool", "x", "h i", kernel_shape=[2, 2]), node("Relu", "h")], IMAGE, [],
    ),
    "the last of Split": (15, [node("Split", "x", "a y", axis=1)], ROW, []),
    "weights from weights": (15, [node("Transpose", "w", "t"), node("MatMul", "x t")], ROW, WEIGHTS),
    "an output without a batch": (15, [node("Relu", "x", "h"), node("Reshape", "h s")], ROW, [ints("s", -1)]),
    "an output of a column": (15, [node("Transpose", "x", "t"), node("MatMul", "w t")], ROW, WEIGHTS),
}  # fmt: skip


@pytest.mark.parametrize("name", list(VERSIONS))
def test_every_version_agrees_with_the_reference(tmp_path, name):
    opset, nodes, shape, weights = VERSIONS[name]
    made = model(nodes, shape, weights, opset=opset)
    if name.startswith("Upsample"):  # which the reference can't run
        x = torch.rand(2, *shape[1:])
        found = load_onnx(saved(tmp_path, made))(x)
        assert torch.equal(found, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        lower, upper = bounds_from_onnx(saved(tmp_path, made), x - 0.1, x + 0.1)
        assert bool(((lower <= found) & (found <= upper)).all())
    elif name.startswith("Batch"):  # which the reference trains
        network, x = load_onnx(saved(tmp_path, made)), torch.rand(3, 4)
        s, m, c, v = (torch.from_numpy(numpy_helper.to_array(w).copy()) for w in weights)
        torch.testing.assert_close(network(x), (x - c) / (v + 1e-5).sqrt() * s + m)
    else:
        check(saved(tmp_path, made), made)


def test_what_is_converted_to_something_else_is_refused(tmp_path):
    axis = numpy_helper.from_array(np.array(1), "a")  # onnx2torch adds up from the end
    with pytest.raises(ValueError, match="other outputs than ONNX's own"):
        load_onnx(saved(tmp_path, model([node("CumSum", "x a")], ROW, [axis])))


def residual(dtype=np.float32, batch=1):
    weights = [weight("w1", 4, 2, 3, 3, dtype=dtype), weight("w2", 4, 4, 3, 3, dtype=dtype)]
    weights += [weight("w3", 3, 144, dtype=dtype), weight("b3", 3, dtype=dtype)]
    nodes = [
        node("Conv", "x w1", "a", pads=[1, 1, 1, 1]), node("Relu", "a", "b"),
        node("Conv", "b w2", "c", pads=[1, 1, 1, 1]), node("Add", "b c", "d"), node("Relu", "d", "e"),
        node("Flatten", "e", "f"), node("Gemm", "f w3 b3", transB=1),
    ]  # fmt: skip
    kind = TensorProto.FLOAT if dtype == np.float32 else TensorProto.DOUBLE
    return model(nodes, [batch, 2, 6, 6], weights, kind=kind, listed=True)


def acas(batch=True):
    """A network as those of ACAS Xu are written: (1, 1, 1, 5), less a mean, flattened, products and sums."""
    weights = [weight("mean", 1, 1, 1, 5), weight("w1", 5, 8), weight("b1", 8), weight("w2", 8, 5), weight("b2", 5)]
    nodes = [
        node("Sub", "x mean", "a"), node("Flatten", "a", "b"), node("MatMul", "b w1", "c"), node("Add", "c b1", "d"),
        node("Relu", "d", "e"), node("MatMul", "e w2", "f"), node("Add", "f b2"),
    ]  # fmt: skip
    return model(nodes, [1, 1, 1, 5], weights)


def vector():
    """A network without a batch, of inputs of one axis."""
    weights = [weight("w1", 4, 6), weight("b1", 6), weight("w2", 6, 2)]
    return model(
        [node("MatMul", "x w1", "a"), node("Add", "a b1", "b"), node("Relu", "b", "c"), node("MatMul", "c w2")],
        [4],
        weights,
    )


@pytest.mark.parametrize("name", ["net.onnx", "net.onnx.gz"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (residual, (2, 6, 6)),
        (lambda: residual(np.float64), (2, 6, 6)),
        (lambda: residual(batch="N"), (2, 6, 6)),
        (acas, (1, 1, 5)),
        (vector, (4,)),
    ],
)
def test_networks_of_the_competition(tmp_path, make, shape, name):
    made = make()
    assert check(saved(tmp_path, made, name), made, rtol=1e-4).input_shape == shape


def test_they_are_verified(tmp_path):
    network = load_onnx(saved(tmp_path, acas()))
    centre = torch.rand(5)
    y = network(centre.reshape(1, 1, 1, 5))[0].detach()
    unsafe = [(torch.eye(5)[:1], y[:1] - 0.5)]
    assert verify(network, Property(centre - 0.01, centre + 0.01, unsafe), timeout=10).answer == "holds"
    found = verify(network, Property(centre - 9, centre + 9, unsafe), timeout=10)
    assert found.answer == "violated"
    assert found.counterexample.shape == (1, 1, 5)


def test_bounds_of_double_precision_boxes_are_no_narrower(tmp_path):
    path = saved(tmp_path, model([node("Identity", "x")], ROW))
    end = torch.full((1, 4), 0.1, dtype=torch.float64)
    lower, upper = bounds_from_onnx(path, -end, end, "IBP")
    assert bool((upper.double() >= end).all())
    assert bool((lower.double() <= -end).all())
    with pytest.raises(ValueError, match="lower and upper have shapes"):
        bounds_from_onnx(path, end[:, :3], end[:, :3])


def test_no_placeholder_is_left_behind(tmp_path):
    load_onnx(saved(tmp_path, acas()))
    module = sys.modules.get("torchvision")
    assert module is None or hasattr(module, "__file__")


def test_an_output_without_the_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not depend on its input"):
        load_onnx(saved(tmp_path, model([node("Relu", "w")], ROW, [weight("w", 4)])))


def test_both_names_of_the_standard_domain_are_read(tmp_path):
    made = acas()
    made.opset_import[0].domain = made.graph.node[2].domain = "ai.onnx"
    assert load_onnx(saved(tmp_path, made)).input_shape == (1, 1, 5)


def test_names_are_never_code(tmp_path):
    """A module made of a graph is written as source code, in which an unchecked name would be run."""
    made = acas()
    evil = 'x"), open("/tmp/never", "w").close(), ("'
    made.graph.node[4].name = evil
    made.graph.node[4].output[0] = evil
    made.graph.node[5].input[0] = evil
    made.graph.name = evil
    network = load_onnx(saved(tmp_path, made))
    assert "never" not in network.network.code
    network(torch.zeros(2, 1, 1, 5))


def broken(change):
    made = acas()
    change(made)
    return made


def _external(place):
    def change(made):
        tensor = made.graph.initializer[1]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)

    return change


def _filled(made):
    """What is added is as large as a product of weights says."""
    made.graph.initializer.extend([ints("p", 1 << 20), ints("q", 1 << 14)])
    made.graph.node[6].output[0] = "last"
    made.graph.node.extend(
        [node("Mul", "p q", "size"), node("ConstantOfShape", "size", "full"), node("ReduceMax", "full", "one")]
    )
    made.graph.node.append(node("Add", "last one", "y"))


def _custom(made):
    made.graph.node[4].domain = "evil"
    made.opset_import.append(helper.make_opsetid("evil", 1))


def _branch(made):
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("e", TensorProto.FLOAT, [1, 8])])
    made.graph.node.append(helper.make_node("If", ["d"], ["q"], then_branch=inner, else_branch=inner))


def _enormous(made):
    made.graph.initializer.append(ints("size", 1 << 40, 1 << 12))
    made.graph.node[5].input[0] = "huge"
    made.graph.node.insert(5, node("Expand", "e size", "huge"))
    made.graph.node[6].op_type = "Add"
    made.graph.node[6].input[1] = "huge"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.graph.ClearField("node"), "no graph with operators"),
        (lambda m: m.graph.node[2].input.append("nowhere"), "it is damaged"),
        (lambda m: setattr(m.graph.initializer[1], "raw_data", b"123"), "it is damaged|can't be converted"),
        (lambda m: m.graph.initializer[1].dims.__setitem__(0, 1 << 40), "it is damaged|can't be converted"),
        (_external("../../etc/passwd"), "its own folder"),
        (_external("/etc/passwd"), "its own folder"),
        (_external(""), "its own folder"),
        (_external("nothing.bin"), "its own folder"),
        (_custom, "'Relu' is of the domain 'evil'"),
        (_branch, "'If' has a graph of its own"),
        (lambda m: m.graph.output.append(m.graph.output[0]), "1 inputs and 2 outputs"),
        (lambda m: m.graph.input[0].type.tensor_type.shape.dim[3].ClearField("dim_value"), "fixed ones"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT64), "INT64"),
        (lambda m: m.graph.node.append(node("Det", "y", "z")), "the size of what 'Det' makes doesn't follow"),
        (lambda m: m.graph.node.append(node("Hardmax", "y", "z")), "an operator can't be converted: .*Hardmax"),
        (_enormous, "the size of what 'Expand' makes doesn't follow"),
        (lambda m: setattr(m.opset_import[0], "version", 999), r"operator sets \[999\]; it takes one"),
        (lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 13)), r"operator sets \[15, 13\]"),
        (_filled, "17179869.* elements; it takes 268435456 at most"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[3], "dim_value", 1 << 40), "damaged|elements"),
        (lambda m: m.graph.node.extend([node("Relu", "x", f"q{i}") for i in range(5_001)]), "5000 at most"),
        (lambda m: m.graph.node[4].input.__setitem__(0, "f"), "it is damaged"),
    ],
)  # fmt: skip
def test_files_that_are_not_sound_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as error:
        load_onnx(saved(tmp_path, broken(change)))
    assert str(error.value).startswith("net.onnx: ")
    assert "\n" not in str(error.value)


def _sized_by_the_input():
    nodes = [node("ReduceMax", "x", "m", keepdims=0), node("Mul", "m big", "s"), node("Abs", "s", "t")]
    nodes += [node("Cast", "t", "c", to=TensorProto.INT64), node("Reshape", "c one", "size")]
    nodes += [node("ConstantOfShape", "size", "full"), node("ReduceMax", "full", "r", keepdims=0)]
    return [*nodes, node("Add", "x r")], [number("big", 1e11), ints("one", 1)]


def _sized_by_a_chain():
    value = helper.make_tensor("value", TensorProto.INT64, [1], [1])
    nodes = [
        made
        for k in range(60)
        for made in (node("ConstantOfShape", f"n{k}", f"a{k}", value=value), node("Shape", f"a{k}", f"n{k + 1}"))
    ]
    nodes += [node("Mul", "n60 q", "size"), node("ConstantOfShape", "size", "full")]
    nodes += [node("ReduceMax", "full", "r", keepdims=0), node("Add", "x r")]
    return nodes, [ints("n0", 1), ints("q", 1 << 34)]


def _expanded():
    nodes = [node("Shape", "x", "s"), node("Mul", "s q", "t"), node("Expand", "w t", "e")]
    return [*nodes, node("ReduceMax", "e", "r", keepdims=0), node("Add", "x r")], [ints("q", 1 << 17, 1 << 17), _ONE]


def _ranged():
    nodes = [node("Range", "a b c", "v"), node("ReduceMax", "v", "r", keepdims=0), node("Add", "x r")]
    return nodes, [number("a", 0), number("b", 1e10), number("c", 1)]


def _tiled():
    nodes = [node("Tile", "x q", "t"), node("ReduceMax", "t", "r", keepdims=0), node("Add", "x r")]
    return nodes, [ints("q", 1 << 17, 1 << 17)]


_ONE = numpy_helper.from_array(np.ones((1, 1), dtype=np.float32), "w")


@pytest.mark.parametrize("made", [_sized_by_the_input, _sized_by_a_chain, _expanded, _ranged, _tiled])
def test_sizes_that_are_too_large_or_not_known_are_refused_before_they_are_made(tmp_path, made):
    nodes, weights = made()
    with pytest.raises(ValueError, match=r"elements; it takes 268435456 at most|the size of what '\w+' makes"):
        load_onnx(saved(tmp_path, model(nodes, ROW, weights)))


def test_sizes_that_follow_from_the_input_s_are_taken(tmp_path):
    nodes = [node("Shape", "x", "s"), node("Mul", "s two", "t"), node("Expand", "w t", "e")]
    nodes += [node("ReduceMax", "e", "r", keepdims=0), node("Add", "x r")]
    loaded = load_onnx(saved(tmp_path, model(nodes, ROW, [ints("two", 2, 2), _ONE])))
    assert loaded(torch.zeros(3, 4)).tolist() == [[1.0] * 4] * 3


def test_links_out_of_the_folder_are_refused(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(160))
    (inside / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ValueError, match="its own folder"):
        load_onnx(saved(inside, broken(_external("weights.bin"))))


def test_weights_beside_the_file_are_read(tmp_path):
    made = acas()
    kept = bytes(made.graph.initializer[1].raw_data)
    (tmp_path / "weights.bin").write_bytes(kept)
    x = torch.rand(2, 1, 1, 5)
    expected = load_onnx(saved(tmp_path, acas_like(made)))(x)
    _external("weights.bin")(made)
    torch.testing.assert_close(load_onnx(saved(tmp_path, made))(x), expected)


def acas_like(made):
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    return copy


def test_damaged_bytes_are_refused(tmp_path):
    data = acas().SerializeToString()
    generator = np.random.default_rng(1)
    refused = 0
    for i in range(40):
        noisy = bytearray(data[: generator.integers(1, len(data))] if i % 2 else data)
        for place in generator.integers(0, len(noisy), 5):
            noisy[place] = generator.integers(0, 256)
        path = tmp_path / "net.onnx"
        path.write_bytes(bytes(noisy))
        try:
            load_onnx(path)
        except ValueError:
            refused += 1
    assert refused >= 20
    for name, content in (("a.onnx", b""), ("b.onnx", b"no network"), ("c.onnx.gz", data)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_onnx(tmp_path / name)


def test_batches_and_bounds_do_not_depend_on_how_a_reshape_is_written(tmp_path):
    nodes, shape, _ = OPERATORS["Reshape, one sample"]
    w = [ints("shape", 1, 72), weight("w", 72, 3)]
    nodes = [node("Reshape", "x shape", "h"), node("MatMul", "h w")]
    fixed = load_onnx(saved(tmp_path, model(nodes, shape, w)))
    w[0] = ints("shape", -1, 72)
    free = load_onnx(saved(tmp_path, model(nodes, shape, w)))
    x = torch.rand(3, 2, 6, 6)
    torch.testing.assert_close(fixed(x), free(x))
    ball = BoundedTensor(x, PerturbationLpNorm(0.1))
    for one, other in zip(*(BoundedModule(n, x).compute_bounds(ball) for n in (fixed, free)), strict=True):
        torch.testing.assert_close(one, other)
