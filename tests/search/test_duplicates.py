"""find_duplicates: planted copies come out, exact ones told apart; a killed one goes on."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.errors import ConfigError, ImageError, ResumeError
from spark_embed.search import buckets, duplicates, near
from spark_embed.search.duplicates import DuplicatesOptions, find_duplicates
from spark_embed.search.pictures import Pictures

from support.output_files import list_anew
from support.vector_sets import clustered, publish_vectors

PLAIN = DuplicatesOptions(n_calibrated=0)


def near_to(vector: np.ndarray, cosine: float) -> np.ndarray:
    noise = np.random.default_rng(int(cosine * 1000)).normal(size=vector.shape)
    noise -= (noise @ vector) * vector
    return (cosine * vector + np.sqrt(1 - cosine**2) * noise / np.linalg.norm(noise)).astype(np.float32)


def tables(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return pd.read_parquet(root / "duplicates/pairs.parquet"), pd.read_parquet(
        root / "duplicates/clusters.parquet"
    )


def planted(root: Path) -> None:
    """Two files; of a's first three rows there are copies, exact and near, by a column of hashes."""
    a = list(clustered(300, 1))
    b = list(clustered(200, 2))
    b[7], b[8], b[9] = a[0], near_to(a[0], 0.97), near_to(a[1], 0.96)
    b[10], b[11] = near_to(a[2], 0.94), None
    output = publish_vectors(root, {"a": a, "b": b})
    for name in "ab":
        path = root / f"embeddings.parquet/{name}.parquet"
        table = pq.read_table(path)
        hashes = [f"{name}{row}" for row in range(len(table))]
        if name == "b":
            hashes[7], hashes[9] = "a0", None
        pq.write_table(table.append_column("sha256", pa.array(hashes)), path)
    list_anew(output, generation=9)


def test_planted_copies_are_found_and_told_apart(tmp_path):
    planted(tmp_path)
    found, _ = find_duplicates(str(tmp_path), options=PLAIN)
    pairs, clusters = tables(tmp_path)
    shown = {
        (row.image_id_a, row.image_id_b): (round(row.score, 3), row.same_bytes) for row in pairs.itertuples()
    }
    assert shown == {
        ("a-0", "b-7"): (1.0, True),
        ("a-0", "b-8"): (0.97, False),
        ("a-1", "b-9"): (0.96, None),
    }
    assert clusters[["cluster", "image_id", "kept"]].values.tolist() == [
        *([0, "a-0", True], [0, "b-7", False], [0, "b-8", False]),
        *([1, "a-1", True], [1, "b-9", False]),
    ]
    assert clusters[["shard", "shard_row"]].values.tolist()[1] == ["b.tar", 14]
    assert (found.n_clusters, found.n_removable, found.n_exact, found.n_near, found.n_unknown) == (
        2,
        3,
        1,
        1,
        1,
    )
    assert found.recall == 1
    before = (tmp_path / "duplicates/metadata.json").read_text()
    assert find_duplicates(str(tmp_path), options=PLAIN)[0] == found
    assert (tmp_path / "duplicates/metadata.json").read_text() == before


def test_the_row_with_the_largest_value_is_kept(tmp_path):
    planted(tmp_path)
    find_duplicates(str(tmp_path), options=DuplicatesOptions(keep="width", n_calibrated=0))
    _, clusters = tables(tmp_path)
    kept = clusters[clusters.kept]
    assert kept.image_id.tolist() == ["b-9", "b-8"]  # width is the row, and null in a-0
    assert clusters[clusters.cluster == 1].image_id.tolist() == ["b-8", "b-7", "a-0"]
    with pytest.raises(ConfigError, match="--keep caption: holds string"):
        find_duplicates(str(tmp_path), options=DuplicatesOptions(keep="caption", n_calibrated=0))
    with pytest.raises(ConfigError, match="--keep size: no such column"):
        find_duplicates(str(tmp_path), options=DuplicatesOptions(keep="size", n_calibrated=0))


def test_thousands_of_the_same_vector_are_one_comparison(tmp_path, monkeypatch):
    sizes = []
    original = near._compared
    monkeypatch.setattr(
        near, "_compared", lambda vectors, *others: sizes.append(len(vectors)) or original(vectors, *others)
    )
    white = list(np.repeat(clustered(1, 3), 6000, axis=0))
    publish_vectors(tmp_path, {"a": [*clustered(50, 1), *white]})
    found, _ = find_duplicates(str(tmp_path), options=PLAIN)
    assert sizes == [51]
    assert (found.n_clusters, found.n_removable, found.n_pairs) == (1, 5999, 5999)


def large(root: Path) -> dict[str, list[np.ndarray]]:
    files = {name: list(clustered(700, seed)) for seed, name in enumerate("abc")}
    for row in range(60):
        files["b"][row] = near_to(files["a"][row], 0.96)
        files["c"][row] = files["a"][row + 100]
    publish_vectors(root, files)
    return files


