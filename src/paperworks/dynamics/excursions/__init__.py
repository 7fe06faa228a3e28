"""How long a Gaussian process stays above 0: laws of excursions, persistency exponents, simulation."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "approximation": ["IIA", "PersistencyExponent", "SlepianIIA", "ValidityReport"],
        "covariances": [
            "CallableCovariance",
            "Diffusion",
            "Matern",
            "RandomAcceleration",
            "RationalQuadratic",
            "SquaredExponential",
            "StationaryCovariance",
        ],
        "divisor": ["Divisor"],
        "simulation": ["PersistenceProbability", "persistence_probability", "simulate_excursions", "slepian_model"],
    },
)
