"""The few latents that matter, learned once for a whole set of images."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from paperworks.core.validation import check_count, check_number
from paperworks.robustness.evaluation.generators import ImageGenerator
from paperworks.robustness.evaluation.oracle import Classifier, evaluating


def learn_sparse_mask(
    generator: ImageGenerator,
    model: Classifier,
    x: Float[Tensor, "n channels height width"],
    y: Int64[Tensor, " n"],
    keep: float = 0.1,
    *,
    penalty: float = 1e-3,
    steps: int = 300,
    lr: float = 0.05,
    batch_size: int = 256,
    random_state: int = 0,
) -> Bool[Tensor, " *latent"]:
    """Learn which latents a model needs to recognise images, to restrict the search to those.

    One mask is shared by all images: ``min_m mean loss(model(G(m E(x))), y) + penalty |m|_1`` over m in [0, 1], by Adam
    from ones; the largest are kept. The penalty rises by a twentieth while more than `keep` of the mask is above a
    half, and falls otherwise, so that what is kept is what the model gives up last.

    Parameters
    ----------
    generator
        Whose latents it is about.
    model
        Differentiable, from images to logits: the evaluated one, or a stand-in for the judges.
    x, y
        Images and their labels.
    keep
        Fraction of the latents to keep; 0.1 suits principal components, 0.01 a quantised autoencoder's.
    penalty
        Weight of the mask's sum in the first step.
    steps, lr, batch_size
        Settings of Adam: number of steps, step size, and images in each step.
    random_state
        Seed of the batches.

    Returns
    -------
    Tensor
        True for the latents that may move; `OracleConstrainedPerturber` takes it.

    Raises
    ------
    ValueError
        For options out of range, or a generator whose latents are all zero for an image as it is.

    Notes
    -----
    The efficient variant of arXiv 2308.10632, section 3, which moves less than a hundredth of a VQGAN's latents.

    Examples
    --------
    >>> from paperworks.robustness import PixelGenerator
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[9.0, 0, 0, 0], [-9, 0, 0, 0]]))  # one pixel decides
    >>> x, y = torch.full((8, 1, 2, 2), 0.5), torch.zeros(8, dtype=torch.long)
    >>> learn_sparse_mask(PixelGenerator(), model, x, y, keep=0.25)
    tensor([[[ True, False],
             [False, False]]])
    """
    check_number("keep", keep, gt=0, le=1)
    check_number("penalty", penalty, gt=0)
    check_number("lr", lr, gt=0)
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        check_count(name, value)
    draw = torch.Generator().manual_seed(random_state)
    with torch.no_grad():
        latents = torch.cat([generator.encode(part) for part in x.split(256)])
    if not bool(latents.any()):
        raise ValueError("generator has latents that are all zero for images as they are; it takes one with others")
    mask = torch.ones_like(latents[0], requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr)
    kept = max(1, round(keep * mask.numel()))
    with evaluating(model):
        for _ in range(steps):
            chosen = torch.randint(len(x), (batch_size,), generator=draw)
            logits = model(generator.decode(mask * latents[chosen], x[chosen]))
            loss = functional.cross_entropy(logits, y[chosen]) + penalty * mask.sum()
            (mask.grad,) = torch.autograd.grad(loss, mask)
            optimizer.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
            penalty *= 1.05 if int((mask > 0.5).sum()) > kept else 1 / 1.05
    return torch.zeros_like(mask, dtype=torch.bool).flatten().index_fill_(
        0, mask.detach().flatten().topk(kept).indices, True
    ).view(mask.shape)  # fmt: skip
