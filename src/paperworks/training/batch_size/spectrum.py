"""The spectrum of a network's curvature, by Lanczos quadrature."""

from typing import Literal

import torch

from paperworks.core.validation import check_count, check_number
from paperworks.numerics.curvature import Curvature
from paperworks.numerics.frozen import check_device
from paperworks.numerics.random import torch_generator
from paperworks.numerics.spectra import Spectrum, lanczos_quadrature


def lanczos_spectrum(
    op: Curvature,
    steps: int = 100,
    n_probes: int = 1,
    *,
    absolute: bool = False,
    weight_decay: float = 0.0,
    probe: Literal["sign", "normal"] = "sign",
    random_state: int = 0,
) -> Spectrum:
    """Return the spectrum of a network's curvature as Lanczos runs from random vectors see it.

    Parameters
    ----------
    op
        A `HessianOperator` or `GGNOperator` of any data, or a `FrozenCurvature`, which is faster where the graph of all
        samples fits into memory.
    steps
        Lanczos steps of each run, 100 as in PyHessian; fewer where the matrix has fewer rows.
    n_probes
        Number of runs, which go through the network together: more smooth the density and give standard errors.
    absolute
        Whether absolute values of the eigenvalues are meant, those of the matrix ``|H|`` that some methods divide by.
    weight_decay
        Added to all eigenvalues, before absolute values are taken.
    probe
        As in `lanczos_quadrature`.
    random_state
        Seed of the starts.

    Returns
    -------
    Spectrum
        Nodes and weights with ``density(grid, width)``, ``moment(order)``, the largest and the smallest eigenvalue.

    Raises
    ------
    ValueError
        For counts below 1, a negative weight decay, or parameters on the meta device.
    RuntimeError
        Where a product is NaN or infinite.

    Examples
    --------
    >>> import torch
    >>> from paperworks.training import HessianOperator
    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1)
    >>> op = HessianOperator(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss, (x, y))
    >>> lanczos_spectrum(op).nodes.round(decimals=4)  # of diag(1, 4)
    tensor([[1., 4.]], dtype=torch.float64)
    """
    check_number("weight_decay", weight_decay, ge=0)
    check_device(op.module)
    like = op.like
    found = lanczos_quadrature(op.products, op.n, min(check_count("steps", steps), op.n), n_probes,
                               torch_generator(random_state, device=like.device), probe=probe,
                               dtype=torch.promote_types(like.dtype, torch.float32))  # fmt: skip
    shifted = found.shift(weight_decay) if weight_decay else found
    return shifted.absolute() if absolute else shifted
