from paperworks.web.benchmark import benchmark_site


def test_readers_get_their_pages():
    figures = {figure.name: figure.value for figure in benchmark_site(5, 1.0).figures}
    assert figures["errors"] == 0
    assert figures["answers"] > 1
