from sqlalchemy import select

from paperworks.feed.schema import FeedPaper


def papers(store):
    """Return all papers of a feed in the order in which they came."""
    with store.session() as session:
        session.expire_on_commit = False
        return list(session.scalars(select(FeedPaper).order_by(FeedPaper.id)))
