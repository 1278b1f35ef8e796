"""One index built and asked, in a process of its own; what benchmarks/search.py starts.

Usage: python -m benchmarks.search_systems NAME FOLDER OUT

FOLDER has embeddings.parquet and queries.npz (vectors, truth). Prints a JSON object: seconds of building, its
largest memory, bytes on disk, seconds of opening, and at the least effort that finds 0.95 of the true ten
nearest the recall and the queries a second on one thread, one at a time and in one call. Needs numpy and
pyarrow, and the package that NAME is about.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

TARGET = 0.95
K = 10
N_ALONE = 200

Ask = Callable[[Any, int], Any]
"""(queries, effort) -> ids (n, K)."""


def read_vectors(folder: Path) -> Any:
    """Return all vectors, float32 (n, dim)."""
    column = pq.read_table(folder / "embeddings.parquet", columns=["embedding"])["embedding"]
    dim = len(column[0])
    return np.concatenate([chunk.flatten().to_numpy().reshape(-1, dim) for chunk in column.chunks])


def efforts(first: int) -> Iterator[int]:
    """Yield efforts to try, smallest first."""
    return iter(first * 2**step for step in range(10))


def faiss_hnsw(folder: Path, out: Path) -> tuple[Callable[[], None], Callable[[], Ask], Iterator[int]]:
    """FAISS by hand, as its wiki recommends for so many vectors: HNSW32 over float32."""
    import faiss

    def build() -> None:
        vectors = read_vectors(folder)
        index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        index.add(vectors)
        faiss.write_index(index, str(out / "index.faiss"))

    def opened() -> Ask:
        faiss.omp_set_num_threads(1)
        index = faiss.read_index(str(out / "index.faiss"))
        return lambda queries, effort: index.search(
            queries, K, params=faiss.SearchParametersHNSW(efSearch=effort)
        )[1]

    return build, opened, efforts(8)


def faiss_ivf(folder: Path, out: Path) -> tuple[Callable[[], None], Callable[[], Ask], Iterator[int]]:
    """FAISS by hand: cells of float32, trained as its wiki says."""
    import faiss

    def build() -> None:
        vectors = read_vectors(folder)
        n_cells = int(4 * np.sqrt(len(vectors)))
        index = faiss.index_factory(vectors.shape[1], f"IVF{n_cells},Flat", faiss.METRIC_INNER_PRODUCT)
        rows = np.random.default_rng(0).permutation(len(vectors))[: 50 * n_cells]
        index.train(vectors[rows])
        index.add(vectors)
        faiss.write_index(index, str(out / "index.faiss"))

    def opened() -> Ask:
        faiss.omp_set_num_threads(1)
        index = faiss.read_index(str(out / "index.faiss"), faiss.IO_FLAG_MMAP)
        return lambda queries, effort: index.search(
            queries, K, params=faiss.SearchParametersIVF(nprobe=effort)
        )[1]

    return build, opened, efforts(1)


def usearch(folder: Path, out: Path) -> tuple[Callable[[], None], Callable[[], Ask], Iterator[int]]:
    """A graph of usearch, with its own defaults, by numbers of 8 bits."""
    from usearch.index import Index

    def build() -> None:
        vectors = read_vectors(folder)
        index = Index(ndim=vectors.shape[1], metric="cos", dtype="i8")
        index.add(np.arange(len(vectors)), vectors)
        index.save(str(out / "index.usearch"))

    def opened() -> Ask:
        index = Index.restore(str(out / "index.usearch"), view=True)

        def ask(queries: Any, effort: int) -> Any:
            index.expansion_search = effort
            return index.search(queries, K, threads=1).keys.reshape(-1, K)

        return ask

    return build, opened, efforts(8)


def lancedb(folder: Path, out: Path) -> tuple[Callable[[], None], Callable[[], Ask], Iterator[int]]:
    """A table of LanceDB with its default index; one query a call."""
    import lancedb as lance
    import pyarrow as pa

    def build() -> None:
        vectors = read_vectors(folder)
        column = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
        table = lance.connect(out).create_table(
            "vectors", pa.table({"id": np.arange(len(vectors)), "vector": column})
        )
        table.create_index(metric="cosine")

    def opened() -> Ask:
        table = lance.connect(out).open_table("vectors")

        def ask(queries: Any, effort: int) -> Any:
            return np.stack(
                [
                    table.search(query)
                    .metric("cosine")
                    .nprobes(effort)
                    .refine_factor(10)
                    .limit(K)
                    .select(["id"])
                    .to_arrow()["id"]
                    .to_numpy()
                    for query in queries
                ]
            )

        return ask

    return build, opened, efforts(4)


def spark_embed(folder: Path, out: Path) -> tuple[Callable[[], None], Callable[[], Ask], Iterator[int]]:
    """`spark-embed index`, in this process, without Spark."""
    from spark_embed.search.build import build_index
    from spark_embed.search.index import Index

    def build() -> None:
        build_index(str(folder), str(out / "index"))

    def opened() -> Ask:
        import faiss

        faiss.omp_set_num_threads(1)
        index = Index.open(str(out / "index"))
        return lambda queries, effort: index.search_vectors(queries, K, effort).rows

    return build, opened, efforts(1)


SYSTEMS = {one.__name__: one for one in (spark_embed, faiss_hnsw, faiss_ivf, usearch, lancedb)}


def peak_mb() -> float:
    """Return the largest memory of this process so far; getrusage would begin with its parent's."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def measure(name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Build, open and ask."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    build, opened, tried = SYSTEMS[name](folder, out)
    before_mb = peak_mb()
    started = time.perf_counter()
    build()
    build_s = time.perf_counter() - started
    built_mb = peak_mb()
    with np.load(folder / "queries.npz") as given:
        queries, truth = given["vectors"], given["truth"]
    started = time.perf_counter()
    ask = opened()
    open_s = time.perf_counter() - started
    for effort in tried:
        found = ask(queries, effort)
        recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)])
        if recall >= TARGET:
            break
    started = time.perf_counter()
    for query in queries[:N_ALONE]:
        ask(query[None], effort)
    alone_s = (time.perf_counter() - started) / N_ALONE
    started = time.perf_counter()
    ask(queries, effort)
    return {
        "system": name,
        "build_s": build_s,
        "build_mb": built_mb - before_mb,
        "disk_mb": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6,
        "open_s": open_s,
        "effort": effort,
        "recall": float(recall),
        "queries_per_s": 1 / alone_s,
        "queries_per_s_together": len(queries) / (time.perf_counter() - started),
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
