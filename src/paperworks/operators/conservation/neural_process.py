"""The attentive neural process: a model of functions seen at scattered points, and one that keeps their integrals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paperworks.core.validation import check_count, check_finite, check_number
from paperworks.operators.conservation.conditioning import moment_match, second_difference_update
from paperworks.operators.conservation.likelihood import constrained_log_likelihood, gaussian_log_likelihood
from paperworks.operators.conservation.quadrature import quadrature_weights
from paperworks.operators.conservation.update import ConservativeUpdate

_LEAST_DEVIATION = 1e-3


class _Attention(nn.Module):
    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.encoder_key, self.encoder_value, self.encoder_query = (
            nn.Linear(hidden, hidden, bias=False) for _ in range(3)
        )
        self.final_linear = nn.Linear(2 * hidden, hidden)
        self.layer_norm = nn.LayerNorm(hidden)
        self.heads, self.dropout = heads, dropout

    def forward(self, key: Tensor, value: Tensor, query: Tensor) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

        attended = functional.scaled_dot_product_attention(
            split(self.encoder_query(query)),
            split(self.encoder_key(key)),
            split(self.encoder_value(value)),
            dropout_p=self.dropout if self.training else 0.0,
        )
        joined = torch.cat([query, attended.transpose(-2, -3).flatten(-2)], dim=-1)
        changed = functional.dropout(self.final_linear(joined), self.dropout, self.training)
        return self.layer_norm(query + changed)


class _LatentEncoder(nn.Module):
    def __init__(self, dim: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.input_projection = nn.Linear(dim + 1, hidden)
        self.self_attentions = nn.ModuleList(_Attention(hidden, heads, dropout) for _ in range(2))
        self.penultimate_layer = nn.Linear(hidden, hidden)
        self.mu, self.log_sigma = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        points = self.input_projection(torch.cat([x, y[..., None]], dim=-1))
        for attention in self.self_attentions:
            points = attention(points, points, points)
        summary = self.penultimate_layer(points.mean(-2)).relu()
        return self.mu(summary), self.log_sigma(summary)


class _DeterministicEncoder(nn.Module):
    def __init__(self, dim: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.input_projection = nn.Linear(dim + 1, hidden)
        self.self_attentions = nn.ModuleList(_Attention(hidden, heads, dropout) for _ in range(2))
        self.cross_attentions = nn.ModuleList(_Attention(hidden, heads, dropout) for _ in range(2))
        self.context_projection, self.target_projection = nn.Linear(dim, hidden), nn.Linear(dim, hidden)

    def forward(self, x: Tensor, y: Tensor, target: Tensor) -> Tensor:
        points = self.input_projection(torch.cat([x, y[..., None]], dim=-1))
        for attention in self.self_attentions:
            points = attention(points, points, points)
        keys, query = self.context_projection(x), self.target_projection(target)
        for attention in self.cross_attentions:
            query = attention(keys, points, query)
        return query


class _Decoder(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.target_projection = nn.Linear(dim, hidden)
        self.linears = nn.ModuleList(nn.Linear(3 * hidden, 3 * hidden) for _ in range(3))
        self.final_projection = nn.Linear(3 * hidden, 2)

    def forward(self, r: Tensor, z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([r, z[..., None, :].expand(*r.shape[:-1], -1), self.target_projection(target)], dim=-1)
        for layer in self.linears:
            x = layer(x).relu()
        mean, deviation = self.final_projection(x).unbind(-1)
        return mean, functional.softplus(deviation) + _LEAST_DEVIATION


class AttentiveNeuralProcess(nn.Module):
    """A model of functions: means and deviations at any points, given values at some.

    Parameters
    ----------
    dim
        Number of coordinates of a point; 2, time and place, by default.
    hidden
        Width. Default 128, the official one.
    heads
        Heads of attention, which divide the width. Default 4.
    dropout
        Share of attention dropped in training. Default 0.1.

    Raises
    ------
    ValueError
        For a width that the heads don't divide, or numbers out of range.

    Notes
    -----
    Kim and others, arXiv 1901.05761, with the sizes of arXiv 2302.11002; parameters have the official names, so its
    weights fit.

    Examples
    --------
    >>> process = AttentiveNeuralProcess(hidden=16).eval()
    >>> mean, deviation = process(torch.rand(3, 10, 2), torch.rand(3, 10), torch.rand(3, 7, 2))
    >>> mean.shape, bool((deviation > 0).all())
    (torch.Size([3, 7]), True)
    """

    def __init__(self, dim: int = 2, hidden: int = 128, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        check_count("dim", dim)
        if check_count("hidden", hidden) % check_count("heads", heads):
            raise ValueError(f"hidden is {hidden}, which {heads} heads don't divide; it takes a multiple")
        check_number("dropout", dropout, ge=0, lt=1)
        self.latent_encoder = _LatentEncoder(dim, hidden, heads, dropout)
        self.deterministic_encoder = _DeterministicEncoder(dim, hidden, heads, dropout)
        self.decoder = _Decoder(dim, hidden)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)

    @classmethod
    def load_official(cls, path: str | Path) -> "AttentiveNeuralProcess":
        """Load published weights, which is never done by unpickling code.

        Parameters
        ----------
        path
            A file in safetensors, or one of torch that holds tensors alone.

        Returns
        -------
        AttentiveNeuralProcess
            The process in evaluation mode.

        Raises
        ------
        ValueError
            For a file of other weights.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "weights.pt"
        ...     torch.save(AttentiveNeuralProcess(hidden=16).state_dict(), path)
        ...     AttentiveNeuralProcess.load_official(path).training
        False
        """
        path = Path(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Mapping[str, Tensor] = load_file(path)
        else:
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
            state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
        if not isinstance(state, Mapping):
            state = {}
        plain = {name.replace(".linear_layer", "").removeprefix("model."): value for name, value in state.items()}
        known = plain.get("latent_encoder.input_projection.weight")
        if not isinstance(known, Tensor) or known.ndim != 2 or known.shape[0] % 4 or known.shape[1] < 2:
            raise ValueError(f"path is {path}, which holds no weights of an attentive neural process")
        process = cls(dim=known.shape[1] - 1, hidden=known.shape[0])
        try:
            process.load_state_dict(plain)
        except RuntimeError as error:
            raise ValueError(f"path is {path}, whose weights don't fit: {error}") from error
        return process.eval()

    def forward(
        self,
        context_x: Float[Tensor, "*batch context dim"],
        context_y: Float[Tensor, "*batch context"],
        target_x: Float[Tensor, "*batch target dim"],
        *,
        generator: torch.Generator | None = None,
        z: Float[Tensor, "*batch hidden"] | None = None,
    ) -> tuple[Float[Tensor, "*batch target"], Float[Tensor, "*batch target"]]:
        """Predict with one draw of the latent variable.

        Parameters
        ----------
        context_x, context_y
            Points (..., context, dim) and values (..., context) that are known.
        target_x
            Points that are asked for, (..., target, dim).
        generator
            What draws the latent variable, torch's global generator by default.
        z
            The latent variable itself, instead of a draw from the context.

        Returns
        -------
        tuple of Tensor
            Means and standard deviations, (..., target).

        Raises
        ------
        ValueError
            For shapes that don't fit.
        """
        self._check(context_x, context_y, target_x)
        if z is not None and z.shape != (*context_x.shape[:-2], self.decoder.target_projection.out_features):
            raise ValueError(
                f"z has shape {tuple(z.shape)}; it takes"
                f" {(*context_x.shape[:-2], self.decoder.target_projection.out_features)}"
            )
        if z is None:
            z_mean, z_log = self.latent_encoder(context_x, context_y)
            z = _draw(z_mean, z_log, generator)
        r = self.deterministic_encoder(context_x, context_y, target_x)
        return self.decoder(r, z, target_x)

    def loss(
        self,
        context_x: Float[Tensor, "batch context dim"],
        context_y: Float[Tensor, "batch context"],
        target_x: Float[Tensor, "batch target dim"],
        target_y: Float[Tensor, "batch target"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the negative bound of the log-likelihood, the mean over functions.

        Parameters
        ----------
        context_x, context_y
            Points and values that are known.
        target_x, target_y
            Points that are asked for, and the values there.
        generator
            What draws the latent variable, torch's global generator by default.

        Returns
        -------
        Tensor
            The sum of log-densities at the targets, less the divergence of the latent variable given targets from that
            given contexts; with the sign turned.
        """
        mean, deviation, divergence = self.posterior(context_x, context_y, target_x, target_y, generator)
        return (divergence - gaussian_log_likelihood(target_y, mean, deviation.square()).sum(-1)).mean()

    def posterior(
        self,
        context_x: Float[Tensor, "batch context dim"],
        context_y: Float[Tensor, "batch context"],
        target_x: Float[Tensor, "batch target dim"],
        target_y: Float[Tensor, "batch target"],
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "batch target"], Float[Tensor, "batch target"], Float[Tensor, " batch"]]:
        """Predict with the latent variable drawn from the targets, which is what a loss is made of.

        Parameters
        ----------
        context_x, context_y
            Points and values that are known.
        target_x, target_y
            Points that are asked for, and the values there.
        generator
            What draws the latent variable, torch's global generator by default.

        Returns
        -------
        tuple of Tensor
            Means and standard deviations at the targets, and the divergence of the latent variable given targets from
            that given contexts.

        Raises
        ------
        ValueError
            For shapes that don't fit.
        """
        self._check(context_x, context_y, target_x)
        self._check(target_x, target_y, target_x)
        mean_q, log_q = self.latent_encoder(target_x, target_y)
        mean_p, log_p = self.latent_encoder(context_x, context_y)
        mean, deviation = self(context_x, context_y, target_x, z=_draw(mean_q, log_q, generator))
        divergence = 0.5 * (log_p - log_q + (log_q.exp() + (mean_q - mean_p).square()) / log_p.exp() - 1).sum(-1)
        return mean, deviation, divergence

    def _check(self, context_x: Tensor, context_y: Tensor, target_x: Tensor) -> None:
        dim = self.decoder.target_projection.in_features
        if (
            context_x.ndim < 2
            or context_y.shape != context_x.shape[:-1]
            or target_x.shape[:-2] != context_x.shape[:-2]
            or not (context_x.shape[-1] == target_x.shape[-1] == dim)
            or not context_x.shape[-2]
        ):
            raise ValueError(
                f"context_x, context_y and target_x have shapes {tuple(context_x.shape)}, {tuple(context_y.shape)} and"
                f" {tuple(target_x.shape)}; they take (…, n, {dim}), (…, n) and (…, m, {dim}) with n >= 1"
            )
        for name, part in (("context_x", context_x), ("context_y", context_y), ("target_x", target_x)):
            check_finite(name, part)


