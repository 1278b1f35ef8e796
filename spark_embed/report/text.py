"""Texts of a data set -> text that is nothing but text in HTML or Markdown."""

from __future__ import annotations

import html
import re

from spark_embed.errors import one_line

SHOWN_CHARS = 400

_MARKDOWN = re.compile(r"([\\`*_\[\]#|~])")


def escape(text: object) -> str:
    """Return it for HTML and SVG: one line, cut, without characters that turn the line around."""
    return html.escape(shown(text))


def shown(text: object) -> str:
    """Return the beginning of a text, in one line."""
    line = one_line(text, None)
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"


def escape_markdown(text: object) -> str:
    """Return it for Markdown, in a table's cell, too."""
    return _MARKDOWN.sub(r"\\\1", html.escape(shown(text), quote=False))


def moment(time: str) -> str:
    """Return an ISO 8601 time in UTC as people write it: 2026-11-26 10:00 UTC; another text as it is."""
    return f"{time[:10]} {time[11:16]} UTC" if time.endswith("+00:00") else time
