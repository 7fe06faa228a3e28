from paperworks.evidence import Run
from paperworks.evidence.timing import interleaved


def test_jobs_take_turns_and_the_order_turns_round():
    order = []
    jobs = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    times = interleaved(Run(), jobs, 3)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"], "a round to warm up, then three"
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 3, "b": 3}


def test_effort_multiplies_the_rounds():
    times = interleaved(Run(effort=4), {"a": lambda: None, "b": lambda: None}, 3)
    assert len(times.seconds["a"]) == 12
    assert times.ratio("a", "b").method == "order statistics of 12 paired rounds"
