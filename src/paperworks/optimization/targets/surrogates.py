"""The surrogate of a loss in the space of a model's outputs, and how smooth losses are there."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_number

Divergence = Literal["euclidean", "kl"]
LIPSCHITZ = {"squared": 1.0, "logistic": 0.25, "cross_entropy": 0.5, "huber": 1.0}


def target_lipschitz(loss: str) -> float:
    """Return the constant L for which a sample's loss is L-smooth in the model's outputs: steps up to 1 / L majorise.

    Parameters
    ----------
    loss
        "squared" (half the squared error), "logistic" (binary, of one logit), "cross_entropy" (of the softmax of
        logits), or "huber" (with any threshold).

    Returns
    -------
    float
        The Lipschitz constant of the gradient.

    Raises
    ------
    ValueError
        If the loss has no such constant here; that of Poisson regression has none, and takes a line search.

    Examples
    --------
    >>> target_lipschitz("logistic")
    0.25
    """
    return LIPSCHITZ[check_choice("loss", loss, LIPSCHITZ)]


class TargetSurrogate:
    r"""The model of a loss around outputs :math:`z_t`: linear, plus how far the outputs moved over `eta`.

    .. math:: S(z) = \ell(z_t) + \langle g, z - z_t \rangle + \frac{1}{2 \eta n} \lVert z - z_t \rVert^2

    The loss is a mean over n samples, the rows of z, and g its gradient. With eta up to 1 / L, of a loss that is
    L-smooth in each sample's outputs, S lies above the loss everywhere and touches it at :math:`z_t`.

    Parameters
    ----------
    z_t
        Outputs at which the loss was evaluated; with "kl" probabilities.
    g
        Gradient of the mean loss there.
    eta
        Step size in the space of outputs, a number or one for each entry.
    divergence
        "euclidean", or "kl" for mirror descent with probabilities: the generalised Kullback-Leibler divergence over
        `eta` takes the place of the squared distance over `2 eta`.
    loss
        The loss at `z_t`, a constant of the surrogate.

    Raises
    ------
    ValueError
        If eta is not positive, g has another shape than z_t or entries that are not finite, or z_t is no probability
        with "kl".

    References
    ----------
    arXiv:2302.02607, equation (2).

    Examples
    --------
    >>> S = TargetSurrogate(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), eta=0.5)
    >>> float(S(torch.tensor([[-0.5, 0.0]])))
    -0.25
    """

    def __init__(
        self,
        z_t: Float[Tensor, "..."],
        g: Float[Tensor, "..."],
        eta: float | Float[Tensor, "..."],
        divergence: Divergence = "euclidean",
        loss: float = 0.0,
    ) -> None:
        check_choice("divergence", divergence, get_args(Divergence))
        if g.shape != z_t.shape:
            raise ValueError(f"g has shape {tuple(g.shape)}; it takes {tuple(z_t.shape)}, that of the outputs")
        if not bool(g.isfinite().all()):
            raise ValueError("g has entries that are not finite; it takes a finite gradient")
        if isinstance(eta, Tensor):
            if not bool(((eta > 0) & eta.isfinite()).all()):
                raise ValueError("eta has entries that are not positive and finite; it takes numbers > 0")
        else:
            check_number("eta", eta, gt=0)
        if divergence == "kl" and not bool((z_t > 0).all()):
            raise ValueError("z_t has entries that are not positive; it takes probabilities with divergence 'kl'")
        self.z_t, self.g, self.eta, self.divergence, self.loss = z_t.detach(), g.detach(), eta, divergence, loss
        self.samples = z_t.shape[0] if z_t.ndim else 1

    def __call__(self, z: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the surrogate.

        Parameters
        ----------
        z
            Outputs, in the shape of those it was built around.

        Returns
        -------
        Tensor
            Its value, differentiable by z.
        """
        if z.shape != self.z_t.shape:
            raise RuntimeError(
                f"the outputs have shape {tuple(z.shape)} and had {tuple(self.z_t.shape)} at the start of the step; "
                "forward has to return the same rows within one step"
            )
        off = z - self.z_t
        far = off.square() / 2 if self.divergence == "euclidean" else torch.xlogy(z, z / self.z_t) - off
        return self.loss + (self.g * off).sum() + (far / self.eta).sum() / self.samples
