from paperworks.evidence.benchmark import Benchmark, Figure, read_benchmarks, write_benchmark
from paperworks.evidence.report import results_page
from paperworks.evidence.report_html import html_report


def test_a_benchmark_is_kept_and_stands_on_the_results_page(tmp_path):
    figures = (Figure("papers", 10), Figure("wait, p95", 70.0, "ms", "< 60"), Figure("memory", 1.5, "GiB", "< 4"))
    written = Benchmark("feed", "The <feed>", "Under load.", figures, note="It was | busy.")
    write_benchmark(written, tmp_path)
    assert read_benchmarks(tmp_path) == [written]
    assert [figure.verdict for figure in written.figures] == ["", "falls short", "holds"]
    markdown, html = results_page([], [], tmp_path, tmp_path), html_report([], [], tmp_path, tmp_path)
    assert "| wait, p95 | 70 ms | `< 60` | falls short |" in markdown
    assert "It was \\| busy." in markdown
    assert "The &lt;feed&gt;" in html
    assert '<span class="verdict falls-short">' in html


def test_there_may_be_none(tmp_path):
    assert read_benchmarks(tmp_path) == []
