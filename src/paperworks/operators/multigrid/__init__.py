"""Linear maps of fields that are one learned multigrid cycle, and the operator network that stacks them."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "cycle": ["MultigridConv", "as_linear_operator"],
        "losses": ["DifferenceH1Loss", "FieldNormalizer", "RelativeH1Loss", "RelativeL2Loss"],
        "network": ["MgNO"],
    },
)
