"""ONNX's own evaluation of graphs, slow and straightforward: what conversions are held against."""

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def evaluated(model: Any, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
    """Return a model's outputs, or the values of these names.

    Raises
    ------
    ValueError
        Where an operator can't be evaluated.
    """
    from onnx.reference import ReferenceEvaluator

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            found = ReferenceEvaluator(model, new_ops=[_batch_norm()]).run(outputs, dict(inputs))
    except Exception as error:  # whatever an operator raises
        raise ValueError(f"ONNX's own evaluation of it fails: {first_line(error)}") from None
    return list(found)


def first_line(error: Exception) -> str:
    """Return what an error says, in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@functools.cache
def _batch_norm() -> type:
    """Return the operator in evaluation mode: in versions 9 to 13 the reference trains."""
    from onnx.reference.op_run import OpRun

    class BatchNormalization(OpRun):
        op_domain = ""

        def _run(self, x: Any, scale: Any, bias: Any, mean: Any, var: Any, **attributes: Any) -> Any:
            if attributes.get("training_mode") or attributes.get("spatial") == 0:
                raise NotImplementedError("a batch norm that trains, or has means for each place")
            scale, bias, mean, var = (v.reshape(-1, *(1,) * (x.ndim - 2)) for v in (scale, bias, mean, var))
            found = (x - mean) / np.sqrt(var + attributes["epsilon"]) * scale + bias
            return (found.astype(x.dtype),) * len(self.onnx_node.output)

    return BatchNormalization
