"""build_index: it holds what is published; killed, grown and shrunk it is as if it had been made anew."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spark_embed.cli.search import _text
from spark_embed.errors import ConfigError, StorageError
from spark_embed.output.folder import check_output
from spark_embed.search import kinds, training
from spark_embed.search.build import BuildOptions, build_index
from spark_embed.search.index import Index
from spark_embed.search.part import OpenPart
from spark_embed.search.training import read_queries
from spark_embed.search.vectors import read_data_set

from support.vector_sets import clustered, publish_vectors

SMALL_PARTS = BuildOptions(part_rows=100)


def true_neighbours(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """Rows of `vectors` by cosine, the nearest first."""
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]


def part_files(root: Path) -> dict[str, int]:
    """Of each part's codes the time of their writing."""
    return {path.name: path.stat().st_mtime_ns for path in sorted((root / "index/parts").glob("*.faiss"))}


@pytest.mark.parametrize(
    ("n", "max_bytes", "factory"),
    [
        (400, 1 << 30, "Flat"),
        (100_000, 1 << 30, "HNSW32,SQ8"),
        (500_000, 1 << 30, "HNSW32,SQ8"),
        (1_000_000, 1 << 30, "IVF2048,SQ8"),
        (10_000_000, 8 << 30, "IVF8192,SQ8"),
        (1_000_000_000, 1 << 40, "IVF65536_HNSW32,SQ8"),
        (1_000_000_000, 100 << 30, "IVF65536_HNSW32,RaBitQ,Refine(SQ8)"),
    ],
)
def test_the_kind_follows_from_number_length_and_memory(n, max_bytes, factory):
    kind = kinds.choose_kind(n, 512, max_bytes)
    assert kind.factory == factory
    assert kind.n_train * 512 * 4 <= max_bytes
    kinds.make_empty(kind.factory, 512)


@pytest.mark.parametrize(
    "factory", ["Flat", "IVF16,SQ8", "HNSW16,SQ8", "IVF16,RaBitQ,Refine(SQ8)", "PCA24,IVF8,Flat"]
)
def test_recall_is_what_a_comparison_with_all_gives(tmp_path, factory):
    files = {"a": clustered(900, 1), "b": clustered(600, 2)}
    publish_vectors(tmp_path, files)
    manifest = build_index(str(tmp_path), options=BuildOptions(factory=factory, part_rows=900))
    assert len(manifest.parts) == 2
    vectors = np.concatenate(list(files.values()))
    queries = read_queries(str(tmp_path / "index"), manifest.trained)
    own = queries.rows + np.where(queries.files == 0, 0, 900)
    np.testing.assert_allclose(queries.vectors, vectors[own], atol=1e-6)
    index = Index.open(str(tmp_path))
    for measured in manifest.measured:
        hits = 0
        for query, row in zip(queries.vectors, own, strict=True):
            truth = [one for one in true_neighbours(query[None], vectors, 11)[0] if one != row][:10]
            found = [
                one for one in index.search_vectors(query[None], 11, measured.effort).rows[0] if one != row
            ]
            hits += len(set(truth) & set(found[:10]))
        assert measured.recall == pytest.approx(hits / 10 / len(own), abs=0.005)
    if factory in ("Flat", "IVF16,SQ8", "HNSW16,SQ8"):
        assert manifest.recall >= 0.95


def test_each_row_that_has_a_vector_is_in_the_index_once(tmp_path):
    vectors = list(clustered(250))
    holes = {3, 77, 249}
    publish_vectors(
        tmp_path, {"a": vectors[:100], "b": [v if i not in holes else None for i, v in enumerate(vectors)]}
    )
    manifest = build_index(str(tmp_path), options=BuildOptions(factory="IVF4,Flat"))
    assert (manifest.n_rows, manifest.n_vectors) == (350, 347)
    index = Index.open(str(tmp_path))
    hits = index.search(vectors[0], k=1000, effort=4)
    there = {("a.tar", 2 * row) for row in range(100)} | {
        ("b.tar", 2 * row) for row in range(250) if row not in holes
    }
    assert {(hit.shard, hit.shard_row) for hit in hits} == there
    assert len(hits) == len(there)


