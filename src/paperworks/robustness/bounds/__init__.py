"""Sound bounds of any computational graph: intervals, linear relaxations forward and backward, optimised ones."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bilinear": ["BilinearRule"],
        "curves": ["Curve", "Piece"],
        "elementwise": ["ElementwiseRule"],
        "linear": ["LinearRule"],
        "losses": ["margin_spec"],
        "module": ["BoundedModule"],
        "options": ["Options"],
        "perturbations": [
            "Perturbation",
            "PerturbationL0Norm",
            "PerturbationLpNorm",
            "PerturbationSynonym",
        ],
        "registry": ["Backward", "Interval", "LinearBounds", "Rule", "register_bound"],
        "tensors": ["BoundedParameter", "BoundedTensor"],
    },
)
