"""Output folders made by hand: what a run leaves, without a run."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.output.folder import Output
from spark_embed.output.records import (
    Counted,
    Ledger,
    Marker,
    Part,
    ProgressRecord,
    PublishedFile,
    RunRecord,
    ShardState,
    now,
)
from spark_embed.output.state import (
    joined,
    read_ledger,
    write_ledger,
    write_marker,
    write_progress,
    write_run,
)
from spark_embed.storage import write_json

DIM = 4
RUN_ID = "run-1"
MODEL = {"name": "tiny"}
TABLE_SCHEMA = {
    "type": "struct",
    "fields": [
        {"name": name, "type": kind, "nullable": True, "metadata": {}}
        for name, kind in (("caption", "string"), ("shard", "string"), ("shard_row", "long"))
    ],
}
Key = tuple[str, int]


def fingerprint(layout: str = "parquet", **values: object) -> dict[str, object]:
    return {"layout": layout, "dtype": "float32", "weights_sha256": "0" * 64, "embedding_dim": DIM, **values}


def vectors_table(keys: Sequence[Key], vectors: Sequence[object] | None = None) -> pa.Table:
    """Rows with vectors of length 1, or the given ones."""
    random = np.random.default_rng(len(keys))
    made = random.normal(size=(len(keys), DIM)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return pa.table(
        {
            "caption": pa.array([f"{shard} {row}" for shard, row in keys], pa.string()),
            "shard": pa.array([shard for shard, _ in keys], pa.string()),
            "shard_row": pa.array([row for _, row in keys], pa.int64()),
            "embedding": pa.array(list(made) if vectors is None else vectors, pa.list_(pa.float32())),
        }
    )


def errors_table(rows: Mapping[Key, str | None]) -> pa.Table:
    """Rows with these errors."""
    table = vectors_table(list(rows)).drop_columns(["embedding"])
    return table.append_column("error", pa.array(rows.values(), pa.string())).append_column(
        "error_detail", pa.array(["" for _ in rows], pa.string())
    )


def write_table(table: pa.Table, path: Path, facts: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = table.replace_schema_metadata({"spark_embed": json.dumps(facts)})
    pq.write_table(table, path, row_group_size=max(1, len(table) // 2))


def shard_keys(shards: Mapping[str, int]) -> list[Key]:
    """All rows of shards with so many rows."""
    return [(shard, row) for shard, n_rows in shards.items() for row in range(n_rows)]


def cut(keys: Sequence[Key], n_parts: int) -> list[Sequence[Key]]:
    """Cut rows into parts of about equal size, in order."""
    bounds = np.linspace(0, len(keys), n_parts + 1).astype(int)
    return [keys[first:end] for first, end in pairwise(bounds)]


def states_of(keys: Sequence[Key]) -> dict[str, ShardState]:
    rows: dict[str, list[tuple[int, int]]] = {}
    for shard, row in keys:
        rows.setdefault(shard, []).append((row, 1))
    return {shard: ShardState("1", joined(found)) for shard, found in rows.items()}


def listed_file(path: Path) -> PublishedFile:
    """What files.json says of a file as it is now."""
    table = pq.read_table(path)
    codes = Counter(table["error"].to_pylist()) if "error" in table.column_names else {}
    return PublishedFile(
        name=path.name,
        n_rows=len(table),
        n_bytes=path.stat().st_size,
        n_errors_by_code={code: number for code, number in codes.items() if code},
    )


def write_summary(output: Output, ledger: Ledger) -> None:
    """Write metadata.json, as far as anybody compares it."""
    counts = {
        "rows": ledger.n_embedded + ledger.n_errors,
        "embedded": ledger.n_embedded,
        "errors": ledger.n_errors,
        "errors_by_code": ledger.n_errors_by_code,
    }
    write_json(
        output.metadata,
        {
            "status": "complete",
            "counts": counts,
            "output": {"generation": ledger.generation, "run_id": ledger.run_id},
            "finished_at": now(),
        },
    )


def list_anew(output: Output, **changes: object) -> Ledger:
    """Write files.json and metadata.json for the files that are there now."""
    old = read_ledger(output)
    files = {
        name: tuple(listed_file(path) for path in sorted(Path(folder).glob("*.parquet")))
        for name, folder in (
            ("results", output.table("embeddings.parquet")),
            ("errors", output.table("errors.parquet")),
        )
    }
    ledger = old.model_copy(update={**files, **changes})
    write_ledger(output, ledger, old)
    write_summary(output, ledger)
    return ledger


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a file, which keeps what it says of itself."""
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def make_run(output: Output, run_id: str = RUN_ID, made_by: Mapping[str, object] | None = None) -> RunRecord:
    run = RunRecord(
        run_id=run_id,
        started_at=now(),
        options={},
        fingerprint=made_by or fingerprint(),
        table_schema=TABLE_SCHEMA,
        model=MODEL,
        parity={},
        versions={},
    )
    write_run(output, run)
    return run


