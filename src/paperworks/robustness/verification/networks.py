"""Networks in ONNX, as modules."""

import contextlib
import math
import os
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.robustness.bounds.methods import Method
from paperworks.robustness.bounds.module import BoundedModule
from paperworks.robustness.bounds.perturbations import PerturbationLpNorm
from paperworks.robustness.bounds.tensors import BoundedTensor
from paperworks.robustness.verification.vnnlib import read_bytes

_LARGEST = (1 << 31) - 1  # bytes of a protocol buffer
_alone = threading.Lock()  # sys.modules is of the process


class ONNXNetwork(nn.Module):
    r"""A network read from a file: inputs (batch, \*input_shape), each sample run as the file says it.

    Parameters
    ----------
    network
        The converted network, of inputs with the file's own axes.
    input_shape
        Shape of one sample, without the batch.
    has_batch
        Whether the file's first axis is the batch.

    Attributes
    ----------
    input_shape
        Shape of one sample.
    takes_batches
        Whether the converted network takes batches itself; else each sample is run by itself.

    Examples
    --------
    >>> network = ONNXNetwork(nn.Linear(3, 2), input_shape=(3,), has_batch=True)  # as `load_onnx` makes it
    >>> network(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(self, network: nn.Module, input_shape: tuple[int, ...], has_batch: bool) -> None:
        super().__init__()
        self.network, self.input_shape, self._has_batch = network, input_shape, has_batch
        self.eval()
        self.takes_batches = has_batch and self._takes_batches()

    def forward(self, x: Float[Tensor, " batch *input"]) -> Float[Tensor, " batch *output"]:
        r"""Run the network on each sample.

        Parameters
        ----------
        x
            Samples, of shape (batch, \*input_shape).

        Returns
        -------
        Tensor of shape (batch, ...)
            The output of each.
        """
        if self.takes_batches:
            out: Tensor = self.network(x)
            return out
        return torch.vmap(self._one)(x)

    def _one(self, sample: Tensor) -> Tensor:
        out: Tensor = self.network(sample[None] if self._has_batch else sample)
        return out[0] if self._has_batch else out.reshape(1) if out.ndim == 0 else out

    @torch.no_grad()
    def _takes_batches(self) -> bool:
        """Return whether a batch gives what its samples give: where a reshape is written for one, it doesn't."""
        x = self._samples()
        alone = torch.cat([self.network(x[i : i + 1]) for i in range(len(x))])
        return self._agrees(x, alone)

    def _samples(self) -> Tensor:
        """Return a few random samples, in the network's precision."""
        tensors = (*self.parameters(), *self.buffers())
        dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
        return torch.randn((3, *self.input_shape), generator=torch.Generator().manual_seed(0), dtype=dtype)

    @torch.no_grad()
    def _agrees(self, x: Tensor, outputs: Tensor) -> bool:
        """Return whether the network gives these outputs for a batch as a whole."""
        try:
            found = self.network(x)
        except (RuntimeError, ValueError, IndexError):
            return False
        return found.shape == outputs.shape and torch.allclose(found, outputs, 1e-3, 1e-4, equal_nan=True)


def load_onnx(path: str | os.PathLike[str]) -> ONNXNetwork:
    r"""Read a network in ONNX as a module, for `verify`, `BoundedModule` or anything else.

    The file is checked, its names are replaced, and its operators become modules of PyTorch; nothing in it is run as
    code. The module takes a batch, whatever the file's first axis: one that is fixed to 1, one that is free, or none
    (inputs of one axis).

    Parameters
    ----------
    path
        The file, packed with gzip if its name ends in ``.gz``. Weights beside it are read from its own folder only.

    Returns
    -------
    ONNXNetwork
        A module of inputs (batch, \*input_shape), in evaluation mode and in the file's precision.

    Raises
    ------
    ModuleNotFoundError
        Without the packages onnx and onnx2torch.
    ValueError
        For a file that is damaged, has several inputs or outputs, inputs that are no real numbers or have free axes
        besides the batch, operators that can't be converted, functions of its own, or weights outside of its folder.

    Examples
    --------
    >>> network = load_onnx("ACASXU_run2a_1_1_batch_2000.onnx")  # doctest: +SKIP
    >>> network(torch.zeros(8, *network.input_shape)).shape  # doctest: +SKIP
    torch.Size([8, 5])
    """
    path = Path(path)
    try:
        return _loaded(path)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def bounds_from_onnx(
    path: str | os.PathLike[str],
    lower: Float[Tensor, " batch *input"],
    upper: Float[Tensor, " batch *input"],
    method: Method = "CROWN",
) -> tuple[Tensor, Tensor]:
    r"""Bound the outputs of a network in ONNX on boxes.

    Parameters
    ----------
    path
        The file, as `load_onnx` takes it.
    lower, upper
        Ends of the boxes, of shape (batch, \*input_shape).
    method
        As `BoundedModule.compute_bounds` takes it.

    Returns
    -------
    tuple[Tensor, Tensor]
        Lower and upper bounds of the outputs, (batch, \*output).

    Raises
    ------
    ValueError
        As `load_onnx`, and for ends that cross or do not fit the network.

    Examples
    --------
    >>> x = torch.zeros(1, 5)
    >>> lower, upper = bounds_from_onnx("network.onnx", x - 0.1, x + 0.1, method="alpha-CROWN")  # doctest: +SKIP
    """
    network = load_onnx(path)
    dtype = next((p.dtype for p in (*network.parameters(), *network.buffers()) if p.is_floating_point()), lower.dtype)
    if lower.shape != upper.shape or lower.shape[1:] != network.input_shape:
        raise ValueError(
            f"lower and upper have shapes {tuple(lower.shape)} and {tuple(upper.shape)}; "
            f"they take (batch, {', '.join(map(str, network.input_shape))})"
        )
    low, high = lower.to(dtype), upper.to(dtype)
    # A cast may move an end inward.
    low = torch.where(low.double() > lower.double(), low.nextafter(torch.full_like(low, -math.inf)), low)
    high = torch.where(high.double() < upper.double(), high.nextafter(torch.full_like(high, math.inf)), high)
    middle = (low / 2 + high / 2).clamp(low, high)
    bounded = BoundedModule(network, middle)
    found: tuple[Tensor, Tensor] = bounded.compute_bounds(
        BoundedTensor(middle, PerturbationLpNorm(x_L=low, x_U=high)), method
    )
    return found


