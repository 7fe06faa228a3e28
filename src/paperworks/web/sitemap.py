"""The map of the site, from which search engines learn of all papers (sitemaps.org)."""

import xml.etree.ElementTree as ET

from sqlalchemy import func, select
from sqlalchemy.orm import load_only

from paperworks.feed.schema import FeedPaper
from paperworks.feed.store import FeedStore
from paperworks.web.cards import href

XML = "application/xml; charset=utf-8"
PAGES = ("/", "/trending/week", "/fields", "/results", "/about", "/api", "/privacy", "/llms.txt")
PER_PART = 10_000
_NAMESPACE = "http://www.sitemaps.org/schemas/sitemap/0.9"


def write_sitemap_index(store: FeedStore, base_url: str) -> bytes:
    """Write where the parts of the map are: one for each so many numbers of papers."""
    with store.session() as session:
        last = session.scalar(select(func.max(FeedPaper.id))) or 0
    index = ET.Element("sitemapindex", xmlns=_NAMESPACE)
    for part in range(last // PER_PART + 1):
        ET.SubElement(ET.SubElement(index, "sitemap"), "loc").text = f"{base_url}/sitemap-{part}.xml"
    return bytes(ET.tostring(index, encoding="utf-8", xml_declaration=True))


def write_sitemap(store: FeedStore, base_url: str, part: int) -> bytes:
    """Write one part of the map; the first has the pages that are no papers, too."""
    pages = ET.Element("urlset", xmlns=_NAMESPACE)
    for path in PAGES if part == 0 else ():
        ET.SubElement(ET.SubElement(pages, "url"), "loc").text = base_url + path
    needed = load_only(FeedPaper.id, FeedPaper.slug, FeedPaper.arxiv_id, FeedPaper.updated)
    papers = select(FeedPaper).where(FeedPaper.id >= part * PER_PART, FeedPaper.id < (part + 1) * PER_PART)
    with store.session() as session:
        for paper in session.scalars(papers.order_by(FeedPaper.id).options(needed)):
            page = ET.SubElement(pages, "url")
            ET.SubElement(page, "loc").text = base_url + href(paper)
            if paper.updated:
                ET.SubElement(page, "lastmod").text = paper.updated.date().isoformat()
    return bytes(ET.tostring(pages, encoding="utf-8", xml_declaration=True))
