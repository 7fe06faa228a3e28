from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feed_papers import papers
from paperworks.feed.bibtex import to_bibtex
from paperworks.feed.entry import one_line
from paperworks.feed.ingest import Bibliography, ingest
from paperworks.feed.ingest.bibliography import read_bibtex, read_ris
from paperworks.feed.ingest.text import decode
from paperworks.feed.latex import to_latex, to_text
from paperworks.feed.schema import FeedPaper


def read(text, reader=read_bibtex):
    """Return the entries of a bibliography, what was refused, and the notes."""
    batches = list(reader(text))
    return tuple(
        [each for batch in batches for each in getattr(batch, name)] for name in ("entries", "refused", "notes")
    )


def one(fields):
    [entry], refused, notes = read(f"@article{{key, title={{T}}, {fields}}}")
    assert refused == notes == []
    return entry


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        ("{{$L_{2}$} norms of {DPM}-Solver}", "$L_{2}$ norms of DPM-Solver"),
        (r"{A $\mathcal{O}(n^{2})$ {\'e}tude \& more}", r"A $\mathcal{O}(n^{2})$ étude & more"),
        (r"{50% of $\{x\}$ -- \emph{all}}", r"50% of $\{x\}$ – all"),
        (r"{Erd{\H o}s and G{\"o}del, na\"\i ve}", "Erdős and Gödel, naïve"),
        ('"Quoted {T}itle"', "Quoted Title"),
        ("{What costs $5}", "What costs $5"),
    ],
)
def test_titles(latex, text):
    [entry], _, _ = read(f"@article{{key, title={latex}}}")
    assert entry.title == text


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("Knuth, Jr., Donald", ("Donald Knuth Jr.",)),
        ("Knuth, Donald, Jr.", ("Donald Knuth Jr.",)),
        ("{Barnes and Noble}", ("Barnes and Noble",)),
        ("Lu, Cheng and others", ("Cheng Lu",)),
        ("{ATLAS Collaboration} and Aad, G.", ("ATLAS Collaboration", "G. Aad")),
        ("von Neumann, John and de la Cruz, Maria", ("John von Neumann", "Maria de la Cruz")),
        (r"M{\"{u}}ller, J{\"{o}}rg AND {\'E}lie Cartan", ("Jörg Müller", "Élie Cartan")),
        ("Lu, Cheng; Zhou, Yuhao", ("Cheng Lu", "Yuhao Zhou")),
        ("Ann Lee, Bo Ito, Cy Fox, Di Roe", ("Ann Lee", "Bo Ito", "Cy Fox", "Di Roe")),
        ("Lu, Cheng and", ("Cheng Lu",)),
        ("张三 and 李四", ("张三", "李四")),
        ("", ()),
    ],
)
def test_names(field, names):
    assert one(f"author={{{field}}}").authors == names


@pytest.mark.parametrize(
    ("fields", "arxiv_id"),
    [
        ("doi={10.48550/arXiv.2206.00927}", "2206.00927"),
        ("doi={https://doi.org/10.48550/ARXIV.2206.00927}", "2206.00927"),
        ("url={http://arxiv.org/abs/hep-th/9901001v2}", "hep-th/9901001"),
        ("url={https://arxiv.org/pdf/math.GT/0309136}", "math/0309136"),
        ("eprint={2206.00927v3}, archivePrefix={arXiv}, primaryClass={cs.LG}", "2206.00927"),  # arXiv
        ("number={arXiv:2206.00927}, publisher={arXiv}, note={arXiv:2206.00927 [cs, stat]}", "2206.00927"),  # Zotero
        ("eprint={2206.00927}, eprinttype={arxiv}, eprintclass={cs.LG}", "2206.00927"),  # biblatex
        ("arxivId={2206.00927}, archivePrefix={arXiv}, file={:home/ann/x.pdf:pdf}", "2206.00927"),  # Mendeley
        ("journal={arXiv preprint arXiv:2206.00927}", "2206.00927"),  # Google Scholar
        ("journal={CoRR}, volume={abs/2206.00927}", "2206.00927"),  # DBLP
        ("eprint={hep-th/9901001}, archivePrefix={arXiv}", "hep-th/9901001"),  # INSPIRE
        ("eprint={123456}, eprinttype={jstor}", ""),
        ("doi={10.1000/2206.00927}", ""),
    ],
)
def test_arxiv_ids_as_programs_write_them(fields, arxiv_id):
    assert one(fields).arxiv_id == arxiv_id


