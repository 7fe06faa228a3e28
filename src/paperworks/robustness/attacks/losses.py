"""What an attacker of a policy raises: by how much the policy's outputs speak against what they said before."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from paperworks.core.validation import check_number

Outputs = Float[Tensor, " batch *outputs"]
Reference = Float[Tensor, " batch *any"] | Int64[Tensor, " batch *any"]


class AttackLoss(ABC):
    """A loss that an attack raises, with what it compares to and when the attack has succeeded.

    Parameters
    ----------
    targeted
        Whether the reference is where the outputs are to go, not where they are to leave.
    """

    def __init__(self, targeted: bool = False) -> None:
        self.targeted = targeted

    @abstractmethod
    def reference(self, outputs: Outputs) -> Reference:
        """Return what outputs of unchanged observations say: what an untargeted attack departs from.

        Returns
        -------
        Reference
            What the outputs say, one row for each observation.
        """

    @abstractmethod
    def __call__(self, outputs: Outputs, reference: Reference) -> Float[Tensor, " batch"]:
        """Return the loss of each observation."""

    @abstractmethod
    def success(self, outputs: Outputs, reference: Reference) -> Bool[Tensor, " batch"]:
        """Say which outputs have left the reference, or reached it if targeted.

        Returns
        -------
        Tensor of shape (batch,)
            True for each observation where the attack succeeded.
        """


class _LogitsLoss(AttackLoss):
    def reference(self, outputs: Outputs) -> Int64[Tensor, " batch *dims"]:
        """Return the largest logit of each.

        Parameters
        ----------
        outputs
            Outputs of the policy, one row for each observation.

        Returns
        -------
        Tensor of shape (batch, ...)
            Number of the largest logit, one for each observation and group.
        """
        return outputs.argmax(-1)

    def success(self, outputs: Outputs, reference: Reference) -> Bool[Tensor, " batch"]:
        """Say where another logit is larger than the reference's, or the reference's the largest if targeted.

        Parameters
        ----------
        outputs
            Outputs of the policy, one row for each observation.

        Returns
        -------
        Tensor of shape (batch,)
            True for each observation where the attack succeeded.
        """
        gap = difference(outputs, reference)
        return self._all_dims(-gap > 0) if self.targeted else self._any_dim(gap > 0)

    def _any_dim(self, flags: Tensor) -> Tensor:
        return flags.flatten(1).any(1) if flags.ndim > 1 else flags

    def _all_dims(self, flags: Tensor) -> Tensor:
        return flags.flatten(1).all(1) if flags.ndim > 1 else flags


class DifferenceLogitsLoss(_LogitsLoss):
    """The largest other logit less the reference's: ``max_{j != y} z_j - z_y``, or its negative if targeted.

    Positive where the decision has changed. The maximum leaves the reference's logit out, so that the gradient lives
    where all logits are negative.

    Parameters
    ----------
    targeted
        Whether the reference is to be reached.

    Notes
    -----
    Carlini and Wagner, arXiv 1608.04644; as used in arXiv 2407.05182.

    Examples
    --------
    >>> DifferenceLogitsLoss()(torch.tensor([[-1.0, -3.0, -4.0]]), torch.tensor([0]))
    tensor([-2.])
    """

    def __call__(self, outputs: Outputs, reference: Reference) -> Float[Tensor, " batch"]:
        """Return the loss of each observation."""
        gap = difference(outputs, reference)
        return -gap if self.targeted else gap


class GroupDifferenceLogitsLoss(_LogitsLoss):
    """The best other group's logit less the reference group's: the loss for what a `BifurcationLayer` returns.

    ``sum_d w_d (max_{j != y_d} z_dj - z_dy_d)`` over the dimensions of an action, of which a discrete one has one; its
    negative if targeted. An untargeted attack succeeds where one dimension changes its group, a targeted one where all
    have reached theirs.

    Parameters
    ----------
    targeted
        Whether the reference is the group to reach.
    weights
        Weights of the dimensions of a continuous action, none negative; a dimension of weight 0 doesn't count. Ones by
        default.

    Raises
    ------
    ValueError
        For negative weights, all zeros, or, when called, not as many as dimensions.

    Notes
    -----
    arXiv 2407.05182, the group difference logits loss.

    Examples
    --------
    >>> loss = GroupDifferenceLogitsLoss()
    >>> logits = torch.tensor([[2.0, -1.0], [-0.5, 0.5]])
    >>> loss(logits, torch.tensor([0, 0])), loss.success(logits, torch.tensor([0, 0]))
    (tensor([-3.,  1.]), tensor([False,  True]))
    """

    def __init__(self, targeted: bool = False, weights: Sequence[float] | None = None) -> None:
        super().__init__(targeted)
        self.weights = None if weights is None else torch.tensor([check_number("weights", w, ge=0) for w in weights])
        if self.weights is not None and not bool(self.weights.any()):
            raise ValueError("weights are all 0; it takes one or more that are positive")

    def __call__(self, outputs: Outputs, reference: Reference) -> Float[Tensor, " batch"]:
        """Return the loss of each observation."""
        gap = difference(outputs, reference)
        if gap.ndim > 1:
            gap = (gap * self._weights(gap)).sum(1)
        return -gap if self.targeted else gap

    def success(self, outputs: Outputs, reference: Reference) -> Bool[Tensor, " batch"]:
        """Say which actions changed a group, or reached all if targeted.

        Parameters
        ----------
        outputs
            Outputs of the policy, one row for each observation.
        reference
            What `reference` said of unchanged observations.

        Returns
        -------
        Tensor of shape (batch,)
            True for each observation where the attack succeeded.
        """
        gap = difference(outputs, reference)
        if gap.ndim == 1:
            return -gap > 0 if self.targeted else gap > 0
        counts = self._weights(gap) > 0
        return ((-gap > 0) | ~counts).all(1) if self.targeted else ((gap > 0) & counts).any(1)

    def _weights(self, gap: Tensor) -> Tensor:
        if self.weights is None:
            return torch.ones_like(gap[0])
        if len(self.weights) != gap.shape[1]:
            raise ValueError(f"weights has {len(self.weights)} numbers; it takes one for each of {gap.shape[1]} dims")
        return self.weights.to(gap)


class CrossEntropyLoss(_LogitsLoss):
    """Cross-entropy of the reference; its negative if targeted.

    Parameters
    ----------
    targeted
        Whether the reference is to be reached.

    Examples
    --------
    >>> CrossEntropyLoss()(torch.zeros(1, 4), torch.tensor([0]))
    tensor([1.3863])
    """

    def __call__(self, outputs: Outputs, reference: Reference) -> Float[Tensor, " batch"]:
        """Return the loss of each observation."""
        found = functional.cross_entropy(outputs, reference, reduction="none")
        return -found if self.targeted else found


class DifferenceLogitsRatioLoss(_LogitsLoss):
    """The difference of logits, divided by that of the largest and the third: it doesn't change with their scale.

    Parameters
    ----------
    targeted
        Whether the reference is to be reached.

    Raises
    ------
    ValueError
        When called, for fewer than three logits.

    Notes
    -----
    Croce and Hein, arXiv 2003.01690, equation 6.

    Examples
    --------
    >>> DifferenceLogitsRatioLoss()(torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([0]))
    tensor([-0.5000])
    """

    def __call__(self, outputs: Outputs, reference: Reference) -> Float[Tensor, " batch"]:
        """Return the loss of each observation."""
        if outputs.shape[1] < 3:
            raise ValueError(f"outputs has {outputs.shape[1]} logits; the ratio takes 3 or more")
        top = outputs.topk(3, 1).values
        least = max(1e-12, torch.finfo(top.dtype).tiny)
        found = difference(outputs, reference) / (top[:, 0] - top[:, 2]).clamp_min(least)
        return -found if self.targeted else found


class SquaredErrorLoss(AttackLoss):
    """Squared distance of a continuous action from the reference: the baseline without a bifurcation.

    It has no gradient at the observation itself, so that an attack has to start at random.

    Parameters
    ----------
    targeted
        Whether the reference is to be approached.
    threshold
        The idle action; an untargeted attack has succeeded where one dimension is on the other side of it than the
        reference, a targeted one where all are on the reference's side.

    Examples
    --------
    >>> loss = SquaredErrorLoss()
    >>> actions = torch.tensor([[0.5], [-0.5]])
    >>> loss(actions, torch.tensor([[1.0], [1.0]])), loss.success(actions, torch.tensor([[1.0], [1.0]]))
    (tensor([0.2500, 2.2500]), tensor([False,  True]))
    """

    def __init__(self, targeted: bool = False, threshold: float = 0.0) -> None:
        super().__init__(targeted)
        self.threshold = check_number("threshold", threshold)

    def reference(self, outputs: Outputs) -> Float[Tensor, " batch *dims"]:
        """Return the action.

        Parameters
        ----------
        outputs
            Outputs of the policy, one row for each observation.

        Returns
        -------
        Tensor of shape (batch, ...)
            The actions, as they were given.
        """
        return outputs.detach()

    def __call__(self, outputs: Outputs, reference: Reference) -> Float[Tensor, " batch"]:
        """Return the loss of each observation."""
        found = (outputs - reference).square().flatten(1).sum(1)
        return -found if self.targeted else found

    def success(self, outputs: Outputs, reference: Reference) -> Bool[Tensor, " batch"]:
        """Say which actions are beyond the threshold.

        Parameters
        ----------
        outputs
            Outputs of the policy, one row for each observation.
        reference
            What `reference` said of unchanged observations.

        Returns
        -------
        Tensor of shape (batch,)
            True for each observation where the attack succeeded.
        """
        crossed = ((outputs - self.threshold) * (reference - self.threshold) < 0).flatten(1)
        return ~crossed.any(1) if self.targeted else crossed.any(1)


class DivergenceLoss(AttackLoss):
    """Kullback-Leibler divergence of a discrete policy from what it was: ``KL(pi(o) || pi(o'))``.

    An attack has succeeded where the likeliest action is another one.

    Notes
    -----
    The divergence that a smooth policy keeps small, arXiv 2003.08938.

    Examples
    --------
    >>> loss = DivergenceLoss()
    >>> logits = torch.tensor([[1.0, 0.0]])
    >>> loss(logits, logits), loss(-logits, logits).round(decimals=4)
    (tensor([0.]), tensor([0.4621]))
    """

    def reference(self, outputs: Outputs) -> Float[Tensor, "batch n"]:
        """Return the logits.

        Parameters
        ----------
        outputs
            Outputs of the policy, one row for each observation.

        Returns
        -------
        Tensor of shape (batch, n)
            Logits of the actions, as they were given.
        """
        return outputs.detach()

    def __call__(self, outputs: Outputs, reference: Reference) -> Float[Tensor, " batch"]:
        """Return the loss of each observation."""
        before, after = reference.log_softmax(-1), outputs.log_softmax(-1)
        found = (before.exp() * (before - after)).sum(-1)
        return -found if self.targeted else found

    def success(self, outputs: Outputs, reference: Reference) -> Bool[Tensor, " batch"]:
        """Say where the likeliest action is another one, or the reference's if targeted.

        Parameters
        ----------
        outputs
            Outputs of the policy, one row for each observation.

        Returns
        -------
        Tensor of shape (batch,)
            True for each observation where the attack succeeded.
        """
        return (outputs.argmax(-1) == reference.argmax(-1)) == self.targeted


def difference(logits: Float[Tensor, " *batch n"], y: Int64[Tensor, " *batch"]) -> Float[Tensor, " *batch"]:
    """Return ``max_{j != y} z_j - z_y``."""
    own = logits.gather(-1, y[..., None])
    return (logits.scatter(-1, y[..., None], -torch.inf).amax(-1, keepdim=True) - own)[..., 0]
