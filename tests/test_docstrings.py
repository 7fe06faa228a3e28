"""Holds every public docstring to what a user reads in it: what goes in, and what comes back."""

import ast
import importlib.util
import inspect
import re
import textwrap
import typing
from itertools import pairwise

from paperworks.papers import FIELDS

ROOMS = [
    room
    for room in (*FIELDS, "numerics", "testbeds", "evidence", "feed")
    if importlib.util.find_spec(f"paperworks.{room}")
]
NOTHING = (None, "None", typing.NoReturn, typing.Never)
HEADING = re.compile(r"(?<=\n)(\w[\w ]*)\n-{3,}(?:\n|$)")
IN_PROSE = 2  # as many parameters may be named in the sentences above the sections instead


def public():
    """Yield every exported class and function once, and the public methods and properties of the classes."""
    for room in ROOMS:
        package = importlib.import_module(f"paperworks.{room}")
        for export in package.__all__:
            thing = getattr(package, export)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                yield thing, None
            for attribute in inspect.classify_class_attrs(thing) if inspect.isclass(thing) else ():
                owner = attribute.defining_class
                if attribute.name.startswith("_") or attribute.kind == "data" or not of_us(owner):
                    continue
                found = attribute.object
                for inner in ("fget", "func", "__func__", "__wrapped__"):
                    found = getattr(found, inner, found)
                if of_us(found) and found.__name__ == attribute.name:
                    yield found, owner


def of_us(thing):
    return (thing.__module__ or "").startswith("paperworks.")


def name_of(thing):
    return f"{thing.__module__.removeprefix('paperworks.')}.{thing.__qualname__}"


def docstring(thing, owner):
    """Return the text, or that of the same method of a base class of ours."""
    for base in owner.__mro__ if owner else ():
        text = getattr(vars(base).get(thing.__name__), "__doc__", None)
        if text and base.__module__.startswith("paperworks."):
            return inspect.cleandoc(text)
    return "" if owner else inspect.cleandoc(thing.__doc__ or "")


def sections(text):
    """Split a docstring into its headings' texts; the one under "" is what stands before the first."""
    parts = HEADING.split(text)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(section):
    """Split a section into its entries: the line that begins at the margin, and the text indented below it."""
    starts = [m.start() for m in re.finditer(r"^\S", section, re.MULTILINE)] + [len(section)]
    for start, end in pairwise(starts):
        head, _, body = section[start:end].partition("\n")
        yield head, " ".join(body.split())


def described(thing, owner):
    """Return what the text says of each parameter; of a field, also the string below it.

    A method that overrides another need not repeat what the other says of its parameters.
    """
    found = {}
    bases = (
        filter(of_us, reversed(thing.__mro__))
        if inspect.isclass(thing)
        else reversed(owner.__mro__ if owner else [None])
    )
    for base in bases:
        parts = sections(docstring(base, None) if inspect.isclass(thing) else docstring(thing, base))
        for heading, text in entries(parts.get("Parameters", "") + "\n" + parts.get("Attributes", "")):
            found |= {name.strip("*` "): text for name in heading.partition(" : ")[0].split(",")}
        if inspect.isclass(thing):
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
            for field, below in pairwise(body):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    found[ast.unparse(field.target)] = ast.literal_eval(below.value)
    return found


def asked(thing):
    """Return the parameters that a caller gives, without what is passed on."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return []
    taken = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [name for name in taken if name not in ("self", "cls") and not name.startswith("_")]


CASES = {name_of(thing): (thing, owner) for thing, owner in public()}


def is_property(thing, owner):
    return owner is not None and not callable(getattr(owner, thing.__name__))


def returned(thing):
    """Return the words that its type may be called by, none where nothing comes back."""
    annotation = inspect.get_annotations(thing).get("return") if inspect.isfunction(thing) else None
    if annotation in NOTHING:
        return set()
    parts = (annotation, *typing.get_args(annotation))
    variables = [(*part.__constraints__, part.__bound__) for part in parts if isinstance(part, typing.TypeVar)]
    alias = ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0].returns)
    words = set(re.findall(r"\w+", f"{annotation} {variables} {alias}".lower()))
    return words | ({"context"} if "iterator" in words else set())


def says_nothing(text):
    """Whether a description is too short to say what a thing is, or a mere genitive: "Of the site."."""
    return len(text.split()) < 3 or text.startswith("Of ")


CALLED = {name: case for name, case in CASES.items() if not is_property(*case)}


def test_the_public_names_are_found():
    assert len(CASES) > 900
    assert "numerics.integration.odeint" in CASES
    assert "diffusion.likelihood.linear.PPCA.mean_log_likelihood" in CASES


def test_all_have_a_docstring():
    assert [name for name, case in CASES.items() if not docstring(*case)] == []


def test_what_comes_back_is_described():
    wrong = []
    for name, (thing, owner) in CALLED.items():
        parts = sections(docstring(thing, owner))
        found = list(entries(parts.get("Returns", parts.get("Yields", ""))))
        words = returned(thing)
        if words and not found:
            wrong.append(f"{name} has no Returns section")
        for head, text in found:
            called = re.findall(r"\w+", (head.partition(" : ")[2] or head).lower())
            if says_nothing(text) or ("any" not in words and words.isdisjoint(called)):
                wrong.append(f"{name} returns {head!r}: {text!r}")
    assert wrong == []


def test_every_parameter_is_described():
    wrong = []
    for name, (thing, owner) in CALLED.items():
        asked_for, said = asked(thing), described(thing, owner)
        summary = sections(docstring(thing, owner))[""] if len(asked_for) <= IN_PROSE else ""
        wrong += [
            f"{name} doesn't say what {parameter} is"
            for parameter in asked_for
            if parameter not in said and not re.search(rf"\b{parameter}\b", summary)
        ]
        wrong += [f"{name} says of {parameter}: {text!r}" for parameter, text in said.items() if says_nothing(text)]
    assert wrong == []
