"""What a person sees while tasks run: live progress on a terminal, plain lines elsewhere."""

from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from paperworks.evidence import formatting
from paperworks.evidence.events import Event, TaskName

STYLES = {
    "holds": "green",
    "falls short": "bold red",
    "known shortfall": "yellow",
    "undecided": "yellow",
    "not at this scale": "dim",
    "not run": "dim",
    "missing data": "bold red",
    "not measured": "dim",
    "stopped": "yellow",
    "error": "bold red",
}


class Display(AbstractContextManager["Display"]):
    """Takes the events of a run; this one shows nothing."""

    def __call__(self, event: Event) -> None:
        """Show an event."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlainDisplay(Display):
    """One line when a task starts and one when it ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.planned = 0
        self.finished = 0

    def __call__(self, event: Event) -> None:
        """Print the event's line, if it has one."""
        if event.what == "planned":
            self.planned += 1
        elif event.what == "started":
            last = f" (took {formatting.duration(event.expected)} last time)" if event.expected else ""
            self._print(Text(f"{event.task}: started{last}"))
        elif event.what == "finished":
            self.finished += 1
            self._print(Text(f"[{self.finished}/{self.planned}] ") + outcome_line(event))

    def _print(self, line: Text) -> None:
        self.console.print(line, soft_wrap=True)


class LiveDisplay(Display):
    """A bar for the run and one for each running task; lines of finished tasks scroll by above them."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[label]}", markup=False, style="dim"),
            console=console,
            transient=True,
        )
        self.all = self.progress.add_task("all tasks", total=0, label="")
        self.bars: dict[TaskName, TaskID] = {}

    def __enter__(self) -> "LiveDisplay":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        """Move the bars."""
        if event.what == "planned":
            self.progress.update(self.all, total=(self.progress.tasks[0].total or 0) + 1)
        elif event.what == "finished":
            if event.task in self.bars:
                self.progress.remove_task(self.bars.pop(event.task))
            self.progress.advance(self.all)
            self.progress.console.print(outcome_line(event))
        else:
            if event.task not in self.bars:
                self.bars[event.task] = self.progress.add_task(str(event.task), total=None, label="")
            told = event.progress
            bar = next(task for task in self.progress.tasks if task.id == self.bars[event.task])
            label = " · ".join(filter(None, [told.label, remaining(event.expected, bar.elapsed or 0.0)]))
            self.progress.update(self.bars[event.task], completed=told.done, total=told.total, label=label)


def open_display(console: Console, *, silent: bool = False) -> Display:
    """Choose how to show a run: live on a terminal, by plain lines elsewhere, not at all where `silent`.

    Parameters
    ----------
    console
        Where to write, a console of rich.

    Returns
    -------
    Display
        What takes the events of a run and shows them.
    """
    if silent:
        return Display()
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def remaining(expected: float, elapsed: float) -> str:
    """Say how much longer a task takes if it takes as long as last time, empty where that isn't known.

    Examples
    --------
    >>> remaining(403, 3), remaining(10, 12), remaining(0, 5)
    ('about 6 min 40 s left', 'longer than last time', '')
    """
    if not expected:
        return ""
    left = expected - elapsed
    return f"about {formatting.duration(left)} left" if left > 0 else "longer than last time"


def outcome_line(event: Event) -> Text:
    """Write what became of a task in one line."""
    line = Text(f"{event.task}: ")
    if (found := event.view) is None:
        return line
    line.append(f"{found.verdict}: {found.detail}" if found.detail else found.verdict, style=STYLES[found.verdict])
    if found.verdict == "holds":
        told = [f"{value.label}: {value.text}" if value.label else value.text for value in found.values]
        line.append(f" ({', '.join(told)}; bar {', '.join(value.bar for value in found.values)})")
    before = "carried over" if found.carried and event.resumed else "measured before"
    line.append(f", {before}" if event.resumed else f", {formatting.duration(found.seconds)}", style="dim")
    return line
