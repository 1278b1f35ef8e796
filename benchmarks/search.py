"""The index against usearch, LanceDB and FAISS by hand: building, memory, size, recall, queries a second.

Usage: python -m benchmarks.search [--n N] [--dim D] [--only NAME,...]

Each is a process of its own, over the same parquet files of made vectors; 1,000 queries that are not among
them, whose true neighbours a comparison with all gives. usearch and LanceDB get a venv of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.output.folder import Output
from spark_embed.output.records import Ledger, PublishedFile, RunRecord, now
from spark_embed.output.state import write_ledger, write_run

from benchmarks.data import CACHE
from benchmarks.measure import REPOSITORY
from benchmarks.peers import REQUIREMENTS, VENVS
from benchmarks.report import describe_machine, machine_line, table_row, warn_if_busy
from benchmarks.search_systems import SYSTEMS, K

N_QUERIES = 1_000
_FILE_ROWS = 125_000
_LATENT = 48
_PACKAGES = ("usearch==2.26.6", "lancedb==0.40.0", "numpy", "pyarrow")
_IN_VENV = ("usearch", "lancedb")


def make_vectors(n: int, dim: int) -> Path:
    """Return an output folder of `n` vectors and queries beside it, made once.

    Clusters that overlap, in 48 dimensions, and noise in all: as of embeddings, the ten nearest of a vector
    are not much nearer than the hundred nearest, and lie in several cells.
    """
    folder = CACHE / f"vectors-{n}-{dim}"
    if (folder / "queries.npz").exists():
        return folder
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(50, n // 100), _LATENT), dtype=np.float32)
    into = rng.standard_normal((_LATENT, dim), dtype=np.float32) / np.sqrt(_LATENT)

    def some(count: int) -> Any:
        latent = centres[rng.integers(len(centres), size=count)] * rng.uniform(0.5, 1.5, (count, 1))
        latent = (latent + rng.standard_normal(latent.shape)).astype(np.float32)
        vectors = latent @ into + 0.3 * rng.standard_normal((count, dim), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    queries = some(N_QUERIES)
    output = Output(str(folder))
    files = []
    best = [np.empty((N_QUERIES, 0), np.float32), np.empty((N_QUERIES, 0), np.int64)]
    for number, first in enumerate(range(0, n, _FILE_ROWS)):
        vectors = some(min(_FILE_ROWS, n - first))
        files.append(_write(output, f"part-{number:05d}.parquet", first, vectors))
        scores = np.concatenate([best[0], queries @ vectors.T], axis=1)
        rows = np.concatenate(
            [best[1], np.tile(np.arange(first, first + len(vectors)), (N_QUERIES, 1))], axis=1
        )
        order = np.argsort(-scores, axis=1)[:, :K]
        best = [np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)]
    _publish(output, files, dim)
    np.savez(folder / "queries.npz", vectors=queries, truth=best[1])
    return folder


def _write(output: Output, name: str, first: int, vectors: Any) -> PublishedFile:
    rows = np.arange(first, first + len(vectors))
    flat = pa.FixedSizeListArray.from_arrays(vectors.astype(np.float32).ravel(), vectors.shape[1])
    columns = {
        "image_id": pa.array(map(str, rows)),
        "shard": pa.array(["made"] * len(rows)),
        "shard_row": rows,
        "embedding": flat.cast(pa.list_(pa.float32())),
    }
    path = Path(output.table("embeddings.parquet"), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=32_768)
    return PublishedFile(name=name, n_rows=len(rows), n_bytes=path.stat().st_size)


def _publish(output: Output, files: list[PublishedFile], dim: int) -> None:
    run = RunRecord(
        run_id="made",
        started_at=now(),
        options={},
        fingerprint={"embedding_dim": dim},
        table_schema={},
        model={"name": "made"},
        parity={},
        versions={},
    )
    write_run(output, run)
    ledger = Ledger(run_id="made", generation=0, updated_at=now(), shards={}, results=tuple(files), errors=())
    write_ledger(output, ledger, None)


def make_venv() -> Path:
    """Return the python of the venv of those that are not installed here."""
    REQUIREMENTS.setdefault("search", _PACKAGES)
    python = VENVS / "search" / "bin" / "python"
    if not (VENVS / "search" / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENVS / "search"], check=True)
        quiet = ["--quiet", "--disable-pip-version-check"]
        subprocess.run([python, "-m", "pip", "install", *quiet, *_PACKAGES], check=True)
        (VENVS / "search" / ".ready").touch()
    return python


def run(name: str, folder: Path) -> dict[str, Any]:
    """Measure one system."""
    python = make_venv() if name in _IN_VENV else Path(sys.executable)
    out = CACHE / "runs" / f"search-{name}"
    command = [python, "-m", "benchmarks.search_systems", name, folder, out]
    environment = {**os.environ, "LANCE_LOG": "error", "RUST_LOG": "error"}  # it warns at each query
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def row(found: dict[str, Any]) -> str:
    """Return a system's row of the table."""
    return table_row(
        [
            found["system"],
            f"{found['build_s']:.1f}",
            f"{found['build_mb']:,.0f}",
            f"{found['disk_mb']:,.0f}",
            f"{found['open_s']:.3f}",
            f"{found['recall']:.3f}",
            f"{found['queries_per_s']:,.0f}",
            f"{found['queries_per_s_together']:,.0f}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--only", default=",".join(SYSTEMS))
    options = parser.parse_args()
    folder = make_vectors(options.n, options.dim)
    machine = describe_machine()
    warn_if_busy(machine)
    head = ["system", "build s", "build MB", "disk MB", "open s", "recall@10", "queries/s", "in one call"]
    print(f"**{options.n:,} vectors of {options.dim} floats**:\n")
    print(f"{table_row(head)}\n{table_row(['---'] * len(head))}", flush=True)
    for name in options.only.split(","):
        print(row(run(name, folder)), flush=True)
    print(f"\n{machine_line(machine)}")


if __name__ == "__main__":
    main()
