"""`spark-embed validate INPUT`: is a table what rules and a model's signature say, before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from spark_embed.errors import StorageError, VerifyError, one_line
from spark_embed.schema import FAULT
from spark_embed.storage import is_store_failure
from spark_embed.tables.ids import Ids
from spark_embed.tables.reading import list_tables, names_of, read_column, read_columns
from spark_embed.tables.rules import ColumnRule, Rules
from spark_embed.tables.values import ColumnValues


@dataclass
class Validation:
    """What a table is, and the rules that it breaks: a line for each.

    Attributes:
        n_bad_rows: rows that cannot be read as such, of row_count.
        ranges: least and greatest number of each column that a rule says to be of numbers.
        n_errors: rows that a run could make no prediction of; None before it.
    """

    input: str
    row_count: int = 0
    n_bad_rows: int = 0
    columns: list[str] = field(default_factory=list)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    n_errors: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it for machines."""
        return {**asdict(self), "is_valid": not self.broken}

    def text(self) -> str:
        """Return it for people: a line for each rule that is broken, and one of what was looked at."""
        verdict = f"{len(self.broken):,} rules are broken" if self.broken else "no rule is broken"
        bad = f", {self.n_bad_rows:,} of which cannot be read as such" if self.n_bad_rows else ""
        return "\n".join([*self.broken, f"{self.input}: {self.row_count:,} rows{bad}: {verdict}"])

    def check(self) -> None:
        """Raise if a rule is broken.

        Raises:
            VerifyError: one is.
        """
        if self.broken:
            raise VerifyError(f"{self.input}: {len(self.broken):,} rules are broken")


def validate(uri: str, rules: Rules, id_column: str | None = None) -> Validation:
    """Read a table once, in batches, and hold each value against its rule.

    Raises:
        ConfigError: there is no such table.
        StorageError: a folder cannot be listed, or the store does not give a file.
    """
    found = Validation(uri)
    paths = list_tables(uri, "INPUT")
    if id_column:
        rules = rules.also({id_column: ColumnRule(unique=True)})
    values = {name: ColumnValues(name, rule) for name, rule in rules.columns.items()}
    unique = [name for name, rule in rules.columns.items() if rule.unique]
    read: dict[str, list[str]] = {name: [] for name in unique}  # the files that have it, and could be read
    ids = {name: Ids(partial(read_column, read[name], name)) for name in unique}
    bad_rows: list[str] = []
    for path in paths:
        try:
            names = _check_columns(path, rules, found)
            bad_rows += _read_file(path, names, found, values, ids)
            for name in read.keys() & names:
                read[name].append(path)
        except StorageError as exc:
            if _is_withheld(exc):
                raise
            found.broken.append(str(exc))
    if found.n_bad_rows > rules.max_bad_rows_fraction * found.row_count:
        found.broken += bad_rows
    if found.row_count < rules.min_rows:
        found.broken.append(f"{found.row_count:,} rows, and there must be at least {rules.min_rows:,}")
    if rules.max_rows is not None and found.row_count > rules.max_rows:
        found.broken.append(f"{found.row_count:,} rows, and there may be at most {rules.max_rows:,}")
    for name, seen in values.items():
        found.broken += seen.lines()
        if np.isfinite(seen.low):
            found.ranges[name] = (float(seen.low), float(seen.high))
    for name, those in ids.items():
        n, some = those.repeated()
        if n:
            found.broken.append(f"{name}: {n:,} rows repeat the value of an earlier one: {', '.join(some)}")
    return found


def _check_columns(path: str, rules: Rules, found: Validation) -> list[str]:
    """Note what is wrong with the columns of a file; returns those of rules that it has, once."""
    names = names_of(path)
    found.columns = found.columns or names
    found.broken += [f"{path}: has the column {name!r} twice" for name, n in Counter(names).items() if n > 1]
    if lacks := [name for name in rules.columns if name not in names]:
        found.broken.append(f"{path}: lacks {', '.join(lacks)}; it has {one_line(', '.join(names))}")
    if rules.extra_columns == "refuse" and (more := [name for name in names if name not in rules.columns]):
        found.broken.append(f"{path}: has columns of no rule: {one_line(', '.join(more))}")
    return [name for name in rules.columns if names.count(name) == 1]


def _read_file(
    path: str,
    names: Sequence[str],
    found: Validation,
    values: Mapping[str, ColumnValues],
    ids: Mapping[str, Ids],
) -> list[str]:
    """Take in the values of a file; returns what is to be said of its rows that are none, if any."""
    n_faults, first = 0, ""
    for batch in read_columns(path, names or found.columns[:1]):
        is_row = np.ones(len(batch), np.bool_)
        if FAULT in batch.schema.names and (faults := batch.column(FAULT)).null_count < len(batch):
            is_row = faults.is_null().to_numpy(zero_copy_only=False)
            first = first or f"row {found.row_count + int(np.argmin(is_row)) + 1:,}: {faults.drop_null()[0]}"
            n_faults += int((~is_row).sum())
        found.row_count += len(batch)
        for name in names:
            values[name].add(batch.column(name), is_row)
            if name in ids:
                ids[name].add(batch.column(name))
    found.n_bad_rows += n_faults
    return [f"{path}: {n_faults:,} rows cannot be read as such; {first}"] if n_faults else []


def _is_withheld(exc: BaseException | None) -> bool:
    """Say whether a file was not to be had, now or by who asks, whatever it holds."""
    if is_store_failure(exc):
        return True
    while exc is not None:
        if isinstance(exc, PermissionError | TimeoutError | FileNotFoundError):
            return True
        if isinstance(exc, OSError) and exc.errno is not None:  # what Arrow and gzip say of content has none
            return True
        exc = exc.__cause__
    return False
