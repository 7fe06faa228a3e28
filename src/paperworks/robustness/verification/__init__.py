"""Verification of networks: properties, their files, and a search that decides them or finds a counterexample."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "networks": ["ONNXNetwork", "bounds_from_onnx", "load_onnx"],
        "properties": ["Property", "robustness_property"],
        "verifier": ["Verdict", "verify", "verify_robustness"],
        "vnnlib": ["read_vnnlib", "write_vnnlib"],
    },
)
