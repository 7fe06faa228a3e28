"""Audio effects with knobs, and networks that learn them from sound: data, training, baselines, and use on streams."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "ablation": ["Ablation", "ablate"],
        "base": ["Effect"],
        "baselines": ["GreyBoxCompressor", "MicroTCN"],
        "companding": ["mu_compress", "mu_expand"],
        "datasets": ["AudioFileDataset", "EffectDataset", "Example", "FileEffect", "SynthAudioDataset"],
        "dynamics": ["Compressor4C", "SimpleCompressor"],
        "files": ["Sound", "read_sound", "write_sound"],
        "frontend": ["FourierFrontEnd"],
        "linear": ["Denoise", "Echo", "LowPass"],
        "losses": ["SignalTrainLoss", "a_weighted", "esr_loss", "log_cosh", "spectral_loss"],
        "metrics": [
            "error_to_signal",
            "log_spectral_distance",
            "loudness",
            "loudness_error",
            "mean_absolute_error",
            "signal_to_noise",
        ],
        "model": ["FramesAutoencoder", "Processed", "SignalTrain"],
        "official": ["Official", "load_official"],
        "registry": ["make_effect", "register_effect"],
        "shifting": ["PitchShift", "TimeAlign"],
        "signals": ["COMPRESSOR_MIX", "SIGNALS", "beta_knobs", "test_signal"],
        "smoothing": ["ballistics", "time_coefficient"],
        "streaming": ["StreamingProcessor", "process_file"],
        "training": ["Evaluation", "LRTest", "best_gain", "evaluate", "fit", "lr_finder", "one_cycle"],
    },
)
