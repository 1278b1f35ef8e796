"""A report as one HTML page that needs nothing else: no script, no address, no font."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib import resources

from spark_embed.report.blocks import Block, Chart, Page, Picture, Section, Table, Tiles, Words
from spark_embed.report.text import escape

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Were a text of the data set to escape after all, the browser would neither run nor load what it names."""


def to_html(page: Page) -> str:
    """Return the page, whole."""
    sections = "".join(_section(section) for section in page.sections)
    style = resources.files("spark_embed.report").joinpath("style.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(page.title)}</title><style>{style}</style></head>\n'
        f'<body><main><h1 dir="auto">{escape(page.title)}</h1>'
        f'<p class="soft" dir="auto">{escape(page.subtitle)}</p>\n{sections}</main></body></html>\n'
    )


def _section(section: Section) -> str:
    parts, charts = [], list[str]()
    for block in section.blocks:
        if isinstance(block, Chart):
            charts.append(_chart(block))
            continue
        parts += [_charts(charts), _block(block)]
        charts = []
    parts.append(_charts(charts))
    heading = f"<h2>{escape(section.title)}</h2>" if section.title else ""
    return f"<section>{heading}{''.join(parts)}</section>\n"


def _charts(charts: list[str]) -> str:
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _block(block: Block) -> str:
    if isinstance(block, Words):
        return f'<p class="{block.kind}" dir="auto">{escape(block.text)}</p>'
    if isinstance(block, Tiles):
        tiles = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in block.values
        )
        return f'<dl class="tiles">{tiles}</dl>'
    return _table(block) if isinstance(block, Table) else ""


def _table(table: Table) -> str:
    head = "".join(f"<th{_class(i, table)}>{escape(name)}</th>" for i, name in enumerate(table.head))
    body = "".join(f"<tr>{_cells(row, table)}</tr>" for row in table.rows)
    head = f"<thead><tr>{head}</tr></thead>" if any(table.head) else ""
    kind = "texts" if table.n_text >= len(table.head) else "figures"
    return f'<div class="wide" tabindex="0"><table class="{kind}">{head}<tbody>{body}</tbody></table></div>'


def _cells(row: Sequence[str | Picture], table: Table) -> str:
    """Return a row's cells; each knows its column's name, for phones, where texts stand below each other."""
    return "".join(
        f'<td{_class(i, table)} data-is="{escape(table.head[i])}">{_cell(cell)}</td>'
        for i, cell in enumerate(row)
    )


def _class(column: int, table: Table) -> str:
    return ' dir="auto"' if column < table.n_text else ' class="number"'


def _cell(cell: str | Picture) -> str:
    if not isinstance(cell, Picture):
        return escape(cell)
    data = base64.b64encode(cell.jpeg).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(cell.shows)}">'


def _chart(chart: Chart) -> str:
    svg = chart.svg.replace("<svg ", f'<svg role="img" aria-label="{escape(chart.says)}" ', 1)
    figures = f"<details><summary>Figures</summary>{_table(chart.figures)}</details>" if chart.figures else ""
    return (
        f"<figure><figcaption>{escape(chart.title)}</figcaption>{svg}"
        f"<p>{escape(chart.says)}</p>{figures}</figure>"
    )
