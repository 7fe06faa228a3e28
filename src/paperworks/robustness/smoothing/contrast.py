"""The losses of rRCM (arXiv 2501.13094): contrast of views, consistency along a trajectory, consistency of predictions.

Pretraining tells images of a batch apart by their representations (InfoNCE) twice over: two nearly clean views of an
image have to match, and so have two neighbouring points of its diffusion trajectory. The first makes representations
useful, the second carries them on to noisy images. Fine-tuning asks for equal predictions under different noise.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.nn import functional

from paperworks.core.validation import check_choice, check_number
from paperworks.robustness.smoothing.schedules import KarrasGrid, ScaleSchedule

ConsistencyKind = Literal["default", "xent", "kl", "mse"]
Encoder = Callable[[Tensor, float], tuple[Tensor, Tensor]]  # (images, level) -> (projection, feature)


def info_nce(
    f: Float[Tensor, "batch features"], g: Float[Tensor, "targets features"], tau: float = 0.2
) -> Float[Tensor, ""]:
    """Return how badly each representation finds its own among the targets: cross-entropy of cosines over `tau`.

    Parameters
    ----------
    f
        Representations in rows, of shape (batch, features).
    g
        Targets, through which no gradient flows: row `i` belongs to row `i` of `f`, and further rows, such as those of
        other workers, are negatives.
    tau
        Temperature. Default 0.2, of the paper.

    Returns
    -------
    Tensor without axes
        The loss, one number for the batch.

    Raises
    ------
    ValueError
        For fewer than two targets, which leave nothing to tell apart, or a temperature not above 0.

    Examples
    --------
    >>> info_nce(torch.eye(2), torch.eye(2), tau=1.0)  # log(1 + 1/e)
    tensor(0.3133)
    """
    check_number("tau", tau, gt=0)
    if len(g) < max(2, len(f)):
        raise ValueError(f"g has {len(g)} rows for {len(f)} of f; it takes at least as many, and two or more")
    dtype = torch.promote_types(f.dtype, torch.float32)  # half precision is too coarse for a sum of exponentials
    cosines = functional.normalize(f.to(dtype)) @ functional.normalize(g.detach().to(dtype)).T
    return functional.cross_entropy(cosines / tau, torch.arange(len(f), device=f.device))


class RRCMLoss:
    """The loss of pretraining without labels, contrast at the clean end plus consistency along the trajectory.

    Parameters
    ----------
    scales
        Number of noise levels at each step of training.
    grid
        The noise levels.
    tau
        Temperature of both parts.
    consistency_weight
        Weight of the second part; 0 leaves contrastive learning alone. Default 1, of the paper.

    Raises
    ------
    ValueError
        For a temperature not above 0 or a negative weight.

    Notes
    -----
    Equations of section 3 of arXiv 2501.13094. The consistency part compares features before the projection, and its
    target is the network itself; the contrast part compares projections with those of the target network.

    Examples
    --------
    >>> from paperworks.robustness import RRCMConvNet, ScaleSchedule
    >>> network = RRCMConvNet(image_size=8, patch_size=2, widths=(8,))
    >>> x = torch.rand(4, 1, 8, 8)
    >>> terms = RRCMLoss(ScaleSchedule(100))(network, network, x, x, x, step=0)
    >>> sorted(terms), bool(terms["loss"] == terms["contrast"] + terms["consistency"])
    (['consistency', 'contrast', 'loss'], True)
    """

    def __init__(
        self,
        scales: ScaleSchedule,
        grid: KarrasGrid | None = None,
        tau: float = 0.2,
        consistency_weight: float = 1.0,
    ) -> None:
        self.scales = scales
        self.grid = KarrasGrid() if grid is None else grid
        self.tau = check_number("tau", tau, gt=0)
        self.consistency_weight = check_number("consistency_weight", consistency_weight, ge=0)

    def __call__(
        self,
        online: Encoder,
        target: Encoder,
        x: Float[Tensor, "batch channels height width"],
        aug1: Float[Tensor, "batch channels height width"],
        aug2: Float[Tensor, "batch channels height width"],
        step: int,
        generator: torch.Generator | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the loss and its two parts.

        Parameters
        ----------
        online, target
            The network that learns, and its moving average: a `NoiseConditionedEncoder`, one wrapped for distributed
            training, or anything else that returns projection and feature of images and a noise level.
        x, aug1, aug2
            Three augmentations of the same images, with pixels from -1 to 1.
        step
            Step of training.
        generator
            Of noise and noise level. All images of a batch, and all workers, share the level: otherwise it would tell
            images apart. Workers that give generators have to seed them apart; the level is the first worker's.

        Raises
        ------
        ValueError
            For a batch of one, or images of different shapes.
        """
        if not x.shape == aug1.shape == aug2.shape or len(x) < 2:
            raise ValueError(
                f"x, aug1 and aug2 have shapes {tuple(x.shape)}, {tuple(aug1.shape)} and {tuple(aug2.shape)}; "
                "they take equal ones, of two images or more"
            )
        levels = self.grid.levels(self.scales(step)).tolist()
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        views = torch.cat([aug1, aug2]) + levels[-1] * noise.repeat(2, 1, 1, 1)
        projected = online(views, levels[-1])[0].chunk(2)
        with torch.no_grad():
            wanted = target(views, levels[-1])[0].chunk(2)
        contrast = self._nce(projected[0], wanted[1]) + self._nce(projected[1], wanted[0])
        consistency = torch.zeros_like(contrast)
        if self.consistency_weight:
            index = _shared_index(len(levels) - 1, generator, x.device)
            noisier, cleaner = levels[index : index + 2]
            feature = online(x + noisier * noise, noisier)[1]
            with torch.no_grad():
                wanted_feature = online(x + cleaner * noise, cleaner)[1]
            consistency = self._nce(feature, wanted_feature)
        return {
            "loss": contrast + self.consistency_weight * consistency,
            "contrast": contrast.detach(),
            "consistency": consistency.detach(),
        }

    def _nce(self, f: Tensor, g: Tensor) -> Tensor:
        return info_nce(f, _targets_of_all_workers(g.detach()), self.tau)


