"""Layers of one system for all features, after S5."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count
from paperworks.dynamics.state_space import kernels
from paperworks.dynamics.state_space.diagonalization import Method, half, ptd_legs
from paperworks.dynamics.state_space.layers import Streamed, check_sizes, trained_slowly, wide


class S5PTD(Streamed):
    """One diagonal system of many inputs and outputs, from blocks of perturbed and diagonalised HiPPO-LegS matrices.

    Parameters
    ----------
    d_model
        How many features, H.
    d_state
        States of all blocks together, P.
    blocks
        Blocks that start from matrices of P / blocks states.
    bidirectional
        Whether states also go from the end to the start, with outputs of their own.
    transposed
        Whether inputs are (B, H, L), else (B, L, H).
    dt_min, dt_max
        Range of the steps, of which each state draws one, evenly in the logarithm.
    lr_ssm
        Learning rate of the system, marked on its parameters as ``_optim`` with a weight decay of 0.
    rule
        How it is sampled: ``zoh`` or ``bilinear``.
    method
        How the perturbation is found, as in `perturb_then_diagonalize`.

    Raises
    ------
    ValueError
        For states that the blocks don't divide, or a range of steps that is empty.

    References
    ----------
    arXiv 2310.01698, section 4; the layer is that of arXiv 2208.04933.

    Examples
    --------
    >>> layer = S5PTD(8, d_state=32, blocks=2)
    >>> y, state = layer(torch.randn(2, 50, 8), layer.init_state(2))
    >>> y.shape, state.shape
    (torch.Size([2, 50, 8]), torch.Size([2, 16]))
    """

    pairs: Tensor

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        blocks: int = 1,
        bidirectional: bool = False,
        transposed: bool = False,
        *,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        lr_ssm: float | None = 1e-3,
        rule: Literal["zoh", "bilinear"] = "zoh",
        method: Method = "optimized",
    ) -> None:
        check_sizes(d_model, d_state, dt_min, dt_max)
        check_count("blocks", blocks)
        if d_state % blocks or d_state // blocks < 2:
            raise ValueError(
                f"d_state is {d_state}; it takes a multiple of the {blocks} blocks, at least twice as many"
            )
        super().__init__()
        self.d_model, self.d_state = d_model, d_state
        self.bidirectional, self.transposed = bidirectional, transposed
        self.rule: Literal["zoh", "bilinear"] = check_choice("rule", rule, ("zoh", "bilinear"))
        found = ptd_legs(d_state // blocks, method)
        chosen, weights = half(found.eigenvalues)
        eigenvalues = found.eigenvalues[chosen].to(torch.complex64).repeat(blocks)
        V = torch.block_diag(*[found.V] * blocks)
        places = torch.cat([chosen + k * (d_state // blocks) for k in range(blocks)])
        self.log_decay = trained_slowly(nn.Parameter(torch.log(-eigenvalues.real)), lr_ssm)
        self.frequency = trained_slowly(nn.Parameter(eigenvalues.imag.clone()), lr_ssm)
        low, high = math.log(dt_min), math.log(dt_max)
        self.log_dt = trained_slowly(nn.Parameter(low + (high - low) * torch.rand(len(places))), lr_ssm)
        inputs = torch.randn(d_state, d_model, dtype=torch.float64) / math.sqrt(d_model)
        B = torch.linalg.solve(V, inputs.to(V.dtype))[places].to(torch.complex64)
        self.B = trained_slowly(nn.Parameter(torch.view_as_real(B).contiguous()), lr_ssm)
        directions = 2 if bidirectional else 1
        outputs = torch.randn(d_model, directions, d_state, dtype=torch.float64) / math.sqrt(d_state)
        C = (outputs.to(V.dtype) @ V)[..., places].to(torch.complex64)
        self.C = nn.Parameter(torch.view_as_real(C).contiguous())
        self.D = nn.Parameter(torch.randn(d_model))
        self.register_buffer("pairs", weights.float().repeat(blocks), persistent=False)

    def extra_repr(self) -> str:
        """Show sizes and directions.

        Returns
        -------
        str
            What stands in the brackets of the module.
        """
        return f"{self.d_model}, d_state={self.d_state}, bidirectional={self.bidirectional}, rule={self.rule!r}"

    def discrete(self) -> tuple[Complex[Tensor, " n"], Complex[Tensor, "n h"], Complex[Tensor, "h d n"]]:
        """Return factors of a step, the input's matrix, and the output's, with the weights of pairs doubled.

        Returns
        -------
        tuple of Tensor
            (P'), (P', H) and (H, directions, P').
        """
        frequency = torch.where(self.pairs == 1, 0.0, wide(self.frequency))
        eigenvalues = torch.complex(-wide(self.log_decay).exp(), frequency)
        factor, gain = kernels.discretized(eigenvalues, wide(self.log_dt).exp(), self.rule)
        B, C = torch.view_as_complex(wide(self.B)), torch.view_as_complex(wide(self.C))
        return factor, gain[:, None] * B, C * self.pairs

    def forward(self, u: Float[Tensor, "b x y"], state: Complex[Tensor, "b n"] | None = None) -> Any:
        """Map sequences to sequences.

        Parameters
        ----------
        u
            Inputs, (B, L, H), or (B, H, L) where the layer is transposed.
        state
            The state to go on from; then the state at the end is returned too.

        Returns
        -------
        Tensor
            Outputs, of the shape of `u`; and the state after the last step, (B, P'), where one was given.
        """
        if u.ndim != 3 or u.shape[1 if self.transposed else 2] != self.d_model:
            takes = f"(B, {self.d_model}, L)" if self.transposed else f"(B, L, {self.d_model})"
            raise ValueError(f"u has shape {tuple(u.shape)}; it takes {takes}")
        if state is not None and self.bidirectional:
            raise ValueError("the layer goes in both directions; a state takes one that goes ahead alone")
        x = u.mT if self.transposed else u
        if not x.shape[1]:
            raise ValueError(f"u has shape {tuple(u.shape)}; it takes one step or more")
        factor, B, C = self.discrete()
        inputs = torch.view_as_complex((wide(x) @ torch.view_as_real(B.mT).flatten(1)).unflatten(-1, (-1, 2)))
        ahead = kernels.scanned(inputs, factor, state)
        y = _real_product(ahead, C[:, 0])
        if self.bidirectional:
            y = y + _real_product(kernels.scanned(inputs.flip(1), factor).flip(1), C[:, 1])
        y = self._skipped(y, self.D, x)
        y = y.mT if self.transposed else y
        return y if state is None else (y, ahead[:, -1])

    def init_state(self, batch_size: int) -> Complex[Tensor, "b n"]:
        """Return the state before the first step.

        Parameters
        ----------
        batch_size
            Sequences that go on side by side.

        Returns
        -------
        Tensor
            Zeros, (B, P').
        """
        self._check_ahead()
        dtype = torch.complex128 if self.B.dtype == torch.float64 else torch.complex64
        return torch.zeros(batch_size, len(self.log_dt), dtype=dtype, device=self.log_dt.device)

    @torch.no_grad()
    def step(
        self, u: Float[Tensor, "b h"], state: Complex[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b h"], Complex[Tensor, "b n"]]:
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
        factor, B, C = self._ready(u, state)
        state = factor * state + u.to(B.dtype) @ B.mT
        return self._skipped(_real_product(state, C[:, 0]), self.D, u), state


class S5(S5PTD):
    """The layer with the normal part of HiPPO-LegS and full inputs, as S5 starts.

    Parameters
    ----------
    d_model
        How many features, H.
    d_state
        States of all blocks together, P.
    blocks
        Blocks that start from matrices of P / blocks states.
    bidirectional
        Whether states also go from the end to the start, with outputs of their own.
    transposed
        Whether inputs are (B, H, L), else (B, L, H).
    dt_min, dt_max
        Range of the steps, of which each state draws one, evenly in the logarithm.
    lr_ssm
        Learning rate of the system, marked on its parameters as ``_optim`` with a weight decay of 0.
    rule
        How it is sampled: ``zoh`` or ``bilinear``.

    References
    ----------
    arXiv 2208.04933.

    Examples
    --------
    >>> S5(8, d_state=32)(torch.randn(2, 50, 8)).shape
    torch.Size([2, 50, 8])
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        blocks: int = 1,
        bidirectional: bool = False,
        transposed: bool = False,
        *,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        lr_ssm: float | None = 1e-3,
        rule: Literal["zoh", "bilinear"] = "zoh",
    ) -> None:
        super().__init__(
            d_model, d_state, blocks, bidirectional, transposed, dt_min=dt_min, dt_max=dt_max, lr_ssm=lr_ssm, rule=rule,
            method="normal",
        )  # fmt: skip


def _real_product(states: Tensor, C: Tensor) -> Tensor:
    """Return the real part of states times C transposed, by one product of real numbers."""
    return torch.view_as_real(states).flatten(-2) @ torch.view_as_real(C.conj().resolve_conj()).flatten(1).mT