@pytest.mark.parametrize(
    ("fields", "date"),
    [
        ("year=2022, month=jun", "2022-06-01"),
        ("year={2022}, month={June}", "2022-06-01"),
        ("year={2022}, month={06}", "2022-06-01"),
        ("date={2022-06-02}", "2022-06-02"),
        ("year={1687}", "1687-01-01"),
        ("year={in press}", None),
        ("", None),
    ],
)
def test_dates(fields, date):
    entry = one(fields)
    assert (entry.published.date().isoformat() if entry.published else None) == date
    assert entry.published == entry.updated


@pytest.mark.parametrize("year", ["0000", "0001", "9999", "2999", "2022-13"])
def test_a_date_at_the_edge_of_the_calendar_is_refused(year):
    entries, refused, _ = read(f"@misc{{a, title={{T}}, year={{{year}}}}}\n@misc{{b, title={{U}}}}")
    assert [entry.title for entry in entries] == ["U"]
    assert "date is" in refused[0]


def test_undated_entries_are_undated_in_the_feed(store, tmp_path):
    (tmp_path / "x.bib").write_text("@misc{a, title={Undated}}", encoding="utf-8")
    ingest(store, Bibliography(tmp_path / "x.bib"))
    assert papers(store)[0].published is None


def test_duplicate_keys_are_kept_apart_and_reported(store, tmp_path):
    path = tmp_path / "x.bib"
    path.write_text("@misc{a, title={One}}\n@misc{a, title={Two}, year=2020, Year=2021}\n", encoding="utf-8")
    done = ingest(store, Bibliography(path))
    assert [paper.title for paper in papers(store)] == ["One", "Two"]
    assert papers(store)[1].published.year == 2020
    assert any("the key 'a' stands twice" in note for note in done.notes)
    assert done.refused == 0