class ProbConservANP(nn.Module):
    """An attentive neural process whose predictions keep their integral: each draw is updated, then all are matched.

    Parameters
    ----------
    process
        The process, trained.
    update
        The update; by default exact, by trapezoids over the places asked for.
    n_samples
        Draws of the latent variable. Default 100, the paper's.
    smoothing
        Correlation of neighbours with which each draw is first conditioned on small second differences, between 0 and
        1, as `second_difference_update` does; the paper's is 0.9. None, the default, leaves it out.

    Raises
    ------
    ValueError
        For fewer than one draw, or a correlation out of range.

    Notes
    -----
    arXiv 2302.11002, ProbConserv-ANP.

    Examples
    --------
    >>> model = ProbConservANP(AttentiveNeuralProcess(hidden=16).eval(), n_samples=4)
    >>> x = torch.linspace(0, 1, 5)
    >>> mean, variance = model(torch.rand(8, 2), torch.rand(8), x, torch.tensor(0.5), torch.tensor(0.7))
    >>> round(torch.trapezoid(mean, x.double()).item(), 6)
    0.7
    """

    def __init__(
        self,
        process: AttentiveNeuralProcess,
        update: ConservativeUpdate | None = None,
        n_samples: int = 100,
        *,
        smoothing: float | None = None,
    ) -> None:
        super().__init__()
        self.smoothing = None if smoothing is None else check_number("smoothing", smoothing, gt=0, lt=1)
        self.process = process
        self.update = ConservativeUpdate() if update is None else update
        self.n_samples = check_count("n_samples", n_samples)

    def forward(
        self,
        context_x: Float[Tensor, "context dim"],
        context_y: Float[Tensor, " context"],
        x: Float[Tensor, " n"],
        t: Float[Tensor, ""],
        value: Float[Tensor, "*values"] | None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Predict a function at one time.

        Parameters
        ----------
        context_x, context_y
            Points (context, 2), of time and place, and values that are known.
        x
            Places, increasing, in their own unit.
        t
            The time that is asked for.
        value
            What the integral over the places is, or the values of all rows where the update has a matrix; None for the
            process's own prediction.
        generator
            What draws the latent variables, torch's global generator by default.

        Returns
        -------
        tuple of Tensor
            Means and variances, (n,), in float64.

        Raises
        ------
        ValueError
            For shapes that don't fit, or places that don't increase.
        """
        if t.ndim or x.ndim != 1:
            raise ValueError(f"t and x have shapes {tuple(t.shape)} and {tuple(x.shape)}; they take () and (n,)")
        points = torch.stack([t.to(x).expand_as(x), x], dim=-1).to(context_x)
        self.process._check(context_x, context_y, points)
        # All but the decoder is the same for every draw.
        z_mean, z_log = (part.expand(self.n_samples, -1) for part in self.process.latent_encoder(context_x, context_y))
        r = self.process.deterministic_encoder(context_x, context_y, points)
        many = (self.n_samples, *[-1] * 2)
        mean, deviation = self.process.decoder(r.expand(many), _draw(z_mean, z_log, generator), points.expand(many))
        means, variances = mean.double(), deviation.double().square()
        if value is not None:
            G = self.update.G
            m = 1 if G is None or G.ndim == 1 else len(G)
            if value.shape not in ((), (m,)) or value.numel() != m:
                raise ValueError(f"value has shape {tuple(value.shape)}; it takes ({m},), or () for one integral")
            spread = variances
            if self.smoothing is not None:
                means, spread = second_difference_update(means, variances, self.smoothing)
            rows = None if self.update.G is not None else x.double()
            means, spread = self.update(means, spread, value.double().reshape(m), x=rows)
            variances = spread if spread.ndim == means.ndim else spread.diagonal(dim1=-2, dim2=-1)
        return moment_match(means, variances)

    def loss(
        self,
        context_x: Float[Tensor, "batch context 2"],
        context_y: Float[Tensor, "batch context"],
        target_x: Float[Tensor, "batch times places 2"],
        target_y: Float[Tensor, "batch times places"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of training with the constraint in the likelihood, the mean over functions.

        Parameters
        ----------
        context_x, context_y
            Points and values that are known.
        target_x, target_y
            A grid of times and places that are asked for, increasing in place, and the values there; each function's
            integral is that of its own values.
        generator
            What draws the latent variable, torch's global generator by default.

        Returns
        -------
        Tensor
            As the process's own, with the density under the updated prediction summed over the times.

        Raises
        ------
        ValueError
            For shapes that don't fit; an update without noise, under which the density is infinite; or one that is hard
            or has a matrix.
        """
        if self.update.G is not None or self.update.mode == "hard":
            raise ValueError("update has a matrix or is hard; training takes one over points, in the mode prob")
        asked, seen = target_x.flatten(1, 2), target_y.flatten(1)
        mean, deviation, divergence = self.process.posterior(context_x, context_y, asked, seen, generator)
        g: Any = quadrature_weights(target_x[..., 1], self.update.rule)
        shape = target_y.shape[1:]
        fit = constrained_log_likelihood(
            target_y, mean.unflatten(1, shape), deviation.square().unflatten(1, shape), g, self.update.noise()
        )
        return (divergence - fit.sum(-1)).mean()


def _draw(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None) -> Tensor:
    where = generator.device if generator else "cpu"
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=where)
    return mean + (0.5 * log_variance).exp() * noise.to(mean.device)
