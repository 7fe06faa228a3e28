"""One interface to every diffusion network: whatever it predicts and however it is guided, it becomes noise."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_number
from paperworks.diffusion.sampling import combine, per_sample
from paperworks.diffusion.schedules import NoiseSchedule

PredictionType = Literal["noise", "x_start", "v", "score", "flow"]
Guidance = Literal["none", "classifier", "classifier-free"]
Condition = Tensor | Mapping[str, Tensor]


def to_noise(
    output: Float[Tensor, " batch *shape"],
    x: Float[Tensor, " batch *shape"],
    alpha: float | Tensor,
    sigma: float | Tensor,
    prediction_type: PredictionType = "noise",
) -> Float[Tensor, " batch *shape"]:
    """Convert a network's output at ``x = alpha x_0 + sigma z`` to its prediction of the noise ``z``.

    Parameters
    ----------
    output
        What the network predicts: ``noise`` (z), ``x_start`` (x_0), ``v`` (alpha z - sigma x_0, arXiv 2202.00512),
        ``score`` (-z / sigma) or ``flow`` (z - x_0, arXiv 2210.02747).
    x
        State that the network saw.
    alpha, sigma
        Factors of signal and noise, numbers or one per sample.
    prediction_type
        Which of the five it is.

    Returns
    -------
    Tensor of shape (batch, ...)
        The noise, of the shape of `x`.

    Examples
    --------
    >>> to_noise(torch.tensor([[1.0]]), torch.tensor([[2.0]]), alpha=0.5, sigma=0.5, prediction_type="x_start")
    tensor([[3.]])
    """
    alpha, sigma = per_sample(alpha, x), per_sample(sigma, x)
    if prediction_type == "noise":
        return output
    if prediction_type == "x_start":
        return combine((1 / sigma, -alpha / sigma), (x, output))
    if prediction_type == "v":
        total = alpha**2 + sigma**2  # 1 where variance is preserved
        return combine((sigma / total, alpha / total), (x, output))
    if prediction_type == "flow":
        total = alpha + sigma
        return combine((1 / total, alpha / total), (x, output))
    return output * -sigma


def to_scaled_data(
    output: Float[Tensor, " batch *shape"],
    x: Float[Tensor, " batch *shape"],
    alpha: float,
    sigma: float,
    prediction_type: PredictionType = "noise",
    out: Tensor | None = None,
) -> Float[Tensor, " batch *shape"]:
    """Convert a network's output at ``x = alpha x_0 + sigma z`` to ``alpha`` times its prediction of ``x_0``.

    That is accurate for any alpha, where a way through the noise loses what little signal is left.

    Parameters
    ----------
    output, x, alpha, sigma, prediction_type
        As in `to_noise`, alpha and sigma being numbers.
    out
        Where to write; a new tensor by default.

    Returns
    -------
    Tensor of shape (batch, ...)
        The data times alpha, of the shape of `x`.

    Examples
    --------
    >>> to_scaled_data(torch.tensor([[1.0]]), torch.tensor([[2.0]]), alpha=0.5, sigma=0.5)
    tensor([[1.5000]])
    """
    if prediction_type == "noise":
        return torch.sub(x, output, alpha=sigma, out=out)
    if prediction_type == "x_start":
        return torch.mul(output, alpha, out=out)
    if prediction_type == "v":
        total = alpha**2 + sigma**2
        return combine((alpha**2 / total, -alpha * sigma / total), (x, output), out)
    if prediction_type == "flow":
        total = alpha + sigma
        return combine((alpha / total, -alpha * sigma / total), (x, output), out)
    return torch.add(x, output, alpha=sigma**2, out=out)


class NoiseModel:
    """A network as ``model_fn(x, t) -> noise``; made by `wrap_model`.

    `t` is a float for the whole batch or a tensor with one time per sample. `nfe` counts the evaluations of the
    network (a batched pair of guidance counts once).

    Parameters
    ----------
    model, schedule, prediction_type, guidance, condition, unconditional, scale, classifier, time_input
        As in `wrap_model`.

    Examples
    --------
    >>> from paperworks.diffusion.schedules import NoiseScheduleVP
    >>> model_fn = wrap_model(lambda x, t: 0 * x, NoiseScheduleVP.linear())
    >>> model_fn(torch.ones(1, 2), 0.5), model_fn.nfe
    (tensor([[0., 0.]]), 1)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        schedule: NoiseSchedule,
        prediction_type: PredictionType,
        guidance: Guidance,
        condition: Condition | None,
        unconditional: Condition | None,
        scale: float,
        classifier: Callable[[Tensor, Tensor, Any], Tensor] | None,
        time_input: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.model = model
        self.schedule = schedule
        self.prediction_type: PredictionType = prediction_type
        self.guidance = guidance
        self.condition = condition
        self.unconditional = unconditional
        self.scale = scale
        self.classifier = classifier
        self.time_input = time_input
        self.nfe = 0

    def __call__(self, x: Float[Tensor, " batch *shape"], t: float | Tensor) -> Float[Tensor, " batch *shape"]:
        """Return the noise in `x` at time `t`."""
        if self.guidance == "classifier":
            conditioned_on = None  # the classifier knows the condition, the network does not
        elif self.guidance == "classifier-free" and self.scale != 1:
            return self._classifier_free(x, t)
        else:
            conditioned_on = self.condition
        noise = self._noise(x, t, conditioned_on)
        return self._push_by_classifier(noise, x, t) if self.guidance == "classifier" and self.scale else noise

    def _network_time(self, x: Tensor, t: Any) -> Tensor:
        # Half precision can't tell 999 from 999.5.
        dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        value = self.schedule.input_time(t)
        if isinstance(value, Tensor):
            value = value.to(x.device, dtype).expand(x.shape[0])
        else:
            value = torch.full((x.shape[0],), value, dtype=dtype, device=x.device)
        return value if self.time_input is None else self.time_input(value)

    def _noise(self, x: Tensor, t: Any, condition: Condition | None) -> Tensor:
        self.nfe += 1
        time = self._network_time(x, t)
        if condition is None:
            output = self.model(x, time)
        elif isinstance(condition, Mapping):
            output = self.model(x, time, **condition)
        else:
            output = self.model(x, time, condition)
        output = getattr(output, "sample", output)
        if output.shape != x.shape:
            if x.ndim < 2 or output.shape != (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
                raise ValueError(
                    f"model returned shape {tuple(output.shape)}; it takes that of x, {tuple(x.shape)}, "
                    "or twice its channels (a learned variance after the mean)"
                )
            output = output[:, : x.shape[1]]
        if self.prediction_type == "noise":
            return output
        return to_noise(output, x, self.schedule.alpha(t), self.schedule.sigma(t), self.prediction_type)

    def _classifier_free(self, x: Tensor, t: Any) -> Tensor:
        twice_t = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        both = self._noise(torch.cat([x, x]), twice_t, _concatenate(self.unconditional, self.condition))
        unconditional, conditional = both.chunk(2)
        return torch.lerp(unconditional, conditional, self.scale)

    def _push_by_classifier(self, noise: Tensor, x: Tensor, t: Any) -> Tensor:
        assert self.classifier is not None
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            log_probability = self.classifier(leaf, self._network_time(x, t), self.condition)
            (gradient,) = torch.autograd.grad(log_probability.sum(), leaf)
        return noise - self.scale * per_sample(self.schedule.sigma(t), x) * gradient


def wrap_model(
    model: Callable[..., Any],
    schedule: NoiseSchedule,
    prediction_type: PredictionType = "noise",
    *,
    guidance: Guidance = "none",
    condition: Condition | None = None,
    unconditional: Condition | None = None,
    scale: float = 1.0,
    classifier: Callable[[Tensor, Tensor, Any], Tensor] | None = None,
    time_input: Callable[[Tensor], Tensor] | None = None,
) -> NoiseModel:
    """Make of any diffusion network the ``model_fn(x, t) -> noise`` that samplers take.

    Parameters
    ----------
    model
        Called as ``model(x, time)`` or ``model(x, time, condition)`` with one time per sample; returns a tensor, or
        an object that has it as `sample` (as diffusers' networks do).
    schedule
        Noise schedule of the network; a discrete one gives the network fractional step indices as times.
    prediction_type
        What the network predicts; see `to_noise`.
    guidance
        ``none``; ``classifier``: ``eps - scale sigma grad log p(condition | x)`` (arXiv 2105.05233);
        ``classifier-free``: ``eps_u + scale (eps_c - eps_u)`` (arXiv 2207.12598), both in one batched call, and only
        the conditional one where `scale` is 1.
    condition, unconditional
        What the network (or the classifier) is conditioned on, and its empty counterpart: a tensor with one row per
        sample, or a mapping of such tensors by the network's argument names.
    scale
        Strength of the guidance.
    classifier
        Returns ``log p(condition | x)`` for each sample, called as ``classifier(x, time, condition)``.
    time_input
        Changes the network's times last, for one that needs whole steps (``torch.Tensor.round``) or another unit.

    Returns
    -------
    NoiseModel
        A callable that counts its evaluations.

    Raises
    ------
    ValueError
        Where a choice is unknown, `scale` isn't finite, or what the guidance needs is missing.

    Examples
    --------
    >>> from paperworks.diffusion.schedules import NoiseScheduleVP
    >>> model_fn = wrap_model(lambda x, t: 0 * x, NoiseScheduleVP.linear(), "x_start")
    >>> model_fn(torch.ones(1, 2), 1.0)
    tensor([[1.0000, 1.0000]])
    >>> model_fn.nfe
    1
    """
    check_choice("prediction_type", prediction_type, get_args(PredictionType))
    check_choice("guidance", guidance, get_args(Guidance))
    check_number("scale", scale)
    if guidance == "classifier" and classifier is None:
        raise ValueError("classifier is None; guidance 'classifier' takes a function that returns log p(condition | x)")
    if guidance == "classifier-free":
        if condition is None or unconditional is None:
            raise ValueError("guidance 'classifier-free' takes both condition and unconditional; one of them is None")
        if isinstance(condition, Mapping) != isinstance(unconditional, Mapping) or (
            isinstance(condition, Mapping) and condition.keys() != unconditional.keys()  # type: ignore[union-attr]
        ):
            raise ValueError("condition and unconditional differ in kind; they take two tensors or two alike mappings")
    return NoiseModel(
        model, schedule, prediction_type, guidance, condition, unconditional, float(scale), classifier, time_input
    )


def _concatenate(first: Any, second: Any) -> Any:
    if isinstance(first, Mapping):
        return {name: torch.cat([first[name], second[name]]) for name in first}
    return torch.cat([first, second])
