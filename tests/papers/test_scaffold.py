import pytest

from paperworks.evidence.record import read_paper
from paperworks.papers.scaffold import scaffold


def test_a_new_paper_is_planned(tmp_path):
    folder = scaffold("2206.00927", "diffusion", slug="fast-sampler", title="A Fast Sampler", root=tmp_path)
    paper = read_paper(folder)
    assert (paper.slug, paper.title, paper.year, paper.planned) == ("fast-sampler", "A Fast Sampler", 2022, True)


def test_the_slug_is_the_arxiv_id_by_default(tmp_path):
    assert read_paper(scaffold("2206.00927", "audio", root=tmp_path)).slug == "arxiv-2206-00927"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arxiv": "2206.00927v1"}, "arxiv id is '2206.00927v1'"),
        ({"arxiv": "2213.00927"}, "arxiv id is"),
        ({"field": "biology"}, "field is 'biology'; it takes one of diffusion"),
        ({"slug": "../x"}, "slug is '../x'"),
        ({"slug": "class"}, "slug is 'class'"),
        ({"title": 'a"b'}, "title is"),
        ({"title": "a\nb"}, "title is"),
    ],
)
def test_bad_input(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        scaffold(**{"arxiv": "2206.00927", "field": "audio", "root": tmp_path, **arguments})


def test_a_taken_slug_is_refused(tmp_path):
    scaffold("2206.00927", "audio", root=tmp_path)
    with pytest.raises(FileExistsError, match="arxiv-2206-00927"):
        scaffold("2206.00927", "audio", root=tmp_path)
