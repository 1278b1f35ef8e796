"""Output folders of vectors that a test knows, as a run leaves them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.output.folder import Output
from spark_embed.output.records import Ledger, now
from spark_embed.output.state import read_ledger, write_ledger

from support.output_files import RUN_ID, fingerprint, list_anew, make_run

DIM = 32


def clustered(n: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """Vectors of length 1 around some fifty centres, which all seeds share; float32 (n, dim)."""
    centres = np.random.default_rng(99).normal(size=(50, dim))
    rng = np.random.default_rng(seed)
    made = centres[rng.integers(len(centres), size=n)] + rng.normal(size=(n, dim))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def vector_table(vectors: Sequence[np.ndarray | None], name: str) -> pa.Table:
    """Rows of a shard called `name`; captions have what captions have."""
    rows = range(len(vectors))
    return pa.table(
        {
            "caption": pa.array([f'it\'s "{name}" {row}' for row in rows], pa.string()),
            "width": pa.array([row if row % 10 else None for row in rows], pa.int64()),
            "image_id": pa.array([f"{name}-{row}" for row in rows], pa.string()),
            "shard": pa.array([f"{name}.tar" for _ in rows], pa.string()),
            "shard_row": pa.array([2 * row for row in rows], pa.int64()),
            "embedding": pa.array(list(vectors), pa.list_(pa.float32())),
        }
    )


def publish_vectors(root: Path, files: dict[str, Sequence[np.ndarray | None]], **made_by) -> Output:
    """Bring the output folder to these files, by name; those whose vectors are the same stay as they are."""
    output = Output(str(root))
    folder = Path(output.table("embeddings.parquet"))
    if read_ledger(output) is None:
        dim = next(len(one) for vectors in files.values() for one in vectors if one is not None)
        make_run(output, made_by=fingerprint(embedding_dim=dim, **made_by))
        Path(output.table("errors.parquet")).mkdir(parents=True)
        empty = Ledger(run_id=RUN_ID, generation=0, updated_at=now(), shards={}, results=(), errors=())
        write_ledger(output, empty, None)
        folder.mkdir()
    for path in set(folder.iterdir()) - {folder / f"{name}.parquet" for name in files}:
        path.unlink()
    for name, vectors in files.items():
        table = vector_table(vectors, name)
        path = folder / f"{name}.parquet"
        if not path.exists() or pq.read_table(path) != table:
            pq.write_table(table, path, row_group_size=max(1, len(table) // 3))
    list_anew(output, generation=read_ledger(output).generation + 1)
    return output
