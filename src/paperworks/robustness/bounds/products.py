"""Products of matrices in single precision on processors, which oneDNN takes half the time for on some of them."""

from typing import Any

import torch
from torch import Tensor

_fast: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """Return the product of rows (..., n) with a matrix (n, m), in full precision where nothing is differentiated."""
    if (
        _fast is None
        or not rows.dtype == matrix.dtype == torch.float32
        or rows.device.type != "cpu"
        or (torch.is_grad_enabled() and (rows.requires_grad or matrix.requires_grad))
        or torch.get_float32_matmul_precision() != "highest"
        or not rows.numel() * matrix.numel()
    ):
        return rows @ matrix
    out = _fast(rows.reshape(-1, rows.shape[-1]), matrix.T, None, "none", [], "")
    return out.reshape(*rows.shape[:-1], matrix.shape[-1])