def _shared_index(n: int, generator: torch.Generator | None, device: torch.device) -> int:
    index = torch.randint(n, (1,), generator=generator, device=device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(index, src=0)
    return int(index)


def _targets_of_all_workers(g: Tensor) -> Tensor:
    """Return one's own targets, followed by those of the other workers."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return g
    parts = [torch.empty_like(g) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, g.contiguous())
    del parts[distributed.get_rank()]
    return torch.cat([g, *parts])


def consistency_regularizer(
    logits: Sequence[Float[Tensor, "batch classes"]],
    lam: float,
    eta: float = 0.5,
    kind: ConsistencyKind = "default",
) -> Float[Tensor, ""]:
    """Return how much predictions of the same images under different noise disagree.

    Parameters
    ----------
    logits
        Logits of noisy copies of each image; of a single copy, ``default`` leaves the entropy alone.
    lam
        Weight of the disagreement. The paper takes 10 at sigma 0.25, and 20 above.
    eta
        Weight of the entropy of the mean prediction. Default 0.5, of the paper.
    kind
        ``default``: ``lam`` times the mean divergence KL(mean, copy), plus ``eta`` times the entropy of the mean;
        ``xent``: ``lam`` times both; ``kl``: ``lam`` times the divergence; ``mse``: ``lam`` times the squared distance
        of the first two predictions.

    Returns
    -------
    Tensor without axes
        The loss, one number for the batch.

    Raises
    ------
    ValueError
        Without copies (``mse`` takes two), for negative weights, or an unknown kind.

    Notes
    -----
    Consistency regularisation of smoothed classifiers (arXiv 2006.04062), equation 8.

    Examples
    --------
    >>> same = torch.zeros(1, 2)
    >>> consistency_regularizer([same, same], lam=10.0, eta=1.0)  # no disagreement, but the entropy of a coin
    tensor(0.6931)
    """
    check_choice("kind", kind, get_args(ConsistencyKind))
    check_number("lam", lam, ge=0)
    check_number("eta", eta, ge=0)
    if len(logits) < (least := 2 if kind == "mse" else 1):
        raise ValueError(f"logits holds {len(logits)} copies; kind {kind!r} takes {least} or more")
    log_p = torch.log_softmax(torch.stack(list(logits)), dim=2)
    p = log_p.exp()
    if kind == "mse":
        return lam * (p[1] - p[0]).square().sum(1).mean()
    mean = p.mean(0)
    entropy = torch.special.entr(mean).sum(1)
    divergence = -entropy - (mean * log_p).sum(2).mean(0)
    share = {"default": eta, "xent": lam, "kl": 0.0}[kind]
    return (lam * divergence + share * entropy).mean()
