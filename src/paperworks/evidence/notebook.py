"""HTML that notebooks show: tables and pictures, escaped, with the colours of the page that they stand in.

It uses no style sheet, no script and no other file, which a notebook may not load, and says nothing by colour alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

MARKS = {True: "✓", False: "✗", None: "?"}
ROWS = 200
"""How many rows of a table are shown."""
_KINDS = {".png": "image/png", ".svg": "image/svg+xml"}
_LEFT = 'style="text-align:left;vertical-align:top"'
_MOST = 2**21  # bytes of a picture


class Html(str):
    """Markup that is shown as it is; all other text is escaped."""


def text(value: object) -> Html:
    """Return what shows a value as text.

    Examples
    --------
    >>> text("<b>"), text(Html("<b>"))
    ('&lt;b&gt;', '<b>')
    """
    return value if isinstance(value, Html) else Html(_escape(str(value)))


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """Return a table whose first column heads its rows.

    Examples
    --------
    >>> "<th scope='row'" in table("Sums", ["of", "is"], [("1 + 1", 2)]).replace('"', "'")
    True
    """
    every = list(rows)
    head = "".join(f'<th scope="col" {_LEFT}>{text(column)}</th>' for column in columns)
    body = "".join(f"<tr>{_row(row)}</tr>" for row in every[:ROWS])
    more = f"<p>and {len(every) - ROWS} more rows</p>" if len(every) > ROWS else ""
    shown = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    return Html(f"<table><caption {_LEFT}>{text(caption)}</caption>{shown}<tbody>{body}</tbody></table>{more}")


def facts(caption: str, values: Mapping[str, object]) -> Html:
    """Return a table of names and values, without those that are empty."""
    return table(caption, (), [(name, value) for name, value in values.items() if value not in ("", None, ())])


def lines(*parts: object) -> Html:
    """Return parts that stand one below the other."""
    return Html("".join(part if isinstance(part, Html) else f"<p>{text(part)}</p>" for part in parts if part))


def listed(items: Iterable[object]) -> Html:
    """Return a list."""
    return Html(f"<ul>{''.join(f'<li>{text(item)}</li>' for item in items)}</ul>")


def folded(summary: str, inside: Html) -> Html:
    """Return what is shown once it is unfolded."""
    return Html(f"<details><summary>{text(summary)}</summary>{inside}</details>")


def code(source: str) -> Html:
    """Return source code."""
    return Html(f"<pre><code>{_escape(source)}</code></pre>")


def link(address: str, name: str) -> Html:
    """Return a link where the address leads to the web, else the name."""
    if not address.startswith(("https://", "http://")):
        return text(name)
    return Html(f'<a href="{_escape(address)}" rel="noopener noreferrer" target="_blank">{text(name)}</a>')


def picture(path: Path | None, says: str) -> Html:
    """Return a picture with its content in it; nothing where there is none, or one that is too large."""
    kind = _KINDS.get(path.suffix) if path else None
    if path is None or kind is None or not path.is_file() or path.stat().st_size > _MOST:
        return Html("")
    import base64

    content = base64.b64encode(path.read_bytes()).decode()
    return Html(
        f'<img src="data:{kind};base64,{content}" alt="{_escape(says)}" style="max-width:100%;background:white">'
    )


def _row(row: Sequence[object]) -> str:
    first, *others = row
    cells = "".join(f"<td {_LEFT}>{text(cell)}</td>" for cell in others)
    return f'<th scope="row" {_LEFT}>{text(first)}</th>{cells}'


def _escape(words: str) -> str:
    from html import escape  # not before something is shown: `paperworks list` starts without it

    return escape(words)
