import pytest

from paperworks.evidence import RecordError, read_paper

RECORD = """
title = "T"
arxiv = "2401.00001"
year = 2024
authors = ["A", "B"]
field = "diffusion"
summary = "S"
methods = ["paperworks.diffusion.X"]
[links]
code = "https://example.org"
[[claims]]
id = "c1"
says = "s"
reported = "r"
measure = "m"
bar = ">= 2"
headline = true
[[claims]]
id = "c2"
says = "s"
reported = "r"
measure = "m"
bar = {a = "< 1", b = "true"}
scale = "full"
note = "n"
[[peers]]
id = "p"
package = "numpy"
says = "s"
bar = "<= 1"
"""


def write(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "paper.toml").write_text(text)
    return folder


def test_a_record_is_read_whole(tmp_path):
    paper = read_paper(write(tmp_path / "some_paper", RECORD))
    assert (paper.slug, paper.title, paper.year, paper.authors) == ("some-paper", "T", 2024, ("A", "B"))
    assert paper.links == {"code": "https://example.org"}
    first, second = paper.claims
    assert (first.scale, first.headline, first.note, str(first.bars[""])) == ("desk", True, "", ">= 2")
    assert (second.scale, second.headline, second.note) == ("full", False, "n")
    assert {name: str(bar) for name, bar in second.bars.items()} == {"a": "< 1", "b": "true"}
    assert paper.peers[0].package == "numpy"


def test_a_paper_is_planned_until_it_has_claims(tmp_path):
    folder = write(tmp_path / "p", RECORD)
    assert read_paper(folder).planned
    assert read_paper(folder).usage == ""
    (folder / "claims.py").write_text("")
    (folder / "usage.py").write_text("print(1)")
    assert not read_paper(folder).planned
    assert read_paper(folder).usage == "print(1)"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "T"', "", "'title' is missing"),
        ('title = "T"', "title = 3", "title is 3; it takes a str"),
        ('arxiv = "2401.00001"', "", "'arxiv' is missing"),
        ("year = 2024", 'year = "2024"', "year is '2024'"),
        ("year = 2024", "year = true", "year is True"),
        ('authors = ["A", "B"]', 'authors = ["A", 3]', "authors"),
        ('authors = ["A", "B"]', 'authors = "A"', "authors is 'A'"),
        ('summary = "S"', 'summary = "S"\nsumary = "S"', "unknown key 'sumary'"),
        ('bar = ">= 2"', 'bar = "about 2"', "claim 'c1': bar 'about 2' does not parse"),
        ('bar = ">= 2"', "bar = {}", "claim 'c1': bar names no value"),
        ('bar = ">= 2"', "", "claim 'c1': 'bar' is missing"),
        ('id = "c2"', 'id = "c1"', "claim id 'c1' stands twice"),
        ('scale = "full"', 'scale = "huge"', "claim 'c2': scale is 'huge'"),
        ("headline = true", 'headline = "yes"', "claim 'c1': headline"),
        ('package = "numpy"', 'package = "numpy"\nreported = "r"', "peer 'p': unknown key 'reported'"),
        ('title = "T"', "title = ", "not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, old, new, message):
    assert old in RECORD
    folder = write(tmp_path / "p", RECORD.replace(old, new, 1))
    with pytest.raises(RecordError) as caught:
        read_paper(folder)
    assert message in str(caught.value)
    assert str(folder / "paper.toml") in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"), [("claims = 3", "claims is 3; it takes a list"), ('peers = ["numpy"]', "peers[] is 'numpy'")]
)
def test_entries_that_are_no_tables_are_a_mistake_like_others(tmp_path, line, message):
    head = RECORD.partition("[[")[0].partition("[links]")[0]
    with pytest.raises(RecordError) as caught:
        read_paper(write(tmp_path / "p", f"{head}\n{line}\n"))
    assert message in str(caught.value)


def test_a_folder_without_a_record_is_an_error(tmp_path):
    with pytest.raises(RecordError, match="can't be read"):
        read_paper(tmp_path)
