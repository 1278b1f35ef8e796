"""Shards that cannot be read: they stay pending and are named, and the others are done."""

import shutil
from collections.abc import Callable

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors import PySparkRuntimeError

from spark_embed.errors import BadShardsError, StorageError
from spark_embed.run import wave_job
from spark_embed.run.wave import run_wave

from support.shard_files import break_column, break_pages

NAMES = ["00000.parquet", "00001.parquet", "00002.parquet"]


@pytest.fixture
def folder(shards, tmp_path):
    """A copy of the shards that a test may change."""
    return shutil.copytree(shards, tmp_path / "in")


@pytest.fixture
def before_the_first_wave(monkeypatch) -> Callable:
    """Something happens once preflight and planning are over."""

    def arrange(happen: Callable[[], None]) -> None:
        pending = [happen]

        def happen_then_run(embedded, folder):
            if pending:
                pending.pop()()
            run_wave(embedded, folder)

        monkeypatch.setattr(wave_job, "run_wave", happen_then_run)

    return arrange


def replace_shard(path, photo_bytes):
    """Put another shard of one row into the place of one."""
    pq.write_table(pa.table({"key": ["x"], "jpg": photo_bytes[:1]}), path)


def rows_by_shard(*tables) -> dict[str, int]:
    return pd.concat(tables)["shard"].value_counts().to_dict()


@pytest.mark.parametrize("transport", ["reference", "bytes"])
def test_a_shard_that_changes_during_the_run_is_left_for_the_next(
    embed, folder, photo_bytes, before_the_first_wave, transport
):
    before_the_first_wave(lambda: replace_shard(folder / NAMES[1], photo_bytes))
    metadata, embeddings, errors = embed(folder, image_transport=transport)
    assert (metadata["status"], list(metadata["pending"]["bad_shards"])) == ("incomplete", [NAMES[1]])
    assert rows_by_shard(embeddings, errors) == {NAMES[0]: 9, NAMES[2]: 9}
    metadata, embeddings, errors = embed(folder, image_transport=transport)
    assert (metadata["status"], metadata["this_run"]["rows"]) == ("complete", 1)
    assert rows_by_shard(embeddings, errors) == {NAMES[0]: 9, NAMES[1]: 1, NAMES[2]: 9}


def test_why_a_shard_is_left_out_is_said_at_once_and_kept(
    embed, folder, photo_bytes, before_the_first_wave, log
):
    before_the_first_wave(lambda: replace_shard(folder / NAMES[1], photo_bytes))
    with pytest.raises(
        BadShardsError, match=r"1 shards .*all others are done and published; .*00001"
    ) as told:
        embed(folder, fail_on_bad_shard=True)
    assert "18 rows: 16 embedded" in told.value.summary
    reason = f"{folder}/{NAMES[1]} changed while it was being read"
    (warning,) = (record for record in log.records if "is left out" in record.message)
    assert (warning.levelname, warning.name) == ("WARNING", "spark_embed.run.waves")
    assert warning.message.startswith(f"shard {NAMES[1]} is left out, because it cannot be read: ")
    assert reason in warning.message
    (folder / NAMES[1]).write_bytes(b"no shard any more")
    metadata, embeddings, _ = embed(folder)  # the others were done, in spite of the error
    assert (metadata["status"], metadata["this_run"]["rows"], len(embeddings)) == ("incomplete", 0, 16)
    assert metadata["pending"]["bad_shards"][NAMES[1]].startswith(f"{folder}/{NAMES[1]}: cannot be read as")


def test_a_shard_that_vanishes_during_the_run_is_left_out(embed, folder, before_the_first_wave):
    before_the_first_wave((folder / NAMES[0]).unlink)
    metadata, embeddings, errors = embed(folder)
    assert (metadata["status"], list(metadata["pending"]["bad_shards"])) == ("incomplete", [NAMES[0]])
    assert rows_by_shard(embeddings, errors) == {NAMES[1]: 9, NAMES[2]: 9}
    metadata, embeddings, _ = embed(folder)
    assert (metadata["status"], metadata["this_run"]["rows"], len(embeddings)) == ("complete", 0, 16)


@pytest.mark.parametrize("transport", ["auto", "bytes"])
@pytest.mark.parametrize("name", [NAMES[0], NAMES[2]])
def test_a_shard_with_a_footer_and_broken_data_is_left_out(embed, folder, name, transport):
    """Preflight may meet it, too: it reads some images of some shards."""
    whole = (folder / name).read_bytes()
    break_pages(folder / name)
    metadata, embeddings, errors = embed(folder, image_transport=transport)
    assert (metadata["status"], list(metadata["pending"]["bad_shards"])) == ("incomplete", [name])
    assert metadata["input"]["transport"] == ("bytes" if transport == "bytes" else "reference")
    assert metadata["parity"]["n_images"] > 0
    assert rows_by_shard(embeddings, errors) == {other: 9 for other in NAMES if other != name}
    (folder / name).write_bytes(whole)
    metadata, embeddings, _ = embed(folder, image_transport=transport)
    assert (metadata["status"], metadata["this_run"]["rows"], len(embeddings)) == ("complete", 9, 24)


