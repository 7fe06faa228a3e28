"""People: their addresses, votes, reading lists, saved searches and subscriptions, their export and their deletion."""

import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from paperworks.core.validation import check_choice
from paperworks.feed.schema import (
    ApiToken,
    Digest,
    FeedPaper,
    Person,
    ReadingItem,
    SavedSearch,
    Send,
    SignIn,
    Submission,
    Subscription,
    Vote,
)
from paperworks.feed.search.query import parse_query
from paperworks.feed.store import FeedStore

MAX_SEARCHES = 50
_EMAIL = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}"
)


class BadAddress(ValueError):
    """Something that isn't an e-mail address.

    Examples
    --------
    >>> clean_email("nobody")
    Traceback (most recent call last):
    ...
    paperworks.feed.people.BadAddress: 'nobody' is not an e-mail address
    """


def clean_email(text: str) -> str:
    """Return an e-mail address in lower case.

    Raises
    ------
    BadAddress
        For anything else.

    Examples
    --------
    >>> clean_email(" Ann@Example.org ")
    'ann@example.org'
    """
    email = text.strip().lower()
    if len(email) > 254 or not _EMAIL.fullmatch(email) or ".." in email:
        raise BadAddress(f"{text.strip()[:80]!r} is not an e-mail address")
    return email


