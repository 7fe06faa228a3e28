"""The gradient penalty, which holds a critic near slope 1."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_number


def gradient_penalty(
    critic: Callable[..., Tensor],
    real: Float[Tensor, "batch ..."],
    fake: Float[Tensor, "batch ..."],
    target: float = 1.0,
    one_sided: bool = False,
    condition: Float[Tensor, "batch k"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""Return the mean of :math:`(\|\nabla D(\hat x)\|_2 - 1)^2` at points between real and fake samples.

    Each point is :math:`\hat x = \epsilon x + (1 - \epsilon)\tilde x` with one uniform :math:`\epsilon` a sample, and
    the norm is over all entries of a sample.

    Parameters
    ----------
    critic
        Called with samples, and the condition where there is one; returns one number for each.
    real
        Samples of the data.
    fake
        As many of the generator; no gradient reaches it.
    target
        The norm that the penalty asks for; 1 by default.
    one_sided
        Whether only norms above the target cost; False by default.
    condition
        What the samples are conditioned on; None, the default, for nothing.
    generator
        Draws the points; None, the default, takes torch's global one.

    Returns
    -------
    Tensor
        The penalty, one number with a graph to the critic's parameters.

    Raises
    ------
    ValueError
        Where the samples differ in shape.

    References
    ----------
    Gulrajani et al., "Improved training of Wasserstein GANs", arXiv:1704.00028, 2017, equation 3.

    Examples
    --------
    >>> import torch
    >>> gradient_penalty(lambda x: 3 * x[:, 0], torch.ones(4, 2), torch.zeros(4, 2))
    tensor(4.)
    """
    norms = slopes(critic, real, fake, condition, generator)
    excess = norms - check_number("target", target, ge=0)
    return ((excess.relu() if one_sided else excess) ** 2).mean()


def slopes(
    critic: Callable[..., Tensor],
    real: Tensor,
    fake: Tensor,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the norms of the critic's gradient between real and fake samples, with a graph."""
    if real.shape != fake.shape or real.ndim < 2:
        raise ValueError(
            f"real has shape {tuple(real.shape)} and fake {tuple(fake.shape)}; they take (batch, ...) both"
        )
    share = torch.rand(len(real), *(1,) * (real.ndim - 1), generator=generator, dtype=real.dtype).to(real.device)
    between = torch.lerp(fake.detach(), real.detach(), share).requires_grad_(True)
    with torch.enable_grad():
        value = critic(between) if condition is None else critic(between, condition)
        (slope,) = torch.autograd.grad(value.sum(), between, create_graph=True)
    return slope.flatten(1).norm(dim=1)