def _loaded(path: Path) -> ONNXNetwork:
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(read_bytes(path, _LARGEST))
    except Exception as error:  # protocol buffers have several, by their implementation
        if isinstance(error, (ValueError, OSError)):
            raise
        raise ValueError(f"it is no network in ONNX ({type(error).__name__})") from None
    _check_contents(model)
    _add_external(model, path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise ValueError(f"it is damaged: {str(error).strip().splitlines()[0]}") from None
    shape, has_batch = _input_shape(model)
    _rename(model)
    network = _network(model, shape, has_batch)
    if has_batch and not network.takes_batches and _free_reshapes(model):
        free = _network(model, shape, has_batch)
        x = network._samples()
        with torch.no_grad():
            expected = torch.cat([network(x[i : i + 1]) for i in range(len(x))])
        if free.takes_batches and free._agrees(x, expected):
            return free
    return network


def _network(model: Any, shape: tuple[int, ...], has_batch: bool) -> ONNXNetwork:
    """Convert a model, and run it once: a file may be whole, and ask for what can't be done."""
    try:
        network = ONNXNetwork(_converted(model), shape, has_batch)
        with torch.no_grad():
            network(network._samples()[:1])
    except (RuntimeError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"it can't be run: {str(error).strip().splitlines()[0][:200]}") from None
    return network


def _check_contents(model: Any) -> None:
    """Refuse what is not one plain graph."""
    if not model.graph.node:
        raise ValueError("it has no graph with operators")
    if model.functions:
        raise ValueError("it has functions of its own; it takes a graph of standard operators")
    if model.graph.sparse_initializer:
        raise ValueError("it has sparse weights; it takes dense ones")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise ValueError(f"operator {node.op_type!r} is of the domain {node.domain!r}; it takes standard ones")
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise ValueError(f"operator {node.op_type!r} has a graph of its own; its path would depend on values")


def _add_external(model: Any, path: Path) -> None:
    """Read weights beside the file, from its folder alone."""
    import onnx

    tensors = [*model.graph.initializer]
    tensors += [t for node in model.graph.node for a in node.attribute for t in (a.t, *a.tensors)]
    folder = path.resolve().parent
    for tensor in tensors:
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


def _input_shape(model: Any) -> tuple[tuple[int, ...], bool]:
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


def _free_reshapes(model: Any) -> bool:
    """Let reshapes to a first axis of 1 copy the batch instead; return whether there are any."""
    from onnx import numpy_helper

    constants = {n.output[0]: a.t for n in model.graph.node for a in n.attribute if n.op_type == "Constant"}
    constants |= {t.name: t for t in model.graph.initializer}
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


def _converted(model: Any) -> nn.Module:
    with _alone, _without_torchvision():
        import onnx2torch
    try:
        return _with_fixed_integers(onnx2torch.convert(model))
    except NotImplementedError as error:
        raise ValueError(f"an operator can't be converted: {str(error).strip().splitlines()[0]}") from None
    except Exception as error:
        raise ValueError(f"it can't be converted: {type(error).__name__}: {str(error)[:200]}") from None


def _with_fixed_integers(network: nn.Module) -> nn.Module:
    """Make shapes, axes and other whole numbers plain attributes: as buffers, a capture would trace them as values."""
    for part in network.modules():
        for name, buffer in list(part.named_buffers(recurse=False)):
            if not buffer.is_floating_point():
                delattr(part, name)
                setattr(part, name, buffer)
    return network


@contextlib.contextmanager
def _without_torchvision() -> Iterator[None]:
    """Let onnx2torch be imported where torchvision is missing: it takes two operators of detection from there."""
    names = ("torchvision", "torchvision.ops")
    if "onnx2torch" in sys.modules or _is_there("torchvision"):
        yield
        return
    package, ops = (types.ModuleType(name) for name in names)
    package.ops, ops.roi_align, ops.nms = ops, None, None  # type: ignore[attr-defined]
    sys.modules.update(zip(names, (package, ops), strict=True))
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def _is_there(name: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:
        return name in sys.modules