class People:
    """What the feed knows of people, and what they may do with it.

    Parameters
    ----------
    store
        The feed that people are kept in.

    Examples
    --------
    >>> from paperworks.feed import Entry
    >>> store = FeedStore("sqlite://")
    >>> _ = store.add([Entry(title="On Sampling")])
    >>> people = People(store)
    >>> ann = people.of_email("ann@example.org")
    >>> people.vote(ann, 1, True)
    >>> people.votes(ann)
    [1]
    """

    def __init__(self, store: FeedStore) -> None:
        self.store = store

    def of_email(self, email: str) -> int:
        """Return the person with this address, who is made where there is none.

        Parameters
        ----------
        email
            An address, in any case of letters.

        Returns
        -------
        int
            Number of the person.

        Raises
        ------
        BadAddress
            For something that isn't one.
        """
        email = clean_email(email)
        try:
            with self.store.session() as session:
                if found := session.scalar(select(Person.id).where(Person.email == email)):
                    return found
                person = Person(email=email, created=datetime.now(UTC))
                session.add(person)
                session.flush()
                return person.id
        except IntegrityError:  # made by another process in between
            return self.of_email(email)

    def email(self, person: int) -> str | None:
        """Return someone's address, None for nobody.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.

        Returns
        -------
        str | None
            The address, or None where nobody has this number.
        """
        with self.store.session() as session:
            return session.scalar(select(Person.email).where(Person.id == person))

    def vote(self, person: int, paper: int, wanted: bool) -> None:
        """Vote for a paper, or take the vote back.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.
        paper
            Number of the paper.
        wanted
            True to vote, False to take the vote back.

        Raises
        ------
        LookupError
            For a paper or person that isn't there.
        """
        self._mark(Vote, person, paper, wanted)

    def keep(self, person: int, paper: int, wanted: bool) -> None:
        """Put a paper on the reading list, or take it off.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.
        paper
            Number of the paper.
        wanted
            True to put it on, False to take it off.

        Raises
        ------
        LookupError
            For a paper or person that isn't there.
        """
        self._mark(ReadingItem, person, paper, wanted)

    def votes(self, person: int) -> list[int]:
        """Return the papers that someone voted for, the last first.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.

        Returns
        -------
        list[int]
            Numbers of the papers, the last one voted for first.
        """
        return self._marked(Vote, person)

    def reading_list(self, person: int) -> list[int]:
        """Return the papers on someone's reading list, the last first.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.

        Returns
        -------
        list[int]
            Numbers of the papers, the last one kept first.
        """
        return self._marked(ReadingItem, person)

    def save_search(self, person: int, query: str) -> int:
        """Keep a search, so that the digest tells of what it finds; one that is kept already stays as it is.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.
        query
            Words of the search.

        Returns
        -------
        int
            Number of the saved search.

        Raises
        ------
        BadQuery
            As `parse_query`.
        ValueError
            For an empty search, or more than 50.
        LookupError
            For nobody.
        """
        query = " ".join(query.split())
        if not parse_query(query).clauses:
            raise ValueError("the search is empty; it takes words to look for")
        same = select(SavedSearch.id).where(SavedSearch.person_id == person, SavedSearch.query == query)
        try:
            with self.store.session() as session:
                if found := session.scalar(same):
                    return found
                mine = select(func.count()).select_from(SavedSearch).where(SavedSearch.person_id == person)
                if (count := session.scalar(mine) or 0) >= MAX_SEARCHES:
                    raise ValueError(f"there are {count} saved searches; it takes at most {MAX_SEARCHES}")
                search = SavedSearch(person_id=person, query=query, created=datetime.now(UTC))
                session.add(search)
                session.flush()
                return search.id
        except IntegrityError:  # saved by a second click in between, or the person is gone
            with self.store.session() as session:
                if found := session.scalar(same):
                    return found
            raise LookupError(f"there is no person {person}") from None

    def drop_search(self, person: int, search: int) -> None:
        """Forget a saved search of someone's own.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.
        search
            Number of the saved search.
        """
        with self.store.session() as session:
            session.execute(delete(SavedSearch).where(SavedSearch.id == search, SavedSearch.person_id == person))

    def searches(self, person: int) -> list[tuple[int, str]]:
        """Return the ids and words of someone's saved searches.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.

        Returns
        -------
        list[tuple[int, str]]
            Pairs of a search's number and its words.
        """
        with self.store.session() as session:
            columns = select(SavedSearch.id, SavedSearch.query).where(SavedSearch.person_id == person)
            return [(row.id, row.query) for row in session.execute(columns.order_by(SavedSearch.id))]

    def subscribe(self, person: int, frequency: str) -> bool:
        """Note that someone asks for the digest, and return whether that was confirmed before.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.
        frequency
            How often to send, ``daily`` or ``weekly``.

        Returns
        -------
        bool
            Whether the subscription was confirmed before.

        Raises
        ------
        ValueError
            For a frequency other than ``daily`` and ``weekly``.
        """
        check_choice("frequency", frequency, ("daily", "weekly"))
        with self.store.session() as session:
            found = session.scalar(_of(person))
            if found is None:
                session.add(Subscription(person_id=person, frequency=frequency, created=datetime.now(UTC)))
                return False
            found.frequency = frequency
            return found.confirmed is not None

    def confirm(self, person: int) -> bool:
        """Confirm a subscription, and return whether there was one.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.

        Returns
        -------
        bool
            Whether there was a subscription to confirm.
        """
        with self.store.session() as session:
            found = session.scalar(_of(person))
            if found and not found.confirmed:
                found.confirmed = datetime.now(UTC)
            return found is not None

    def unsubscribe(self, person: int) -> None:
        """End a subscription; where there is none, nothing changes.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.
        """
        with self.store.session() as session:
            session.execute(delete(Subscription).where(Subscription.person_id == person))

    def unsubscribe_by_key(self, key: str) -> bool:
        """End the subscription that a link was made for, and return whether it was still there.

        Whoever has nothing else here is forgotten: they came for the digest alone.

        Parameters
        ----------
        key
            The key that the link carries.

        Returns
        -------
        bool
            Whether the subscription was still there.
        """
        with self.store.session() as session:
            person = session.scalar(
                delete(Subscription).where(Subscription.key == key).returning(Subscription.person_id)
            )
            if person is None:
                return False
            tables = (Vote, ReadingItem, SavedSearch, SignIn, ApiToken, Submission)
            has = (select(table).where(table.person_id == person) for table in tables)
            if not any(session.scalar(statement.limit(1)) for statement in has):
                session.execute(delete(Person).where(Person.id == person))
            return True

    def subscription(self, person: int) -> tuple[str, bool] | None:
        """Return the frequency of someone's digest and whether it is confirmed, or None.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.

        Returns
        -------
        tuple[str, bool] | None
            Frequency and whether it is confirmed, or None where there is no subscription.
        """
        with self.store.session() as session:
            found = session.scalar(_of(person))
            return (found.frequency, found.confirmed is not None) if found else None

    def export(self, person: int) -> dict[str, Any]:
        """Return all that is kept of someone.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.

        Returns
        -------
        dict[str, Any]
            JSON values under ``email``, ``since``, ``reading_list``, ``votes``, ``saved_searches``, ``subscription``,
            ``digests``, ``sessions``, ``tokens`` and ``measured``.

        Raises
        ------
        LookupError
            For nobody.
        """
        with self.store.session() as session:
            found = session.get(Person, person)
            if found is None:
                raise LookupError(f"there is no person {person}")
            papers: dict[str, list[dict[str, Any]]] = {}
            for name, table in (("reading_list", ReadingItem), ("votes", Vote)):
                rows = session.execute(
                    select(FeedPaper, table.at)
                    .join(table, table.paper_id == FeedPaper.id)
                    .where(table.person_id == person)
                    .order_by(table.at.desc())
                )
                papers[name] = [{**_names(paper), "at": at.isoformat()} for paper, at in rows]
            subscription = found.subscription
            copies = session.execute(
                select(Digest.frequency, Digest.period, Send.state, Send.changed)
                .join(Digest, Digest.id == Send.digest_id)
                .where(Send.person_id == person)
                .order_by(Send.id)
            )
            sign_ins = session.execute(select(SignIn.created, SignIn.expires).where(SignIn.person_id == person))
            tokens = session.execute(
                select(ApiToken.name, ApiToken.created, ApiToken.used).where(ApiToken.person_id == person)
            )
            measured = session.execute(
                select(Submission.slug, Submission.created, Submission.entry).where(Submission.person_id == person)
            )
            return {
                "email": found.email,
                "since": found.created.isoformat(),
                **papers,
                "saved_searches": [query for _, query in self.searches(person)],
                "subscription": subscription
                and {"frequency": subscription.frequency, "confirmed": subscription.confirmed is not None},
                "digests": [{**row, "changed": row["changed"].isoformat()} for row in copies.mappings()],
                "sessions": [{"since": row.created.isoformat(), "until": row.expires.isoformat()} for row in sign_ins],
                "tokens": [
                    {"name": row.name, "since": row.created.isoformat(), "used": row.used and row.used.isoformat()}
                    for row in tokens
                ],
                "measured": [
                    {"paper": row.slug, "since": row.created.isoformat(), "entry": row.entry} for row in measured
                ],
            }

    def delete(self, person: int) -> None:
        """Remove someone and all that is kept of them: sessions, votes, lists, searches, subscription and sends.

        Parameters
        ----------
        person
            Number of the person, as `People.of_email` returns it.
        """
        with self.store.session() as session:
            session.execute(delete(Person).where(Person.id == person))

    def _mark(self, table: type[Vote] | type[ReadingItem], person: int, paper: int, wanted: bool) -> None:
        try:
            with self.store.session() as session:
                found = session.get(table, (person, paper))
                if wanted and found is None:
                    _needs(session, FeedPaper, paper)
                    _needs(session, Person, person)
                    session.add(table(person_id=person, paper_id=paper, at=datetime.now(UTC)))
                elif not wanted and found is not None:
                    session.delete(found)
        except IntegrityError:  # the same was done by another process in between
            pass

    def _marked(self, table: type[Vote] | type[ReadingItem], person: int) -> list[int]:
        with self.store.session() as session:
            mine = select(table.paper_id).where(table.person_id == person)
            return list(session.scalars(mine.order_by(table.at.desc(), table.paper_id.desc())))


def _of(person: int) -> Select[Subscription]:
    return select(Subscription).where(Subscription.person_id == person)


def _needs(session: Session, table: type[FeedPaper] | type[Person], key: int) -> None:
    if session.get(table, key) is None:
        raise LookupError(f"there is no {'paper' if table is FeedPaper else 'person'} {key}")


def _names(paper: FeedPaper) -> dict[str, Any]:
    return {"title": paper.title, "arxiv": paper.arxiv_id, "doi": paper.doi, "slug": paper.slug}
