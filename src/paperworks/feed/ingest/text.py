"""Text files that other programs wrote, in whatever encoding."""

import codecs
import re
from pathlib import Path

MAX_BYTES = 64 * 2**20
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path) -> tuple[str, str]:
    """Return a file's text and its encoding.

    Raises
    ------
    ValueError
        For a file that is huge or isn't text.
    OSError
        Where it can't be read.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"path is {path} with more than {MAX_BYTES >> 20} MiB; split it")
    try:
        return decode(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"path is {path}, which isn't text: {error}") from None


def decode(data: bytes) -> tuple[str, str]:
    """Return text and its encoding: by its mark, else UTF-8 where it is that, else GBK or Latin-1.

    A character that is cut in two at the end is left out.

    Raises
    ------
    ValueError
        For something else than text.

    Examples
    --------
    >>> decode("扩散模型".encode("gbk")), decode("Jörg Müller".encode("latin-1"))
    (('扩散模型', 'gb18030'), ('Jörg Müller', 'cp1252'))
    """
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return data.decode(name), name
    if b"\x00" in data:
        raise ValueError("it has zero bytes")
    text = data.decode("utf-8", "replace")
    wrong = text.count("\ufffd")
    if not wrong:
        return text, "utf-8"
    right = sum(not c.isascii() for c in text) - wrong
    if right > 4 * wrong or (wrong == 1 and text.endswith("\ufffd")):
        return text.removesuffix("\ufffd"), "utf-8"
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", data)]
    if 2 * sum(length for length in runs if length > 1) > sum(runs):  # Chinese comes in pairs, umlauts alone
        try:
            return data.decode("gb18030"), "gb18030"
        except UnicodeDecodeError:
            pass
    try:
        return data.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"
