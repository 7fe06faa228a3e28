"""Problems with known answers, and loaders of real data, that the experiments of many papers share."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "buildings": ["Building", "BuildingName", "citylearn_building"],
        "data": ["DatasetMissing", "Images", "digits", "fashion_mnist"],
        "denoisers": ["Denoiser", "trained_denoiser"],
        "functions": ["TestFunction", "branin", "hartmann6", "rosenbrock"],
        "garments": ["PastedGarments", "SmallResNet", "erased", "pasted_garments", "trained_garment_classifier"],
        "imagenet": ["ImageNetClassifier", "imagenet_classifier", "photographs", "random_crops"],
        "mixtures": ["GaussianMixture", "bench_mixture_1d", "bench_mixture_64d", "digits_mixture"],
        "networks": ["Classifier", "UNet"],
        "peers": ["load_k_diffusion_sampling"],
        "processes": ["BrownianTerminal", "CallOption", "MeanVariance", "OUDiscounted", "OUQuadratic"],
        "quality": ["PrincipalComponents", "block_means", "frechet_distance", "pseudo_values", "trained_classifier"],
        "reference": ["reference_solution"],
        "sentiment": ["MiniLM", "minilm", "minilm_tokens", "sentiment_words"],
        "smoke": ["SmokeFrame", "rising_smoke"],
        "spectral": [
            "PeriodicGrid",
            "SemilinearEquation",
            "advection_diffusion",
            "allen_cahn",
            "burgers",
            "gaussian_fields",
            "heat",
            "korteweg_de_vries",
            "kuramoto_sivashinsky",
            "navier_stokes",
            "sine_fields",
            "velocity_of",
            "vortex_sheets",
            "vorticity_of",
        ],
        "training": ["accuracy", "fit"],
    },
)
