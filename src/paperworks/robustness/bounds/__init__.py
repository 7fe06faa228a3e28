"""Sound bounds of any computational graph: intervals, linear relaxations forward and backward, optimised ones."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bilinear": ["BilinearRule"],
        "curves": ["Curve", "Piece"],
        "elementwise": ["ElementwiseRule"],
        "linear": ["LinearRule"],
        "losses": ["CrossEntropyWrapper", "margin_spec", "robust_cross_entropy"],
        "module": ["BoundedModule"],
        "options": ["Options"],
        "perturbations": [
            "Perturbation",
            "PerturbationL0Norm",
            "PerturbationLpNorm",
            "PerturbationSynonym",
        ],
        "registry": ["Rule", "register_bound"],
        "schedulers": ["AdaptiveScheduler", "LinearScheduler", "SmoothedScheduler"],
        "tensors": ["BoundedParameter", "BoundedTensor"],
        "values": ["Backward", "Interval", "LinearBounds"],
    },
)
