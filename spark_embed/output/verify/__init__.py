"""`spark-embed verify`: is a published data set whole, row by row and vector by vector? Read `verify` first.

Every file is read once, in batches of bounded memory. Only where rows turn out to be wrong are the
files read again, to name some of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow.parquet as pq
from tqdm import tqdm

from spark_embed.errors import ResumeError, VerifyError
from spark_embed.output.fingerprint import UNGROUPED, is_ungrouped_folder
from spark_embed.output.folder import Output
from spark_embed.output.records import Ledger
from spark_embed.output.snapshot import Snapshot, read_snapshot
from spark_embed.output.state import read_ledger
from spark_embed.output.verify.contents import DataFile
from spark_embed.output.verify.files import CheckedFile, Expected, check_file, read_fingerprint
from spark_embed.output.verify.reading import UNREADABLE
from spark_embed.output.verify.report import Finding, Report
from spark_embed.output.verify.shard_rows import ShardRows
from spark_embed.output.verify.unlisted import check_summary, find_unlisted
from spark_embed.storage import parquet_input

_MAX_THREADS = 8
_TRIES = 3


def verify(output: Output) -> Report:
    """Check the data set that is published in an output folder; changes nothing.

    Raises:
        ConfigError: there is no such folder, or it is not ours.
        StorageError: a file of its state cannot be read.
        VerifyError: runs have published other files again and again meanwhile.
    """
    try:
        for _ in range(_TRIES):
            snapshot = read_snapshot(output)
            report = _verify_once(output, snapshot)
            if not report.n_findings or read_ledger(output) == snapshot.ledger:
                return report
    except ResumeError as exc:
        report = Report(output.root)
        report.add([Finding("state", str(exc))])
        return report
    raise VerifyError(
        f"{output.root}: was published anew each time while it was read; verify it when no run is at work"
    )


def _verify_once(output: Output, snapshot: Snapshot) -> Report:
    report, ledger = Report(output.root, notes=list(_notes(snapshot))), snapshot.ledger
    if snapshot.run is None:
        report.add(
            [Finding("state", "run.json: is missing; put a copy back, or start anew with --overwrite")]
        )
    if ledger is None:
        report.add([Finding("state", "nothing is published yet: no run has come to its end here")])
        return report
    around = [*find_unlisted(output, ledger), *check_summary(output, ledger)]
    if snapshot.owner:  # it may be about to put them right
        report.notes += [text for _, text in around]
    else:
        report.add(around)
    files = _data_files(output, ledger)
    expected = _expected(snapshot, files)
    if is_ungrouped_folder(expected.fingerprint or {}):
        report.add([Finding("state", f"{UNGROUPED}; start anew with --overwrite")])
        return report
    account = ShardRows(ledger.shards)
    readable = []
    for file, checked in zip(files, _check_files(files, expected, account), strict=True):
        report.add(checked.findings)
        if checked.has_keys:
            readable.append(file.path)
    report.add(account.compare(readable))
    report.checked = (
        f"{len(files):,} files, {ledger.n_embedded:,} rows with a vector, {ledger.n_errors:,} without"
    )
    return report


def _check_files(files: Sequence[DataFile], expected: Expected, account: ShardRows) -> Iterator[CheckedFile]:
    n_threads = min(_MAX_THREADS, os.cpu_count() or 1)  # pyarrow and numpy let each other work
    with (
        ThreadPoolExecutor(n_threads) as pool,
        tqdm(
            total=sum(file.listed.n_bytes for file in files),
            unit="B",
            unit_scale=True,
            desc="verifying",
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        checks = pool.map(lambda file: check_file(file, expected, account), files)
        for file, checked in zip(files, checks, strict=True):
            bar.update(file.listed.n_bytes)
            yield checked


def _notes(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.owner:
        yield f"a run is at work here: {snapshot.owner}"
    if snapshot.is_older:
        yield "an older data set is still published; what it should be is taken from its own files"
    if snapshot.waves:
        n_rows = sum(wave.counted.n_rows for wave in snapshot.waves)
        yield f"{len(snapshot.waves):,} complete waves of {n_rows:,} rows are not published yet"
    ledger, progress = snapshot.ledger, snapshot.progress
    if ledger and progress and not snapshot.is_older:
        n_published = ledger.n_embedded + ledger.n_errors
        if n_published < progress.n_rows:
            yield f"{n_published:,} of {progress.n_rows:,} rows are published"


def _data_files(output: Output, ledger: Ledger) -> list[DataFile]:
    return [
        DataFile(output.data_path(kind, listed.name), listed, kind)
        for kind, published in ledger.tables
        for listed in published
    ]


def _expected(snapshot: Snapshot, files: Sequence[DataFile]) -> Expected:
    """Return what run.json says of the files; where that is of another run, what the first file says."""
    if snapshot.run and not snapshot.is_older:
        return Expected(snapshot.run.fingerprint, snapshot.run.table_schema)
    for file in files:
        with suppress(*UNREADABLE):
            if found := read_fingerprint(pq.read_metadata(parquet_input(file.path))):
                return Expected(found)
    return Expected(None)
