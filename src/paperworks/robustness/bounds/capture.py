"""Capture of a module as a graph of ATen operators.

The module runs once, on one sample, under a dispatch mode that writes down every operator below autograd: the
operators of `torch.export`'s decomposed graph, functionalised, in a twentieth of its time. Tracing with a batch of one
makes every node a value of *one sample*; bounds add their own leading axes, so that a model may move its batch axis
about or fold it into others, and one that mixes samples is found by comparing (`check_batch`).
"""

import contextlib
import itertools
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch._decomp
from torch import Tensor, nn
from torch._functorch.utils import enable_single_level_autograd_function
from torch.func import functionalize
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from paperworks.numerics import functional_call
from paperworks.robustness.bounds.graph import Graph, IntervalRule, Node, nodes_in
from paperworks.robustness.bounds.registry import find_rule
from paperworks.robustness.bounds.structure import Outputs

aten = torch.ops.aten
_FROM_SHAPES = {  # read no values of their arguments: what they make is constant
    *(aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default),
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.empty_like.default),
}
Decomposition = Callable[..., Any]
_current: list["_Recorder"] = []
_alone = threading.RLock()  # torch's switches are of the process: one capture at a time turns them, and turns them back


def emit(op: str, compute: Callable[[], Tensor], *args: Any) -> Tensor:
    """Record, within a decomposition, an operator of our own in place of what computes its value."""
    recorder = _current[-1]
    placed = tuple(recorder.node_of(a) if isinstance(a, Tensor) else a for a in args)
    recorder.paused = True
    try:
        value = compute()
    finally:
        recorder.paused = False
    recorder.add(value, "operator", f"{op}_{next(recorder._numbers)}", op=op, args=placed)
    return value


def is_moving(value: Any) -> bool:
    """Return, within a decomposition, whether a value depends on an input."""
    recorder = _current[-1]
    return isinstance(value, Tensor) and recorder._of.get(id(value)) in recorder._moving


def tighten(value: Tensor, rule: IntervalRule, *sources: Tensor, terms: int, relative: bool = False) -> Tensor:
    """Tell, within a decomposition, of an interval rule from `sources` to `value` that beats the operators' own.

    `terms` is how many numbers the operator adds up, which is how far its rounding can go; `relative`, to the value it
    gives rather than to what it adds up.
    """
    recorder = _current[-1]
    recorder.intervals[recorder.node_of(value)] = (rule, tuple(recorder.node_of(s) for s in sources), terms, relative)
    return value


