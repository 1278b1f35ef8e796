"""Paths into an answer -> values of typed columns; knows no provider and no network.

A path is names and [numbers], joined by dots: `choices[0].message.content`; `[*]` is each element of a list.
A path that leads on into a text takes the text for JSON, as chat models write it, fence or none:
`choices[0].message.content.label`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from spark_embed.errors import RowError, one_line
from spark_embed.schema import Field, FieldType

_PLACE = re.compile(r"\s*(\S+?)\s*(?:\s+as\s+(\S+))?\s*")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\*)\]")
_FENCED = re.compile(r"\s*```\w*\s*\n(.*?)\n?\s*```\s*", re.DOTALL)
_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")
_MAX_FLOAT32 = (2 - 2**-23) * 2.0**127
_MAX_INT = {"int": 1 << 31, "bigint": 1 << 63}

Step = str | int | None
"""A name, a number, or each of a list."""


@dataclass(frozen=True)
class Column:
    """A column and where in an answer its value is."""

    field: Field
    path: str
    steps: tuple[Step, ...]

    def value(self, answer: Any) -> Any:
        """Return the value in an answer.

        Raises:
            RowError: bad_answer, if it is not there or of another type.
        """
        try:
            return _convert(_follow(answer, self.steps), self.field.type)
        except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as exc:
            said = f" ({one_line(exc, 80)})" if isinstance(exc, (TypeError, ValueError)) else ""
            raise RowError(
                "bad_answer", f"{self.field.name}: no {self.field.type} at {self.path}{said}"
            ) from exc


def parse_column(name: str, place: str) -> Column:
    """Return the column for `path` (a string) or `path as type`.

    Raises:
        ValueError: it is neither.
    """
    found = _PLACE.fullmatch(place)
    kind: Any = (found and found[2]) or "string"
    if not found or kind not in get_args(FieldType):
        raise ValueError(f"{name}: {place!r} must be a path, or 'path as type' with one of {_types()}")
    steps, end = [], 0
    while step := _STEP.match(found[1], end):
        steps.append(step[1] if step[1] else None if step[2] == "*" else int(step[2]))
        end = step.end()
    if end < len(found[1]):
        raise ValueError(f"{name}: {found[1]!r} is no path such as choices[0].message.content")
    return Column(Field(name, kind), found[1], tuple(steps))


def _types() -> str:
    return ", ".join(get_args(FieldType))


def _follow(value: Any, steps: Sequence[Step]) -> Any:
    for index, step in enumerate(steps):
        if isinstance(value, str):
            fenced = _FENCED.fullmatch(value)
            value = json.loads(fenced[1] if fenced else value)
        if step is None:
            if not isinstance(value, list):
                raise TypeError("no list")
            return [_follow(element, steps[index + 1 :]) for element in value]
        if not isinstance(value, dict if isinstance(step, str) else list):
            raise LookupError(step)
        value = value[step]  # type: ignore[index]
    return value


def _convert(value: Any, kind: FieldType) -> Any:
    if value is None:
        raise TypeError("null")
    if kind == "string":
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text.encode()  # half a surrogate pair is no text
        return text
    if kind == "boolean":
        if not isinstance(value, bool):
            raise TypeError(type(value).__name__)
        return value
    if kind in ("vector", "array<float>"):
        return [_float32(_number(one)) for one in _list(value)]
    if kind == "array<string>":
        return [_convert(one, "string") for one in _list(value)]
    number = _number(value)
    if kind in _MAX_INT:
        is_exact = isinstance(value, int) or (isinstance(value, str) and _INTEGER.fullmatch(value))
        whole = int(value) if is_exact else int(number)
        if (whole != number and not is_exact) or not -_MAX_INT[kind] <= whole < _MAX_INT[kind]:
            raise ValueError("not such a number")
        return whole
    return number if kind == "double" else _float32(number)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(type(value).__name__)
    return value


def _float32(number: float) -> float:
    if abs(number) > _MAX_FLOAT32:
        raise ValueError("too large")
    return number


def _number(value: Any) -> float:
    """Return a number, which chat models may write as a text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(type(value).__name__)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number
