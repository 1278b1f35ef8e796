"""`spark-embed drift REFERENCE CURRENT`: do the columns of two tables still have the same distributions?

Numbers are compared in ten bins, at the quantiles of the reference; text, and numbers of few kinds, by value.
Rows without a value are a bin of their own.

- PSI, the population stability index: the sum over bins of (c - r) * ln(c / r), r and c being the bin's share
  of the reference and of the current rows, an empty bin's taken for 0.0001. The usual reading: below 0.1
  stable, above 0.25 changed (Lewis, An Introduction to Credit Scoring, 1994; Siddiqi, Intelligent Credit
  Scoring, 2nd ed. 2017). Where nothing has changed it is about (bins - 1) * (1/n + 1/m) for n and m rows
  (Yurdakul and Naranjo, J. Risk Model Validation 14, 2020): 100 rows are too few.
- KS, the statistic of Kolmogorov and Smirnov: the greatest distance of the two distribution functions.

Of a table of more rows, 200,000 taken at random stand for it: that moves a PSI by about 0.0001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from spark_embed.errors import ConfigError, VerifyError, one_line
from spark_embed.models.tabular.signature import FeatureType
from spark_embed.tables.reading import as_text, names_of, read_columns
from spark_embed.tables.values import read_numbers

_MAX_ROWS = 200_000
_N_BINS = 10
_FEW_KINDS, _MANY_KINDS = 20, 1000
_EMPTY_SHARE = 1e-4
_SHOWN = 5
_MISSING = "(missing)"
_LOST = "CURRENT lacks it"


@dataclass(frozen=True)
class ColumnDrift:
    """How far a column's distribution has moved.

    Attributes:
        ks: None of what is compared by value.
        new: values that the reference has not, of what is compared by value.
        why_not: it is not compared, because of this.
    """

    column: str
    psi: float = 0.0
    ks: float | None = None
    new: tuple[str, ...] = ()
    why_not: str = ""

    def text(self) -> str:
        """Return it as a line for people."""
        if self.why_not:
            return f"{self.column}: not compared: {self.why_not}"
        ks = "" if self.ks is None else f", KS {self.ks:.3f}"
        return f"{self.column}: PSI {self.psi:.3f}{ks}" + (
            f", new: {', '.join(self.new)}" if self.new else ""
        )


@dataclass
class Drift:
    """How far the columns of a table have moved.

    Attributes:
        rows: of the reference and of the current table, at most 200,000.
    """

    threshold: float
    rows: tuple[int, int]
    columns: list[ColumnDrift] = field(default_factory=list)

    @property
    def lost(self) -> list[str]:
        """The columns that the reference has and the current table has not."""
        return [column.column for column in self.columns if column.why_not == _LOST]

    @property
    def drifted(self) -> list[str]:
        """The columns whose PSI is above the threshold."""
        return [column.column for column in self.columns if column.psi > self.threshold]

    def to_dict(self) -> dict[str, Any]:
        """Return it for machines."""
        return {**asdict(self), "drifted": self.drifted, "lost": self.lost}

    def text(self) -> str:
        """Return it for people: a line for each column, and a verdict."""
        lines = [column.text() for column in self.columns]
        if (by_chance := (_N_BINS - 1) * sum(1 / max(n, 1) for n in self.rows)) > self.threshold / 2:
            lines.append(f"too few rows: by chance alone they give a PSI of about {by_chance:.2g}")
        drifted = f": {', '.join(self.drifted)}" if self.drifted else ""
        lines.append(f"{len(self.drifted)} columns have drifted, by a PSI above {self.threshold:g}{drifted}")
        return "\n".join(lines)

    def check(self) -> None:
        """Raise if a column has drifted, is lost, or has values that the reference has not.

        Raises:
            VerifyError: one has, or is.
        """
        said = []
        if self.drifted:
            said.append(f"{', '.join(self.drifted)}: a PSI above --threshold {self.threshold:g}")
        if self.lost:
            said.append(f"{', '.join(self.lost)}: lost")
        said += [f"{column.column}: new: {', '.join(column.new)}" for column in self.columns if column.new]
        if said:
            raise VerifyError("; ".join(said))


def find_drift(
    reference: Sequence[str], current: Sequence[str], threshold: float, leave_out: Sequence[str] = ()
) -> Drift:
    """Compare the files of two tables, column by column, but for those to `leave_out`.

    Raises:
        ConfigError: they have no column in common, or the files of one differ in the type of a column.
        StorageError: a file cannot be read.
    """
    before, now = _sample(reference), _sample(current)
    common = [name for name in before.column_names if name in now.column_names and name not in leave_out]
    if not common:
        raise ConfigError(f"CURRENT: has no column of REFERENCE: {', '.join(before.column_names)}")
    columns = [compare(name, _one(before[name]), _one(now[name])) for name in common]
    for one, other, why_not in ((before, now, _LOST), (now, before, "REFERENCE lacks it")):
        others = sorted({*one.column_names} - {*other.column_names, *leave_out})
        columns += [ColumnDrift(name, why_not=why_not) for name in others]
    return Drift(threshold, (before.num_rows, now.num_rows), columns)


def compare(name: str, reference: pa.Array, current: pa.Array) -> ColumnDrift:
    """Return how far a column has moved."""
    is_boolean = pa.types.is_boolean(reference.type) or pa.types.is_boolean(current.type)
    type_: FeatureType = "boolean" if is_boolean else "number"
    (before, n_texts), (now, n_new_texts) = read_numbers(reference, type_), read_numbers(current, type_)
    finite = before[np.isfinite(before)]
    if n_texts or len(np.unique(finite)) <= _FEW_KINDS:
        kinds = [_kinds(reference if n_texts else before), _kinds(current if n_texts or n_new_texts else now)]
        if len(kinds[0]) > _MANY_KINDS:
            return ColumnDrift(name, why_not=f"text of more than {_MANY_KINDS:,} kinds")
        aligned = pd.concat(kinds, axis=1).fillna(0).to_numpy()
        new = kinds[1].index.difference([*kinds[0].index, _MISSING])
        return ColumnDrift(name, psi(*aligned.T), new=tuple(new[:_SHOWN]))
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, _N_BINS + 1)[1:-1]))
    bins = [_binned(values, edges) for values in (before, now)]
    return ColumnDrift(name, psi(*bins), ks(finite, now[np.isfinite(now)]))


def _binned(values: npt.NDArray[Any], edges: npt.NDArray[Any]) -> npt.NDArray[Any]:
    numbers = np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right"))
    return np.bincount(numbers, minlength=len(edges) + 2)


def psi(reference: npt.NDArray[Any], current: npt.NDArray[Any]) -> float:
    """Return the population stability index of counts in the same bins."""
    r, c = (np.maximum(counts / max(counts.sum(), 1), _EMPTY_SHARE) for counts in (reference, current))
    return float(((c - r) * np.log(c / r)).sum())


def ks(reference: npt.NDArray[Any], current: npt.NDArray[Any]) -> float:
    """Return the statistic of Kolmogorov and Smirnov of two samples; 1 if one is empty."""
    if not len(reference) or not len(current):
        return 1.0
    at = np.concatenate([reference, current])
    f, g = (np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (reference, current))
    return float(np.abs(f - g).max())


def _kinds(values: pa.Array | npt.NDArray[np.float64]) -> pd.Series[int]:
    """Return how many rows have each value, as text."""
    if isinstance(values, np.ndarray):
        zero_has_no_sign = pd.Series(values + 0.0)
        texts = zero_has_no_sign.map(lambda value: str(value).removesuffix(".0"), na_action="ignore")
    else:
        texts = as_text(values).to_pandas().replace("", None)
    counts: pd.Series[int] = texts.fillna(_MISSING).value_counts()
    return counts


def _sample(paths: Sequence[str]) -> pa.Table:
    """Return rows of a table, each as likely as any other: those with the least of random numbers."""
    random = np.random.default_rng(0)
    table, keys = pa.table({}), np.empty(0)
    for path in paths:
        names = names_of(path)
        for batch in read_columns(path, names):
            part = pa.Table.from_batches([batch]).select(names)
            table = _joined(table, part, paths[0], path) if len(keys) else part
            keys = np.concatenate([keys, random.random(len(part))])
            if len(keys) > 2 * _MAX_ROWS:
                table, keys = _least(table, keys)
    return _least(table, keys)[0]


def _joined(table: pa.Table, part: pa.Table, first: str, path: str) -> pa.Table:
    try:
        return pa.concat_tables([table, part], promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as exc:
        raise ConfigError(f"{path}: a column is not of the type it has in {first}: {one_line(exc)}") from exc


def _least(table: pa.Table, keys: npt.NDArray[Any]) -> tuple[pa.Table, npt.NDArray[Any]]:
    kept = np.sort(np.argsort(keys)[:_MAX_ROWS])
    return table.take(kept), keys[kept]


def _one(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
