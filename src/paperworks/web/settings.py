"""What whoever runs the site decides."""

import ipaddress
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from paperworks.core.validation import check_choice
from paperworks.feed.digest import Frequency
from paperworks.feed.webhook import Webhook

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Settings:
    """Settings of the site.

    Parameters
    ----------
    base_url
        The address under which people reach it; links in mails begin with it.
    feed
        Path or URL of the feed's database, as `FeedStore` takes it.
    smtp
        The mail server, as `Mailer` takes it; without one, mails are written to the log.
    sender
        The address that mails come from.
    meaning
        Search by meaning, too; the sentence model is loaded in the background.
    digests
        Send digests when they are due; takes a mail server.
    webhook, webhook_secret
        Where digests are posted to as well, and what posts are signed with, as `Webhook` takes them.
    webhook_frequency
        Which digest is posted: ``weekly`` (default) or ``daily``.
    trusted_proxies
        Addresses or networks of proxies before the site, whose ``X-Forwarded-For`` is believed; nobody's by default.

    Raises
    ------
    ValueError
        For a base URL, a proxy's address or a webhook that isn't one.

    Examples
    --------
    >>> Settings(base_url="https://papers.example.org/").secure
    True
    """

    base_url: str = "http://127.0.0.1:8000"
    feed: str | None = None
    smtp: str = field(default="", repr=False)
    sender: str = "Daily Papers <daily-papers@localhost>"
    meaning: bool = True
    digests: bool = True
    webhook: str = field(default="", repr=False)
    webhook_secret: str = field(default="", repr=False)
    webhook_frequency: Frequency = "weekly"
    trusted_proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"base_url is {self.base_url!r}; it takes one such as https://papers.example.org")
        if parts.path not in ("", "/"):
            raise ValueError(f"base_url is {self.base_url!r}; the site needs a host of its own, without a path")
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        check_choice("webhook_frequency", self.webhook_frequency, ("daily", "weekly"))
        if self.webhook:
            Webhook(self.webhook, self.webhook_secret)
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(
                    f"trusted_proxies has {proxy!r}; it takes addresses and networks such as 10.0.0.0/8"
                ) from None

    @property
    def host(self) -> str:
        """The host name of the base URL."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def secure(self) -> bool:
        """Whether people reach the site by TLS."""
        return self.base_url.startswith("https:")

    @property
    def hosts(self) -> list[str]:
        """The names that requests may ask for: no page elsewhere can point its own name at this machine."""
        return [self.host, *LOOPBACK]


def settings_from_environment(**given: object) -> Settings:
    """Return settings of what is given and, where that is None, of ``$PAPERWORKS_BASE_URL`` and its like.

    Examples
    --------
    >>> settings_from_environment(base_url="http://localhost:9000").host
    'localhost'
    """
    names = ("base_url", "feed", "smtp", "sender", "webhook", "webhook_secret", "webhook_frequency", "trusted_proxies")
    values: dict[str, Any] = {name: os.environ.get(f"PAPERWORKS_{name.upper()}") for name in names}
    values |= {name: value for name, value in given.items() if value is not None}
    if isinstance(proxies := values["trusted_proxies"], str):
        values["trusted_proxies"] = tuple(filter(None, (part.strip() for part in proxies.split(","))))
    return Settings(**{name: value for name, value in values.items() if value is not None})
