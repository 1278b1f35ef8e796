"""The values of a column against its rule, batch by batch: by the one policy that predictions follow, too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from spark_embed.models.tabular.features import MISSING_VALUE, WRONG_TYPE, read_features
from spark_embed.models.tabular.signature import Feature, FeatureType, Signature
from spark_embed.tables.reading import as_text
from spark_embed.tables.rules import ColumnRule

_SHOWN_CHARS = 40


def read_numbers(column: pa.Array, type_: FeatureType = "number") -> tuple[npt.NDArray[np.float64], int]:
    """Return a column as float64, NaN where there is no number; and in how many rows something else is."""
    found = read_features({"": column}, Signature((Feature("", type_),), dtype="float64"), len(column))
    return found.columns[""], sum(error.code == WRONG_TYPE for error in found.errors.values())


class ColumnValues:
    """What has been seen of a column.

    Attributes:
        broken: code -> in how many rows, and the first of them.
        low, high: the least and the greatest number.
    """

    def __init__(self, name: str, rule: ColumnRule) -> None:
        self._name, self._rule, self._feature = name, rule, rule.feature(name)
        self._n_rows = 0
        self._is_row = np.empty(0, np.bool_)
        self.broken: dict[str, tuple[int, str]] = {}
        self.low, self.high = np.inf, -np.inf

    def add(self, column: pa.Array, is_row: npt.NDArray[np.bool_]) -> None:
        """Take in the values of a batch; what is no row has none."""
        self._is_row = is_row
        if self._feature is None:
            missing = pc.fill_null(pc.equal(as_text(column), ""), True)
            if not self._rule.nullable:
                self._note(MISSING_VALUE, np.flatnonzero(missing), "is empty")
        else:
            self._add_features(column, self._feature)
        self._n_rows += len(column)

    def _add_features(self, column: pa.Array, feature: Feature) -> None:
        found = read_features({self._name: column}, Signature((feature,), dtype="float64"), len(column))
        by_code: dict[str, list[int]] = {}
        for row, error in found.errors.items():
            by_code.setdefault(error.code, []).append(row)
        for code, rows in by_code.items():
            self._note(
                code,
                np.array(rows),
                found.errors[rows[0]].detail.removeprefix(f"{self._name}: ").removeprefix(f"{self._name} "),
            )
        if feature.type != "category":
            self._add_numbers(column, found.columns[self._name])

    def _add_numbers(self, column: pa.Array, values: npt.NDArray[np.float64]) -> None:
        if not np.isnan(values).all():
            self.low, self.high = min(self.low, np.nanmin(values)), max(self.high, np.nanmax(values))
        for code, limit, sign in (("below_min", self._rule.min, -1), ("above_max", self._rule.max, 1)):
            if limit is not None and (rows := np.flatnonzero(sign * values > sign * limit)).size:
                self._note(
                    code, rows, f"{str(column[int(rows[0])])[:_SHOWN_CHARS]!r}: the limit is {limit:g}"
                )

    def _note(self, code: str, rows: npt.NDArray[np.intp], said: str) -> None:
        rows = rows[self._is_row[rows]]
        if rows.size:
            n, first = self.broken.get(code, (0, f"row {self._n_rows + int(rows.min()) + 1:,} {said}"))
            self.broken[code] = (n + len(rows), first)

    def lines(self) -> list[str]:
        """Return a line for each rule that more rows break than may."""
        return [
            f"{self._name}: {code} in {n:,} of {self._n_rows:,} rows; {first}"
            for code, (n, first) in self.broken.items()
            if n > self._rule.max_bad_fraction * self._n_rows
        ]
