"""Learned maps between functions, and what makes any model of fields keep to the laws of physics."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "multigrid": [
            "DifferenceH1Loss",
            "FieldNormalizer",
            "MgNO",
            "MultigridConv",
            "RelativeH1Loss",
            "RelativeL2Loss",
            "as_linear_operator",
        ],
    },
)
