"""State-space models of long sequences: HiPPO matrices, perturb-then-diagonalise, layers, and what tells them apart."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "diagonalization": ["PTDResult", "perturb_then_diagonalize"],
        "layers": ["S4D", "S4DPLR", "S4PTD"],
        "matrices": ["DPLR", "dplr_legs", "hippo_legs", "spike_frequencies"],
        "mimo": ["S5", "S5PTD"],
        "transfer": ["gap_bound", "operator_gap", "pseudospectrum", "resolvent_norm", "transfer_function"],
    },
)
