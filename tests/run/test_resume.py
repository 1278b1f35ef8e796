"""A second run over the same output: only what is new or has changed; never two models in one data set."""

import json
import logging
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.errors import BadShardsError, ResumeError
from spark_embed.output.folder import Output
from spark_embed.output.state import read_ledger
from spark_embed.run import begin, binding, publisher, wave_job, waves

from support.image_files import encode
from support.output_files import count_places


def write_shard(path, images):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(
        pa.table({"key": [f"{path.stem}-{row}" for row in range(len(images))], "jpg": images}), path
    )


@pytest.fixture
def folder(shards, tmp_path):
    """A copy of the shards that a test may change."""
    return shutil.copytree(shards, tmp_path / "in")


def files_of(out):
    """The published files, with their size and time."""
    return {
        f"{kind}/{path.name}": path.stat().st_mtime_ns
        for kind in ("embeddings.parquet", "errors.parquet")
        for path in (out / kind).iterdir()
    }


def test_a_finished_run_ends_at_once_without_a_model(embed, shards, embedded_rows, monkeypatch, caplog):
    first, _, _ = embed(shards)
    monkeypatch.setattr(begin, "make_binding", None)  # nobody may ask for a model
    logging.getLogger("spark_embed").propagate = True
    with caplog.at_level("INFO", "spark_embed"):
        second, _, _ = embed(shards)
    assert embedded_rows == [27]
    assert "nothing to do: all 3 shards are complete" in caplog.text
    assert second == first


@pytest.mark.matrix
def test_new_shards_cost_only_themselves_and_old_files_are_not_rewritten(embed, folder, embedded_rows):
    last = folder / "00002.parquet"
    kept = last.rename(folder.parent / "later")
    embed(folder)
    before = files_of(embed.output_dir)
    kept.rename(last)
    metadata, embeddings, errors = embed(folder)
    assert embedded_rows == [18, 9]
    assert before.items() <= files_of(embed.output_dir).items()
    assert metadata["counts"]["rows"] == 27
    assert metadata["this_run"] == {
        "rows": 9, "embedded": 8, "errors": 1, "errors_by_code": {"null_bytes": 1}, "n_waves": 1
    }  # fmt: skip
    assert set(count_places(embeddings, errors).values()) == {1}


@pytest.mark.matrix
def test_a_replaced_shard_is_done_again_and_its_old_rows_are_gone(embed, folder, embedded_rows, photo_bytes):
    embed(folder)
    pq.write_table(
        pa.table({"key": ["new"], "caption": ["c"], "width": [1], "jpg": photo_bytes[:1]}),
        folder / "00001.parquet",
    )
    metadata, embeddings, errors = embed(folder)
    assert embedded_rows == [27, 1]
    assert metadata["counts"]["rows"] == 19
    assert embeddings[embeddings["shard"] == "00001.parquet"]["key"].tolist() == ["new"]
    assert "00001.parquet" not in set(errors["shard"])
    assert set(count_places(embeddings, errors).values()) == {1}


