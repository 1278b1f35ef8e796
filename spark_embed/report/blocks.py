"""What a report is made of, whatever it is written as: sections of words, tables and charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Picture:
    """A small JPEG, and what it shows."""

    jpeg: bytes
    shows: str


@dataclass(frozen=True)
class Words:
    """A paragraph; a `verdict` is what a reader must not miss."""

    text: str
    kind: Literal["plain", "verdict", "note"] = "plain"


@dataclass(frozen=True)
class Tiles:
    """The few figures that matter most: each its value and what it is."""

    values: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table whose first `n_text` columns are text and whose others are numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Picture]]
    n_text: int = 1


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        svg: as `spark_embed.report.charts` makes it.
        says: what it shows, in a sentence, for who does not see it.
        figures: the numbers in it.
    """

    title: str
    svg: str
    says: str
    figures: Table | None = None


Block = Words | Tiles | Table | Chart


@dataclass(frozen=True)
class Section:
    """Blocks below a heading; without a title those at the top of the page."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report; `subtitle` says of what and when."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def facts(values: dict[str, str]) -> Table:
    """Return names and values as a table."""
    return Table(("", ""), [(name, value) for name, value in values.items() if value], n_text=2)
