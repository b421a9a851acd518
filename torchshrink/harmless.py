"""Text that came with somebody's files, written so that whoever reads it sees it and nothing else happens."""

from __future__ import annotations

import re
from typing import Any

_MARKDOWN = re.compile(r"[\\`*<>|]|\](?=[(\[:])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet compute
_LOGIN = re.compile(r"(://[^:@/\s]*):[^\s]*@")
_SECRET = re.compile(r"([?&;][^=&;\s]*(?:pass|pwd|secret|token|key)[^=&;\s]*=)[^&;\s'\"]*", re.IGNORECASE)


def markdown(text: Any) -> str:
    r"""Return text as one line of Markdown: no tags, links, cells, emphasis or escape codes of its own.

    >>> markdown("a|b <img src=x> [c](d)")
    'a\\|b \\<img src=x\\> [c\\](d)'
    """
    return _MARKDOWN.sub(r"\\\g<0>", terminal(" ".join(str(text).split())))


def csv_cell(value: Any) -> Any:
    """Return a value for a cell of a CSV file, which a spreadsheet takes for text when it is text.

    >>> csv_cell("=1+1"), csv_cell(-1.5)
    ("'=1+1", -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def terminal(text: str) -> str:
    r"""Return text with whatever does not print, other than the end of a line, as an escape: ``\x1b``.

    >>> terminal("a\x1b[31mb\u202ec")
    'a\\x1b[31mb\\u202ec'
    """
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


def without_passwords(text: str) -> str:
    """Return text without the passwords of its URLs.

    >>> without_passwords("--storage=postgresql://me:p4@ss@host/db?sslpassword=x")
    '--storage=postgresql://me@host/db?sslpassword=***'
    """
    return _SECRET.sub(r"\1***", _LOGIN.sub(r"\1@", text))
