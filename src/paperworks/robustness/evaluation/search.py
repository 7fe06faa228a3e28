"""The search for the images that hurt a model most while their labels, as judges see them, stay."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.robustness.evaluation.ascent import RULES, Ascent, Rule
from paperworks.robustness.evaluation.generators import ImageGenerator
from paperworks.robustness.evaluation.oracle import Classifier, Oracle, answers, evaluating, warn_of_probabilities

OnReject = Literal["stop", "backtrack", "skip"]
Loss = Literal["cross-entropy", "margin"]
_HALVINGS = 3  # of a rejected step, by backtracking
_ADAM_RATE = 0.1
_COMPARED = 32  # images on which a model's answers are compared to the judges'


@dataclass(frozen=True)
class PerturbedBatch:
    """Images made for a model, with how they came about.

    Parameters
    ----------
    x, y
        The images and their labels. One that wasn't validated is the original.
    start
        The images before any step: reconstructions by the generator, where validated.
    validated
        Whether the judges saw the label in the reconstruction. They see it in `x` of each of these.
    accepted_steps
        Number of steps that changed the image and kept its label.
    loss_trace
        The model's loss at the start of each step, and of the result after the last one.

    Examples
    --------
    >>> x, y = torch.zeros(1, 1, 2, 2), torch.tensor([0])
    >>> PerturbedBatch(x, y, x, y == 0, y, torch.zeros(1, 1)).validated
    tensor([True])
    """

    x: Float[Tensor, "batch channels height width"]
    y: Int64[Tensor, " batch"]
    start: Float[Tensor, "batch channels height width"]
    validated: Bool[Tensor, " batch"]
    accepted_steps: Int64[Tensor, " batch"]
    loss_trace: Float[Tensor, "batch steps"]

    def split(self, size: int) -> list["PerturbedBatch"]:
        """Return the same in parts of at most `size` images.

        Returns
        -------
        list[PerturbedBatch]
            The parts in order, the last one perhaps smaller.
        """
        columns = (getattr(self, part.name).split(size) for part in fields(self))
        return [PerturbedBatch(*parts) for parts in zip(*columns, strict=True)]


class OracleConstrainedPerturber:
    """Drives images in the direction that hurts a model, for as long as an oracle sees their labels.

    Each image is reconstructed by the generator; if the oracle no longer sees its label, the image stays what it is and
    counts as not validated. Otherwise latents take steps that raise the model's loss, and the last image that the
    oracle accepted is the result.

    Parameters
    ----------
    generator
        What images are made by.
    oracle
        The judges, none of which may be the model unless `allow_member`.
    step_size
        Length of a step in latents; `ImageGenerator.step_size` by default, or 0.1 for Adam. The score depends on it.
    budget
        Greatest number of steps of an image.
    rule
        ``gradient``, a normalised step; ``sign``; ``adam``; or of the black box ``random`` and ``evolution``, whose
        steps must raise the loss.
    on_reject
        After a step that the oracle rejects: ``stop``, the paper's; ``backtrack``, halve it up to three times, then
        stop; or ``skip``, go on from it, as images further on may be accepted again.
    sparse_mask
        Where latents may move, of the shape of one image's; see `learn_sparse_mask`.
    start
        ``reconstruction``, or ``clean`` to start from the image itself and validate that.
    loss
        ``cross-entropy``, or ``margin``, the greatest other logit less the label's, which doesn't saturate.
    early_stop
        ``misclassified`` to stop where the model errs; by default the whole budget is used, for distinct images.
    quantize
        Whether images are rounded to bytes before the oracle sees them, for those to be saved.
    clip_range
        Least and greatest value of pixels.
    allow_member
        Whether the model may be one of the judges.
    random_state
        Seed of whatever is drawn.

    Raises
    ------
    ValueError
        For options out of range.

    Notes
    -----
    arXiv 2308.10632, section 3. The oracle judges the very image that is returned, after clipping and rounding.

    Examples
    --------
    >>> from paperworks.robustness import Oracle, PixelGenerator
    >>> model, judge = torch.nn.Flatten(), lambda x: 2 * x.flatten(1)  # pixels are logits; the two agree
    >>> perturber = OracleConstrainedPerturber(PixelGenerator(), Oracle(judge), step_size=0.1, budget=20)
    >>> x = torch.tensor([[[[0.9, 0.2]]]])
    >>> made = perturber.generate(model, x, torch.tensor([0]))
    >>> made.x.round(decimals=2), made.accepted_steps
    (tensor([[[[0.6200, 0.4800]]]]), tensor([4]))
    """

    def __init__(
        self,
        generator: ImageGenerator,
        oracle: Oracle,
        step_size: float | None = None,
        budget: int = 15,
        rule: Rule = "gradient",
        on_reject: OnReject = "stop",
        sparse_mask: Tensor | None = None,
        *,
        start: Literal["reconstruction", "clean"] = "reconstruction",
        loss: Loss = "cross-entropy",
        early_stop: Literal["misclassified"] | None = None,
        quantize: bool = False,
        clip_range: tuple[float, float] = (0.0, 1.0),
        allow_member: bool = False,
        random_state: int = 0,
    ) -> None:
        low, high = (check_number("clip_range", value) for value in clip_range)
        check_number("clip_range", high, gt=low)
        self.generator, self.oracle = generator, oracle
        self.step_size = step_size if step_size is None else check_number("step_size", step_size, gt=0)
        self.budget = check_count("budget", budget, at_least=0)
        self.rule = check_choice("rule", rule, tuple(RULES))
        self.on_reject = check_choice("on_reject", on_reject, get_args(OnReject))
        self.start = check_choice("start", start, ("reconstruction", "clean"))
        self.loss = check_choice("loss", loss, get_args(Loss))
        self.early_stop = check_choice("early_stop", early_stop, (None, "misclassified"))
        self.sparse_mask, self.quantize, self.clip_range = sparse_mask, quantize, (low, high)
        self.allow_member, self.random_state = allow_member, random_state

    def generate(
        self,
        model: Classifier,
        x: Float[Tensor, "batch channels height width"],
        y: Int64[Tensor, " batch"],
        batch_size: int = 256,
    ) -> PerturbedBatch:
        """Make images of given ones that hurt a model.

        Parameters
        ----------
        model
            From images to logits, differentiable unless the rule is one of the black box. It is called in evaluation
            mode.
        x, y
            Images within `clip_range` and their labels.
        batch_size
            Images in one call; where some are done, others take their places.

        Returns
        -------
        PerturbedBatch
            The images with what the search tells of each.

        Raises
        ------
        ValueError
            For labels or pixels out of range, a model of other classes than the oracle's, or one of its members.
        """
        check_count("batch_size", batch_size)
        self._check(model, x, y)
        with evaluating(model), torch.no_grad():
            return _Search(self, model, x, y, batch_size).result()

    def finished(self, images: Tensor) -> Tensor:
        """Return images as they are judged and kept: clipped, and rounded if asked for.

        Returns
        -------
        Tensor
            Images of the same shape, in their range.
        """
        low, high = self.clip_range
        images = images.clamp(low, high)
        return (
            (images.sub(low).mul(255 / (high - low)).round() * ((high - low) / 255) + low) if self.quantize else images
        )

    def losses(self, logits: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return what the search raises.

        Parameters
        ----------
        logits
            Logits of the model, of shape (batch, classes).
        y
            Labels of shape (batch,).

        Returns
        -------
        Tensor of shape (batch,)
            One number for each image; greater is worse for the model.
        """
        if self.loss == "cross-entropy":
            return functional.cross_entropy(logits, y, reduction="none")
        own = logits.gather(1, y[:, None])
        return logits.scatter(1, y[:, None], -torch.inf).amax(1) - own[:, 0]

    def _check(self, model: Classifier, x: Tensor, y: Tensor) -> None:
        low, high = self.clip_range
        if x.ndim != 4 or len(x) != len(y) or not len(x):
            raise ValueError(
                f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; they take "
                "(batch, channels, height, width) and (batch,) with one image or more"
            )
        if not bool(((x >= low) & (x <= high)).all()):
            raise ValueError(
                f"x has values from {float(x.min()):g} to {float(x.max()):g}; it takes those of clip_range, "
                f"{low:g} to {high:g}"
            )
        if not self.allow_member:
            self.oracle.check_stranger(model, x[:_COMPARED])
        logits = answers(model, x[:1])
        warn_of_probabilities("the model", logits)
        self.oracle.check_classes(x[:1], logits.shape[1])
        if int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
            raise ValueError(f"y has labels from {int(y.min())} to {int(y.max())}; it takes 0 to {logits.shape[1] - 1}")


