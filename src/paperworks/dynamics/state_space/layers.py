"""Layers of one state-space model for each feature: diagonal, perturbed and diagonalised, and in full."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.dynamics.state_space import kernels
from paperworks.dynamics.state_space.diagonalization import half, ptd_legs
from paperworks.dynamics.state_space.matrices import dplr_legs, hippo_legs


def check_sizes(d_model: int, d_state: int, dt_min: float, dt_max: float) -> None:
    """Raise ValueError for sizes that make no layer.

    Parameters
    ----------
    d_model, d_state
        Features, and states of each.
    dt_min, dt_max
        The range of steps.
    """
    check_count("d_model", d_model)
    check_count("d_state", d_state, at_least=2)
    low, high = check_number("dt_min", dt_min, gt=0), check_number("dt_max", dt_max, gt=0)
    if low >= high:
        raise ValueError(f"dt_min is {low:g} and dt_max {high:g}; it takes one that is below the other")


def trained_slowly(parameter: nn.Parameter, lr: float | None) -> nn.Parameter:
    """Mark a parameter of the system itself: no decay of weights, and a learning rate of its own.

    Parameters
    ----------
    parameter
        The parameter.
    lr
        Its learning rate; None for that of all others.

    Returns
    -------
    Parameter
        The same one, with what `torch.optim` takes in a group as its attribute `_optim`.
    """
    parameter._optim = {"weight_decay": 0.0} | ({} if lr is None else {"lr": lr})  # type: ignore[attr-defined]
    return parameter


def wide(x: Tensor) -> Tensor:
    """Return half-precision numbers in single precision, which complex numbers need, and others as they are.

    Parameters
    ----------
    x
        Numbers of any type.

    Returns
    -------
    Tensor
        The same numbers.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Streamed(nn.Module):
    """What layers share that take a stream step by step: what steps need, computed anew when parameters have changed.

    Subclasses give `discrete`, `init_state` and `step`.
    """

    d_model: int
    bidirectional: bool
    _cache: tuple[tuple[Tensor, Tensor, Tensor], list[tuple[Tensor, Any]]] | None = None

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a step needs.

        Returns
        -------
        tuple of Tensor
            Factors of a step, what inputs are multiplied with, and weights of the output.
        """
        raise NotImplementedError

    def setup_step(self) -> None:
        """Compute what each `step` needs once.

        `step` does it by itself where parameters were trained, loaded, moved or replaced since; only what is written
        through ``parameter.data`` goes unseen, and takes another call.
        """
        self._check_ahead()
        with torch.no_grad():
            self._cache = self.discrete(), self._versions()

    def _check_ahead(self) -> None:
        if self.bidirectional:
            raise ValueError("the layer goes in both directions; steps in turn take one that goes ahead alone")

    def _versions(self) -> list[tuple[Tensor, Any]]:
        """Return the parameters with the number of their changes, which tensors of inference mode don't count."""
        return [(p, object() if p.is_inference() else p._version) for p in self.parameters()]

    def _ready(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Check what a step got, and return what it needs."""
        if u.ndim != 2 or u.shape[1] != self.d_model:
            raise ValueError(f"u has shape {tuple(u.shape)}; it takes (B, {self.d_model})")
        if len(state) != len(u):
            raise ValueError(f"state has shape {tuple(state.shape)}; it takes one of init_state({len(u)})")
        now = self._versions()
        old = [] if self._cache is None else self._cache[1]
        if len(now) != len(old) or any(a is not b or m != n for (a, m), (b, n) in zip(now, old, strict=True)):
            self.setup_step()
        assert self._cache is not None
        return self._cache[0]

    @staticmethod
    def _skipped(y: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """Add the skip connection, and return numbers of the type that the layer's own would be."""
        return (y + wide(weight) * wide(x)).to(torch.promote_types(weight.dtype, x.dtype))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._cache = None  # moves and casts don't count as changes
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": None}


class StateSpaceLayer(Streamed):
    """What the layers share: a skip connection, an activation, a mixing of features, directions, and steps in turn.

    Subclasses give `kernel`, `discrete` and the system's parameters.
    """

    def __init__(
        self, d_model: int, d_state: int, bidirectional: bool, transposed: bool, rule: Literal["zoh", "bilinear"]
    ) -> None:
        super().__init__()
        self.d_model, self.d_state = d_model, d_state
        self.bidirectional, self.transposed = bidirectional, transposed
        self.rule: Literal["zoh", "bilinear"] = check_choice("rule", rule, ("zoh", "bilinear"))
        self.D = nn.Parameter(torch.randn(d_model))
        self.mix = nn.Conv1d(d_model, 2 * d_model, 1)

    def extra_repr(self) -> str:
        """Show sizes and directions.

        Returns
        -------
        str
            What stands in the brackets of the module.
        """
        return f"{self.d_model}, d_state={self.d_state}, bidirectional={self.bidirectional}, rule={self.rule!r}"

    def kernel(self, length: int) -> Float[Tensor, "h l"]:
        """Return the answer of each feature to a unit input, for both directions one after the other.

        Parameters
        ----------
        length
            How many steps.

        Returns
        -------
        Tensor
            Kernels, (H, L), or (2 H, L) with both directions.
        """
        factor, gain, out = self.discrete()
        return kernels.kernel(factor, gain * out, length)

    def discrete(self) -> tuple[Complex[Tensor, "h n"], Complex[Tensor, "h n"], Complex[Tensor, "h n"]]:
        """Return factors of a step, gains of the input, and weights of the output, with those of pairs doubled.

        Returns
        -------
        tuple of Tensor
            Three of (H, N'), one of each pair of conjugate states.
        """
        raise NotImplementedError

    def forward(
        self, u: Float[Tensor, "b x y"], state: Complex[Tensor, "b h n"] | None = None, *, mode: str = "convolution"
    ) -> Any:
        """Map sequences to sequences.

        Parameters
        ----------
        u
            Inputs, (B, H, L), or (B, L, H) where the layer isn't transposed.
        state
            The state to go on from; then the state at the end is returned too.
        mode
            ``convolution`` by fast Fourier transforms, or ``scan``, which a state takes.

        Returns
        -------
        Tensor
            Outputs, of the shape of `u`; and the state after the last step, (B, H, N), where one was given.

        Raises
        ------
        ValueError
            For other shapes, an unknown mode, or a state in a layer of both directions.
        """
        check_choice("mode", mode, ("convolution", "scan"))
        if u.ndim != 3 or u.shape[1 if self.transposed else 2] != self.d_model:
            takes = f"(B, {self.d_model}, L)" if self.transposed else f"(B, L, {self.d_model})"
            raise ValueError(f"u has shape {tuple(u.shape)}; it takes {takes}")
        x = u if self.transposed else u.mT
        if not x.shape[2]:
            raise ValueError(f"u has shape {tuple(u.shape)}; it takes one step or more")
        if state is not None or mode == "scan":
            y, last = self._scan(wide(x), state)
        else:
            y, last = self._convolve(wide(x)), None
        y = self.mixed(self._skipped(y, self.D[:, None], x))
        y = y if self.transposed else y.mT
        return y if state is None else (y, last)

    def mixed(self, y: Float[Tensor, "b h l"]) -> Float[Tensor, "b h l"]:
        """Apply the activation and mix features.

        Parameters
        ----------
        y
            What the systems give.

        Returns
        -------
        Tensor
            The layer's output.
        """
        return nn.functional.glu(self.mix(nn.functional.gelu(y)), dim=1)

    def _convolve(self, x: Tensor) -> Tensor:
        if not len(x):  # no transform takes an empty batch
            return x
        k = self.kernel(x.shape[-1])
        if not self.bidirectional:
            return kernels.convolved(x, k)
        ahead, back = k.chunk(2)
        return kernels.convolved(x, ahead) + kernels.convolved(x.flip(-1), back).flip(-1)

    def _scan(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.bidirectional:
            raise ValueError("the layer goes in both directions; a state, or a scan, takes one that goes ahead alone")
        factor, gain, out = self.discrete()
        (b, h, length), n = x.shape, factor.shape[1]
        inputs = x.mT[..., None] * gain
        start = None if state is None else state.reshape(b, h * n)
        states = kernels.scanned(inputs.reshape(b, length, h * n), factor.reshape(-1), start).reshape(b, length, h, n)
        return torch.einsum("blhn,hn->bhl", states, out).real, states[:, -1]

    def init_state(self, batch_size: int) -> Complex[Tensor, "b h n"]:
        """Return the state before the first step.

        Parameters
        ----------
        batch_size
            Sequences that go on side by side.

        Returns
        -------
        Tensor
            Zeros, (B, H, N).
        """
        self._check_ahead()
        factor, _, _ = self.discrete()
        return torch.zeros(batch_size, *factor.shape, dtype=factor.dtype, device=factor.device)

    @torch.no_grad()
    def step(
        self, u: Float[Tensor, "b h"], state: Complex[Tensor, "b h n"]
    ) -> tuple[Float[Tensor, "b h"], Complex[Tensor, "b h n"]]:
        """Take one step of a stream.

        Parameters
        ----------
        u
            Inputs of the step, (B, H).
        state
            The state so far, of `init_state` or the step before.

        Returns
        -------
        y : Tensor
            Outputs of the step, (B, H), those of `forward` at that place.
        state : Tensor
            The state after it.
        """
        factor, gain, out = self._ready(u, state)
        state = factor * state + gain * u[..., None]
        y = self._skipped((state * out).sum(-1).real, self.D, u)
        return self.mixed(y[..., None])[..., 0], state


class _Diagonal(StateSpaceLayer):
    """Layers whose systems are diagonal, from eigenvalues and weights of a start."""

    pairs: Tensor

    def __init__(
        self,
        d_model: int,
        d_state: int,
        start: tuple[Tensor, Tensor, Tensor],
        bidirectional: bool,
        transposed: bool,
        dt_min: float,
        dt_max: float,
        lr_ssm: float | None,
        rule: Literal["zoh", "bilinear"],
    ) -> None:
        check_sizes(d_model, d_state, dt_min, dt_max)
        super().__init__(d_model, d_state, bidirectional, transposed, rule)
        eigenvalues, B, transform = start
        chosen, weights = half(eigenvalues)
        rows = d_model * (2 if bidirectional else 1)
        low, high = math.log(dt_min), math.log(dt_max)
        self.log_dt = trained_slowly(nn.Parameter(low + (high - low) * torch.rand(rows)), lr_ssm)
        decay = torch.log(-eigenvalues[chosen].real).float().repeat(rows, 1)
        self.log_decay = trained_slowly(nn.Parameter(decay), lr_ssm)
        frequency = eigenvalues[chosen].imag.float().repeat(rows, 1)
        self.frequency = trained_slowly(nn.Parameter(frequency), lr_ssm)
        # Real outputs of the system's own coordinates, so that all layers start alike; inputs are folded in.
        outputs = torch.randn(rows, d_state, dtype=torch.float64)
        C = ((outputs.to(transform.dtype) @ transform) * B)[:, chosen].to(torch.complex64)
        self.C = nn.Parameter(torch.view_as_real(C).contiguous())
        self.register_buffer("pairs", weights.float(), persistent=False)

    def eigenvalues(self) -> Complex[Tensor, "h n"]:
        """Return the eigenvalues in continuous time, one of each pair.

        Returns
        -------
        Tensor
            Eigenvalues, (H, N'), all with negative real parts; real ones have a frequency of 0.
        """
        real = self.pairs == 1
        return torch.complex(-wide(self.log_decay).exp(), torch.where(real, 0.0, wide(self.frequency)))

    def discrete(self) -> tuple[Complex[Tensor, "h n"], Complex[Tensor, "h n"], Complex[Tensor, "h n"]]:
        """Return factors of a step, gains of the input, and weights of the output, with those of pairs doubled.

        Returns
        -------
        tuple of Tensor
            Three of (H, N'), one of each pair of conjugate states.
        """
        factor, gain = kernels.discretized(self.eigenvalues(), wide(self.log_dt).exp()[:, None], self.rule)
        return factor, gain, torch.view_as_complex(wide(self.C)) * self.pairs


class S4D(_Diagonal):
    """The diagonal state-space layer, from the normal part of HiPPO-LegS or from frequencies in a row.

    Parameters
    ----------
    d_model
        How many features, H.
    d_state
        States of each.
    init
        ``legs`` drops the part of rank one of HiPPO-LegS, ``lin`` and ``inv`` are its simpler stand-ins.
    bidirectional
        Whether a second system goes from the end to the start.
    transposed
        Whether inputs are (B, H, L), else (B, L, H).
    dt_min, dt_max
        Range of the steps, of which each feature draws one, evenly in the logarithm.
    lr_ssm
        Learning rate of the systems, marked on their parameters as ``_optim`` with a weight decay of 0.
    rule
        How it is sampled: ``zoh`` or ``bilinear``.

    References
    ----------
    arXiv 2206.11893; arXiv 2310.01698 shows where it fails.

    Examples
    --------
    >>> layer = S4D(4, d_state=16)
    >>> layer(torch.randn(2, 4, 100)).shape
    torch.Size([2, 4, 100])
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        init: Literal["legs", "lin", "inv"] = "legs",
        bidirectional: bool = False,
        transposed: bool = True,
        *,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        lr_ssm: float | None = 1e-3,
        rule: Literal["zoh", "bilinear"] = "zoh",
    ) -> None:
        check_sizes(d_model, d_state, dt_min, dt_max)
        check_choice("init", init, ("legs", "lin", "inv"))
        if init == "legs":
            parts = dplr_legs(d_state)
            start = parts.eigenvalues, parts.V.mH @ parts.B.to(parts.V.dtype) / 2, parts.V
        else:
            if d_state % 2:
                raise ValueError(f"d_state is {d_state}; with init {init!r} it takes an even number")
            j = torch.arange(d_state // 2, dtype=torch.float64)
            w = math.pi * j if init == "lin" else d_state / math.pi * (d_state / (2 * j + 1) - 1)
            w = torch.where(w == 0, 1e-3 * d_state, w)  # a pair, like all others
            eigenvalues = torch.complex(torch.full((d_state,), -0.5, dtype=torch.float64), torch.cat([-w.flip(0), w]))
            # Outputs of a real system whose states come in pairs: halves of a unitary basis.
            eye, h = torch.eye(d_state // 2, dtype=torch.complex128), math.sqrt(0.5)
            left, right = torch.cat([eye.flip(1), 1j * eye.flip(1)]) * h, torch.cat([eye, -1j * eye]) * h
            start = eigenvalues, torch.ones(d_state, dtype=torch.complex128), torch.cat([left, right], 1)
        super().__init__(d_model, d_state, start, bidirectional, transposed, dt_min, dt_max, lr_ssm, rule)


class S4PTD(_Diagonal):
    """The diagonal layer that is close to S4 at every frequency: HiPPO-LegS is perturbed, then diagonalised.

    Parameters
    ----------
    d_model
        How many features, H.
    d_state
        States of each.
    bidirectional
        Whether a second system goes from the end to the start.
    transposed
        Whether inputs are (B, H, L), else (B, L, H).
    dt_min, dt_max
        Range of the steps, of which each feature draws one, evenly in the logarithm.
    lr_ssm
        Learning rate of the systems, marked on their parameters as ``_optim`` with a weight decay of 0.
    rule
        How it is sampled: ``zoh`` or ``bilinear``.
    method
        How the perturbation is found, as in `perturb_then_diagonalize`.

    References
    ----------
    arXiv 2310.01698, section 4.

    Examples
    --------
    >>> layer = S4PTD(4, d_state=16)
    >>> layer.setup_step()
    >>> y, state = layer.step(torch.randn(2, 4), layer.init_state(2))
    >>> y.shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        bidirectional: bool = False,
        transposed: bool = True,
        *,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        lr_ssm: float | None = 1e-3,
        rule: Literal["zoh", "bilinear"] = "zoh",
        method: Literal["optimized", "random", "normal", "none"] = "optimized",
    ) -> None:
        check_sizes(d_model, d_state, dt_min, dt_max)
        found = ptd_legs(d_state, method)
        _, B = hippo_legs(d_state)
        inputs = torch.linalg.solve(found.V, B.to(found.V.dtype))
        super().__init__(
            d_model,
            d_state,
            (found.eigenvalues, inputs, found.V),
            bidirectional,
            transposed,
            dt_min,
            dt_max,
            lr_ssm,
            rule,
        )


class S4DPLR(StateSpaceLayer):
    """The layer of the full HiPPO-LegS matrix, which the others approximate; for comparison, since it takes n^2 a step.

    The matrix stays as it is; outputs and steps are trained.

    Parameters
    ----------
    d_model
        How many features, H.
    d_state
        States of each.
    bidirectional
        Whether a second system goes from the end to the start.
    transposed
        Whether inputs are (B, H, L), else (B, L, H).
    dt_min, dt_max
        Range of the steps, of which each feature draws one, evenly in the logarithm.
    lr_ssm
        Learning rate of the systems, marked on their parameters as ``_optim`` with a weight decay of 0.
    rule
        How it is sampled: ``zoh`` or ``bilinear``.

    Examples
    --------
    >>> layer = S4DPLR(4, d_state=16)
    >>> layer(torch.randn(2, 4, 100)).shape
    torch.Size([2, 4, 100])
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        bidirectional: bool = False,
        transposed: bool = True,
        *,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        lr_ssm: float | None = 1e-3,
        rule: Literal["zoh", "bilinear"] = "zoh",
    ) -> None:
        check_sizes(d_model, d_state, dt_min, dt_max)
        super().__init__(d_model, d_state, bidirectional, transposed, rule)
        rows = d_model * (2 if bidirectional else 1)
        low, high = math.log(dt_min), math.log(dt_max)
        self.log_dt = trained_slowly(nn.Parameter(low + (high - low) * torch.rand(rows)), lr_ssm)
        self.C = nn.Parameter(torch.randn(rows, d_state))

    def matrices(self) -> tuple[Float[Tensor, "h n n"], Float[Tensor, "h n"]]:
        """Return the matrices of a step and the gains of the input, in double precision.

        Returns
        -------
        tuple of Tensor
            (H, N, N) and (H, N).
        """
        dt = self.log_dt.double().exp()[:, None, None]
        A, B = (x.to(dt.device) for x in hippo_legs(self.d_state))  # no buffers, which would lose digits in a cast
        eye = torch.eye(self.d_state, dtype=A.dtype, device=A.device)
        if self.rule == "bilinear":
            below = eye - dt / 2 * A
            step = torch.linalg.solve_triangular(below, eye + dt / 2 * A, upper=False)
            return step, torch.linalg.solve_triangular(below, dt * B[:, None], upper=False)[..., 0]
        step = torch.linalg.matrix_exp(dt * A)
        gain = torch.linalg.solve_triangular(A, (step - eye) @ B[:, None], upper=False)
        return step, gain[..., 0]

    def kernel(self, length: int) -> Float[Tensor, "h l"]:
        """Return the answer of each feature to a unit input, for both directions one after the other.

        Parameters
        ----------
        length
            How many steps.

        Returns
        -------
        Tensor
            Kernels, (H, L), or (2 H, L) with both directions.
        """
        step, gain = self.matrices()
        width = math.isqrt(max(length - 1, 0)) + 1
        rows, columns, jump = [self.C.double()], [gain], torch.linalg.matrix_power(step, width)
        for _ in range(width - 1):
            rows.append((rows[-1][:, None] @ step)[:, 0])
            columns.append((jump @ columns[-1][..., None])[..., 0])
        table = torch.stack(columns, 1) @ torch.stack(rows, 2)
        return table.flatten(1)[:, :length].to(wide(self.C).dtype)

    def _scan(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("S4DPLR has no scan; take `step`, or a diagonal layer")

    def init_state(self, batch_size: int) -> Float[Tensor, "b h n"]:
        """Return the state before the first step.

        Parameters
        ----------
        batch_size
            Sequences that go on side by side.

        Returns
        -------
        Tensor
            Zeros, (B, H, N).
        """
        self._check_ahead()
        return torch.zeros(batch_size, self.d_model, self.d_state, dtype=wide(self.C).dtype, device=self.C.device)

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the matrices of a step, gains of the input, and weights of the output.

        Returns
        -------
        tuple of Tensor
            (H, N, N), (H, N) and (H, N).
        """
        (step, gain), C = self.matrices(), wide(self.C)
        return step.to(C.dtype), gain.to(C.dtype), C

    @torch.no_grad()
    def step(self, u: Float[Tensor, "b h"], state: Any) -> Any:
        """Take one step of a stream.

        Parameters
        ----------
        u
            Inputs of the step, (B, H).
        state
            The state so far, of `init_state` or the step before.

        Returns
        -------
        y : Tensor
            Outputs of the step, (B, H).
        state : Tensor
            The state after it.
        """
        step, gain, out = self._ready(u, state)
        state = torch.einsum("hij,bhj->bhi", step, state) + gain * u[..., None]
        y = self._skipped((state * out).sum(-1), self.D, u)
        return self.mixed(y[..., None])[..., 0], state