def test_a_touched_shard_is_known_by_its_content_if_told(embed, folder, embedded_rows):
    embed(folder, verify_shards=True)
    (folder / "00000.parquet").touch()
    embed(folder, verify_shards=True)
    embed(folder)  # and from then on without looking at its content
    assert embedded_rows == [27]
    stat = (folder / "00001.parquet").stat()
    data = bytearray((folder / "00001.parquet").read_bytes())
    other = (folder / "00002.parquet").read_bytes()
    (folder / "00001.parquet").write_bytes(other[: len(data)].ljust(len(data), b"\0"))
    import os

    os.utime(folder / "00001.parquet", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    embed(folder)  # same size, same time: not seen
    assert embedded_rows == [27]
    (folder / "00001.parquet").write_bytes(bytes(data))
    (folder / "00000.parquet").touch()
    embed(folder)
    assert embedded_rows[1:] == [18]


def test_a_shard_that_disappeared_keeps_its_rows_until_told(embed, folder, embedded_rows, caplog):
    embed(folder)
    (folder / "00000.parquet").unlink()
    logging.getLogger("spark_embed").propagate = True
    metadata, embeddings, _ = embed(folder)
    assert "1 shards are no longer in the input: 00000.parquet; their rows are kept" in caplog.text
    assert metadata["counts"]["rows"] == 27
    assert metadata["pending"]["n_gone_shards"] == 1
    metadata, embeddings, _ = embed(folder, prune=True)
    assert metadata["counts"]["rows"] == 18
    assert set(embeddings["shard"]) == {"00001.parquet", "00002.parquet"}
    assert embedded_rows == [27]


def test_another_model_or_precision_stops_and_says_what_differs(embed, folder, tiny_clip, tmp_path):
    from safetensors.torch import load_file, save_file

    embed(folder, dtype="float32")
    (folder / "00002.parquet").rename(folder / "00003.parquet")
    before = files_of(embed.output_dir)
    with pytest.raises(ResumeError, match="normalized: true -> false"):
        embed(folder, dtype="float32", normalize=False)
    with pytest.raises(ResumeError, match=r"columns: caption: string -> none"):
        embed(folder, dtype="float32", drop_columns=("caption",))
    with pytest.raises(ResumeError, match=r"image_id: key -> caption"):
        embed(folder, dtype="float32", id_column="caption")
    with pytest.raises(ResumeError, match="all -> first 3"):
        embed(folder, dtype="float32", max_samples=3)
    other = shutil.copytree(tiny_clip, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file(
        {name: value + 0.01 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ResumeError, match=r"weights_sha256: [0-9a-f]{64} -> [0-9a-f]{64}"):
        embed(folder, dtype="float32", model_directory=str(other))
    assert files_of(embed.output_dir) == before
    _, embeddings, _ = embed(folder, dtype="float32")
    assert len(embeddings) == 32


def test_what_a_run_has_decided_on_large_jpegs_binds_those_that_go_on_with_it(
    embed, tmp_path, photos, photo_bytes
):
    """Small photos alone: nothing to measure, nothing is scaled; not even a large one that comes later."""
    large, small = photo_bytes[0], encode(photos[0].resize((100, 100)))  # for a model of 64 x 64 pixels
    write_shard(tmp_path / "small/0.parquet", [small])
    write_shard(tmp_path / "large/0.parquet", [large])

    metadata, _, _ = embed(tmp_path / "small")
    assert metadata["model"]["jpeg_scaling"] is None
    write_shard(tmp_path / "small/1.parquet", [large])
    metadata, _, _ = embed(tmp_path / "small")
    assert metadata["model"]["jpeg_scaling"] is None

    metadata, _, _ = embed(tmp_path / "large", overwrite=True)
    assert metadata["model"]["jpeg_scaling"] == 160
    assert metadata["parity"]["jpeg_scaling"]["n_images"] == 1
    write_shard(tmp_path / "large/1.parquet", [small])
    with pytest.raises(ResumeError, match="jpeg_scaling: 160 -> none"):
        embed(tmp_path / "large", jpeg_scaling="off")
    metadata, both, _ = embed(tmp_path / "large")
    assert metadata["model"]["jpeg_scaling"] == 160
    assert len(both) == 2


def test_a_finished_run_does_not_pass_for_one_of_another_model(embed, shards):
    """Not even where nothing is left to embed."""
    embed(shards, dtype="float32")
    with pytest.raises(ResumeError, match="normalized"):
        embed(shards, dtype="float32", normalize=False)


def test_a_file_that_has_lost_its_folder_says_what_made_it(embed, shards, tiny_clip):
    metadata, _, _ = embed(shards)
    for kind in ("embeddings.parquet", "errors.parquet"):
        for path in (embed.output_dir / kind).iterdir():
            about = json.loads(pq.read_metadata(path).metadata[b"spark_embed"])
            assert about["model"] == metadata["model"]["name"]
            assert about["fingerprint"]["weights_sha256"] == metadata["model"]["weights_sha256"]
            assert about["fingerprint"]["dtype"] == metadata["model"]["dtype"]


@pytest.mark.matrix
def test_waves_may_be_small_even_inside_one_shard(embed, tmp_path, photo_bytes):
    (tmp_path / "in").mkdir()
    table = pa.table({"n": range(7), "jpg": [photo_bytes[row % 6] for row in range(7)]})
    pq.write_table(table, tmp_path / "in/one.parquet", row_group_size=3)
    one, whole, _ = embed(tmp_path / "in")
    many, parts, _ = embed(tmp_path / "in", wave_s=0.0005, overwrite=True)
    assert one["this_run"]["n_waves"] == 1
    assert many["this_run"]["n_waves"] >= 3  # on any machine: an image takes half a millisecond or more
    assert sorted(parts["shard_row"]) == list(range(7))
    vectors = [np.stack(table.sort_values("n")["embedding"]) for table in (whole, parts)]
    assert np.allclose(*vectors, atol=1e-3)


def test_the_first_waves_of_urls_are_small_because_nobody_knows_what_downloads_take(
    embed, tmp_path, photo_bytes, monkeypatch
):
    """By the model's pace alone the first checkpoint could be hours away."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.jpg").write_bytes(photo_bytes[0])
    (folder / "list.csv").write_text("url\n" + "".join(f"{number}.jpg\n" for number in range(20)))
    monkeypatch.setattr(binding, "_URL_WAVE_ROWS", 4)
    metadata, embeddings, _ = embed(folder, layout="url_list", parity_samples=0)
    assert (metadata["this_run"]["n_waves"], len(embeddings)) == (3, 20)  # two of eight, for two slots


def test_overwrite_starts_anew_and_the_old_files_stay_until_then(embed, shards, monkeypatch):
    embed(shards)
    before = files_of(embed.output_dir)
    monkeypatch.setattr(wave_job, "run_wave", lambda embedded, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed(shards, overwrite=True, normalize=False)
    assert files_of(embed.output_dir) == before
    monkeypatch.undo()
    metadata, embeddings, _ = embed(shards, normalize=False)  # the run that was begun with --overwrite
    assert metadata["model"]["normalized"] is False
    assert len(embeddings) == 24
    assert not before.keys() & files_of(embed.output_dir).keys()


@pytest.mark.parametrize("shape", [{}, {"output_files": 1}])
def test_a_data_set_without_a_row_has_columns_even_after_an_interruption(embed, tmp_path, monkeypatch, shape):
    (tmp_path / "in").mkdir()
    table = pa.table({"key": pa.array([], pa.string()), "jpg": pa.array([], pa.binary())})
    pq.write_table(table, tmp_path / "in/empty.parquet")
    monkeypatch.setattr(wave_job, "run_wave", lambda embedded, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed(tmp_path / "in", parity_samples=0, **shape)
    monkeypatch.undo()
    _, embeddings, errors = embed(tmp_path / "in", parity_samples=0, **shape)
    assert list(embeddings) == ["key", "image_id", "shard", "shard_row", "embedding"]
    assert list(errors) == ["key", "image_id", "shard", "shard_row", "error", "error_detail"]


@pytest.mark.matrix
def test_errors_are_retried_and_recovered_rows_move(embed, tmp_path, photo_bytes, embedded_rows):
    (tmp_path / "in").mkdir()
    for shard in range(3):
        names = [f"{shard}-{row}.jpg" for row in range(4)]
        pq.write_table(pa.table({"url": names}), tmp_path / f"in/{shard}.parquet")
        for name in names[1:]:
            (tmp_path / "in" / name).write_bytes(photo_bytes[0])
    given = {"layout": "parquet"}
    _, embeddings, errors = embed(tmp_path / "in", **given)
    assert errors["url"].tolist() == ["0-0.jpg", "1-0.jpg", "2-0.jpg"]
    before = files_of(embed.output_dir)
    for name in ("0-0.jpg", "2-0.jpg"):
        (tmp_path / "in" / name).write_bytes(photo_bytes[1])
    metadata, embeddings, errors = embed(tmp_path / "in", retry_errors=True, **given)
    assert embedded_rows == [12, 0]
    assert metadata["this_run"]["rows"] == 3
    assert metadata["counts"]["embedded"] == 11
    assert errors["url"].tolist() == ["1-0.jpg"]
    assert set(count_places(embeddings, errors).values()) == {1}
    assert list(embeddings.columns[:-1]) == list(errors.columns[:-2])
    kept = {name for name in before if name in files_of(embed.output_dir)}
    assert any(name in kept for name in before)  # embeddings that were there are not rewritten
    metadata, _, errors = embed(tmp_path / "in", retry_errors=True, **given)
    assert (metadata["this_run"]["rows"], len(errors)) == (1, 1)


def test_the_first_rows_are_not_others_once_a_shard_can_be_read(embed, folder):
    whole = (folder / "00000.parquet").read_bytes()
    (folder / "00000.parquet").write_bytes(b"no parquet")
    embed(folder, max_samples=5)
    (folder / "00000.parquet").write_bytes(whole)
    with pytest.raises(ResumeError, match=r"the first 5 rows of .* are not those that were embedded"):
        embed(folder, max_samples=5)


def test_columns_of_later_shards_must_fit_those_of_the_first_run(embed, folder, photo_bytes):
    embed(folder)
    later = folder / "later.parquet"
    pq.write_table(
        pa.table({"key": ["x"], "width": pa.array([5], pa.int32()), "jpg": photo_bytes[:1]}), later
    )
    for name in ("00000", "00001", "00002"):
        (folder / f"{name}.parquet").unlink()
    _, embeddings, _ = embed(folder)  # a narrower type, and a column that is not there any more
    row = embeddings.set_index("key").loc["x"]
    assert (row["width"], row["caption"]) == (5, None)
    pq.write_table(pa.table({"key": ["y"], "extra": [1], "jpg": photo_bytes[:1]}), folder / "more.parquet")
    with pytest.raises(ResumeError, match=r"columns: .*extra: none -> bigint"):
        embed(folder)
    _, embeddings, _ = embed(folder, drop_columns=("extra",))
    assert len(embeddings) == 26


def test_a_shard_that_cannot_be_read_stays_pending_and_the_others_are_done(embed, folder):
    whole = (folder / "00001.parquet").read_bytes()
    (folder / "00001.parquet").write_bytes(whole[:-100])
    metadata, embeddings, _ = embed(folder)
    assert (metadata["status"], metadata["pending"]["n_bad_shards"]) == ("incomplete", 1)
    assert "00001.parquet" in metadata["pending"]["bad_shards"]
    assert len(embeddings) == 16
    with pytest.raises(BadShardsError, match=r"done and published; the first, 00001\.parquet"):
        embed(folder, fail_on_bad_shard=True)
    (folder / "00001.parquet").write_bytes(whole)
    metadata, embeddings, _ = embed(folder, fail_on_bad_shard=True)
    assert (metadata["status"], len(embeddings)) == ("complete", 24)


def test_a_lost_record_is_written_again_without_a_model(embed, shards, monkeypatch):
    metadata, _, _ = embed(shards)
    (embed.output_dir / "metadata.json").unlink()
    monkeypatch.setattr(begin, "make_binding", None)
    again, _, _ = embed(shards)
    same = ("status", "counts", "model", "parity", "output", "error_examples")
    assert {name: again[name] for name in same} == {name: metadata[name] for name in same}


def test_the_ledger_says_which_rows_are_where(embed, shards):
    embed(shards)
    ledger = read_ledger(Output(str(embed.output_dir)))
    assert {name: state.ranges for name, state in ledger.shards.items()} == {
        f"0000{number}.parquet": ((0, 9),) for number in range(3)
    }
    assert (ledger.n_embedded, ledger.n_errors_by_code) == (24, {"null_bytes": 3})


def test_much_is_published_while_the_run_goes_on(embed, tmp_path, photo_bytes, monkeypatch):
    (tmp_path / "in").mkdir()
    for shard in range(4):
        images = [photo_bytes[row % 6] for row in range(8)]
        pq.write_table(pa.table({"n": range(8), "jpg": images}), tmp_path / f"in/{shard}.parquet")
    monkeypatch.setattr(waves._Loop, "_wave_rows", lambda loop: 5)
    monkeypatch.setattr(publisher, "_PUBLISH_FILES", 3)
    _, embeddings, errors = embed(tmp_path / "in", output_file_bytes=1000)
    ledger = read_ledger(Output(str(embed.output_dir)))
    assert ledger.generation >= 2
    assert set(count_places(embeddings, errors).values()) == {1}
    assert len(embeddings) == 32
    assert len(files_of(embed.output_dir)) == len(ledger.results) + len(ledger.errors)
    assert {state.ranges for state in ledger.shards.values()} == {((0, 8),)}
