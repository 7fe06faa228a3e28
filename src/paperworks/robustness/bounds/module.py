"""The module whose outputs are bounded."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice
from paperworks.robustness.bounds import backward, operators  # noqa: F401 - registers the rules
from paperworks.robustness.bounds.alpha import optimized
from paperworks.robustness.bounds.call import Call
from paperworks.robustness.bounds.capture import capture
from paperworks.robustness.bounds.decompositions import decompositions
from paperworks.robustness.bounds.graph import Graph, Node
from paperworks.robustness.bounds.methods import METHODS, Method
from paperworks.robustness.bounds.options import Options
from paperworks.robustness.bounds.outputs import bounds_of, check_bounds, identity, signed
from paperworks.robustness.bounds.patches import laid_out
from paperworks.robustness.bounds.perturbations import Perturbation
from paperworks.robustness.bounds.registry import evaluate, is_partial
from paperworks.robustness.bounds.rounding import outward
from paperworks.robustness.bounds.structure import Outputs
from paperworks.robustness.bounds.tensors import BoundedParameter, BoundedTensor

Inputs = Tensor | Sequence[Tensor]
Linear = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class BoundedModule(nn.Module):
    r"""A module with sound bounds of its output while inputs or weights range over sets.

    The module is captured once as a graph of ATen operators and stays as it is: bounds read its present parameters, and
    are differentiable in them. In float32 and below they hold for the function that the module stands for and for what
    it computes, one operator after the other, however sums are ordered; in float64 up to rounding unless option `sound`
    is True. Every bound is finite, or an error names the operator that overflows.

    Parameters
    ----------
    module
        Any module of tensors to tensors whose axis 0 is the batch, without control flow that depends on values. It may
        return several, in tuples and dictionaries.
    example_inputs
        One tensor or several, to run it on once.
    bound_opts
        Choices by name, such as ``{"relu": "same-slope"}``; `Options` lists them.

    Raises
    ------
    ValueError
        Where the module mixes the samples of a batch, or an option is unknown.
    NotImplementedError
        Where its path depends on values, or it draws random numbers.

    Examples
    --------
    >>> from paperworks.robustness import PerturbationLpNorm
    >>> x = torch.tensor([[1.0, -2.0]])
    >>> module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> bounded = BoundedModule(module, x)
    >>> lower, upper = bounded.compute_bounds(BoundedTensor(x, PerturbationLpNorm(0.1)))
    >>> bool(lower <= module(x)) and bool(module(x) <= upper)
    True

    References
    ----------
    Xu et al. (2020), Automatic Perturbation Analysis for Scalable Certified Robustness and Beyond, arXiv 2002.12920.
    """

    def __init__(self, module: nn.Module, example_inputs: Inputs, bound_opts: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"module is {type(module).__name__}; it takes a torch.nn.Module")
        self.module = module
        self.options = Options.of(bound_opts)
        self._examples = [x.detach().clone() for x in _as_inputs(example_inputs)]
        self._graphs: dict[bool, tuple[Graph, Outputs]] = {}
        self.training = module.training
        self._graph()

    def forward(self, *inputs: Tensor) -> Any:
        """Run the module itself.

        Returns
        -------
        Tensor
            What the module returns for these inputs, a tensor or several.
        """
        return self.module(*inputs)

    def _graph(self) -> tuple[Graph, Outputs]:
        """Return the graph in the present mode and what its output is made of, captured when first asked for."""
        mode = self.module.training
        if mode not in self._graphs:
            graph, outputs = capture(self.module, self._examples, decompositions(self.options))
            if graph.output.shape.numel() != torch.Size(outputs.shape).numel():
                raise ValueError(
                    f"the output of one sample has shape {tuple(graph.output.shape)}; axis 0 takes the batch"
                )
            if not any(node.op in ("clean_mean", "clean_var") for node in graph):
                self._check_batch(graph, outputs)
            self._graphs[mode] = graph, outputs
        return self._graphs[mode]

    @torch.no_grad()
    def _check_batch(self, graph: Graph, outputs: Outputs) -> None:
        """Compare a batch run by the module with samples run by the graph."""
        batch = [_varied(x) for x in self._examples]
        trouble = "the module mixes the samples of a batch, or its graph is fixed to one batch size"
        try:
            expected = outputs.joined(self.module(*batch))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"module fails on a batch of {len(batch[0])}: {trouble} ({error})") from error
        call = Call(graph, self._leaves(graph, batch), {}, len(batch[0]), self.options, evaluate, is_partial)
        found = call.value(graph.output).expand(len(batch[0]), *graph.output.shape)
        if expected.ndim == 0 or len(expected) != len(batch[0]) or expected.numel() != found.numel():
            raise ValueError(f"module returns shape {tuple(expected.shape)} for a batch of {len(batch[0])}: {trouble}")
        found = found.reshape(expected.shape)
        types = [n.dtype for n in graph if n.dtype is not None and n.dtype.is_floating_point]
        tolerance = {2: 5e-2, 4: 1e-3}.get(min((t.itemsize for t in types), default=8), 1e-8)
        found, expected = found.double(), expected.double()
        scale = found.nan_to_num(0, 0, 0).abs().amax().clamp(min=1e-6)
        if not torch.allclose(found / scale, expected / scale, rtol=tolerance, atol=tolerance, equal_nan=True):
            raise ValueError(f"a sample's output depends on the others in its batch: {trouble}")

    def _leaves(self, graph: Graph, inputs: Sequence[Tensor]) -> dict[Node, Tensor]:
        """Return the values of inputs, one sample each behind the batch; of parameters and of constants."""
        state = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        leaves = {node: x.as_subclass(Tensor).unsqueeze(1) for node, x in zip(graph.inputs, inputs, strict=True)}
        for node in graph:
            if node.kind == "parameter":
                leaves[node] = state[node.name].as_subclass(Tensor)[None]
            elif node.kind == "constant":
                assert node.tensor is not None
                leaves[node] = node.tensor.to(leaves[graph.inputs[0]].device)[None]
        return leaves

    def compute_bounds(
        self,
        x: Inputs,
        method: Method = "CROWN",
        C: Float[Tensor, "batch specs *output"] | None = None,
        bound_lower: bool = True,
        bound_upper: bool = True,
        return_A: bool = False,
    ) -> Any:
        r"""Bound the output, or linear functions of it.

        Parameters
        ----------
        x
            Inputs as the module takes them; a `BoundedTensor` ranges over its set, others are constant.
        method
            ``"IBP"``: intervals. ``"forward"``: linear bounds from inputs to outputs. ``"CROWN"``: a backward pass for
            the output and for every intermediate value that a relaxation needs. ``"CROWN-IBP"``,
            ``"forward+backward"``: one backward pass, with intermediate bounds by intervals, by the forward mode.
            ``"alpha-CROWN"``: CROWN with optimised relaxations.
        C
            Specification: rows of linear functions of the output, such as margins (`margin_spec`).
        bound_lower, bound_upper
            Which sides to bound.
        return_A
            Also return the linear bounds that the backward pass ends with.

        Returns
        -------
        tuple
            Lower and upper bounds, (batch, \*output) or (batch, specs), None for a side not asked for. Those of several
            outputs are in their structure, and rows of C run over the elements of all in order. With
            `return_A`, a third: for each root by name (``"input_0"``, or the parameter's), the tuple of lower
            coefficients (batch, specs, \*root), lower constants (batch, specs), and the same two above.

        Raises
        ------
        ValueError
            For an unknown method, a C that does not fit, a set that does not fit its tensor, nothing perturbed, or an
            operator whose input may leave its domain or whose bounds are not finite.
        NotImplementedError
            Where a perturbed value reaches an operator without a rule.

        Examples
        --------
        >>> from paperworks.robustness import PerturbationLpNorm, margin_spec
        >>> x = torch.zeros(1, 4)
        >>> bounded = BoundedModule(torch.nn.Linear(4, 3), x)
        >>> ball = BoundedTensor(x, PerturbationLpNorm(0.1, norm=2))
        >>> lower, _ = bounded.compute_bounds(ball, C=margin_spec(torch.tensor([0]), 3), bound_upper=False)
        >>> lower.shape
        torch.Size([1, 2])
        """
        check_choice("method", method, METHODS)
        if not (bound_lower or bound_upper):
            raise ValueError("bound_lower and bound_upper are both False; at least one is True")
        if return_A and method in ("IBP", "forward"):
            raise ValueError(f"return_A is True with method {method!r}; it takes one with a backward pass")
        call, outputs = self._call(x)
        rows = None if C is None else self._specification(C, call, outputs.shape)
        if return_A and rows is None:
            rows = identity(call, call.graph.output)
        sides = (bound_lower, bound_upper)
        found = optimized(call, rows, sides) if method == "alpha-CROWN" else bounds_of(call, method, rows, sides)
        check_bounds(call, found)
        final = outputs.shape if C is None else C.shape[1:2]
        own = call.graph.output.dtype
        ends = outward(*found, own if own is not None and own.is_floating_point else call.dtype)
        check_bounds(call, ends)
        lower, upper = (None if b is None else b.reshape(call.batch, *final) for b in ends)
        if C is None:
            lower, upper = (None if b is None else outputs.parted(b) for b in (lower, upper))
        if rows is None or not return_A:
            return lower, upper
        return lower, upper, _linear_bounds(call, rows, sides)

    def _call(self, x: Inputs) -> tuple[Call, Outputs]:
        graph, outputs = self._graph()
        inputs = _as_inputs(x)
        if len(inputs) != len(graph.inputs):
            raise ValueError(f"x has {len(inputs)} inputs; this module takes {len(graph.inputs)}")
        for i, (given, node) in enumerate(zip(inputs, graph.inputs, strict=True)):
            if given.shape[1:] != node.shape[1:] or len(given) != len(inputs[0]):
                takes = f"({len(inputs[0])}, {', '.join(map(str, node.shape[1:]))})"
                raise ValueError(f"x[{i}] has shape {tuple(given.shape)}; it takes {takes}")
        leaves = self._leaves(graph, inputs)
        state = dict(self.module.named_parameters())
        sets: dict[Node, Perturbation] = {}
        for node in graph:
            owner: Tensor | None = state.get(node.name) if node.kind == "parameter" else None
            if node.kind == "input":
                owner = inputs[graph.inputs.index(node)]
            ptb = owner.ptb if isinstance(owner, (BoundedTensor, BoundedParameter)) else None
            if ptb is not None:
                if node.dtype is None or not node.dtype.is_floating_point:
                    raise TypeError(f"{node.name} is {node.dtype}; what is perturbed takes floating-point numbers")
                clean = leaves[node] if node.kind == "parameter" else leaves[node].squeeze(1)
                ptb.check(clean)
                sets[node] = _Behind(ptb) if node.kind == "input" else ptb
        if not sets:
            raise ValueError("x: nothing is perturbed; wrap an input in BoundedTensor or a weight in BoundedParameter")
        call = Call(graph, leaves, sets, len(inputs[0]), self.options, evaluate, is_partial)
        if graph.output not in call.perturbed:
            raise ValueError("x: the output does not depend on what is perturbed")
        return call, outputs

    @staticmethod
    def _specification(C: Tensor, call: Call, shape: tuple[int, ...]) -> Tensor:
        if not isinstance(C, Tensor) or C.is_complex():
            raise TypeError(f"C is {C.dtype if isinstance(C, Tensor) else type(C).__name__}; it takes real numbers")
        output = call.graph.output
        size = output.shape.numel()
        fits = C.ndim >= 3 and C.shape[1] > 0 and C.shape[0] in (1, call.batch) and C.shape[2:].numel() == size
        if not fits or C.shape[2:] not in (torch.Size(shape), torch.Size([size])):
            raise ValueError(
                f"C has shape {tuple(C.shape)}; it takes ({call.batch}, specs, {', '.join(map(str, shape))})"
            )
        if not bool(C.isfinite().all()):
            raise ValueError("C has NaN or infinite elements; it takes finite numbers")
        return C.to(call.value(call.roots[0]).dtype).transpose(0, 1).reshape(C.shape[1], -1, *output.shape)


class _Behind(Perturbation):
    """The set of an input whose values carry an axis of length 1 behind the batch."""

    def __init__(self, inner: Perturbation) -> None:
        self.inner, self.is_box = inner, inner.is_box

    def minimum(self, coefficients: Tensor, center: Tensor) -> Tensor:
        return self.inner.minimum(coefficients.squeeze(2), center.squeeze(1))

    def box(self, center: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self.inner.box(center.squeeze(1))
        return lower.unsqueeze(1), upper.unsqueeze(1)

    def rounding(self, center: Tensor, dtype: torch.dtype) -> tuple[float | Tensor, int]:
        distance, terms = self.inner.rounding(center.squeeze(1), dtype)
        return distance.unsqueeze(1) if isinstance(distance, Tensor) else distance, terms


def _linear_bounds(call: Call, rows: Tensor, sides: tuple[bool, bool]) -> dict[str, Linear]:
    """Return the linear bounds of rows of the output by root, from the intermediate bounds that are there."""
    coefficients, constant = backward.propagate(call, call.graph.output, signed(rows, sides))
    constant = backward.below(call, constant)
    count = len(rows)
    found: dict[str, Linear] = {}
    for node in call.roots:
        arrived = laid_out(coefficients.get(node, rows.new_zeros(len(constant), 1, *node.shape)), node)
        weights = arrived.expand(-1, call.batch, *node.shape).transpose(0, 1)
        weights = weights.squeeze(2) if node.kind == "input" else weights
        lower = (weights[:, :count], constant[:count].T) if sides[0] else (None, None)
        upper = (-weights[:, -count:], -constant[-count:].T) if sides[1] else (None, None)
        found[node.name] = (*lower, *upper)
    return found


def _as_inputs(x: Inputs) -> list[Tensor]:
    inputs = [x] if isinstance(x, Tensor) else list(x)
    for i, item in enumerate(inputs):
        if not isinstance(item, Tensor):
            raise TypeError(f"x[{i}] is {type(item).__name__}; it takes a tensor")
        if item.ndim == 0 or not len(item):
            raise ValueError(f"x[{i}] has shape {tuple(item.shape)}; axis 0 takes the batch, one sample at least")
        if item.is_complex():
            raise TypeError(f"x[{i}] is {item.dtype}; it takes real numbers")
    return inputs


def _varied(x: Tensor) -> Tensor:
    """Return three different samples around the first."""
    first = x[:1].as_subclass(Tensor)
    if not x.is_floating_point():
        return torch.cat([first, x[-1:].as_subclass(Tensor), first])
    generator = torch.Generator(x.device).manual_seed(0)
    noise = torch.randn((2, *x.shape[1:]), generator=generator, dtype=x.dtype, device=x.device)
    return torch.cat([first, first * (1 + 0.1 * noise) + 0.01 * noise])
