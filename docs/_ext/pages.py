"""Pages whose sources are generated: written only where they changed, so that a second build is short."""

from collections.abc import Mapping
from pathlib import Path


def title(text: str, line: str = "=") -> str:
    """Write a heading."""
    return f"{text}\n{line * len(text)}\n\n"


def write_pages(folder: Path, pages: Mapping[str, str], keep: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Write each page as reStructuredText by its name, and delete what is no longer one."""
    wanted = {folder / f"{name}.rst": text for name, text in pages.items()}
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.rglob("*"):
        if path.is_file() and path not in wanted and path.name not in keep:
            path.unlink()
