import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from paperworks.evidence import Event, Table, TaskName, formatting, open_display, view
from paperworks.evidence.display import Display, LiveDisplay, PlainDisplay
from paperworks.evidence.entry import Value
from paperworks.evidence.formatting import age, duration, number
from paperworks.evidence.spool import Progress


def console(terminal=False):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


@pytest.fixture
def events(make_paper, make_entry, value):
    """Two tasks: one goes through everything, one was measured before."""
    paper = make_paper("", {"c[1]": {}, "c2": {}})
    entries = [make_entry("c[1]", values={"": value(0.5)}, seconds=12.0), make_entry("c2", values={"": value(2.0)})]
    first, second = (TaskName("fixture", "claim", id) for id in ("c[1]", "c2"))
    done = [view(paper, "claim", c, e) for c, e in zip(paper.claims, entries, strict=True)]
    return [
        Event("planned", first),
        Event("planned", second),
        Event("finished", second, view=done[1], resumed=True),
        Event("started", first, expected=403.0),
        Event("progress", first, Progress(3, 10, "steps [bold]")),
        Event("finished", first, view=done[0]),
    ]


def test_plain_lines_where_there_is_no_terminal(events):
    out = console()
    display = open_display(out)
    assert isinstance(display, PlainDisplay)
    with display:
        for event in events:
            display(event)
    assert out.file.getvalue().splitlines() == [
        "[1/2] fixture c2: holds (2; bar >= 1), measured before",
        "fixture c[1]: started (took 6 min 43 s last time)",
        "[2/2] fixture c[1]: falls short: 0.5, bar >= 1, 12.0 s",
    ]


def test_bars_on_a_terminal(events):
    out = console(terminal=True)
    display = open_display(out)
    assert isinstance(display, LiveDisplay)
    with display:
        for event in events[:5]:
            display(event)
        tasks = {task.description: task for task in display.progress.tasks}
        assert tasks["all tasks"].total == 2
        assert tasks["all tasks"].completed == 1
        running = tasks["fixture c[1]"]
        assert (running.completed, running.total, running.fields["label"]) == (3, 10, "steps [bold]")
        display.progress.refresh()
        display(events[5])
        assert [task.description for task in display.progress.tasks] == ["all tasks"]
        assert display.progress.tasks[0].completed == 2
    text = out.file.getvalue()
    assert "steps [bold]" in text
    assert "falls short" in text


def test_nothing_where_silent(events):
    out = console()
    display = open_display(out, silent=True)
    assert type(display) is Display
    with display:
        for event in events:
            display(event)
    assert out.file.getvalue() == ""


def test_a_race_is_called_one():
    assert str(TaskName("pndm", "peer", "diffusers")) == "pndm race diffusers"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1, "1"),
        (0.123456, "0.1235"),
        (1234.5, "1234.5"),
        (1234.0, "1234"),
        (123456.7, "123457"),
        (1.5e7, "1.5e+07"),
        (-1e-12, "-1e-12"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (True, "yes"),
        (False, "no"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0.00 s"), (99.94, "99.9 s"), (99.96, "1 min 40 s")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_value_is_written_with_its_interval():
    assert formatting.value(Value(2.0, 1.5, 2.5), "s") == "2 s [1.5, 2.5]"
    assert formatting.value(Value(2.0, 2.0, 2.0)) == "2"
    assert formatting.value(Value(True)) == "yes"
    assert formatting.interval(Value(2.0)) == ""


@pytest.mark.parametrize(("days", "text"), [(0, "today"), (1, "yesterday"), (30, "30 days ago")])
def test_ages(days, text):
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert age((now - timedelta(days=days, hours=1)).isoformat(), now) == text


def test_a_table_is_what_a_measurement_takes():
    assert Table(["a"], [[1]]).rows == [[1]]
