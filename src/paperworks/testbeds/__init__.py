"""Problems with known answers, and loaders of real data, that the experiments of many papers share."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "buildings": ["Building", "BuildingName", "citylearn_building"],
        "darcy": [
            "OperatorPairs",
            "darcy_images",
            "darcy_multiscale",
            "darcy_piecewise",
            "darcy_rough",
            "darcy_solve",
            "helmholtz",
            "helmholtz_solve",
            "neumann_fields",
        ],
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
        "training": ["accuracy", "fit"],
    },
)
