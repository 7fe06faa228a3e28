"""Sound in rooms: exact solutions, a wave solver, and operator networks that answer for any source and listener."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "auralisation": [
            "binaural_ears",
            "render",
            "responder",
            "room_impulse_response",
            "snap_to_grid",
            "write_impulse_responses",
        ],
        "boundaries": ["RIGID", "ImpedanceBoundary", "fit_admittance", "porous_layer"],
        "closed_forms": ["box_modes", "free_field_3d", "image_source_1d"],
        "deeponet": [
            "AcousticDeepONet",
            "CachedReceivers",
            "CachedSource",
            "low_precision_branch",
            "make_acoustic_deeponet",
        ],
        "domains": ["DecomposedDeepONet", "PartitionOfUnity"],
        "official": ["load_official_deeponet"],
        "wave": ["WaveField", "fdtd"],
        "frame": ["ASPECT_PRESERVING", "RoomFrame"],
        "networks": ["FrequencyFeatures", "ModifiedMLP", "ResNetBranch", "SineMLP"],
        "rooms": ["Room"],
        "sources": ["GaussianSource", "gaussian_width", "random_source_fields"],
        "training": ["SelfAdaptiveWeights", "ceod", "train_deeponet", "transfer"],
    },
)