class _Recorder(TorchDispatchMode):
    """Writes operators down as nodes; those with a decomposition are run as it says, and that is written down."""

    def __init__(self, decompositions: dict[Any, Decomposition]) -> None:
        super().__init__()
        self.decompositions = decompositions
        self.nodes: list[Node] = []
        self.intervals: dict[Node, tuple[IntervalRule, tuple[Node, ...], int, bool]] = {}
        self._of: dict[int, Node] = {}
        self._live: list[Tensor] = []  # what nodes stand for: kept, so that an id is never used twice
        self._stale: set[int] = set()
        self._written: dict[int, Tensor] = {}  # by its memory, what was changed in place
        self._moving: set[Node] = set()  # depend on an input
        self._numbers = itertools.count()
        self.paused = False

    def add(self, value: Tensor, kind: Any, name: str, **rest: Any) -> Node:
        node = Node(len(self.nodes), name, kind, value.shape, value.dtype, **rest)
        node.inputs = nodes_in((*node.args, *node.kwargs.values()))
        self.nodes.append(node)
        if kind == "input" or any(n in self._moving for n in node.inputs):
            self._moving.add(node)
        self.bind(value, node)
        return node

    def bind(self, tensor: Tensor, node: Node) -> None:
        self._of[id(tensor)] = node
        self._stale.discard(id(tensor))
        self._live.append(tensor)

    def node_of(self, tensor: Tensor) -> Node:
        known = self._of.get(id(tensor))
        if id(tensor) in self._stale or (known is None and tensor.untyped_storage()._cdata in self._written):
            name = "a tensor" if known is None else known.name
            raise NotImplementedError(
                f"{name} is read after a view of it was changed in place; write that out of place"
            )
        if known is None:
            # Cloned, as the model may go on to change it.
            return self.add(tensor, "constant", f"constant_{next(self._numbers)}", tensor=tensor.detach().clone())
        return known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused or func in _FROM_SHAPES:
            return func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise NotImplementedError(f"module draws random numbers ({func}); bounds take one in evaluation mode")
        tensors = [a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        moving = any(self._of.get(id(t)) in self._moving for t in tensors)
        if func is aten._local_scalar_dense.default and moving:
            source = self.node_of(args[0])
            raise NotImplementedError(
                f"the model reads the number in {source.name}: its path depends on the perturbed value, "
                "which no graph can bound"
            )
        if not any(id(t) in self._of for t in tensors):
            return func(*args, **kwargs)
        changes = _changes_arguments(func)
        op = _out_of_place(func) if changes else func
        if op is None:
            raise NotImplementedError(f"{func} changes its argument in place, and there is no operator that doesn't")
        if moving and (simpler := self._simpler(op)) is not None:
            found = self._run_simpler(simpler, args, kwargs)
            if found is not NotImplemented and not changes:
                return found
            if found is not NotImplemented:
                node = self.node_of(found)
                out = func(*args, **kwargs)
                self._spoil_views(out)
                self.bind(out, node)
                return out
        # Named before it runs: it may change its arguments.
        placed, named = pytree.tree_map_only(Tensor, self.node_of, (args, kwargs))
        out = func(*args, **kwargs)
        if changes and torch.Tag.inplace_view not in func.tags:
            self._spoil_views(out)
        self._record(op, placed, named, out)
        return out

    def _simpler(self, func: Any) -> Decomposition | None:
        """Return how to record an operator as simpler ones: as the table says, else as torch does without a rule."""
        if (found := self.decompositions.get(func)) is not None:
            return found
        if find_rule(func) is not None:
            return None
        if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            return func.decompose
        return torch._decomp.decomposition_table.get(func)

    def _run_simpler(self, simpler: Decomposition, args: Any, kwargs: Any) -> Any:
        """Run simpler operators in place of one; NotImplemented where they are no better known than that one."""
        before = len(self.nodes)
        with self:
            found = simpler(*args, **kwargs)
        added = self.nodes[before:]
        if any(callable(n.op) and find_rule(n.op) is None and n in self._moving for n in added):
            del self.nodes[before:]
            gone = set(added)
            self._of = {key: node for key, node in self._of.items() if node not in gone}
            return NotImplemented
        return found

    def _record(self, op: Any, args: Any, kwargs: Any, out: Any) -> None:
        name = f"{op._schema.name.partition('::')[2]}_{next(self._numbers)}"
        rest = {"op": op, "args": tuple(args), "kwargs": kwargs}
        if isinstance(out, Tensor):
            self.add(out, "operator", name, **rest)
            return
        whole = Node(len(self.nodes), name, "operator", torch.Size(), None, **rest)
        whole.inputs = nodes_in((*whole.args, *whole.kwargs.values()))
        self.nodes.append(whole)
        if any(n in self._moving for n in whole.inputs):
            self._moving.add(whole)
        for place, part in enumerate(out if isinstance(out, (tuple, list)) else ()):
            if isinstance(part, Tensor):
                self.add(part, "operator", f"{name}_{place}", op="getitem", args=(whole, place))

    def _spoil_views(self, tensor: Tensor) -> None:
        """Forget what shares memory with a tensor that an operator changed: reading it later is an error."""
        self._written[tensor.untyped_storage()._cdata] = tensor
        for other in self._live:
            if other is not tensor and other.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
                (a, b), (c, d) = _extent(tensor), _extent(other)
                if a < d and c < b:
                    self._stale.add(id(other))


class _Rewritten(TorchFunctionMode):
    """Runs functions otherwise that torch runs in a way no graph can show.

    Instance norms are a batch norm in training mode with samples folded into channels, whose statistics would be taken
    for those of the batch and held constant; a batch norm in that mode refuses the single sample that is captured;
    circular padding writes into an empty tensor; a randomised ReLU is said to draw numbers in evaluation mode too.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.instance_norm:
            return _instance_norm(*args, **(kwargs or {}))
        if func is nn.functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        if func is nn.functional.pad:
            return _pad(*args, **(kwargs or {}))
        if func is nn.functional.rrelu:
            return _rrelu(*args, **(kwargs or {}))
        if func is torch.instance_norm:
            x, weight, bias, mean, var, of_input, momentum, eps, *_ = args
            return _instance_norm(x, mean, var, weight, bias, of_input, momentum, eps)
        return func(*args, **(kwargs or {}))


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if use_input_stats:
        return nn.functional.group_norm(x, x.shape[1], weight, bias, eps)
    return nn.functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    return torch.batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, False)


def _pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    if mode != "circular":
        return nn.functional.pad(x, pad, mode, value)
    for i in range(len(pad) // 2):
        size = x.shape[-1 - i]
        x = x.index_select(-1 - i, torch.arange(-pad[2 * i], size + pad[2 * i + 1], device=x.device) % size)
    return x


def _rrelu(
    x: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    if training:
        return torch.rrelu(x, lower, upper, training)
    return nn.functional.leaky_relu(x, (lower + upper) / 2, inplace)


@contextlib.contextmanager
def _own_gradients() -> Iterator[None]:
    """Run functions with gradients of their own as outside of any transform: functionalising would refuse them.

    Other threads are answered as before.
    """
    kept, here = torch._C._are_functorch_transforms_active, threading.get_ident()
    torch._C._are_functorch_transforms_active = lambda: threading.get_ident() != here and kept()
    try:
        with enable_single_level_autograd_function():
            yield
    finally:
        torch._C._are_functorch_transforms_active = kept


def _extent(tensor: Tensor) -> tuple[int, int]:
    start = int(tensor.storage_offset())
    return start, start + 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _changes_arguments(func: Any) -> bool:
    # A view moved in place (`transpose_`) is written as changing its argument too, and read in the same way.
    return any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)


def _out_of_place(func: Any) -> Any:
    name = func._schema.name.partition("::")[2]
    packet = getattr(aten, name[:-1], None) if name.endswith("_") else None
    if packet is None:
        return None
    overloads = (getattr(packet, o) for o in packet.overloads())
    # The overload of the same arguments: their names differ between the two (`transpose_` and `transpose.int`).
    wanted = [str(a.type) for a in func._schema.arguments]
    return next((o for o in overloads if [str(a.type) for a in o._schema.arguments] == wanted), None)


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Keep torch from choosing fused kernels, which would hide operators from the recorder."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        plain = sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False)
        with torch.no_grad(), plain[0], plain[1], _own_gradients():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def capture(
    module: nn.Module, example_inputs: Sequence[Tensor], decompositions: dict[Any, Decomposition]
) -> tuple[Graph, Outputs]:
    """Record the graph of one sample, and what its output is made of.

    Parameters
    ----------
    module
        Run in the mode (training or evaluation) it is in.
    example_inputs
        Tensors whose first axis is the batch.
    decompositions
        Operators to be recorded as simpler ones.

    Raises
    ------
    NotImplementedError
        Where the model's path depends on a value, a change in place can't be written as a graph, or code is scripted.
    TypeError
        Where the output holds no tensor.
    """
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            where = f"its part {name!r} is" if name else "it is"
            raise NotImplementedError(f"module: {where} scripted, which no graph is made of; pass it before scripting")
    inputs = [x[:1].detach().as_subclass(Tensor).clone() for x in example_inputs]
    state: dict[str, Tensor] = {name: p.detach().as_subclass(Tensor) for name, p in module.named_parameters()}
    state |= {name: b.detach().clone() for name, b in module.named_buffers()}  # batch-norm may change them
    recorder = _Recorder(decompositions)
    placed = [recorder.add(x, "input", f"input_{i}") for i, x in enumerate(inputs)]
    for name, tensor in state.items():
        recorder.add(tensor, "parameter", name)

    made: list[Any] = []

    def run(state: dict[str, Tensor], *inputs: Tensor) -> Any:
        made.append(Outputs.of(out := functional_call(module, state, inputs)))
        return made[0].joined(out)

    with _alone, warnings.catch_warnings(action="ignore"), _plain_kernels(), recorder, _Rewritten():
        _current.append(recorder)
        try:
            out = functionalize(run)(state, *inputs)
        finally:
            _current.pop()
    # A wrapper is left around the output where nothing was recorded since.
    inner = torch._from_functional_tensor(out) if torch._is_functional_tensor(out) else out
    output = recorder._of.get(id(inner))
    if output is None or output not in recorder._moving:
        raise ValueError("module: its output does not depend on its inputs")
    return _pruned(recorder, placed, output), made[0]


def _pruned(recorder: _Recorder, inputs: list[Node], output: Node) -> Graph:
    needed = {output, *inputs}
    for node in reversed(recorder.nodes):
        if node in needed:
            needed.update(node.inputs)
    nodes = [node for node in recorder.nodes if node in needed]
    for index, node in enumerate(nodes):
        node.index = index
    intervals = {n: v for n, v in recorder.intervals.items() if needed.issuperset((n, *v[1]))}
    return Graph(nodes, inputs, output, intervals)
