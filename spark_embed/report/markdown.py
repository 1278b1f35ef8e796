"""A report as Markdown, for a pull request or a chat: its words and figures; its charts are sentences."""

from __future__ import annotations

from collections.abc import Iterator

from spark_embed.report.blocks import Block, Chart, Page, Table, Tiles, Words
from spark_embed.report.text import escape_markdown


def to_markdown(page: Page) -> str:
    """Return the page, whole."""
    parts = [f"# {escape_markdown(page.title)}", escape_markdown(page.subtitle)]
    for section in page.sections:
        parts += [f"## {escape_markdown(section.title)}"] if section.title else []
        parts += [text for block in section.blocks for text in _block(block) if text]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Words):
        text = escape_markdown(block.text)
        yield f"**{text}**" if block.kind == "verdict" else text
    elif isinstance(block, Tiles):
        yield "\n".join(
            f"- {escape_markdown(name)}: {escape_markdown(value)}" for name, value in block.values
        )
    elif isinstance(block, Chart):
        yield f"**{escape_markdown(block.title)}**: {escape_markdown(block.says)}"
        yield _table(block.figures) if block.figures else ""
    else:
        yield _table(block)


def _table(table: Table) -> str:
    rule = [":--" if i < table.n_text else "--:" for i in range(len(table.head))]
    cells = [[escape_markdown(cell) if isinstance(cell, str) else "" for cell in row] for row in table.rows]
    head = [escape_markdown(name) for name in table.head]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *cells])