class _Search:
    """One search of a set of images, of which as many as fit in a batch are under way at any time."""

    def __init__(
        self, options: OracleConstrainedPerturber, model: Classifier, x: Tensor, y: Tensor, batch_size: int
    ) -> None:
        self.options, self.model, self.x, self.y, self.batch_size = options, model, x, y, batch_size
        self.generator, self.oracle = options.generator, options.oracle
        self.latents = self._in_batches(self.generator.encode, x)
        clean = options.start == "clean"
        self.best = options.finished(x if clean else self._in_batches(self.generator.decode, self.latents, x))
        self.validated = self._in_batches(self.oracle.accepts, self.best, y)
        self.best = torch.where(self.validated[:, None, None, None], self.best, x)
        self.start = self.best.clone()
        self.tried, self.accepted = torch.zeros_like(y), torch.zeros_like(y)
        self.trace = torch.full((len(x), options.budget + 1), torch.nan, dtype=torch.float64, device=x.device)
        self.ascent = self._ascent()

    def _ascent(self) -> Ascent:
        options = self.options
        if options.step_size is None and options.rule != "adam":
            size = self._in_batches(self._step_size, self.x)
        else:
            size = torch.tensor(_ADAM_RATE if options.step_size is None else options.step_size)
        allowed = options.sparse_mask
        if allowed is not None and allowed.shape != self.latents.shape[1:]:
            raise ValueError(
                f"sparse_mask has shape {tuple(allowed.shape)}; it takes that of an image's latents, "
                f"{tuple(self.latents.shape[1:])}"
            )
        return RULES[options.rule](size, self.latents, allowed, [seed_of(x, options.random_state) for x in self.x])

    def _step_size(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.generator.step_size(x), dtype=x.dtype, device=x.device).expand(len(x))

    def result(self) -> PerturbedBatch:
        """Search, and return what was found."""
        waiting = self.validated.nonzero()[:, 0] if self.options.budget else self.tried[:0]
        if self.options.early_stop and len(waiting):
            waiting = waiting[self._in_batches(self._still_right, waiting)]
        active = waiting[:0]
        while len(active) or len(waiting):
            free = self.batch_size - len(active)
            active, waiting = torch.cat([active, waiting[:free]]), waiting[free:]
            active = self._step(active)
        final = self._in_batches(lambda x, y: self.options.losses(answers(self.model, x), y), self.best, self.y)
        trace = torch.where(self.trace.isnan(), final.double()[:, None], self.trace)
        return PerturbedBatch(self.best, self.y, self.start, self.validated, self.accepted, trace)

    def _step(self, active: Tensor) -> Tensor:
        """Take a step with some images, and return those that go on."""

        def objective(latents: Tensor, index: Tensor) -> Tensor:
            images = clipped(self.generator.decode(latents, self.x[index]), *self.options.clip_range)
            return self.options.losses(self.model(images), self.y[index])

        old = self.latents[active]
        new, losses = self.ascent.propose(old, active, objective)
        self.trace[active, self.tried[active]] = losses.double()
        self.tried[active] += 1
        accepted = self._try(active, old, new)
        goes_on = accepted if self.options.on_reject != "skip" else torch.ones_like(accepted)
        if self.options.on_reject == "skip":
            self.latents[active] = new
        if self.options.on_reject == "backtrack":
            for k in range(1, _HALVINGS + 1):
                left = (~goes_on).nonzero()[:, 0]
                if len(left):
                    shorter = torch.lerp(old[left], new[left], 0.5**k)
                    goes_on[left] = self._try(active[left], old[left], shorter)
        if self.options.early_stop:
            goes_on &= self._still_right(active)
        return active[goes_on & (self.tried[active] < self.options.budget)]

    def _try(self, index: Tensor, old: Tensor, new: Tensor) -> Tensor:
        """Keep those of new images that the oracle accepts, and say which."""
        images = self.options.finished(self.generator.decode(new, self.x[index]))
        accepted = self.oracle.accepts(images, self.y[index])
        kept = index[accepted]
        self.best[kept], self.latents[kept] = images[accepted], new[accepted]
        moved = (new != old).flatten(1).any(1)
        self.accepted[index] += (accepted & moved).to(self.accepted)
        return accepted

    def _still_right(self, index: Tensor) -> Tensor:
        return answers(self.model, self.best[index]).argmax(1) == self.y[index]

    def _in_batches(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        parts = zip(*(t.split(self.batch_size) for t in tensors), strict=True)
        return torch.cat([function(*part) for part in parts])


def clipped(images: Tensor, low: float, high: float) -> Tensor:
    """Clamp images to a range; the gradient fades within one grey level beyond it.

    A gradient that ends at the very end of the range would depend there on the last digit of a pixel, and so on the
    size of the batch in which it was computed: black pixels are exactly at the end.
    """
    fixed = images.detach()
    beyond = torch.maximum(low - fixed, fixed - high) * (255 / (high - low))
    return fixed.clamp(low, high) + (1 - beyond).clamp(0, 1) * (images - fixed)


def seed_of(image: Tensor, random_state: int) -> int:
    """Return a seed that depends on one image alone, so that what is drawn for it does as well."""
    content = image.detach().double().cpu().numpy().tobytes()
    digest = hashlib.blake2b(content, digest_size=8, key=str(random_state).encode()).digest()
    return int.from_bytes(digest) >> 1
