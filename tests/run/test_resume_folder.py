"""A second run over an image folder, where every image is a shard of its own."""

from collections import Counter

import numpy as np

from spark_embed.config import Config
from spark_embed.datasets.index import image_folder as folder_index
from spark_embed.run.dry_run import describe_run
from spark_embed.spark.tasks import run_tasks

from support.output_files import count_places


def test_an_image_folder_is_brought_up_to_date(embed, tmp_path, photo_bytes, embedded_rows):
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo_bytes[0])
    embed(tmp_path / "in")
    (tmp_path / "in/a/5.jpg").write_bytes(photo_bytes[1])
    (tmp_path / "in/b/3.jpg").write_bytes(photo_bytes[2])
    (tmp_path / "in/a/2.jpg").unlink()
    (tmp_path / "in/b/4.jpg").write_bytes(b"no image")
    metadata, embeddings, errors = embed(tmp_path / "in")
    assert embedded_rows == [4, 3]
    assert metadata["pending"]["n_gone_shards"] == 1
    assert count_places(embeddings, errors) == Counter(
        (f"{n}.jpg", 0) for n in ("a/1", "a/2", "a/5", "b/3", "b/4")
    )
    assert errors["shard"].tolist() == ["b/4.jpg"]
    (tmp_path / "in/b/4.jpg").write_bytes(photo_bytes[3])
    metadata, embeddings, errors = embed(tmp_path / "in", prune=True)
    assert embedded_rows == [4, 3, 1]
    assert sorted(embeddings["shard"]) == ["a/1.jpg", "a/5.jpg", "b/3.jpg", "b/4.jpg"]
    assert errors.empty
    embed(tmp_path / "in", prune=True)
    assert embedded_rows == [4, 3, 1]
    vectors = embeddings.set_index("shard")["embedding"]
    embed(tmp_path / "in", overwrite=True)
    _, fresh, _ = embed(tmp_path / "in")
    fresh = fresh.set_index("shard")["embedding"]
    assert all(np.allclose(vectors[name], fresh[name], atol=1e-3) for name in fresh.index)


def test_a_walk_that_is_tried_twice_counts_once(embed, tmp_path, photo_bytes, monkeypatch, embedded_rows):
    """The first attempt was given up while it was still at work, and ends after the second, or much later."""
    (tmp_path / "in").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "in" / name).write_bytes(photo_bytes[0])
    embed(tmp_path / "in")
    tasks = []

    def twice(spark, function, items):
        tasks.append(items[0])
        function(items[0])
        (tmp_path / "in/1.jpg").write_bytes(photo_bytes[1])
        (tmp_path / "in/3.jpg").write_bytes(photo_bytes[1])
        found = run_tasks(spark, function, items)
        (tmp_path / "in/2.jpg").write_bytes(photo_bytes[2])
        function(items[0])
        return found

    with monkeypatch.context() as patched:
        patched.setattr(folder_index, "run_tasks", twice)
        embed(tmp_path / "in")
    assert embedded_rows == [2, 2]
    folder_index.update_index(tasks[0])
    _, embeddings, errors = embed(tmp_path / "in")
    assert embedded_rows == [2, 2, 1]
    assert count_places(embeddings, errors) == Counter((f"{n}.jpg", 0) for n in (1, 2, 3))
    files = list((embed.output_dir / "_spark_embed/index").iterdir())
    assert sorted(name for path in files for name in path.name.split(".")[1:]) == sorted(
        3 * ["parquet"] + 2 * ["void", "parquet"]
    )


def test_a_dry_run_changes_nothing(embed, spark, tiny_clip, tmp_path, photo_bytes):
    (tmp_path / "in").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "in" / name).write_bytes(photo_bytes[0])
    embed(tmp_path / "in")
    (tmp_path / "in/2.jpg").unlink()
    (tmp_path / "in/3.jpg").write_bytes(photo_bytes[1])
    paths = {"input_dir": str(tmp_path / "in"), "output_dir": str(embed.output_dir)}
    before = {path: path.read_bytes() for path in embed.output_dir.rglob("*") if path.is_file()}
    text = describe_run(spark, Config(model_directory=str(tiny_clip), prune=True, **paths))
    assert "of which 1 would be embedded" in text
    assert {path: path.read_bytes() for path in embed.output_dir.rglob("*") if path.is_file()} == before
    _, embeddings, _ = embed(tmp_path / "in")
    assert sorted(embeddings["shard"]) == ["1.jpg", "2.jpg", "3.jpg"]


def test_errors_of_an_image_folder_are_retried_once_each(embed, tmp_path, photo_bytes):
    (tmp_path / "in").mkdir()
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (tmp_path / "in" / name).write_bytes(b"no image")
    embed(tmp_path / "in")
    (tmp_path / "in/2.jpg").write_bytes(b"no image yet")
    embed(tmp_path / "in")
    (tmp_path / "in/3.jpg").write_bytes(photo_bytes[0])
    _, embeddings, errors = embed(tmp_path / "in", retry_errors=True)
    assert count_places(embeddings, errors) == Counter({("1.jpg", 0): 1, ("2.jpg", 0): 1, ("3.jpg", 0): 1})
    assert embeddings["shard"].tolist() == ["3.jpg"]
