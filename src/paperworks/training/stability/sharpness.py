"""Measures of a minimum's sharpness: trace, Frobenius norm, extreme eigenvalues, gradients of single samples."""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_number
from paperworks.numerics import eigenvalues, per_sample, traces
from paperworks.numerics.curvature import Curvature, Loss, plainly
from paperworks.numerics.random import torch_generator
from paperworks.numerics.traces import NormEstimate, TraceEstimate, TraceMethod
from paperworks.training.stability.operators import Data, batches_of

Method = Literal["hutchinson", "hutch++", "xtrace", "exact"]
_MOST_ROWS = 5000  # of a Gram matrix


def hessian_trace(
    op: Curvature,
    method: Method = "xtrace",
    *,
    rtol: float = 0.05,
    max_products: int = 300,
    random_state: int = 0,
) -> TraceEstimate:
    """Return the trace of a curvature matrix.

    Parameters
    ----------
    op
        A `HessianOperator`, `GGNOperator` or `EmpiricalFisherOperator`.
    method
        ``xtrace`` or ``hutch++``, which need few products where few eigenvalues are large, ``hutchinson``, or
        ``exact``: by gradients of single samples for the Gauss-Newton matrix and the Fisher, by a product with each
        unit vector for the Hessian.
    rtol
        Standard error to the size of the estimate at which it stops.
    max_products
        Where it stops at the latest.
    random_state
        Seed of the probes.

    Returns
    -------
    TraceEstimate
        The trace, its standard error, and the number of products.

    Raises
    ------
    ValueError
        For another method, or a tolerance that isn't positive.

    Examples
    --------
    >>> from paperworks.training import GGNOperator
    >>> x, y = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.zeros(2, 1)
    >>> op = GGNOperator(nn.Linear(2, 1), lambda f, y: (f - y).square().mean() / 2, (x, y))
    >>> hessian_trace(op, "exact").trace
    8.0
    """
    check_choice("method", method, get_args(Method))
    check_number("rtol", rtol, gt=0)
    if method != "exact":
        known: TraceMethod = method
        generator = torch_generator(random_state, device=op.like.device)
        with plainly(op.like.device):
            return traces.estimate_trace(op.products, op.n, generator, method=known, rtol=rtol,
                                         max_products=max_products, dtype=op.like.dtype)  # fmt: skip
    if op.kind == "hessian":
        return traces.exact_trace(op.products, op.n, device=op.like.device, dtype=op.like.dtype)
    batches = list(op.batches)
    times = sum(len(targets) for _, targets in batches) if op.reduction == "sum" else 1
    if op.kind == "gauss_newton":
        return TraceEstimate(times * per_sample.gauss_newton_trace(op.module, op.loss, batches, op.names), 0.0, 0)
    norms = per_sample.per_sample_norms(op.module, op.loss, batches, op.names)
    return TraceEstimate(times * float(norms.square().mean()), 0.0, 0)


def frobenius_norm(
    op: Curvature, method: Literal["products", "exact"] = "products", *, n_probes: int = 60, random_state: int = 0
) -> NormEstimate:
    """Return the Frobenius norm of a curvature matrix.

    Parameters
    ----------
    op
        As in `hessian_trace`.
    method
        ``products`` with random signs, or ``exact``: for the Gauss-Newton matrix by the Gram matrix of the gradients of
        its outputs, of at most 5000 rows, and for others by a product with each unit vector.
    n_probes
        Products to make.
    random_state
        Seed of the probes.

    Returns
    -------
    NormEstimate
        The norm, its standard error, and the number of products.

    Raises
    ------
    ValueError
        For another method, or more rows than a Gram matrix may have.

    Examples
    --------
    >>> from paperworks.training import GGNOperator
    >>> x, y = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.zeros(2, 1)
    >>> op = GGNOperator(nn.Linear(2, 1), lambda f, y: (f - y).square().mean() / 2, (x, y))
    >>> round(frobenius_norm(op, "exact").norm, 4)
    6.4807
    """
    check_choice("method", method, ("products", "exact"))
    check_count("n_probes", n_probes)
    dtype, device = op.like.dtype, op.like.device
    if method == "products":
        return traces.frobenius_norm(op.products, op.n, n_probes, torch_generator(random_state, device=device),
                                     dtype=dtype)  # fmt: skip
    if op.kind == "gauss_newton":
        batches = list(op.batches)
        samples = sum(len(targets) for _, targets in batches)
        with torch.no_grad():
            rows = samples * op.module(batches[0][0][:1]).numel()
        if rows > _MOST_ROWS:
            raise ValueError(f"method is 'exact' with {rows} outputs of samples; it takes at most {_MOST_ROWS}")
        gram = per_sample.gauss_newton_gram(op.module, op.loss, batches, op.names)
        return NormEstimate(float(gram.norm()) / (samples if op.reduction == "mean" else 1), 0.0, 0)
    columns = traces.unit_products(op.products, op.n, device=device, dtype=dtype)
    return NormEstimate(sum(float(v.double().square().sum()) for _, v in columns) ** 0.5, 0.0, op.n)


class EigenResult(NamedTuple):
    """Extreme eigenvalues of a curvature matrix."""

    values: Float[Tensor, " k"]
    """The eigenvalues, in rising order."""
    vectors: Float[Tensor, "n k"]
    """Orthonormal eigenvectors in columns."""
    residuals: Float[Tensor, " k"]
    """Norms of ``A v - value v``: there is an eigenvalue within as much of each value."""


