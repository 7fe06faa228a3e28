"""Daily Papers: papers in time, found by words, by meaning and by what people look at, and sent as a digest."""

from paperworks.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "digest": ["DigestRunning", "Sent", "send_digest", "uncertain_sends"],
        "entry": ["Entry", "MalformedEntry"],
        "mail": ["Mailer", "NotSent", "Uncertain"],
        "people": ["BadAddress", "People"],
        "store": ["Added", "FeedStore", "FutureSchema"],
        "tokens": ["BadToken", "Tokens"],
    },
)
