"""Which sample of the base goes with which of the target: minibatch optimal transport."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from paperworks.core.validation import check_choice, check_count, check_finite, check_number

CouplingMethod = Literal["exact", "sinkhorn"]
_SWEEPS = 10  # from one look at the columns' masses to the next


class OptimalCoupling:
    """Pair two batches so that the squared distances of the pairs are least, for interpolants with straighter paths.

    Both laws stay what they are; what changes is who is paired with whom, within each batch. A batch of n pairs costs
    O(n^3) for the exact assignment, O(n^2) a sweep for Sinkhorn's.

    Parameters
    ----------
    method
        ``exact``: the assignment of least cost, by SciPy. ``sinkhorn``: the plan of least cost plus `reg` times its
        negative entropy, from which a partner is drawn for each sample of the base.
    reg
        Weight of the entropy, in units of the mean squared distance between the batches. Default 0.05.
    steps, rtol
        Sweeps of Sinkhorn at most, and the share of mass that a column may be off at which they end.

    Raises
    ------
    ValueError
        For an unknown method, or numbers out of range.

    Notes
    -----
    Minibatch couplings: arXiv 2302.00482 and 2304.14772; interpolants take any coupling of their ends, see definition 1
    of arXiv 2303.08797. Sinkhorn: arXiv 1306.0895, here in logarithms.

    Examples
    --------
    >>> x0, x1 = torch.tensor([[0.0], [10.0]]), torch.tensor([[11.0], [1.0]])
    >>> OptimalCoupling()(x0, x1)[1]
    tensor([[ 1.],
            [11.]])
    """

    def __init__(
        self, method: CouplingMethod = "exact", *, reg: float = 0.05, steps: int = 1000, rtol: float = 1e-6
    ) -> None:
        self.method: CouplingMethod = check_choice("method", method, get_args(CouplingMethod))
        self.reg = check_number("reg", reg, gt=0)
        self.steps = check_count("steps", steps)
        self.rtol = check_number("rtol", rtol, gt=0)

    def __call__(
        self,
        x0: Float[Tensor, " n *shape"],
        x1: Float[Tensor, " m *shape"],
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, " n *shape"], Float[Tensor, " n *shape"]]:
        """Return `x0`, and the partner of each of its samples.

        Parameters
        ----------
        x0, x1
            Samples of the base and of the target; as many of both for ``exact``.
        generator
            What draws the partners for ``sinkhorn``.

        Returns
        -------
        tuple of Tensor
            Pairs (x0, x1), row by row, for a loss of `paperworks.diffusion`.

        Raises
        ------
        ValueError
            For batches that differ in shape, NaN, no sample to choose from, or a missing generator.
        """
        return x0, x1[self.partners(x0, x1, generator)]

    def partners(
        self,
        x0: Float[Tensor, " n *shape"],
        x1: Float[Tensor, " m *shape"],
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, " n"]:
        """Return the number of the partner in `x1` of each sample of `x0`, by which labels can follow.

        Parameters
        ----------
        x0, x1, generator
            As in a call.

        Returns
        -------
        Tensor of shape (n,)
            Numbers from 0 to m - 1; each once for ``exact``.

        Raises
        ------
        ValueError
            As a call.
        """
        cost = _squared_distances(x0, x1)
        if self.method == "sinkhorn":
            if generator is None:
                raise ValueError("generator is None; method 'sinkhorn' draws partners and takes a torch.Generator")
            if not len(x0):
                return torch.empty(0, dtype=torch.int64, device=x0.device)
            if not len(x1):
                raise ValueError(f"x1 has no samples; it takes one or more as partners of the {len(x0)} of x0")
            plan = self._plan(cost)
            return torch.multinomial(plan.to(generator.device), 1, generator=generator)[:, 0].to(x0.device)
        if len(x0) != len(x1):
            raise ValueError(f"x0 has {len(x0)} samples and x1 {len(x1)}; method 'exact' takes as many of both")
        from scipy.optimize import linear_sum_assignment

        return torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1]).to(x0.device)

    def _plan(self, cost: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Return the plan times n, so that every row sums to one."""
        log_kernel = -cost / (self.reg * cost.mean().clamp_min(torch.finfo(cost.dtype).tiny))
        log_kernel = log_kernel - log_kernel.amax(1, keepdim=True)
        kernel = log_kernel.exp()
        share = len(cost) / cost.shape[1]
        columns = torch.ones_like(kernel[0])
        for sweep in range(self.steps):
            mass = (1 / (kernel @ columns)) @ kernel  # of each column, but for its own factor
            if sweep % _SWEEPS == 0 and float((columns * mass / share - 1).abs().max()) <= self.rtol:
                break
            columns = share / mass
        if not bool(torch.isfinite(columns).all()) or not bool((columns > 0).all()):
            return self._plan_in_logarithms(log_kernel, share)
        plan = kernel * columns
        return plan / plan.sum(1, keepdim=True)

    def _plan_in_logarithms(self, log_kernel: Float[Tensor, "n m"], share: float) -> Float[Tensor, "n m"]:
        """Do the same several times slower where factors are beyond what floating point holds."""
        columns = torch.zeros_like(log_kernel[0])
        for sweep in range(self.steps):
            rows = -torch.logsumexp(log_kernel + columns, dim=1)
            after = math.log(share) - torch.logsumexp(log_kernel + rows[:, None], dim=0)
            if sweep % _SWEEPS == 0 and float((columns - after).expm1().abs().max()) <= self.rtol:
                break
            columns = after
        return torch.softmax(log_kernel + columns, dim=1)


def _squared_distances(x0: Tensor, x1: Tensor) -> Float[Tensor, "n m"]:
    for name, x in (("x0", x0), ("x1", x1)):
        if not x.is_floating_point():
            raise TypeError(f"{name} is {x.dtype}; it takes a tensor of floating point")
        check_finite(name, x)
    if x0.shape[1:] != x1.shape[1:] or x0.ndim < 1:
        raise ValueError(f"x0 has shape {tuple(x0.shape)} and x1 {tuple(x1.shape)}; they take samples of one shape")
    rows, others = (x.detach()[..., None].flatten(1).double() for x in (x0, x1))
    largest = max(float(x.abs().max()) if x.numel() else 1.0 for x in (rows, others))
    if not 1e-100 < largest < 1e100 and largest:  # whose squares are beyond double precision; the unit is of no matter
        rows, others = rows / largest, others / largest
    centre = rows.mean(0) if len(rows) else 0.0  # so that squares of far-off batches don't cancel
    return torch.cdist(rows - centre, others - centre).square()
