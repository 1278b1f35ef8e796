"""Columns of a table -> the matrix that a model takes, and of each row that cannot be, why: the one policy.

From Arrow, of text as CSV has it or of numbers; knows no file and no model. docs/tables.md tells the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from spark_embed.errors import RowError, one_line
from spark_embed.models.tabular.signature import Feature, Signature

MISSING_VALUE = "missing_value"
WRONG_TYPE = "wrong_type"
NOT_FINITE = "not_finite"
UNKNOWN_CATEGORY = "unknown_category"
CODES = (MISSING_VALUE, WRONG_TYPE, NOT_FINITE, UNKNOWN_CATEGORY)

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_BLANKS = " \t\r\n"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_NOT_FINITE_WORDS = r"^(?i:[+-]?(nan|inf|infinity))$"
_TRUTHS = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}
_SHOWN_CHARS = 40
_EXACT = float(1 << 53)
"""Below this every integer has a float64 of its own; this one it shares with the next."""


@dataclass
class Features:
    """What some rows are to the model.

    Attributes:
        matrix: one row for each, features in the signature's order, of its dtype; those of bad rows are not
            to be used.
        columns: the same values by feature, float64 (n,), NaN where there is none: what the output may show.
        errors: why a row cannot be used, by its index: of its first feature that is at fault.
    """

    matrix: npt.NDArray[Any]
    columns: dict[str, Floats]
    errors: dict[int, RowError]


@dataclass
class _Column:
    """One feature of some rows: its values, and which rows have which fault, by code."""

    values: Floats
    faults: dict[str, Bools]


def read_features(columns: Mapping[str, pa.Array], signature: Signature, n_rows: int) -> Features:
    """Return what the rows are to the model; a feature without a column is missing in each of them.

    Args:
        columns: by name, each of `n_rows` values: texts, numbers, booleans or nulls.
        signature: of the model.
        n_rows: so many.
    """
    matrix = np.empty((n_rows, len(signature.features)), signature.dtype)
    values: dict[str, Floats] = {}
    errors: dict[int, RowError] = {}
    with np.errstate(over="ignore"):
        for place, feature in enumerate(signature.features):
            raw = columns.get(feature.name)
            raw = pa.nulls(n_rows) if raw is None else raw
            column = _read(raw, feature)
            matrix[:, place] = column.values
            if signature.dtype == "float32":  # what is finite in float64 may not be in float32
                _add_fault(column, NOT_FINITE, np.isinf(matrix[:, place]))
            for code, rows in column.faults.items():
                if code != MISSING_VALUE or feature.required:
                    for row in np.flatnonzero(rows):
                        errors.setdefault(int(row), _error(code, feature, raw[int(row)]))
            values[feature.name] = column.values
    return Features(matrix, values, errors)


def _error(code: str, feature: Feature, value: pa.Scalar) -> RowError:
    shown = repr(one_line(value.as_py(), _SHOWN_CHARS))
    if code == MISSING_VALUE:
        return RowError(code, f"{feature.name} is empty")
    if code == UNKNOWN_CATEGORY:
        return RowError(code, f"{feature.name}: {shown} is none of its {len(feature.categories)} categories")
    if code == NOT_FINITE:
        return RowError(code, f"{feature.name}: {shown} is not finite")
    wanted = feature.type
    if wanted == "category":
        wanted = "text" if isinstance(feature.categories[0], str) else "integer"  # type: ignore[assignment]
    return RowError(code, f"{feature.name}: {shown} is no {wanted}")


def _read(raw: pa.Array, feature: Feature) -> _Column:
    if isinstance(raw, pa.ChunkedArray):
        raw = raw.combine_chunks()
    if pa.types.is_dictionary(raw.type):
        raw = raw.dictionary_decode()
    if feature.type == "category" and isinstance(feature.categories[0], str):
        return _read_texts(raw, feature)
    column = _read_booleans(raw) if feature.type == "boolean" else _read_numbers(raw)
    if feature.type == "integer" or feature.categories:
        with np.errstate(invalid="ignore"):
            is_no_integer = (np.floor(column.values) != column.values) | (np.abs(column.values) >= _EXACT)
        _add_fault(column, WRONG_TYPE, is_no_integer & np.isfinite(column.values))
    return _places(column, feature) if feature.categories else column


def _add_fault(column: _Column, code: str, rows: Bools) -> None:
    """Mark rows that have no other fault."""
    if not rows.any():
        return
    for others in column.faults.values():
        rows = rows & ~others
    before = column.faults.get(code)
    column.faults[code] = rows if before is None else before | rows
    column.values = np.where(rows, np.nan, column.values)


def _read_numbers(raw: pa.Array) -> _Column:
    if _is_text(raw.type):
        return _parse_numbers(raw)
    n_rows = len(raw)
    if pa.types.is_null(raw.type):
        return _Column(np.full(n_rows, np.nan), {MISSING_VALUE: np.ones(n_rows, np.bool_)})
    is_number = (
        pa.types.is_integer(raw.type) or pa.types.is_floating(raw.type) or pa.types.is_decimal(raw.type)
    )
    if not is_number and not pa.types.is_boolean(raw.type):
        return _all_wrong(raw)
    is_null = _nulls(raw)
    # Not safely: integers beyond 2**53 are rounded, as they are for any model of floats.
    cast = raw.cast(pa.uint8()) if pa.types.is_boolean(raw.type) else raw
    values = cast.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if is_null is None and np.isfinite(values).all():
        return _Column(values, {})
    column = _Column(values, {} if is_null is None else {MISSING_VALUE: is_null})
    _add_fault(column, NOT_FINITE, ~np.isfinite(values) & (True if is_null is None else ~is_null))
    return column


def _nulls(raw: pa.Array) -> Bools | None:
    return raw.is_null().to_numpy(zero_copy_only=False) if raw.null_count else None


def _all_wrong(raw: pa.Array) -> _Column:
    missing = raw.is_null().to_numpy(zero_copy_only=False)
    return _Column(np.full(len(raw), np.nan), {MISSING_VALUE: missing, WRONG_TYPE: ~missing})


def _parse_numbers(raw: pa.Array) -> _Column:
    try:  # nearly always all of them are numbers, as Arrow reads them
        values = raw.cast(pa.float64()).to_numpy(zero_copy_only=False)
        if not raw.null_count and np.isfinite(values).all():
            return _Column(values, {})
    except pa.ArrowInvalid:
        pass
    texts, missing = _stripped(raw)
    is_number = pc.match_substring_regex(texts, _NUMBER)
    is_word = pc.match_substring_regex(texts, _NOT_FINITE_WORDS)
    plain = pc.if_else(is_number, pc.utf8_ltrim(texts, "+"), pa.scalar(None, texts.type))
    values = plain.cast(pa.float64()).to_numpy(zero_copy_only=False)
    faults = {
        MISSING_VALUE: missing,
        NOT_FINITE: _bools(is_word) | np.isinf(values),
        WRONG_TYPE: ~missing & ~_bools(is_word) & ~_bools(is_number),
    }
    return _Column(np.where(np.isinf(values), np.nan, values), _some(faults))


def _read_booleans(raw: pa.Array) -> _Column:
    if not _is_text(raw.type):
        column = _read_numbers(raw)
        with np.errstate(invalid="ignore"):
            odd = np.isfinite(column.values) & (column.values != 0) & (column.values != 1)
        _add_fault(column, WRONG_TYPE, odd)
        return column
    texts, missing = _stripped(raw)
    names = pa.array(list(_TRUTHS), texts.type)
    found = pc.index_in(pc.utf8_lower(texts), names).to_numpy(zero_copy_only=False)
    known = np.isfinite(found.astype(np.float64))
    values = np.full(len(raw), np.nan)
    values[known] = np.array(list(_TRUTHS.values()))[found[known].astype(np.int64)]
    return _Column(values, _some({MISSING_VALUE: missing, WRONG_TYPE: ~missing & ~known}))


def _read_texts(raw: pa.Array, feature: Feature) -> _Column:
    """Return the place of each text among the categories."""
    if pa.types.is_null(raw.type):
        return _read_numbers(raw)
    if not _is_text(raw.type):
        return _all_wrong(raw)
    missing = _bools(pc.fill_null(pc.equal(raw, ""), True))
    found = pc.index_in(raw, pa.array(feature.categories, raw.type)).to_numpy(zero_copy_only=False)
    values = found.astype(np.float64)
    return _Column(values, _some({MISSING_VALUE: missing, UNKNOWN_CATEGORY: np.isnan(values) & ~missing}))


def _places(column: _Column, feature: Feature) -> _Column:
    """Return the place of each integer among the categories."""
    known = np.array(feature.categories, np.float64)
    if known[-1] - known[0] == len(known) - 1 and (np.diff(known) == 1).all():  # one after the other
        places = column.values - known[0]
        is_known = (places >= 0) & (places < len(known))
    else:
        order = np.argsort(known)
        at = np.minimum(np.searchsorted(known[order], column.values), len(known) - 1)
        is_known = known[order][at] == column.values
        places = order[at].astype(np.float64)
    found = _Column(places, dict(column.faults))
    if is_known.all():
        return found
    found.values = np.where(is_known, places, np.nan)
    _add_fault(found, UNKNOWN_CATEGORY, ~is_known)
    return found


def _stripped(raw: pa.Array) -> tuple[pa.Array, Bools]:
    """Return texts without the blanks around them, and which of them say nothing."""
    texts = pc.utf8_trim(raw, _BLANKS)
    return texts, _bools(pc.fill_null(pc.equal(texts, ""), True))


def _bools(mask: pa.Array) -> Bools:
    values: Bools = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
    return values


def _some(faults: dict[str, Bools]) -> dict[str, Bools]:
    return {code: rows for code, rows in faults.items() if rows.any()}


def _is_text(arrow_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(arrow_type)
        or pa.types.is_large_string(arrow_type)
        or pa.types.is_string_view(arrow_type)
    )
