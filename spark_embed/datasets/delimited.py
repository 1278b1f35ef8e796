"""Rows of CSV and TSV, such that no line is lost in the quotes of another; opens no file, knows no images."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

STANDARD, NONE = "standard", "none"

DELIMITERS = (",", "\t", ";", "|")

_MAX_FIELD_CHARS = 64 << 20
_SHOWN_CHARS = 60


class QuotingError(ValueError):
    """Lines cannot be told apart, because of a quote; the text names the first of them and the cure."""


class Row(NamedTuple):
    """The fields of a row, and the lines that it was read from.

    Attributes:
        number: of its first line, from 1.
        lines: as they stand in the file.
    """

    number: int
    fields: list[str]
    lines: list[str]


class Header(NamedTuple):
    """What the header of a file says.

    Attributes:
        delimiter: between the fields.
        has_blanks: they begin with a blank that is no part of them.
        names: of the columns, without the blanks around them.
    """

    delimiter: str
    has_blanks: bool
    names: list[str]


def find_header(lines: Sequence[str], wanted: str, first: str) -> Header:
    """Return the header of a file.

    Its delimiter is the one by which there is a column `wanted`; else the one that gives the most columns.

    Args:
        lines: the first of the file.
        wanted: a column.
        first: the delimiter to try first.

    Raises:
        QuotingError: a quote of the header is not closed.
    """
    headers = []
    for delimiter in sorted(DELIMITERS, key=lambda one: one != first):
        fields = read_header(rows_of(lines, Header(delimiter, has_blanks=False, names=[])))
        has_blanks = any(name.startswith(" ") for name in fields[1:])
        header = Header(delimiter, has_blanks, [name.strip(' \t"') for name in fields])
        if wanted in header.names:
            return header
        headers.append(header)
    return max(headers, key=lambda header: len(header.names))


def read_header(rows: Iterator[Row]) -> list[str]:
    """Return the fields of the first row that has some text, and leave the others; [] if there is none."""
    return next((row.fields for row in rows if any(map(str.strip, row.fields))), [])


def rows_of(lines: Iterable[str], header: Header, quoting: str = STANDARD) -> Iterator[Row]:
    """Yield the rows of a file, with the header; every line that is not empty is part of one.

    A field that begins with a quote ends with one, before a delimiter or the end of a line (RFC 4180). On a
    line where that does not come out, quotes are characters; but where several lines would be taken together
    by it, or the file ends first, nobody can say which rows there are.

    Args:
        lines: with their ends.
        header: of the file.
        quoting: `STANDARD`; or `NONE`, where quotes are characters like others.

    Raises:
        QuotingError: a field begins with a quote that is not closed.
    """
    csv.field_size_limit(_MAX_FIELD_CHARS)
    taken: list[str] = []
    at_end = False

    def take() -> Iterator[str]:
        nonlocal at_end
        for line in lines:
            taken.append(line)
            yield line
        at_end = True

    reader = csv.reader(
        take(),
        delimiter=header.delimiter,
        skipinitialspace=header.has_blanks,
        strict=True,
        quoting=csv.QUOTE_NONE if quoting == NONE else csv.QUOTE_MINIMAL,
    )
    number = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as exc:
            if len(taken) > 1 or at_end:
                raise QuotingError(_not_closed(number, taken)) from exc
            fields = [_unquoted(text) for text in _split(taken[0], header)]
        if fields is None:
            return
        if fields:
            yield Row(number, fields, list(taken))
        number += len(taken)
        taken.clear()


def check_row(row: Row, header: Header, wanted: str) -> None:
    """Check that a row has a field for each column, and that none of its lines is a row itself.

    Raises:
        QuotingError: a quoted field holds lines that are rows, each with what `wanted` names.
        ValueError: there are more or fewer fields than columns.
    """
    names = header.names
    if len(row.fields) != len(names):
        raise ValueError(
            f"line {row.number} has {_counted(len(row.fields), 'field')}, and the header "
            f"{_counted(len(names), 'column')}: {_shown(row.lines[0])}"
        )
    if len(row.lines) > 1 and wanted in names:
        index = names.index(wanted)
        kind = _kind_of_uri(row.fields[index])
        rest = [_split(line, header) for line in row.lines[1:] if line.strip()]
        if kind and all(len(fields) == len(names) and _kind_of_uri(fields[index]) == kind for fields in rest):
            raise QuotingError(_not_closed(row.number, row.lines))


def _split(line: str, header: Header) -> list[str]:
    fields = line.rstrip("\r\n").split(header.delimiter)
    return [field.lstrip(" ") for field in fields] if header.has_blanks else fields


def _unquoted(text: str) -> str:
    """Return what a field says, or all of it where its quotes are no enclosing ones."""
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1].replace('""', ""):
        return text[1:-1].replace('""', '"')
    return text


def _kind_of_uri(text: str) -> tuple[str, bool] | None:
    """Return scheme, and whether there is a suffix, of what looks like the uri of a file; else None."""
    uri = text.strip('" ')
    scheme, found, rest = uri.partition("://")
    scheme, path = (scheme, rest.partition("/")[2]) if found else ("", uri)
    stem, dot, suffix = path.partition("?")[0].rpartition(".")
    has_suffix = bool(stem and dot) and 2 <= len(suffix) <= 5 and suffix.isalnum()
    return (scheme, has_suffix) if not any(map(str.isspace, uri)) and (scheme or has_suffix) else None


def _not_closed(number: int, lines: Sequence[str]) -> str:
    last = number + len(lines) - 1
    return (
        f"line {number}: a field begins with a quote that is not closed as it should be, and "
        + (f"the lines to {last} would be lost in it" if last > number else "the file ends in it")
        + f": {_shown(lines[0])}. Where quotes are characters like others: --list_quoting {NONE}; else close "
        "the quote, and write quotes in a field twice"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _shown(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
