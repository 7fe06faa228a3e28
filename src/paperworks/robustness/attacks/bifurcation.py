"""Decisions for one of a few groups of actions, made of the outputs of a policy."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_number


class BifurcationLayer(nn.Module):
    """A policy whose outputs are collapsed into groups of actions, such as charging and discharging.

    A discrete policy's group logit is the largest logit of the group, so that an attack on it goes by whichever action
    is easiest to reach. Of a continuous action two logits are made, ``m_k a + b_k``; by default ``(a - t, t - a)``:
    group 0 is above the threshold, group 1 below.

    Parameters
    ----------
    model
        From observations to logits (batch, n), or to actions (batch, dims), best before they are squashed.
    groups
        Lists of the actions of each group; by default the first and the second half of an even number.
    reduce
        ``max``, or ``lse`` for the smooth ``temperature * logsumexp(z / temperature)``.
    threshold
        The continuous action that is neither, such as idling.
    continuous
        Whether outputs are continuous actions; by default one alone is.
    slopes, intercepts
        ``m`` and ``b`` of the two logits of a continuous action; intercepts are ``(-threshold, threshold)`` by default.
    temperature
        Temperature of ``lse``.

    Raises
    ------
    ValueError
        For an odd number of actions without groups, an empty group or one with an unknown action, slopes of equal sign,
        or options out of range.

    Notes
    -----
    arXiv 2407.05182, the bifurcation layer.

    Examples
    --------
    >>> BifurcationLayer(nn.Identity())(torch.tensor([[1.0, 5.0, 2.0, 3.0]]))
    tensor([[5., 3.]])
    >>> BifurcationLayer(nn.Identity(), threshold=0.5)(torch.tensor([[0.75]]))
    tensor([[ 0.2500, -0.2500]])
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Sequence[int]] | None = None,
        reduce: Literal["max", "lse"] = "max",
        threshold: float = 0.0,
        *,
        continuous: bool | None = None,
        slopes: tuple[float, float] = (1.0, -1.0),
        intercepts: tuple[float, float] | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.groups = None if groups is None else _checked(groups)
        self.reduce = check_choice("reduce", reduce, ("max", "lse"))
        self.threshold = check_number("threshold", threshold)
        self.continuous = continuous
        up, down = (check_number("slopes", m) for m in slopes)
        if not up * down < 0:
            raise ValueError(f"slopes is {slopes}; it takes two of opposite signs")
        self.slopes = (up, down)
        self.intercepts = (-threshold, threshold) if intercepts is None else intercepts
        self.temperature = check_number("temperature", temperature, gt=0)

    def forward(self, obs: Float[Tensor, "batch features"]) -> Float[Tensor, " batch *dims groups"]:
        """Return the logits of the groups: (batch, groups), or (batch, dims, 2) of a longer continuous action.

        Parameters
        ----------
        obs
            Observations of shape (batch, features).

        Returns
        -------
        Tensor of shape (batch, ..., groups)
            Logits of the groups, with one more axis where an action has several dimensions.
        """
        outputs = self.model(obs)
        if self.continuous or (self.continuous is None and outputs.shape[1] == 1):
            pair = torch.stack([m * outputs + b for m, b in zip(self.slopes, self.intercepts, strict=True)], dim=-1)
            return pair[:, 0] if outputs.shape[1] == 1 else pair
        return torch.stack([self._group(outputs[:, members]) for members in self._groups(outputs.shape[1])], dim=1)

    def _group(self, logits: Tensor) -> Tensor:
        if self.reduce == "max":
            return logits.amax(1)
        return self.temperature * (logits / self.temperature).logsumexp(1)

    def _groups(self, n: int) -> list[list[int]]:
        if self.groups is None:
            if n % 2:
                raise ValueError(f"groups is None and the model has {n} actions; it takes groups where they are odd")
            return [list(range(n // 2)), list(range(n // 2, n))]
        if (most := max(map(max, self.groups))) >= n:
            raise ValueError(f"groups has action {most}; the model has actions 0 to {n - 1}")
        return self.groups


def _checked(groups: Sequence[Sequence[int]]) -> list[list[int]]:
    found = [list(members) for members in groups]
    if len(found) < 2 or not all(found):
        raise ValueError(f"groups is {found}; it takes two or more, none of them empty")
    flat = [action for members in found for action in members]
    if len(set(flat)) < len(flat) or min(flat) < 0:
        raise ValueError(f"groups is {found}; it takes actions from 0 up, each in one group")
    return found
