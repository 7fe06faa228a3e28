"""Networks in ONNX, as modules."""

import contextlib
import copy
import math
import os
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.robustness.bounds.methods import Method
from paperworks.robustness.bounds.module import BoundedModule
from paperworks.robustness.bounds.perturbations import PerturbationLpNorm
from paperworks.robustness.bounds.tensors import BoundedTensor
from paperworks.robustness.verification.graphs import free_reshapes, input_shape, read_graph, simplify
from paperworks.robustness.verification.reference import evaluated, first_line

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
        # A first axis of 1 is the batch, if there is one: some files go without it in the end.
        out = out[0] if self._has_batch and out.ndim > 1 and len(out) == 1 else out
        return out.reshape(1) if out.ndim == 0 else out

    @torch.no_grad()
    def _takes_batches(self) -> bool:
        """Return whether a batch gives what its samples give: where a reshape is written for one, it doesn't."""
        x = self._samples()
        return self._agrees(x, torch.stack([self._one(sample) for sample in x]))

    def _samples(self) -> Tensor:
        """Return random samples of three sizes, in the network's precision."""
        tensors = (*self.parameters(), *self.buffers())
        dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
        x = torch.randn((3, *self.input_shape), generator=torch.Generator().manual_seed(0), dtype=dtype)
        return x * torch.tensor([1.0, 0.1, 10.0], dtype=dtype).reshape(3, *(1 for _ in self.input_shape))

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

    The file is checked, its names are replaced, and its operators become modules of PyTorch, whose outputs are compared
    with those of ONNX's own evaluation at three random inputs; nothing in it is run as code. The module takes a batch,
    whatever the file's first axis: one that is fixed to 1, one that is free, or none (inputs of one axis).

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
        besides the batch, operators that can't be converted or are converted to something else, functions of its own,
        more than 5000 operators and weights or 2^28 elements of its values, or weights outside of its folder.

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
    original = read_graph(path)
    shape, has_batch = input_shape(original)
    model = copy.deepcopy(original)
    simplify(model)
    network = _network(model, shape, has_batch)
    x = network._samples()
    with torch.no_grad():
        outputs = torch.stack([network._one(sample) for sample in x])
    _compare(original, x, outputs, has_batch)
    if has_batch and not network.takes_batches and free_reshapes(model):
        free = _network(model, shape, has_batch)
        if free.takes_batches and free._agrees(x, outputs):
            return free
    return network


def _network(model: Any, shape: tuple[int, ...], has_batch: bool) -> ONNXNetwork:
    """Convert a model, and run it once: a file may be whole, and ask for what can't be done."""
    try:
        network = ONNXNetwork(_converted(model), shape, has_batch)
        with torch.no_grad():
            network(network._samples()[:1])
    except (RuntimeError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"it can't be run: {first_line(error)}") from None
    return network


def _compare(model: Any, x: Tensor, outputs: Tensor, has_batch: bool) -> None:
    """Refuse a network whose outputs aren't those of ONNX's own evaluation of the file: converters have their faults.

    Outputs agree to a thousandth of the greatest, which rounding in single precision doesn't reach.
    """
    name = model.graph.input[0].name
    inputs = ((sample[None] if has_batch else sample).numpy() for sample in x)
    expected = [np.asarray(evaluated(model, {name: i})[0], dtype=np.float64).flatten() for i in inputs]
    for ours, theirs in zip(outputs.flatten(1).double().numpy(), expected, strict=True):
        size = np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, 0.0, 1e-3 * size + 1e-30, equal_nan=True):
            raise ValueError("what it is converted to gives other outputs than ONNX's own evaluation of it")


def _converted(model: Any) -> nn.Module:
    with _alone, _without_torchvision():
        import onnx2torch
    try:
        return _with_plain_numbers(onnx2torch.convert(model))
    except NotImplementedError as error:
        raise ValueError(f"an operator can't be converted: {first_line(error)}") from None
    except Exception as error:
        raise ValueError(f"it can't be converted: {type(error).__name__}: {first_line(error)}") from None


def _with_plain_numbers(network: Any) -> nn.Module:
    """Make shapes, axes, scales and exponents plain: as buffers, a capture would trace them as values.

    With an exponent that is a tensor, a power is the exponential of a logarithm.
    """
    weights: Any = getattr(network, "initializers", None)  # that are no part of a module
    for node in list(network.graph.nodes):
        kind = type(network.get_submodule(node.target)).__name__ if node.op == "call_module" else ""
        more = (*node.args[1:], *node.kwargs.values())
        known = [a.target.rpartition(".")[2] for a in more if getattr(a, "op", None) == "get_attr"]
        if kind.startswith("OnnxResize"):
            for name in known:
                _make_plain(weights, name)
        elif kind == "OnnxPow" and known and getattr(weights, known[0]).shape in ((), (1,)):
            with network.graph.inserting_before(node):
                power = network.graph.call_function(torch.pow, (node.args[0], float(getattr(weights, known[0]))))
            node.replace_all_uses_with(power)
            network.graph.erase_node(node)
    network.recompile()
    for part in network.modules():
        for name, buffer in list(part.named_buffers(recurse=False)):
            if not buffer.is_floating_point():
                _make_plain(part, name)
    plain: nn.Module = network
    return plain


def _make_plain(part: nn.Module, name: str) -> None:
    tensor = getattr(part, name)
    delattr(part, name)
    setattr(part, name, tensor)


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
