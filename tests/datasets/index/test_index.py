"""The index of what is not parquet: of as much as is wanted, made once, renewed where something changes."""

import pytest

from spark_embed.errors import BadShardsError, StorageError

from support.shard_files import write_tar


def test_only_as_many_rows_are_indexed_as_are_wanted(embed, tmp_path, photo_bytes):
    for number in range(6):
        members = [(f"{number}-{row}.jpg", photo_bytes[0]) for row in range(3)]
        write_tar(tmp_path / f"in/{number}.tar", members)
    (tmp_path / "in/5.tar").write_bytes(b"never looked at")
    metadata, embeddings, _ = embed(tmp_path / "in", max_samples=4)
    assert sorted(embeddings["key"]) == ["0-0", "0-1", "0-2", "1-0"]
    assert metadata["counts"]["rows"] == 4
    metadata, embeddings, _ = embed(tmp_path / "in", overwrite=True)
    assert (metadata["status"], metadata["input"]["n_shards"], len(embeddings)) == ("incomplete", 6, 15)
    (reason,) = metadata["pending"]["bad_shards"].values()
    assert list(metadata["pending"]["bad_shards"]) == ["5.tar"]
    assert reason.startswith(f"{tmp_path}/in/5.tar: cannot be read as a tar")
    with pytest.raises(BadShardsError, match=r"the first, 5\.tar: .*cannot be read as a tar"):
        embed(tmp_path / "in", fail_on_bad_shard=True)
    write_tar(tmp_path / "in/5.tar", [("5-0.jpg", photo_bytes[1])])
    metadata, embeddings, _ = embed(tmp_path / "in", fail_on_bad_shard=True)
    assert (metadata["status"], metadata["this_run"]["rows"], len(embeddings)) == ("complete", 1, 16)


def test_tars_of_which_none_can_be_read_stop_the_job(embed, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.tar").write_bytes(b"no tar")
    with pytest.raises(
        StorageError, match=r"none of 1 shards can be read; the first: .*/in/0\.tar: cannot be"
    ):
        embed(tmp_path / "in")
    assert not (tmp_path / "out/embeddings.parquet").exists()


def test_an_index_is_made_once_and_renewed_where_the_tar_has_changed(embed, tmp_path, photo_bytes):
    for number in range(2):
        write_tar(tmp_path / f"in/{number}.tar", [("a.jpg", photo_bytes[0])])
    embed(tmp_path / "in")
    index = tmp_path / "out/_spark_embed/index"
    before = {path.name: path.stat().st_mtime_ns for path in index.iterdir()}
    assert len(before) == 2
    write_tar(tmp_path / "in/1.tar", [("a.jpg", photo_bytes[0]), ("b.jpg", photo_bytes[1])])
    metadata, embeddings, _ = embed(tmp_path / "in")
    after = {path.name: path.stat().st_mtime_ns for path in index.iterdir()}
    assert metadata["this_run"]["rows"] == 2  # those of the tar that has changed
    assert sorted(zip(embeddings["shard"], embeddings["key"], strict=True)) == [
        ("0.tar", "a"),
        ("1.tar", "a"),
        ("1.tar", "b"),
    ]
    assert len(after) == 2
    assert len(before.items() & after.items()) == 1


def test_a_model_that_cannot_be_used_leaves_an_index_and_stands_in_nobodys_way(embed, tmp_path, photo_bytes):
    write_tar(tmp_path / "in/0.tar", [("a.jpg", photo_bytes[0])])
    (tmp_path / "empty").mkdir()
    with pytest.raises(Exception, match=r"no config\.json"):
        embed(tmp_path / "in", model_directory=str(tmp_path / "empty"))
    _, embeddings, _ = embed(tmp_path / "in")
    assert len(embeddings) == 1
