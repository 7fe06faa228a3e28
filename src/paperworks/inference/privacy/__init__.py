"""What every private mechanism rests on: a ledger that is charged first, exact noise on a grid, and accounting."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "accounting": ["PrivacyBudget", "approx_dp_from_zcdp", "zcdp_from_approx_dp"],
        "ledger": ["BudgetExhausted", "PrivateMechanism"],
    },
)
