"""Pruning of single weights: scores before training, masks, and lottery tickets by rewinding."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "initial": ["prune_at_init"],
        "masks": ["apply_masks"],
        "rewinding": ["LotteryTicket", "lottery_ticket_rewind"],
    },
)
