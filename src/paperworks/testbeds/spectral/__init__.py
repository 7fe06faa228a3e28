"""Equations on periodic boxes, solved by Fourier series and exponential Runge-Kutta steps, many at once."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "equations": [
            "advection_diffusion",
            "allen_cahn",
            "burgers",
            "heat",
            "korteweg_de_vries",
            "kuramoto_sivashinsky",
            "navier_stokes",
        ],
        "fields": ["gaussian_fields", "sine_fields", "velocity_of", "vortex_sheets", "vorticity_of"],
        "grids": ["PeriodicGrid"],
        "semilinear": ["SemilinearEquation"],
    },
)
