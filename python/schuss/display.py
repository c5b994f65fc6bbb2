"""What a notebook shows of things: a small table in HTML."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def table(caption: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return a caption in monospaced letters above rows of a name and a value; it takes the page's own colours."""
    body = "".join(
        f'<tr><th style="text-align: left">{escape(name)}</th><td style="text-align: left">{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<div><code>{escape(caption)}</code><table><tbody>{body}</tbody></table></div>"


def size(n_bytes: int) -> str:
    """Return a number of bytes as a person reads it."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes} bytes"