def publish(
    output: Output,
    embeddings: Sequence[Sequence[Key]],
    errors: Mapping[Key, str],
    shards: Mapping[str, ShardState] | None = None,
    made_by: Mapping[str, object] | None = None,
) -> Ledger:
    """Write a data set: a file for each part of the rows with vectors, one file of errors."""
    facts = {"fingerprint": made_by or fingerprint()}
    for number, keys in enumerate(embeddings):
        write_table(
            vectors_table(keys), Path(output.table("embeddings.parquet"), f"part-{number:05d}.parquet"), facts
        )
    write_table(errors_table(errors), Path(output.table("errors.parquet"), "part-00000.parquet"), facts)
    keys = [key for part in embeddings for key in part] + list(errors)
    ledger = Ledger(
        run_id=RUN_ID,
        generation=3,
        updated_at=now(),
        shards=states_of(keys) if shards is None else shards,
        results=(),
        errors=(),
    )
    write_ledger(output, ledger, None)
    return list_anew(output)


def make_output(root: Path, n_files: int = 2) -> Output:
    """A complete run: two shards of ten and of seven rows, of them three errors."""
    output = Output(str(root))
    make_run(output)
    errors = {("a.parquet", 3): "corrupt", ("a.parquet", 4): "corrupt", ("b.parquet", 0): "null_bytes"}
    keys = [key for key in shard_keys({"a.parquet": 10, "b.parquet": 7}) if key not in errors]
    publish(output, cut(keys, n_files), errors)
    make_progress(output, "done")
    return output


def make_progress(output: Output, phase: str, **values: object) -> ProgressRecord:
    """Write how far the run is, later than the summary; of 17 rows all are complete."""
    given = {
        "run_id": RUN_ID, "phase": phase, "started_at": now(), "updated_s": time.time() + 3, "n_rows": 17,
        "n_complete": 17, "n_done_now": 17, "n_shards": 2, "n_complete_shards": 2, "n_errors_by_code": {},
        "embed_s": 2.0, "left_s": None,
    }  # fmt: skip
    record = ProgressRecord(**{**given, **values})
    write_progress(output, record)
    return record


def make_wave(output: Output, wave: str, parts: Sequence[Part], **values: object) -> Marker:
    """Mark a wave complete; its data is nobody's business here."""
    n_rows = sum(part.n_rows for part in parts)
    counted = Counted(
        n_rows=n_rows, n_errors_by_code={}, n_tasks=1, n_model_loads=1, stage_s={}, batch_limit=None
    )
    given = {
        "run_id": RUN_ID, "wave": wave, "units": tuple(parts), "files": {}, "counted": counted,
        "embed_s": 1.0, "finished_at": now(),
    }  # fmt: skip
    marker = Marker(**{**given, **values})
    write_marker(output, marker)
    return marker


def count_places(*tables: pd.DataFrame) -> Counter:
    """Count how often each row of the input is there."""
    table = pd.concat(tables)
    return Counter(zip(table["shard"], table["shard_row"], strict=True))
