"""What docstrings write as plain text, in reStructuredText: ``$x$``, |x|, and the stars of shapes and arguments."""

import re

from sphinx.application import Sphinx

COLON = "\ue000"
NAME = re.compile(r"[A-Za-z_][\w.]*\w|\w")
MARKS = re.compile(
    r"(?P<kept>``.+?``|:\w+:`[^`]*`|`[^`]+`)"  # code and roles stay as they are
    r"|(?<![\\$])\$(?=[^\s$])(?P<tex>(?:[^$\\]|\\.)*?[^\s\\$])\$(?![\d$])"
    r"|(?P<star>\*{1,2})(?=\w+[,)\]])"  # (batch, *grid)
    r"|(?P<bar>\|)"
    r"|(?<=\w)(?P<end>_)(?!\w)",  # n_modes_
    re.DOTALL,
)


def marked_up(text: str) -> str:
    r"""Return a docstring whose formulas are marked as such, and whose stars and bars begin no markup.

    >>> marked_up("The norm $|x|^2$ of x, of shape (n, *grid), is |x|; see ``|x|``")
    'The norm :math:`|x|^2` of x, of shape (n, \\*grid), is \\|x\\|; see ``|x|``'
    """
    blocks = re.split(r"(\n\s*\n)", text)
    literal = False
    for number, block in enumerate(blocks):
        if not block.strip():
            continue
        indented = block.startswith((" ", "\t"))
        literal = indented and (literal or (number >= 2 and blocks[number - 2].rstrip().endswith("::")))
        if not literal and not block.lstrip().startswith((">>>", "..")):
            blocks[number] = MARKS.sub(_replaced, block)
    return "".join(blocks)


def _replaced(found: re.Match[str]) -> str:
    if kept := found["kept"]:
        is_code = kept.startswith("`") and not kept.startswith("``") and not NAME.fullmatch(kept[1:-1])
        return f"`{kept}`" if is_code else kept
    if found["tex"]:
        return f":math:`{found['tex']}`"
    return "".join(f"\\{sign}" for sign in found[0])


def escape_types(text: str) -> str:
    """Let a star in the type of what is returned, as in `Float[Tensor, "*batch dim"]`, begin no emphasis."""
    lines, inside = text.split("\n"), False
    for number, line in enumerate(lines):
        if number and re.fullmatch(r"-{3,}", line):
            inside = lines[number - 1] in ("Returns", "Yields")
        elif inside and line[:1].strip():
            lines[number] = re.sub(r"(?<!\\)\*", r"\\*", line)
    return "\n".join(lines)


def mark_up(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Do both to a docstring."""
    lines[:] = escape_types(marked_up("\n".join(lines))).split("\n")
    if what == "property":  # napoleon takes what stands before a colon for its type
        lines[0] = lines[0].replace(":", COLON)


def with_colons(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Put the colons back."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("autodoc-process-docstring", mark_up, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", with_colons, priority=600)  # after it
    return {"parallel_read_safe": True, "parallel_write_safe": True}
