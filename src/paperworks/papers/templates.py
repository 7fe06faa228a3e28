"""The files that a new paper starts from, each of which fails with a clear sentence until it is filled."""

RECORD = """\
# Lines with TODO are to be filled; `paperworks check` says what is missing, line by line.
title   = $title
$identifier
year    = $year
authors = $authors
field   = "$field"
summary = \"\"\"\\
TODO: two to four sentences in your own words: the problem, the idea, and when to use it.\"\"\"
methods = ["$package.$name"]
tags    = []
# Two to five questions that it answers, in the words of people who have the problem.
questions = []

[links]
paper = "$link"

# One [[claims]] for each thing the paper reports; claims.py measures it. One or two are headlines.
[[claims]]
id       = "c1-first"
says     = "TODO: what the paper says, in one sentence"
reported = "TODO: its figure"
where    = "TODO: where it stands in the paper, such as Table 1"
measure  = "TODO: how it is measured here"
bar      = ">= 0"
headline = true

[[claims]]
id       = "c2-second"
says     = "TODO: what else the paper says"
reported = "TODO: its figure"
where    = "TODO: where it stands in the paper"
measure  = "TODO: how it is measured here"
bar      = ">= 0"

# A package that does the same job, raced against in one run; the value is a ratio, ours / theirs.
[[peers]]
id      = "peer"
package = "TODO"
says    = "TODO: wall time for the same job, ours / theirs"
bar     = "<= 1"
"""

CLAIMS = '''\
"""Measures what $slug reports."""

from paperworks.evidence import Measurement, Run, measures, races


@measures("c1-first")
def first(run: Run) -> Measurement:
    """Measure the first claim; take sizes from `run.at(smoke=..., desk=..., full=...)`, seeds from `run.seeds`."""
    raise NotImplementedError("claim 'c1-first' of $slug is a stub: measure it in claims.py")


@measures("c2-second")
def second(run: Run) -> Measurement:
    """Measure the second claim."""
    raise NotImplementedError("claim 'c2-second' of $slug is a stub: measure it in claims.py")


@races("peer")
def against_peer(run: Run) -> Measurement:
    """Do the same job by both, and return the ratio."""
    raise NotImplementedError("the race against 'peer' of $slug is a stub: run both in claims.py")
'''

USAGE = '''\
"""Ten lines that a reader can paste, and that print something."""

from $package import $name

$name()  # TODO: show how it is used
print("done")
'''

METHOD = '''\
"""The method of $reference."""


class $name:
    """TODO: what it does, in one sentence in the field's own terms; its parameters; the paper's equation."""

    def __init__(self) -> None:
        raise NotImplementedError("$name is a stub: write the method of $slug in $where")
'''

TEST = """\
from $package import $name


def test_it_does_what_the_paper_says():
    $name()
    raise NotImplementedError("this test is a stub: check an exact value, an order or an invariant of $name")
"""

PACKAGE = '''\
"""$docstring."""

from $package.method import $name

__all__ = ["$name"]
'''

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "$slug"
version = "0.1.0"
description = $title
requires-python = ">=3.11"
dependencies = ["paperworks"]

# Paperworks finds by this the package that has one folder for each paper.
[project.entry-points."paperworks.papers"]
"$slug" = "$package.papers"

[tool.hatch.build.targets.wheel]
packages = ["src/$package"]
"""