def test_a_data_set_that_grows_and_shrinks_is_searched_as_if_indexed_anew(tmp_path):
    rows = {name: clustered(150, seed) for seed, name in enumerate("abcd")}
    publish_vectors(tmp_path, {name: rows[name] for name in "abc"})
    build_index(str(tmp_path), options=SMALL_PARTS)
    before = part_files(tmp_path)
    assert len(before) == 3
    replaced = {"a": rows["a"], "e": clustered(150, 77), "d": rows["d"]}  # b and c are gone
    publish_vectors(tmp_path, replaced)
    stale = Index.open(str(tmp_path))
    assert (stale.rows.n_gone, stale.rows.n_new) == (2, 2)
    assert {hit.shard for hit in stale.search(rows["b"][0], 150)} == {"a.tar"}
    manifest = build_index(str(tmp_path), options=SMALL_PARTS)
    after = part_files(tmp_path)
    assert len(after) == 3
    assert len(before.items() & after.items()) == 1  # a's
    index = Index.open(str(tmp_path))
    whole = np.concatenate([replaced[name] for name in "ade"])
    for query in (*rows["b"][:5], *replaced["e"][:5]):
        found = [(hit.shard[0], hit.shard_row // 2) for hit in index.search(query, 10)]
        truth = true_neighbours(query[None], whole, 10)[0]
        assert found == [("ade"[row // 150], row % 150) for row in truth]
    assert manifest.recall == 1.0
    assert build_index(str(tmp_path)) == manifest  # nothing to do


def test_small_parts_give_way_to_larger_ones(tmp_path):
    rows = {name: clustered(20, seed) for seed, name in enumerate("abcdef")}
    publish_vectors(tmp_path, {"a": rows["a"]})
    build_index(str(tmp_path), options=SMALL_PARTS)
    publish_vectors(tmp_path, rows)
    manifest = build_index(str(tmp_path), options=SMALL_PARTS)
    assert [[file.name[0] for file in part.files] for part in manifest.parts] == [list("abcde"), ["f"]]


def test_one_that_has_outgrown_its_kind_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(kinds, "FLAT_MAX", 200)
    publish_vectors(tmp_path, {"a": clustered(150)})
    assert build_index(str(tmp_path)).factory == "Flat"
    publish_vectors(tmp_path, {"a": clustered(150), "b": clustered(150, 1)})
    manifest = build_index(str(tmp_path))
    assert manifest.factory == "HNSW32,SQ8"
    assert len(part_files(tmp_path)) == len(manifest.parts)  # and nothing is left of the old one
    names = {path.name for path in (tmp_path / "index").iterdir()} - {"lock.json.guard"}
    key = manifest.trained
    assert names == {"index.json", "parts", f"trained-{key}.faiss", f"queries-{key}.npz"}


_KILLED = """
import os, signal, sys
from spark_embed.search import build, part
made = []
def make_part(work):
    part.make_part(work)
    made.append(work)
    if len(made) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
build.make_part = make_part
build.build_index(sys.argv[1], options=build.BuildOptions(part_rows=100, factory="IVF4,SQ8"))
"""


def test_a_killed_build_goes_on(tmp_path):
    files = {name: clustered(120, seed) for seed, name in enumerate("abcd")}
    publish_vectors(tmp_path, files)
    done = subprocess.run([sys.executable, "-c", _KILLED, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(ConfigError, match=r"holds no index\.json"):
        Index.open(str(tmp_path))
    before = part_files(tmp_path)
    assert len(before) == 2
    manifest = build_index(str(tmp_path), options=BuildOptions(part_rows=100, factory="IVF4,SQ8"))
    assert before.items() <= part_files(tmp_path).items()
    assert (len(manifest.parts), manifest.n_vectors) == (4, 480)
    assert manifest.recall >= 0.95


def test_spark_tasks_make_the_parts_that_this_process_makes(spark, tmp_path):
    files = {name: clustered(120, seed) for seed, name in enumerate("abc")}
    publish_vectors(tmp_path, files)
    options = BuildOptions(part_rows=100, factory="IVF4,SQ8")
    here = build_index(str(tmp_path), str(tmp_path / "index"), options)
    there = build_index(str(tmp_path), str(tmp_path / "other"), options, lambda: spark)
    assert there.model_copy(update={"built_at": "", "measured": ()}) == here.model_copy(
        update={"built_at": "", "measured": ()}
    )
    for part in here.parts:
        one, other = (tmp_path / place / "parts" / f"{part.name}.faiss" for place in ("index", "other"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("ending", "is_cut"),
    [("faiss", True), ("rows.npz", True), ("refine.faiss", False), ("exact.npz", False)],
)
def test_a_damaged_part_is_made_again_and_no_other(tmp_path, ending, is_cut):
    files = {"a": [*clustered(100), None], "b": clustered(100, 1)}
    publish_vectors(tmp_path, files)
    options = BuildOptions(factory="IVF4,RaBitQ,Refine(SQ8)", part_rows=100)
    manifest = build_index(str(tmp_path), options=options)
    before = part_files(tmp_path)
    path = tmp_path / "index/parts" / f"{manifest.parts[0].name}.{ending}"
    if is_cut:
        path.write_bytes(path.read_bytes()[:-10])
        if ending == "rows.npz":
            with pytest.raises(StorageError, match=r"rows\.npz: cannot be read, or is broken"):
                Index.open(str(tmp_path))
    else:
        path.unlink()
    again = build_index(str(tmp_path))
    assert again.parts == manifest.parts
    assert len(before.items() & part_files(tmp_path).items()) == 2  # the other part's
    assert build_index(str(tmp_path)) == again  # nothing to do
    assert Index.open(str(tmp_path)).search(files["a"][3], 1)[0].image_id == "a-3"


@pytest.mark.parametrize("factory", ["Flat", "IVF4,SQ8", "HNSW16,SQ8"])
def test_which_of_equal_vectors_is_found_does_not_count(tmp_path, factory):
    one, others = clustered(1, 5), clustered(100, 1)
    publish_vectors(tmp_path, {"a": [*others[:50], *[one[0]] * 150], "b": [*[one[0]] * 150, *others[50:]]})
    manifest = build_index(str(tmp_path), options=BuildOptions(factory=factory, part_rows=200))
    assert len(manifest.parts) == 2
    assert manifest.recall >= (1 if factory == "Flat" else 0.95)


def test_rows_without_a_vector_are_made_up_for(tmp_path, monkeypatch):
    monkeypatch.setattr(kinds, "FLAT_MAX", 400)
    monkeypatch.setattr(kinds, "GRAPH_MAX", 400)
    monkeypatch.setattr(training, "N_QUERIES", 20)
    vectors = clustered(60)
    rows = {name: [v for one in vectors for v in (one, *[None] * 49)] for name in "ab"}
    output = publish_vectors(tmp_path, rows)
    data = read_data_set(output.root)
    sample, queries = training.draw(data, 32, 70)
    assert (len(sample), len(queries.vectors)) == (70, 20)
    manifest = build_index(str(tmp_path))
    assert (manifest.n_rows, manifest.n_vectors, manifest.factory) == (6000, 120, "Flat")
    with pytest.raises(ConfigError, match="--factory IVF256,SQ8: 256 cells are more than there are vectors"):
        build_index(str(tmp_path), str(tmp_path / "other"), BuildOptions(factory="IVF256,SQ8"))


def test_one_vector_has_no_neighbour(tmp_path):
    publish_vectors(tmp_path, {"a": [*[None] * 500, clustered(1)[0]]})
    manifest = build_index(str(tmp_path))
    assert (manifest.n_vectors, manifest.recall) == (1, None)
    assert "no vector has another" in _text(manifest)


@pytest.mark.parametrize("factory", ["Flat", "IVF4,SQ8"])
def test_opening_does_not_read_the_codes(tmp_path, factory):
    publish_vectors(tmp_path, {"a": clustered(3000, dim=512)})
    manifest = build_index(str(tmp_path), options=BuildOptions(factory=factory))

    def n_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = n_read()
    OpenPart(str(tmp_path / "index"), manifest.parts[0], kinds.make_empty(factory, 512))
    assert n_read() - before < 100_000


def test_an_index_in_the_output_folder_is_no_stranger_to_the_next_run(tmp_path):
    from spark_embed.config import Config

    publish_vectors(tmp_path / "out", {"a": clustered(30)})
    build_index(str(tmp_path / "out"))
    (tmp_path / "in").mkdir()
    check_output(Config(input_dir=str(tmp_path / "in"), output_dir=str(tmp_path / "out")))


def test_a_data_set_that_is_moved_takes_its_index_along(tmp_path):
    publish_vectors(tmp_path / "out", {"a": clustered(30)})
    build_index(str(tmp_path / "out"))
    build_index(str(tmp_path / "out"), str(tmp_path / "elsewhere"))
    (tmp_path / "out").rename(tmp_path / "moved")
    assert Index.open(str(tmp_path / "moved")).search(clustered(30)[4], 1)[0].image_id == "a-4"
    with pytest.raises(ConfigError, match="out: no run of spark_embed has published"):
        Index.open(str(tmp_path / "elsewhere"))


def test_in_s3(bucket, tmp_path, monkeypatch):
    from spark_embed.storage import upload

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    publish_vectors(tmp_path / "out", {"a": clustered(60), "b": clustered(60, 1)})
    root = f"s3://{bucket}/out"
    for path in filter(Path.is_file, (tmp_path / "out").rglob("*")):
        upload(str(path), f"{root}/{path.relative_to(tmp_path / 'out')}")
    manifest = build_index(root, options=BuildOptions(part_rows=60, factory="IVF4,SQ8"))
    assert (len(manifest.parts), manifest.output_dir) == (2, "..")
    assert Index.open(root).search(clustered(60, 1)[4], 1)[0].image_id == "b-4"
    assert build_index(root) == manifest