def test_buckets_by_spark_find_what_one_process_finds(tmp_path, spark, monkeypatch):
    large(tmp_path)
    find_duplicates(str(tmp_path), options=PLAIN)
    pairs, clusters = tables(tmp_path)
    monkeypatch.setattr(duplicates, "_HERE_BYTES", 100_000)
    monkeypatch.setattr(duplicates, "_BUCKET_BYTES", 60_000)
    found, _ = find_duplicates(str(tmp_path), str(tmp_path / "other"), PLAIN, lambda: spark)
    by_spark = pd.read_parquet(tmp_path / "other/pairs.parquet")
    assert len(pairs) >= 120
    pd.testing.assert_frame_equal(by_spark, pairs)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "other/clusters.parquet"), clusters)
    assert found.n_queries > 100
    assert found.recall == 1
    assert {path.name for path in (tmp_path / "other").iterdir() if not path.name.startswith("lock")} == {
        "pairs.parquet",
        "clusters.parquet",
        "metadata.json",
    }


def test_what_was_interrupted_goes_on(tmp_path, monkeypatch):
    large(tmp_path)
    monkeypatch.setattr(duplicates, "_HERE_BYTES", 100_000)
    monkeypatch.setattr(duplicates, "_BUCKET_BYTES", 60_000)
    done: list[str] = []
    n_allowed = 5

    def run_tasks(session, function, items):
        for item in items:
            if len(done) == n_allowed:
                raise KeyboardInterrupt
            function(item)
            done.append(f"{function.__name__} {getattr(item, 'number', '')}{getattr(item, 'name', '')}")

    monkeypatch.setattr(buckets, "run_tasks", run_tasks)
    with pytest.raises(KeyboardInterrupt):
        find_duplicates(str(tmp_path), options=PLAIN, session=lambda: None)
    assert not (tmp_path / "duplicates/metadata.json").exists()
    n_allowed = 100
    find_duplicates(str(tmp_path), options=PLAIN, session=lambda: None)
    assert len(done) == len(set(done)) > 6
    assert len(tables(tmp_path)[0]) >= 120


def test_a_folder_of_others_is_refused(tmp_path):
    planted(tmp_path)
    other = tmp_path / "notes"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(ResumeError, match=r"not ours \(mine.txt\)"):
        find_duplicates(str(tmp_path), str(other), PLAIN)
    with pytest.raises(ConfigError, match=r"--threshold 1\.5: must be between"):
        find_duplicates(str(tmp_path), options=DuplicatesOptions(threshold=1.5))
    with pytest.raises(ConfigError, match="--hash_column md5: no such column"):
        find_duplicates(str(tmp_path), options=DuplicatesOptions(hash_column="md5", n_calibrated=0))


def test_the_pictures_themselves_say_what_is_the_same_and_what_a_threshold_finds(
    embed, shards, photo_bytes, tiny_clip, tmp_path
):
    shards = shutil.copytree(shards, tmp_path / "shards")
    _, rows, _ = embed(shards, parity_samples=0, drop_columns="key")
    root = embed.output_dir
    pictures = Pictures(str(root))
    known = {hashlib.sha256(data).hexdigest() for data in photo_bytes}
    for shard, row in rows[["shard", "shard_row"]].values.tolist():
        assert hashlib.sha256(pictures.read(shard, row)).hexdigest() in known
    for shard, row in (
        ("../secret.parquet", 0),
        ("00000.parquet", 99),
        ("00000.parquet", -1),
        ("/etc/passwd", 0),
    ):
        with pytest.raises(ImageError, match=r"no row .* is published"):
            pictures.read(shard, row)
    options = DuplicatesOptions(threshold=0.999, n_calibrated=4)
    found, calibration = find_duplicates(str(root), options=options)
    assert found.n_removable == found.n_exact == 24 - len(photo_bytes)
    assert found.same_bytes_by == "24 pictures"
    assert calibration == json.loads((root / "duplicates/calibration.json").read_text())
    assert calibration["n_pictures"] == 4
    at = {one["threshold"]: one for one in calibration["thresholds"]}
    assert at[0.8]["recall"]["re-encoded"] == 1
    assert 0 <= at[0.99]["others"] <= at[0.8]["others"] <= 1
    _, rows, _ = embed(shards, parity_samples=0, drop_columns="key")  # the tables are no strangers to a run
    shard = shards / "00000.parquet"
    pq.write_table(pq.read_table(shard).slice(1), shard)
    with pytest.raises(ImageError, match="changed"):
        pictures.read("00000.parquet", 0)


@pytest.mark.parametrize("name", ["pairs.parquet", "clusters.parquet"])
def test_a_table_that_is_gone_is_made_again(tmp_path, name):
    publish_vectors(tmp_path, {"a": [*clustered(20), clustered(20)[3]]})
    find_duplicates(str(tmp_path), options=PLAIN)
    before = pd.read_parquet(tmp_path / "duplicates" / name)
    (tmp_path / "duplicates" / name).unlink()
    find_duplicates(str(tmp_path), options=PLAIN)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "duplicates" / name), before)
