import contextlib
import csv
import io
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.feed import Entry, FeedStore
from paperworks.feed.people import People
from paperworks.feed.reading_files import (
    MOST,
    export_reading_list,
    import_reading_list,
    read_references,
    to_csv,
)
from paperworks.feed.schema import FeedPaper

PAPERS = [
    Entry(
        title="On Sampling & more",
        arxiv_id="2206.00927",
        authors=["Ann Lee", "Bo Ray", "ATLAS Collaboration"],
        published=datetime(2022, 6, 1, tzinfo=UTC),
        abstract="Two\nlines.",
    ),
    Entry(title="=HYPERLINK(1), a title", doi="10.1000/x;y", authors=["Zoë Ünal"]),
    Entry(title="Third", authors=["Ann Lee"], published=datetime(2020, 1, 1, tzinfo=UTC)),
]
ZOTERO = (
    '"Key","Item Type","Publication Year","Author","Title","Publication Title","DOI","Url","Extra"\n'
    '"A","preprint","2022","Lee, Ann; Ray, Bo","On sampling and MORE","arXiv","","","arXiv:2206.00927 [cs]"\n'
    '"B","journalArticle","2020","Lee, Ann","Third","J","","",""\n'
    '"C","book","","Nobody, A.","Not here","","","",""\n'
    '"D","book","1999","Nobody, A.","","","","",""\n'
)


@pytest.fixture
def people(store):
    store.add(PAPERS)
    return People(store)


@pytest.mark.parametrize("kind", ["bib", "ris", "csv"])
def test_a_list_goes_out_and_comes_back(people, kind):
    ann, bo = people.of_email("ann@example.org"), people.of_email("bo@example.org")
    for paper in (3, 1, 2):
        people.keep(ann, paper, True)
    text = export_reading_list(people, ann, kind)
    imported = import_reading_list(people, bo, text.encode())
    assert (imported.kept, imported.known, imported.missing, imported.refused) == (3, 0, (), ())
    assert people.reading_list(bo) == people.reading_list(ann), "in its order, too"
    assert import_reading_list(people, bo, text.encode()).known == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_reference_managers_export(people, encoding, delimiter):
    rows = list(csv.reader(io.StringIO(ZOTERO)))
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    ann = people.of_email("ann@example.org")
    imported = import_reading_list(people, ann, text.getvalue().encode(encoding))
    assert sorted(people.reading_list(ann)) == [1, 3]
    assert imported.missing == ("Not here",)
    assert len(imported.refused) == 1
    assert people.store.count() == len(PAPERS), "the feed takes in nothing that a reader sends"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "looks like an empty file"),
        (b"%PDF-1.7", "looks like a PDF"),
        (b"a,b\n1,2\n", "is none of them"),
        (b"\x89PNG\x00\x01", "isn't text"),
        (b"Title\n" + b"x\n" * (MOST + 1), "at most 5,000"),
        (b'Title\n"' + b"x" * 200_000 + b'"\n', "can't be read as CSV"),
    ],
)
def test_other_files_are_refused_in_a_sentence(data, says):
    with pytest.raises(ValueError, match=says) as found:
        read_references(data)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "data",
    [
        b"@misc{a, title={" + b'\\"' * 700_000 + b"}}",
        b"@misc{a, title={" + b"\\textbf{" * 5000 + b"x" + b"}" * 5000 + b"}}",
        b"@misc{a, title={x}, author={" + b"A, B and " * 200_000 + b"C}}",
    ],
)
def test_what_is_made_to_be_slow_is_refused(data):
    entries, refused = read_references(data)
    assert (len(entries), len(refused)) == (0, 1)


def test_ids_are_looked_for_in_what_a_person_writes():
    (entry,), _ = read_references(b'Title,Extra,DOI\nx,"arXiv:2206.00927 ' + b"arxiv" * 20_000 + b'",10.1000/1\n')
    assert (entry.arxiv_id, entry.doi) == ("2206.00927", "10.1000/1")


def test_only_three_kinds_go_out(people):
    with pytest.raises(ValueError, match="kind is 'docx'"):
        export_reading_list(people, people.of_email("a@example.org"), "docx")


@settings(max_examples=60, deadline=None)
@given(
    st.text(min_size=1, max_size=40).filter(str.strip),
    st.lists(st.sampled_from(["=1", "+2", "-3", "@x", "\t4", "\n5", "\uff1d6"])),
)
def test_no_cell_is_a_formula(title, begins):
    text = to_csv([FeedPaper(title="".join(begins) + title, authors="Ann Lee")])
    for row in csv.reader(io.StringIO(text, newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d")) for cell in row)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_is_sent_is_read_or_refused(data):
    with contextlib.suppress(ValueError):
        read_references(data)


def test_a_long_list_takes_few_statements():
    store = FeedStore("sqlite://")
    store.add([Entry(title=f"Paper number {n}") for n in range(1200)])
    people = People(store)
    ann = people.of_email("ann@example.org")
    data = "Title\n" + "".join(f"Paper number {n}\n" for n in range(1200))
    assert import_reading_list(people, ann, data.encode()).kept == 1200
