"""Lists as Atom and RSS."""

import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Literal

from paperworks.web.cards import Card, cards
from paperworks.web.lists import Listing
from paperworks.web.site import Made, Site

Format = Literal["atom", "rss"]
_ATOM = "http://www.w3.org/2005/Atom"


def as_feed(site: Site, suffix: Format, listing: Listing, path: str) -> Made:
    """Return a list as a feed.

    Parameters
    ----------
    site, listing
        The site, and what is in the feed.
    suffix
        ``atom`` or ``rss``.
    path
        The page that shows the same.
    """
    shown = sorted(cards(site.store, listing.ids), key=_moment, reverse=True)
    write = write_atom if suffix == "atom" else write_rss
    body = write(listing.title, site.settings.base_url, path, shown)
    return Made(body, f"application/{suffix}+xml; charset=utf-8")


def write_atom(title: str, base_url: str, path: str, papers: list[Card]) -> bytes:
    """Write an Atom feed (RFC 4287)."""
    ET.register_namespace("", _ATOM)
    feed = ET.Element(f"{{{_ATOM}}}feed")
    _add(feed, "title", f"Daily Papers: {title}")
    _add(feed, "id", base_url + path)
    _add(feed, "updated", _newest(papers).isoformat())
    ET.SubElement(feed, f"{{{_ATOM}}}link", href=base_url + path)
    for paper in papers:
        entry = ET.SubElement(feed, f"{{{_ATOM}}}entry")
        _add(entry, "title", paper.title)
        _add(entry, "id", base_url + paper.href)
        ET.SubElement(entry, f"{{{_ATOM}}}link", href=base_url + paper.href)
        _add(entry, "updated", _moment(paper).isoformat())
        _add(ET.SubElement(entry, f"{{{_ATOM}}}author"), "name", paper.authors or "unknown")
        _add(entry, "summary", paper.text)
    return _bytes(feed)


def write_rss(title: str, base_url: str, path: str, papers: list[Card]) -> bytes:
    """Write an RSS 2.0 feed."""
    rss = ET.Element("rss", version="2.0")
    channel = ET.SubElement(rss, "channel")
    head = {
        "title": f"Daily Papers: {title}",
        "link": base_url + path,
        "description": title,
        "lastBuildDate": format_datetime(_newest(papers)),
    }
    for name, text in head.items():
        ET.SubElement(channel, name).text = text
    for paper in papers:
        item = ET.SubElement(channel, "item")
        link = base_url + paper.href
        parts = {"title": paper.title, "link": link, "guid": link, "description": paper.text}
        for name, text in (parts | {"pubDate": format_datetime(_moment(paper))}).items():
            ET.SubElement(item, name).text = text
    return _bytes(rss)


def _add(parent: ET.Element, name: str, text: str) -> None:
    ET.SubElement(parent, f"{{{_ATOM}}}{name}").text = text


def _newest(papers: list[Card]) -> datetime:
    return max(map(_moment, papers), default=datetime(1970, 1, 1, tzinfo=UTC))


def _moment(paper: Card) -> datetime:
    """Return when a paper was published, or, where nobody knows, when it came here: a feed can't do without."""
    return paper.published or paper.added


def _bytes(root: ET.Element) -> bytes:
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))
