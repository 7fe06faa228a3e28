"""The fields of an interpolant, each from whichever of them are known."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from paperworks.core.validation import check_choice, check_number
from paperworks.diffusion.interpolants.interpolant import Interpolant
from paperworks.diffusion.interpolants.paths import Time
from paperworks.diffusion.sampling import per_sample

Field = Callable[[Tensor, Tensor], Tensor]
FieldName = Literal["b", "s", "eta", "v", "eta0", "eta1"]
NAMES: tuple[FieldName, ...] = get_args(FieldName)


def shared_time(t: Time) -> Time:
    """Return the number behind a time that is one number expanded over a batch, else `t`."""
    if isinstance(t, Tensor) and (t.ndim == 0 or (t.stride(0) == 0 and t.numel())):
        return float(t if t.ndim == 0 else t[0])
    return t


class Fields:
    r"""The conditional expectations that drive an interpolant's samplers, converted into each other.

    At x_t = x: ``b = E[dx_t/dt]`` the velocity, ``s`` the score, ``eta = E[z]`` the denoiser, ``v = E[dI/dt]``,
    ``eta0 = E[x0]`` and ``eta1 = E[x1]``. The rules (arXiv 2303.08797, sections 2.2 and 4):
    ``s = -eta/gamma``, ``b = v + gamma' eta = v - gamma gamma' s``, and for weighted sums
    ``alpha eta0 + beta eta1 + gamma eta = x``, ``v = alpha' eta0 + beta' eta1``. One-sided, z is x0 and gamma is alpha.

    Which sets determine all: two-sided, any two of `b`, `v`, one of (`s`, `eta`), `eta0`, `eta1` (weighted sums), but
    not `b` with `v`, and the pairs with a denoiser of one end and `b` don't; one-sided any one; mirror `s`, `eta` or
    `eta1`.

    Parameters
    ----------
    interpolant
        The interpolant that the fields belong to.
    b, s, eta, v, eta0, eta1
        What is known: callables ``f(x, t)`` with one time per sample.
    joint
        In place of those, the names of several fields and one callable ``f(x, t)`` that answers them all, in that
        order: networks that share their trunk cost one pass.
    mean1
        E[x1], which one-sided fields need at t = 0 exactly where neither `b` nor `eta1` is given.
    t_min
        Divisions by gamma take a time at least this far from the ends where gamma is 0. Default 1e-4.

    Raises
    ------
    ValueError
        Where nothing is given, or, when a field is asked for, the known ones don't determine it; for the score of an
        interpolant without latent.

    Examples
    --------
    The denoiser of N(0, 1) data under the one-sided linear path gives the other fields.

    >>> interpolant = Interpolant("one_sided_linear")
    >>> fields = Fields(interpolant, eta=lambda x, t: (1 - t)[:, None] * x / ((1 - t) ** 2 + t**2)[:, None])
    >>> x, t = torch.ones(1, 1), torch.tensor([0.5])
    >>> fields.s(x, t), fields.b(x, t), fields.eta1(x, t)
    (tensor([[-2.]]), tensor([[0.]]), tensor([[1.]]))
    """

    def __init__(
        self,
        interpolant: Interpolant,
        *,
        b: Field | None = None,
        s: Field | None = None,
        eta: Field | None = None,
        v: Field | None = None,
        eta0: Field | None = None,
        eta1: Field | None = None,
        joint: tuple[tuple[FieldName, ...], Callable[[Tensor, Tensor], tuple[Tensor, ...]]] | None = None,
        mean1: Tensor | None = None,
        t_min: float = 1e-4,
    ) -> None:
        given = {"b": b, "s": s, "eta": eta, "v": v, "eta0": eta0, "eta1": eta1}
        self.interpolant = interpolant
        self.mean1 = mean1
        self.t_min = check_number("t_min", t_min, gt=0, lt=0.5)
        self.joint = joint[1] if joint is not None else None
        self.given: dict[str, Field | None] = {name: f for name, f in given.items() if f is not None}
        if joint is not None:
            if self.given:
                raise ValueError(f"joint is given beside {', '.join(self.given)}; it takes their place")
            self.given = {check_choice("joint", name, NAMES): None for name in joint[0]}
        if not self.given:
            raise ValueError(f"no field is given; Fields takes at least one of {', '.join(NAMES)}")

    def b(self, x: Float[Tensor, " batch *shape"], t: Time) -> Float[Tensor, " batch *shape"]:
        """Return the velocity E[dx_t/dt].

        Parameters
        ----------
        x
            States of shape (batch, ...).
        t
            Time, one for all samples or one for each.

        Returns
        -------
        Tensor of shape (batch, ...)
            The velocity, of the shape of `x`.
        """
        return Point(self, x, t).b()

    def s(self, x: Float[Tensor, " batch *shape"], t: Time) -> Float[Tensor, " batch *shape"]:
        """Return the score of the law of x_t.

        Parameters
        ----------
        x
            States of shape (batch, ...).
        t
            Time, one for all samples or one for each.

        Returns
        -------
        Tensor of shape (batch, ...)
            The score, of the shape of `x`.
        """
        return Point(self, x, t).s()

    def eta(self, x: Float[Tensor, " batch *shape"], t: Time) -> Float[Tensor, " batch *shape"]:
        """Return the denoiser E[z].

        Parameters
        ----------
        x
            States of shape (batch, ...).
        t
            Time, one for all samples or one for each.

        Returns
        -------
        Tensor of shape (batch, ...)
            The mean of the latent given `x`, of its shape.
        """
        return Point(self, x, t).eta()

    def v(self, x: Float[Tensor, " batch *shape"], t: Time) -> Float[Tensor, " batch *shape"]:
        """Return E[dI/dt], the velocity without the latent's part.

        Parameters
        ----------
        x
            States of shape (batch, ...).
        t
            Time, one for all samples or one for each.

        Returns
        -------
        Tensor of shape (batch, ...)
            The velocity's part without the latent, of the shape of `x`.
        """
        return Point(self, x, t).v()

    def eta0(self, x: Float[Tensor, " batch *shape"], t: Time) -> Float[Tensor, " batch *shape"]:
        """Return E[x0].

        Parameters
        ----------
        x
            States of shape (batch, ...).
        t
            Time, one for all samples or one for each.

        Returns
        -------
        Tensor of shape (batch, ...)
            The mean of x0 given `x`, of its shape.
        """
        return Point(self, x, t).ends()[0]

    def eta1(self, x: Float[Tensor, " batch *shape"], t: Time) -> Float[Tensor, " batch *shape"]:
        """Return E[x1].

        Parameters
        ----------
        x
            States of shape (batch, ...).
        t
            Time, one for all samples or one for each.

        Returns
        -------
        Tensor of shape (batch, ...)
            The mean of x1 given `x`, of its shape.
        """
        return Point(self, x, t).ends()[1]

    def denoisers(
        self, x: Float[Tensor, " batch *shape"], t: Time
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch *shape"], Float[Tensor, " batch *shape"]]:
        """Return E[x0], E[x1] and E[z], evaluating each known field once.

        Parameters
        ----------
        x
            States of shape (batch, ...).
        t
            Time, one for all samples or one for each.

        Returns
        -------
        tuple[Tensor of shape (batch, ...), Tensor of shape (batch, ...), Tensor of shape (batch, ...)]
            The means of x0, x1 and z given `x`, each of its shape.
        """
        point = Point(self, x, t)
        return (*point.ends(), point.eta())

    def drift(self, x: Float[Tensor, " batch *shape"], t: Time, eps: float = 0.0) -> Float[Tensor, " batch *shape"]:
        """Return ``b + eps s``: the forward SDE's drift for `eps` > 0, the ODE's for 0, the backward SDE's for < 0.

        Parameters
        ----------
        x
            States of shape (batch, ...).
        t
            Time, one for all samples or one for each.
        eps
            Half the square of the noise's size; its sign is the direction.

        Returns
        -------
        Tensor of shape (batch, ...)
            The drift, of the shape of `x`.
        """
        return self.drift_and_score(x, t, eps)[0] if eps else self.b(x, t)

    def drift_and_score(
        self, x: Float[Tensor, " batch *shape"], t: Time, eps: float
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch *shape"]]:
        """Return ``b + eps s`` and ``s``, evaluating each known field once.

        Parameters
        ----------
        x
            States of shape (batch, ...).
        t
            Time, one for all samples or one for each.
        eps
            Half the square of the noise's size; its sign is the direction.

        Returns
        -------
        tuple[Tensor of shape (batch, ...), Tensor of shape (batch, ...)]
            Drift and score, each of the shape of `x`.
        """
        point = Point(self, x, t)
        s = point.s()  # first: it's what an interpolant without latent lacks
        return torch.add(point.b(), s, alpha=eps), s


class Point:
    """The fields at one (x, t), each known one evaluated once."""

    def __init__(self, fields: Fields, x: Tensor, t: Time) -> None:
        self.fields, self.x, self.i = fields, x, fields.interpolant
        self.time = t if isinstance(t, float) else shared_time(t)
        if isinstance(self.time, Tensor):
            self.t = self.time.to(x)
        else:
            self.t = torch.full((), self.time, dtype=x.dtype, device=x.device).expand(x.shape[0])
        self.values: dict[str, Tensor] = {}

    def has(self, *names: str) -> bool:
        """Tell whether all of these fields are known."""
        return all(name in self.fields.given for name in names)

    def known(self, name: str) -> Tensor:
        """Evaluate a known field."""
        if name not in self.values:
            if self.fields.joint is not None:
                answers = self.fields.joint(self.x, self.t)
                found = dict(zip(self.fields.given, answers, strict=True))
            else:
                found = {name: self.fields.given[name](self.x, self.t)}  # type: ignore[misc]
            for key, value in found.items():
                if value.shape != self.x.shape:
                    got, takes = tuple(value.shape), tuple(self.x.shape)
                    raise ValueError(f"{key} of fields returned shape {got}; it takes that of x, {takes}")
            self.values.update(found)
        return self.values[name]

    def at(self, name: str) -> float | Tensor:
        """Return a coefficient of the interpolant here, in the shape that broadcasts over x."""
        return per_sample(getattr(self.i, name)(self.time), self.x)

    def lacking(self, name: str) -> ValueError:
        """Return the error for a field that can't be had."""
        known = ", ".join(self.fields.given)
        return ValueError(f"{name} does not follow from {known} for {self.i!r}; give more of {', '.join(NAMES)}")

    def b(self) -> Tensor:
        """Return the velocity."""
        if self.has("b"):
            return self.known("b")
        if self.i.mirror:
            return self.latent_velocity()
        return self.v() + self.latent_velocity() if self.i.has_latent else self.v()

    def latent_velocity(self) -> Tensor:
        """Return gamma' eta, by the score, whose factor gamma gamma' is finite at the ends."""
        return -self.at("gamma_times_dot") * self.s()

    def safe_gamma(self) -> float | Tensor:
        """Return gamma at the nearest time where it may be divided by."""
        low = 0.0 if self.i.one_sided else self.fields.t_min
        high = 1 - self.fields.t_min
        inner = self.time.clamp(low, high) if isinstance(self.time, Tensor) else min(max(self.time, low), high)
        return per_sample(self.i.gamma(inner), self.x)

    def s(self) -> Tensor:
        """Return the score."""
        if not self.i.has_latent:
            raise ValueError("s is asked for, but gamma is zero: this interpolant has no latent and no score by it")
        if self.has("s"):
            return self.known("s")
        return -self.eta() / self.safe_gamma()

    def eta(self) -> Tensor:
        """Return the denoiser."""
        if self.has("eta"):
            return self.known("eta")
        if self.has("s"):
            return -self.at("gamma") * self.known("s")
        if not self.i.has_latent:
            return torch.zeros_like(self.x)
        if self.i.linear and self.has("eta1") and (self.i.one_sided or self.i.mirror):
            return (self.x - self.at("beta") * self.known("eta1")) / self.safe_gamma()
        if self.i.linear and self.has("eta0", "eta1"):
            rest = self.x - self.at("alpha") * self.known("eta0") - self.at("beta") * self.known("eta1")
            return rest / self.safe_gamma()
        if self.i.one_sided and self.i.linear:
            return self._eta_of_one_sided()
        raise self.lacking("eta")

    def _eta_of_one_sided(self) -> Tensor:
        alpha, beta = self.at("gamma"), self.at("beta")
        alpha_dot, beta_dot = self.at("gamma_dot"), self.at("beta_dot")
        if self.has("eta0"):
            return self.known("eta0")
        if self.has("v"):  # v = beta' E[x1]
            return (self.x - beta * self.known("v") / beta_dot) / self.safe_gamma()
        return (beta * self.known("b") - beta_dot * self.x) / (alpha_dot * beta - alpha * beta_dot)

    def v(self) -> Tensor:
        """Return the velocity without the latent's part."""
        if self.has("v"):
            return self.known("v")
        if self.i.mirror:
            return torch.zeros_like(self.x)
        if self.i.one_sided and self.i.linear:
            return self.at("beta_dot") * self.ends()[1]
        if self.has("b") and (self.has("s") or self.has("eta") or not self.i.has_latent):
            return self.known("b") - self.latent_velocity() if self.i.has_latent else self.known("b")
        if not self.i.linear:
            raise self.lacking("v")
        eta0, eta1 = self.ends()
        return self.at("alpha_dot") * eta0 + self.at("beta_dot") * eta1

    def ends(self) -> tuple[Tensor, Tensor]:
        """Return E[x0] and E[x1]."""
        if self.has("eta0", "eta1"):
            return self.known("eta0"), self.known("eta1")
        if not self.i.linear:
            raise self.lacking("eta0 or eta1")
        eta = self.eta()
        rest = self.x - self.at("gamma") * eta  # alpha eta0 + beta eta1
        if self.i.mirror:
            return rest, rest
        if self.i.one_sided:
            return eta, self.known("eta1") if self.has("eta1") else self._target_mean(rest)
        alpha, beta = self.at("alpha"), self.at("beta")
        if self.has("eta1"):
            return (rest - beta * self.known("eta1")) / alpha, self.known("eta1")
        if self.has("eta0"):
            return self.known("eta0"), (rest - alpha * self.known("eta0")) / beta
        if not (self.has("v") or self.has("b")):
            raise self.lacking("eta0 or eta1")
        if self.i.name == "encdec":
            raise ValueError("path 'encdec' forgets each end at t = 1/2: eta0 and eta1 don't follow from the others")
        v, alpha_dot, beta_dot = self.v(), self.at("alpha_dot"), self.at("beta_dot")
        spin = alpha * beta_dot - alpha_dot * beta
        return (beta_dot * rest - beta * v) / spin, (alpha * v - alpha_dot * rest) / spin

    def _target_mean(self, rest: Tensor) -> Tensor:
        """Return E[x1] of a one-sided path from ``beta E[x1]``; at t = 0 that says nothing."""
        if self.has("v"):
            return self.known("v") / self.at("beta_dot")
        beta = self.at("beta")
        start = self.t == 0
        if not bool(start.any()):
            return rest / beta
        if self.fields.mean1 is None:
            raise ValueError("t is 0, where the fields of a one-sided path need eta1 or mean1, the mean of x1; give it")
        start = start.reshape(-1, *[1] * (self.x.ndim - 1))
        ones = torch.ones_like(rest)
        return torch.where(start, self.fields.mean1.to(rest), rest / torch.where(start, ones, beta * ones))
