"""Graphs in ONNX: read from files that may be hostile, checked, and brought to the operators that a converter knows."""

import copy
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from paperworks.robustness.verification.reference import evaluated, first_line
from paperworks.robustness.verification.vnnlib import read_bytes

_LARGEST = (1 << 31) - 1  # bytes of a protocol buffer
_MOST_NODES = 5_000
_MOST_ELEMENTS = 1 << 28  # of all values of one sample
_ROUNDS = 50  # of evaluating what depends on no input
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
_SIDE_OUTPUTS = {"Dropout", "MaxPool", "LayerNormalization"}  # have outputs that say nothing of the first


def read_graph(path: Path) -> Any:
    """Return the model in a file, with the weights beside it, as a protocol buffer that has passed ONNX's checks."""
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(read_bytes(path, _LARGEST))
    except Exception as error:  # protocol buffers have several, by their implementation
        if isinstance(error, (ValueError, OSError)):
            raise
        raise ValueError(f"it is no network in ONNX ({type(error).__name__})") from None
    _check_contents(model)
    for named in (*model.graph.node, *model.opset_import):  # the two names of one domain
        named.domain = "" if named.domain == "ai.onnx" else named.domain
    versions = [o.version for o in model.opset_import if not o.domain]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or versions[0] > newest:
        raise ValueError(f"it is of the operator sets {versions}; it takes one, {newest} at most")
    _add_external(model, path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise ValueError(f"it is damaged: {first_line(error)}") from None
    return model


def input_shape(model: Any) -> tuple[tuple[int, ...], bool]:
    """Leave the one input among the graph's, and return the shape of a sample, and whether there is a batch."""
    import onnx

    weights = {t.name for t in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ValueError(f"it has {len(inputs)} inputs and {len(model.graph.output)} outputs; it takes one of each")
    del model.graph.input[:]
    model.graph.input.append(inputs[0])
    kind = inputs[0].type.tensor_type
    if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise ValueError(f"its input is of {name}; it takes FLOAT or DOUBLE")
    axes = [a.dim_value if a.HasField("dim_value") and a.dim_value > 0 else None for a in kind.shape.dim]
    # Files of ACAS Xu have (1, 1, 1, 5), those of others (1, 784), (784,) or (batch, 3, 32, 32).
    has_batch = len(axes) > 1 and axes[0] in (None, 1)
    shape = axes[1:] if has_batch else axes
    if not shape or any(a is None for a in shape):
        raise ValueError(f"its input has the axes {axes}; it takes fixed ones, but for the batch in front")
    return tuple(int(a) for a in shape if a is not None), has_batch


def simplify(model: Any) -> None:
    """Rewrite a model as one of plain names and of operators in the versions that onnx2torch knows, of opset 10 to 17.

    Between 7 and 10, slices got their places as inputs; since 17, reductions have got their axes so, and what else
    changed is refused by the converter, or by the comparison of what it made. What depends on no input is evaluated.
    """
    from onnx import numpy_helper

    _rename(model)
    _check_sizes(model)
    _fold(model)
    graph = model.graph
    (opset,) = (o for o in model.opset_import if not o.domain)
    constants = {t.name: t for t in graph.initializer}
    read = {v for n in graph.node for v in n.input} | {v.name for v in graph.output}
    names = (f"made_{i}" for i in itertools.count())

    def weight(values: Any) -> str:
        name = next(names)
        graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    for node in graph.node:
        if node.op_type in _SIDE_OUTPUTS:
            while len(node.output) > 1 and node.output[-1] not in read:
                node.output.pop()
        if node.op_type == "Upsample" and opset.version == 9:
            node.op_type = "Resize"
        elif node.op_type == "Clip" and list(node.input[1:2]) == [""] and len(node.input) == 3:
            node.op_type = "Min"
            del node.input[1]
        elif node.op_type == "Slice" and opset.version < 10:
            _attributes_to_inputs(node, weight)
        elif node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and opset.version > 17:
            _axes_to_attribute(node, constants)
    if opset.version >= 7:
        opset.version = min(max(opset.version, 10), 17)
    output = graph.output[0]
    if all(output.name not in n.output for n in graph.node):
        raise ValueError("its output does not depend on its input")
    if any(len(n.output) > 1 and output.name in n.output for n in graph.node):  # the converter would return all
        graph.node.add(op_type="Identity", name="last", input=[output.name], output=["last"])
        output.name = "last"


def free_reshapes(model: Any) -> bool:
    """Let reshapes to a first axis of 1 copy the batch instead; return whether there are any."""
    from onnx import numpy_helper

    constants = {t.name: t for t in model.graph.initializer}
    changed = False
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        target = numpy_helper.to_array(constants[node.input[1]]).copy()
        if target.ndim == 1 and len(target) > 1 and target[0] == 1:
            target[0] = 0
            node.input[1] = f"{node.name}_shape"
            model.graph.initializer.append(numpy_helper.from_array(target, node.input[1]))
            changed = True
    return changed


def _check_contents(model: Any) -> None:
    """Refuse what is not one plain graph."""
    if not model.graph.node:
        raise ValueError("it has no graph with operators")
    count = len(model.graph.node) + len(model.graph.initializer)
    if count > _MOST_NODES:
        raise ValueError(f"it has {count} operators and weights; it takes {_MOST_NODES} at most")
    if model.functions:
        raise ValueError("it has functions of its own; it takes a graph of standard operators")
    if model.graph.sparse_initializer:
        raise ValueError("it has sparse weights; it takes dense ones")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise ValueError(f"operator {node.op_type!r} is of the domain {node.domain!r}; it takes standard ones")
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise ValueError(f"operator {node.op_type!r} has a graph of its own; its path would depend on values")


def _check_sizes(model: Any) -> None:
    """Refuse values that are too large, or whose sizes don't follow from the weights and the shape of the input.

    What is declared of sizes in the file is not believed.
    """
    alone = copy.deepcopy(model)
    axes = alone.graph.input[0].type.tensor_type.shape.dim
    if axes[0].dim_value <= 0:
        axes[0].dim_value = 1
    alone.graph.output[0].type.tensor_type.ClearField("shape")
    sizes = _fold(alone, shapes=True)
    for node in alone.graph.node:
        if any(v and v not in sizes for v in node.output):
            raise ValueError(f"the size of what {node.op_type!r} makes doesn't follow from sizes; it may be any")


def _sizes(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of values that are known from those of the input and the weights, if all are not too large."""
    import onnx

    try:
        # What is in shapes is not followed: a vector of 2^33 numbers would be made of an operator that asks for it.
        graph = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ValueError(f"it is damaged: {first_line(error)}") from None
    found = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
    elements = sum(math.prod(a.dim_value or 1 for a in kind.shape.dim) for kind in found.values())
    if elements > _MOST_ELEMENTS:
        raise ValueError(f"its values have {elements} elements; it takes {_MOST_ELEMENTS} at most")
    return {
        name: tuple(a.dim_value for a in kind.shape.dim)
        for name, kind in found.items()
        if kind.HasField("shape") and all(a.HasField("dim_value") for a in kind.shape.dim)
    }


def _add_external(model: Any, path: Path) -> None:
    """Read weights beside the file, from its folder alone."""
    import onnx

    folder = path.resolve().parent
    for tensor in _tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = next((e.value for e in tensor.external_data if e.key == "location"), "")
        target = (folder / place).resolve()
        if not place or Path(place).is_absolute() or not target.is_relative_to(folder) or not target.is_file():
            raise ValueError(f"its weights are in {place!r}; it takes a file in its own folder")
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:
            raise ValueError(f"its weights in {place!r} can't be read: {error}") from None
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    yield from (t for node in graph.node for a in node.attribute for t in (a.t, *a.tensors))


def _rename(model: Any) -> None:
    """Give nodes and values plain names: a module made of a graph is written as source code, in which names stand."""
    graph = model.graph
    names = {"": ""}

    def plain(name: str) -> str:
        return names.setdefault(name, f"value_{len(names)}")

    for i, node in enumerate(graph.node):
        node.name = f"{''.join(c for c in node.op_type if c.isalnum() and c.isascii())}_{i}"
        for values in (node.input, node.output):
            values[:] = [plain(v) for v in values]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = plain(value.name)
    del graph.value_info[:]
    graph.name = "graph"


def _fold(model: Any, shapes: bool = False) -> dict[str, tuple[int, ...]]:
    """Make weights of what operators make of weights alone, such as the pads and shapes that exports add up.

    Each round evaluates what is known to be small, and so makes the sizes of more values known, which are returned.
    With `shapes`, known shapes are weights too.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    for _ in range(_ROUNDS):
        sizes = _sizes(model)
        known = {t.name for t in graph.initializer}
        folded: list[Any] = []
        rest: list[Any] = []
        for node in graph.node:
            if shapes and node.op_type == "Shape" and node.input[0] in sizes:
                part = slice(*(next((a.i for a in node.attribute if a.name == n), None) for n in ("start", "end")))
                shape = np.array(sizes[node.input[0]][part], dtype=np.int64)
                graph.initializer.append(numpy_helper.from_array(shape, node.output[0]))
                known.add(node.output[0])
                continue
            fixed = node.op_type not in _RANDOM and all(v in known for v in node.input if v)
            fixed = fixed and all(v in sizes for v in node.output if v)
            (folded if fixed else rest).append(node)
            known.update(node.output if fixed else ())
        if len(rest) == len(graph.node):
            break
        read = {v for n in rest for v in n.input} | {v.name for v in graph.output}
        wanted = [v for n in folded for v in n.output if v in read]
        values = []
        if wanted:
            outputs = [helper.make_empty_tensor_value_info(v) for v in wanted]
            part_of_it = helper.make_graph(folded, "graph", [], outputs, list(graph.initializer))
            values = evaluated(helper.make_model(part_of_it, opset_imports=model.opset_import), {}, wanted)
        del graph.node[:]
        graph.node.extend(rest)
        graph.initializer.extend(numpy_helper.from_array(v, name) for v, name in zip(values, wanted, strict=True))
    return _sizes(model)


def _attributes_to_inputs(node: Any, weight: Any) -> None:
    given = {a.name: np.array(a.ints, dtype=np.int64) for a in node.attribute}
    given.setdefault("axes", np.arange(len(given["starts"])))
    del node.attribute[:]
    node.input.extend(weight(given[name]) for name in ("starts", "ends", "axes"))


def _axes_to_attribute(node: Any, constants: dict[str, Any]) -> None:
    from onnx import helper, numpy_helper

    if len(node.input) < 2 or node.input[1] not in constants:
        return
    axes = numpy_helper.to_array(constants[node.input[1]]).flatten().tolist()
    kept = [a for a in node.attribute if a.name == "keepdims"]
    empty = any(a.name == "noop_with_empty_axes" and a.i for a in node.attribute) and not axes
    del node.attribute[:], node.input[1:]
    if empty:
        node.op_type = "Identity"
        return
    node.attribute.extend(kept)
    if axes:
        node.attribute.append(helper.make_attribute("axes", axes))