@pytest.mark.parametrize("column", ["jpg", "caption"])
def test_one_column_of_a_shard_is_broken_and_whoever_reads_it_says_so(embed, folder, column):
    """The worker reads the images, Spark the others."""
    whole = (folder / NAMES[1]).read_bytes()
    break_column(folder / NAMES[1], column)
    metadata, embeddings, errors = embed(folder)
    assert metadata["status"] == "incomplete"
    assert ("row 0 cannot be read" in metadata["pending"]["bad_shards"][NAMES[1]]) == (column == "jpg")
    assert rows_by_shard(embeddings, errors) == {NAMES[0]: 9, NAMES[2]: 9}
    (folder / NAMES[1]).write_bytes(whole)
    metadata, embeddings, _ = embed(folder)
    assert (metadata["status"], metadata["this_run"]["rows"], len(embeddings)) == ("complete", 9, 24)


@pytest.mark.parametrize("transport", ["reference", "bytes"])
def test_a_bad_shard_is_known_by_any_name(embed, folder, transport):
    """Messages of Java and of ours name it each in their way."""
    (folder / "cat=a b+%20").mkdir()
    name = "cat=a b+%20/é [1]{x}'日本.parquet"
    shutil.move(folder / NAMES[1], folder / name)
    for other in (NAMES[0], NAMES[2]):
        shutil.move(folder / other, folder / "cat=a b+%20")
    break_pages(folder / name)
    metadata, embeddings, _ = embed(folder, image_transport=transport)
    assert (list(metadata["pending"]["bad_shards"]), len(embeddings)) == ([name], 16)


def test_a_stale_checksum_file_is_named_with_its_cure(embed, folder):
    """Hadoop believes it, whoever has written the shard anew since."""
    (folder / f".{NAMES[1]}.crc").write_bytes(b"crc\x00\x00\x00\x02\x00" + bytes(4000))
    metadata, embeddings, _ = embed(folder)
    reason = metadata["pending"]["bad_shards"][NAMES[1]]
    assert reason.startswith(
        f"{folder}/{NAMES[1]}: its bytes are not those of which {folder}/.{NAMES[1]}.crc"
    )
    assert "delete that .crc file" in reason
    (folder / f".{NAMES[1]}.crc").unlink()
    metadata, embeddings, _ = embed(folder)
    assert (metadata["status"], len(embeddings)) == ("complete", 24)


def test_a_shard_that_could_be_read_only_once_more_is_not_left_out(embed, folder, monkeypatch, log):
    """It is not known to hold anything wrong; a file server may have been away."""
    failing = [f"{folder}/{NAMES[1]}"]

    def fail_once(embedded, path):
        if failing:
            raise PySparkRuntimeError(
                f"[FAILED_READ_FILE.NO_HINT] Encountered error while reading {failing.pop()}"
            )
        run_wave(embedded, path)

    monkeypatch.setattr(wave_job, "run_wave", fail_once)
    metadata, embeddings, _ = embed(folder, fail_on_bad_shard=True)
    assert (metadata["status"], len(embeddings)) == ("complete", 24)
    assert f"shard {NAMES[1]} is read once more, by itself" in log.text


def test_a_run_that_can_read_no_shard_after_all_stops_and_the_older_one_stays(
    embed, folder, before_the_first_wave
):
    """Its storage may have gone away."""
    embed(folder, max_samples=5)

    def published():
        return {path: path.read_bytes() for path in embed.output_dir.glob("*.*/*")} | {
            path: path.read_bytes() for path in embed.output_dir.glob("metadata.json")
        }

    older = published()
    away = folder.with_name("away")
    before_the_first_wave(lambda: folder.rename(away))
    with pytest.raises(
        StorageError, match=r"none of 3 shards can be read; the first, (0000\d\.parquet): .*/in/\1"
    ):
        embed(folder, overwrite=True)
    assert published() == older
    away.rename(folder)
    metadata, embeddings, _ = embed(folder)
    assert (metadata["status"], len(embeddings)) == ("complete", 24)


def test_nothing_left_to_do_is_not_said_of_shards_that_cannot_be_read(embed, folder, log):
    (folder / NAMES[1]).write_bytes(b"no shard")
    embed(folder)
    log.clear()
    embed(folder)
    assert "2 of 3 shards complete, 0 to do (0 rows)" in log.text
    assert "nothing more could be done: 2 of 3 shards are complete, 1 cannot be read" in log.text