def extreme_eigenvalues(
    op: Curvature,
    k: int = 1,
    *,
    which: Literal["largest", "smallest", "magnitude", "both"] = "largest",
    rtol: float | None = None,
    random_state: int = 0,
) -> EigenResult:
    """Return extreme eigenvalues of a curvature matrix with vectors and residual bounds.

    Parameters
    ----------
    op
        As in `hessian_trace`.
    k
        How many, fewer than the matrix has rows.
    which
        The algebraically ``largest`` or ``smallest``, the greatest in ``magnitude``, or half from ``both`` ends.
    rtol
        Relative accuracy: 1e-8 by default for parameters in double precision, 1e-5 for others.
    random_state
        Seed of the start.

    Returns
    -------
    EigenResult
        Values, vectors and residuals.

    Raises
    ------
    ValueError
        Unless ``1 <= k < n``.

    Examples
    --------
    >>> from paperworks.training import GGNOperator
    >>> x, y = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.zeros(2, 1)
    >>> op = GGNOperator(nn.Linear(2, 1), lambda f, y: (f - y).square().mean() / 2, (x, y))
    >>> round(extreme_eigenvalues(op).values.item(), 3)
    6.236
    """
    like = op.like
    if rtol is None:
        rtol = 1e-8 if like.dtype == torch.float64 else 1e-5
    values, vectors = eigenvalues.extreme_eigenvalues(
        op.product, op.n, k, which=which, rtol=check_number("rtol", rtol, gt=0), random_state=random_state,
        device=like.device, dtype=like.dtype,
    )  # fmt: skip
    return EigenResult(values, vectors, (op.products(vectors) - vectors * values).norm(dim=0))


def per_sample_grad_norms(
    model: nn.Module,
    loss_fn: Loss,
    data: Data,
    params: Iterable[Tensor | str] | None = None,
    *,
    batch_size: int | None = None,
) -> Float[Tensor, " n"]:
    """Return the norm of the gradient of each sample's loss; for linear layers no gradient is made.

    Parameters
    ----------
    model, loss_fn, data, params, batch_size
        As in `HessianOperator`.

    Returns
    -------
    Tensor
        A norm for each sample, in double precision, for fourth moments.

    Examples
    --------
    >>> x, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = model.weight.data.fill_(2.0)
    >>> per_sample_grad_norms(model, nn.functional.mse_loss, (x, y))
    tensor([ 4., 36.], dtype=torch.float64)
    """
    return per_sample.per_sample_norms(model, loss_fn, batches_of(data, batch_size), params)


def output_gradients(
    model: nn.Module,
    loss_fn: Loss,
    data: Data,
    params: Iterable[Tensor | str] | None = None,
    *,
    batch_size: int | None = None,
) -> Float[Tensor, "n c p"]:
    """Return the gradients of the outputs, scaled by the loss' curvature, that `stability_certificate` takes.

    Parameters
    ----------
    model, loss_fn, data, params, batch_size
        As in `HessianOperator`; the loss is convex in the outputs.

    Returns
    -------
    Tensor
        For each of n samples a row for each of c outputs; the Gauss-Newton matrix is the mean of ``G_i^T G_i``.

    Examples
    --------
    >>> x, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> output_gradients(nn.Linear(1, 1), lambda f, y: (f - y).square().mean() / 2, (x, y))[:, 0]
    tensor([[1., 1.],
            [3., 1.]])
    """
    return per_sample.gauss_newton_factors(model, loss_fn, batches_of(data, batch_size), params)


def gradient_alignment(
    model: nn.Module,
    loss_fn: Loss,
    data: Data,
    params: Iterable[Tensor | str] | None = None,
    *,
    batch_size: int | None = None,
) -> float:
    r"""Return how far the noise of SGD aligns with the curvature, ``Tr(Sigma H) / (2 L |H|_F^2)``.

    Where it is at least mu, stability in the loss asks for ``|H|_F <= sqrt(B / mu) / lr``.

    Parameters
    ----------
    model, loss_fn, data, params, batch_size
        As in `HessianOperator`. The loss is 0 for a perfect fit, and not 0 on these data.

    Returns
    -------
    float
        The alignment mu, without unit; 1 where the noise's covariance is ``2 L H``.

    Raises
    ------
    ValueError
        Where the mean loss isn't positive.

    References
    ----------
    arXiv 2305.17490, the stability in the loss; Wu, Wang and Su, The alignment property of SGD noise (2022).

    Examples
    --------
    >>> x, y = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [1.0]])
    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = model.weight.data.fill_(0.0)
    >>> gradient_alignment(model, lambda f, y: (f - y).square().mean() / 2, (x, y))
    1.0
    """
    batches = list(batches_of(data, batch_size))
    factors = per_sample.gauss_newton_factors(model, loss_fn, batches, params).double()
    gradients = per_sample.per_sample_gradients(model, loss_fn, batches, params).double()
    with torch.no_grad():
        losses = sum(len(y) * float(loss_fn(model(x), y)) for x, y in batches) / len(gradients)
    if not losses > 0:
        raise ValueError(f"data has a mean loss of {losses:g}; the alignment takes one > 0")
    rows = factors.flatten(0, 1)
    gram = rows @ rows.T / len(gradients)
    along = (gradients - gradients.mean(0)) @ rows.T  # Tr(Sigma H) = mean over samples of sum over rows / n
    noise = float(along.square().sum()) / len(gradients) ** 2
    return noise / (2 * losses * float(gram.square().sum()))
