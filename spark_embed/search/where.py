"""Conditions on a data set's own columns, in SQL, by DuckDB, which reads nothing but those."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spark_embed.errors import ConfigError, one_line

LIMIT_S = 120.0
"""For all rows that a condition is asked of, without the time that reading them takes."""

PLAIN = frozenset(
    "+ - * / // % ~~ !~~ ~~* !~~* ~~~ ~ !~ like_escape not_like_escape ilike_escape not_ilike_escape ->> abs "  # noqa: SIM905
    "round floor ceil lower upper trim ltrim rtrim length len strlen contains starts_with prefix ends_with "
    "suffix regexp_matches regexp_full_match list_contains list_has array_contains struct_extract "
    "array_extract list_extract json_extract_string year month day hour date_part now today isnan "
    "isfinite".split()
)
"""Functions that make nothing larger than what they are given: of others one row can take all memory, and
DuckDB's own limits on memory and time do not hold within one value (measured with 2.0: `repeat`)."""

_ROW = "__row__"

_UNNAMED = frozenset({"STAR", "POSITIONAL_REFERENCE"})
"""DuckDB's names of what means columns, `_ROW` with them, without naming one."""


class Where:
    """A condition such as `width > 512 and caption like '%dog%'`.

    Attributes:
        text: as it was given.
        columns: of the data set that it names.
    """

    def __init__(
        self,
        text: str,
        schema: pa.Schema,
        *,
        functions: Collection[str] | None = None,
        limit_s: float | None = None,
    ) -> None:
        """Parse it.

        Args:
            text: an expression of DuckDB's SQL (https://duckdb.org/docs/stable/sql/expressions/overview).
            schema: of the data set.
            functions: that it may call, for conditions of strangers; None for all.
            limit_s: from now on, with the reading of files; None for none.

        Raises:
            ConfigError: it is none, or names a column that is not there.
        """
        self.text = text
        self._left_s = LIMIT_S
        self._until = math.inf if limit_s is None else time.monotonic() + limit_s
        self._connection = _locked()
        named, called = _names_in(self._connection, text)
        if functions is not None and (others := sorted(set(called).difference(functions))):
            raise ConfigError(f"--where {text}: {others[0]} cannot be called here")
        by_name = {name.lower(): name for name in schema.names}
        same = [name for name in schema.names if by_name[name.lower()] != name]
        if ambiguous := {name.lower() for name in named}.intersection(name.lower() for name in same):
            raise ConfigError(f"--where {text}: {min(ambiguous)} is more than one column, but for their case")
        unknown = [name for name in named if name.lower() not in by_name]
        if unknown:
            known = ", ".join(schema.names)
            raise ConfigError(f"--where {text}: there is no column {unknown[0]}; there are {known}")
        self.columns = list(dict.fromkeys(by_name[name.lower()] for name in named))
        self.keep(pa.schema([schema.field(name) for name in self.columns]).empty_table())

    def keep(self, table: pa.Table) -> NDArray[np.bool_]:
        """Return of each row whether the condition holds; where it is null it does not.

        Args:
            table: with `columns`, any number of rows.

        Raises:
            ConfigError: it cannot be asked of these values, or takes too long.
        """
        rows = table.select(self.columns).append_column(_ROW, pa.array(np.arange(table.num_rows)))
        self._connection.register("rows", rows)
        started = time.monotonic()
        left_s = min(self._left_s, self._until - started)
        if left_s <= 0:
            raise ConfigError(f"--where {self.text}: takes too long")
        timer = threading.Timer(left_s, self._connection.interrupt)
        timer.start()
        try:
            found = self._connection.execute(_select(self.text)).fetchnumpy()[_ROW]
        except duckdb.InterruptException as exc:
            raise ConfigError(f"--where {self.text}: takes too long") from exc
        except duckdb.Error as exc:
            said = one_line(str(exc).partition("\nLINE ")[0])  # behind it stands the condition itself
            raise ConfigError(f"--where {self.text}: {said}") from exc
        finally:
            timer.cancel()
            self._left_s -= time.monotonic() - started
            self._connection.unregister("rows")
        kept = np.zeros(table.num_rows, dtype=np.bool_)
        kept[np.asarray(found, dtype=np.int64)] = True
        return kept


def _locked() -> Any:
    """Return a DuckDB that reads no file, no variable of this program and no address, and stays so."""
    connection = duckdb.connect(
        ":memory:", config={"enable_external_access": "false", "python_enable_replacements": "false"}
    )
    connection.execute("set lock_configuration=true")
    return connection


def _select(text: str) -> str:
    # A comment in it ends with its line; what else is more than a condition `_names_in` refuses.
    return f"select {_ROW} from rows where (\n{text}\n)"  # noqa: S608


def _names_in(connection: Any, text: str) -> tuple[Sequence[str], Sequence[str]]:
    """Return the columns that an expression names, as it writes them, and the functions that it calls.

    Raises:
        ConfigError: it is no expression, or more than that.
    """
    try:
        parsed = _parsed(connection, text)
        nodes = list(_walk(parsed))
    except RecursionError as exc:
        raise ConfigError(f"--where {text[:80]}...: is nested too deeply") from exc
    if parsed["error"]:
        raise ConfigError(f"--where {text}: {one_line(parsed['error_message'])}")
    kinds = [node.get("type") for node in nodes if str(node.get("type", "")).endswith("_NODE")]
    if kinds != ["SELECT_NODE"] or _around(parsed) != _around(_parsed(connection, "true")):
        raise ConfigError(f"--where {text}: must be one condition on the columns, without a query of its own")
    if _UNNAMED.intersection(node.get("class", "") for node in nodes):
        raise ConfigError(f"--where {text}: must say which columns it means, by their names")
    columns = [node["column_names"][0] for node in nodes if node.get("class") == "COLUMN_REF"]
    # The first is what `_select` asks for.
    return columns[1:], [node["function_name"].lower() for node in nodes if "function_name" in node]


def _parsed(connection: Any, text: str) -> dict[str, Any]:
    [(said,)] = connection.execute("select json_serialize_sql(?)", [_select(text)]).fetchall()
    parsed: dict[str, Any] = json.loads(said)
    return parsed


def _around(parsed: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all of a query but its condition: what limits, groups or samples is more than that."""
    nodes = [statement["node"] for statement in parsed["statements"]]
    return [{name: value for name, value in node.items() if name != "where_clause"} for node in nodes]


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _walk(child)