def test_what_is_broken_is_refused_and_the_rest_is_read():
    text = (
        '@string{j = "J. Noise"}\n@misc{a, title={never closed\n@article{b, title={B}, journal=j}\n@misc{c, title={half'
    )
    entries, refused, _ = read(text)
    assert [(entry.title, entry.journal_ref) for entry in entries] == [("B", "J. Noise")]
    assert [reason.split(":")[0] for reason in refused] == ["line 2", "line 4"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk", "gb18030"])
def test_chinese_files_are_read_in_any_encoding(store, tmp_path, encoding):
    text = "@article{a, title={扩散模型的快速采样}, author={张三 and 李四}, year={2022}}"
    (tmp_path / "x.bib").write_bytes(text.encode(encoding))
    done = ingest(store, Bibliography(tmp_path / "x.bib"))
    [paper] = papers(store)
    assert (paper.title, paper.authors) == ("扩散模型的快速采样", "张三\n李四")
    assert bool(done.notes) == (encoding in ("gbk", "gb18030"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "cp1252"])
@pytest.mark.parametrize("suffix", ["bib", "ris"])
def test_western_files_are_read_in_any_encoding(memory, tmp_path, encoding, suffix):
    text = {
        "bib": "@article{a, title={Über Gleichungen}, author={Jörg Müller}}",
        "ris": "TY  - JOUR\r\nTI  - Über Gleichungen\r\nAU  - Müller, Jörg\r\nER  - \r\n",
    }[suffix]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(text.encode(encoding))
    ingest(memory, Bibliography(path))
    assert [(p.title, p.authors) for p in papers(memory)] == [("Über Gleichungen", "Jörg Müller")]


def test_a_file_that_was_cut_in_a_character_is_still_utf_8():
    assert decode("Ü扩".encode()[:-1]) == ("Ü", "utf-8")
    assert decode(("扩散模型" * 10).encode() + b"\xff" + "采样".encode())[1] == "utf-8"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("refs.doc", b"x", r"ends in .bib or .ris"),
        ("refs.bib", b"", r"no BibTeX; it looks like an empty file"),
        ("refs.bib", b"<!DOCTYPE html><html></html>", r"no BibTeX; it looks like HTML"),
        ("refs.bib", b"TY  - JOUR\nTI  - x\nER  - \n", r"no BibTeX; it looks like RIS"),
        ("refs.ris", b"@misc{a, title={T}}", r"no RIS; it looks like BibTeX"),
        ("refs.bib", b'[{"title": "x"}]', r"it looks like JSON"),
        ("refs.ris", b"%0 Journal Article\n%T x\n", r"it looks like an EndNote file"),
        ("refs.ris", b"PMID- 1\nTI  - x\n", r"it looks like a MEDLINE file"),
        ("refs.bib", b"%PDF-1.5\n\x00", r"isn't text"),
        ("refs.bib", b"just words", r"it looks like some other text"),
        ("refs.bib", b"\xff\xfe\x00", r"isn't text"),
    ],
)
def test_a_file_of_another_format_is_refused_in_words(memory, tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        ingest(memory, Bibliography(tmp_path / name))


def test_ris_as_programs_write_it(store, tmp_path):
    path = tmp_path / "refs.ris"
    path.write_text(
        "TY  - JOUR\nTI  - A paper\nAU  - Lu, Cheng\nAU  - Knuth, Donald, Jr.\nAU  - others\nDA  - 2022/06/02/\n"
        "DO  - 10.1000/X\nAB  - What it says.\nT2  - J. Noise\nER  - \n"
        "TY  - GEN\nT1  - Another\nA1  - Lee, Ann\nUR  - http://arxiv.org/abs/hep-th/9901001\nPY  - 1999///\nER  -\n"
        "TY  - JOUR\nAU  - Nobody\nER  - \n"
        "TY  - GEN\nTI  - Third\nDO  - 10.48550/arXiv.2206.00927\nM1  - arXiv:2206.00927\n",
        encoding="utf-8",
    )
    done = ingest(store, Bibliography(path))
    assert (done.new, done.refused) == (3, 1)
    assert "no end" in done.notes[0]
    first, second, third = papers(store)
    assert (first.title, first.authors, first.doi) == ("A paper", "Cheng Lu\nDonald Knuth Jr.", "10.1000/x")
    assert (first.published, first.journal_ref) == (datetime(2022, 6, 2, tzinfo=UTC), "J. Noise")
    assert (second.authors, second.arxiv_id, second.published.year) == ("Ann Lee", "hep-th/9901001", 1999)
    assert (third.arxiv_id, third.doi, third.published) == ("2206.00927", None, None)


class TestExport:
    def paper(self, **changes):
        day = datetime(2022, 6, 1, tzinfo=UTC)
        values = {"title": "T", "authors": "Ann Lee", "categories": "cs.LG diffusion", "published": day}
        return FeedPaper(**{"arxiv_id": "2206.00927", **values, **changes})

    def test_it_carries_the_primary_class_and_no_date_where_there_is_none(self):
        assert "primaryClass = {cs.LG}" in to_bibtex(self.paper())
        assert "primaryClass" not in to_bibtex(self.paper(categories="diffusion"))
        undated = to_bibtex(self.paper(published=None))
        assert "year" not in undated
        assert undated.startswith("@misc{leepaper,")

    @pytest.mark.parametrize(
        ("title", "authors"),
        [
            (r"Norms in $L_{2}$ and $\mathcal{O}(n^{2})$, $k$-NN", "Donald Knuth Jr.\nBarnes and Noble"),
            (r"50% of {x} & a_b ~ #1 \ -- ``q'' ^", "ATLAS Collaboration\nJohn von Neumann"),
            ("What costs $5 and $6", "张三\nÉlie Cartan"),
        ],
    )
    def test_it_comes_back_as_it_was(self, title, authors):
        [entry], _, _ = read(to_bibtex(self.paper(title=title, authors=authors)))
        assert (entry.title, "\n".join(entry.authors)) == (title, authors)
        assert (entry.arxiv_id, entry.categories) == ("2206.00927", ("cs.LG",))
        assert entry.published == datetime(2022, 6, 1, tzinfo=UTC)

    @settings(max_examples=300, deadline=None)
    @given(st.text(alphabet="ab $\\{}%^_&~#-`'!?é中\"()[]<>,.", max_size=16))
    def test_any_text_comes_back_from_latex(self, text):
        text = one_line(text)
        assert one_line(to_text(to_latex(text))) == text


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='@{}=,"#\\\n aA1', max_size=60))
def test_any_text_is_read_or_refused(text):
    read(text)
    read(f"TY  - JOUR\n{text}\nER  - ", read_ris)
