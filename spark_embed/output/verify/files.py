"""One file of a data set, read once and whole: is it what files.json says, and are its rows good?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from spark_embed.errors import ERROR_CODES
from spark_embed.output.fingerprint import codes_of, results_of
from spark_embed.output.verify.columns import check_columns, expected_columns
from spark_embed.output.verify.contents import Contents, DataFile, Wanted
from spark_embed.output.verify.reading import UNREADABLE, first_line, iter_batches, open_parquet
from spark_embed.output.verify.report import Finding
from spark_embed.output.verify.shard_rows import ShardRows
from spark_embed.schema import EMBEDDING_RESULTS, Results
from spark_embed.storage import stat

FACTS = b"spark_embed"
"""Entry of a file's key-value metadata: JSON, in it the fingerprint of its vectors (fingerprint.py)."""


@dataclass(frozen=True)
class Expected:
    """What all files of a data set have in common.

    Attributes:
        fingerprint: what decides what a vector is; None where nobody knows.
        table_schema: run.json's, of the data set's own columns; empty where nobody knows.
    """

    fingerprint: dict[str, Any] | None
    table_schema: dict[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> Results:
        """What the model gives."""
        with suppress(TypeError, ValueError):  # a damaged file's, which is told where it is compared
            return results_of(self.fingerprint or {})
        return EMBEDDING_RESULTS

    @property
    def codes(self) -> frozenset[str]:
        """The codes that its errors may have."""
        with suppress(TypeError):
            return codes_of(self.fingerprint or {})
        return ERROR_CODES

    @property
    def embedding_dim(self) -> int | None:
        """Length of a vector."""
        length = (self.fingerprint or {}).get("embedding_dim")
        return length if isinstance(length, int) else None


class CheckedFile(NamedTuple):
    """What was found; `has_keys` if its rows could be told from one another, as far as they could be read."""

    findings: list[Finding]
    has_keys: bool


def check_file(file: DataFile, expected: Expected, account: ShardRows) -> CheckedFile:
    """Read a file and return what is wrong with it; its rows go to the account."""
    try:
        n_bytes = stat(file.path).n_bytes
    except OSError as exc:
        return CheckedFile([Finding("files", f"{file.name}: cannot be read: {exc.strerror or exc}")], False)
    found = []
    if n_bytes != file.listed.n_bytes:
        text = f"{file.name}: has {n_bytes:,} bytes, in files.json {file.listed.n_bytes:,}"
        found.append(Finding("files", text))
    wanted = Wanted(expected.results, expected.codes, expected.embedding_dim)
    contents, has_keys = Contents(file, wanted), False
    try:
        with open_parquet(file.path) as opened:
            found += _check_footer(file, opened.metadata, expected)
            if odd := contents.odd_column(opened.schema_arrow):
                return CheckedFile([*found, Finding("files", f"{file.name}: {odd}")], False)
            has_keys = True
            columns = expected_columns(expected.table_schema, expected.results, has_results=file.has_results)
            found += check_columns(file, opened, columns, expected.results)
            found += contents.find_strangers(opened.schema_arrow)
            for batch in iter_batches(opened):
                account.add(contents.keyed(batch))
                contents.add(batch)
            found += contents.compare_codes()
    except UNREADABLE as exc:
        found.append(Finding("files", f"{file.name}: cannot be read: {first_line(exc)}"))
    return CheckedFile([*found, *contents.findings()], has_keys)


def read_fingerprint(metadata: pq.FileMetaData) -> dict[str, Any] | None:
    """Return what a file's key-value metadata says of its vectors; None if it does not."""
    try:
        facts = json.loads((metadata.metadata or {})[FACTS])
    except (KeyError, ValueError):
        return None
    found = facts.get("fingerprint") if isinstance(facts, dict) else None
    return found if isinstance(found, dict) else None


def _check_footer(file: DataFile, metadata: pq.FileMetaData, expected: Expected) -> Iterator[Finding]:
    n_rows = metadata.num_rows
    if n_rows != file.listed.n_rows:
        text = f"{file.name}: has {n_rows:,} rows, in files.json {file.listed.n_rows:,}"
        yield Finding("files", text)
    ours, others = expected.fingerprint, read_fingerprint(metadata)
    if others is None:
        yield Finding("files", f"{file.name}: its metadata does not say what made its vectors")
    elif ours is not None and others != ours:
        names = [name for name in sorted({*ours, *others}) if ours.get(name) != others.get(name)]
        text = f"{file.name}: its vectors are made otherwise than run.json says ({', '.join(names)})"
        yield Finding("files", text)
