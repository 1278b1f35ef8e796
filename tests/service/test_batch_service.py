"""The doors of the earlier batch service lead to the same rooms: same rows, same options, same errors."""

import json
import os
import threading

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed import (
    BatchInferenceOrchestrator,
    Config,
    ConfigError,
    StorageError,
    UnifiedDataLoader,
    UnifiedOutputWriter,
)


@pytest.fixture
def process(spark, tiny_clip, shards, tmp_path):
    """Run the small shards, or others, through the tiny CLIP into tmp_path/out; returns the summary."""

    def process(input_dir=shards, config=None, max_samples=None, **given):
        """Give the rest to the orchestrator."""
        orchestrator = BatchInferenceOrchestrator(**{"model_directory": tiny_clip, "config": config, **given})
        loader, writer = UnifiedDataLoader(input_dir), UnifiedOutputWriter(tmp_path / "out")
        return orchestrator.process_dataset(loader, writer, max_samples)

    return process


def test_what_the_loader_reads_goes_together_with_what_a_run_writes(material, process, tmp_path):
    loader = UnifiedDataLoader(str(material / "img2dataset/parquet"))
    summary = process(loader.input_dir, max_samples=180)
    assert summary == json.loads((tmp_path / "out/metadata.json").read_text())
    outputs = pd.concat(
        pd.read_parquet(tmp_path / "out" / f"{kind}.parquet") for kind in ("embeddings", "errors")
    )
    assert len(outputs) == 180

    shards = loader.list_shards()
    assert shards == [f"{number:05d}.parquet" for number in range(5)]
    assert set(outputs["shard"]) == set(shards[:2])
    frames = {shard: loader.load_shard(shard) for shard in shards}
    for row in outputs.itertuples():
        original = frames[row.shard].loc[row.shard_row]
        assert (row.key, row.category) == (original["key"], original["category"])
        assert (original["jpg"] is None) == (row.error == "null_bytes")

    samples = list(loader.iterate_samples())
    whole = pa.concat_tables(pq.read_table(f"{loader.input_dir}/{shard}") for shard in shards)
    assert samples == whole.to_pylist()
    assert len(samples) == 409


def test_samples_of_a_large_row_group_take_little_memory(tmp_path):
    rows = [{"key": str(row), "jpg": os.urandom(8_000)} for row in range(10_000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "0.parquet")
    assert pq.read_metadata(tmp_path / "0.parquet").num_row_groups == 1
    samples = UnifiedDataLoader(tmp_path).iterate_samples()
    before, most = pa.total_allocated_bytes(), 0
    for row, sample in zip(rows, samples, strict=True):
        assert sample == row
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 30_000_000  # of 80 MB; a page as pyarrow writes it has 1,024 rows


def test_a_shard_without_rows_or_with_columns_of_its_own_is_read_as_it_is(tmp_path):
    pq.write_table(pa.table({"a": [1, None]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": pa.array([], pa.int64())}), tmp_path / "2.parquet")
    (tmp_path / "cat=007").mkdir()
    pq.write_table(pa.table({"c": ["x"]}), tmp_path / "cat=007/3.parquet")
    loader = UnifiedDataLoader(tmp_path)
    assert list(loader.iterate_samples()) == [{"a": 1}, {"a": None}, {"c": "x"}]
    assert list(loader.load_shard("cat=007/3.parquet").columns) == ["c"]
    assert loader.load_shard("2.parquet").empty


@pytest.mark.parametrize("folder", ["img2dataset/webdataset", "img2dataset/files", "photos"])
def test_other_layouts_are_left_to_the_orchestrator(material, folder):
    loader = UnifiedDataLoader(material / folder)
    for read in (loader.list_shards, lambda: next(loader.iterate_samples())):
        with pytest.raises(
            ConfigError, match="reads parquet shards only; BatchInferenceOrchestrator takes every"
        ):
            read()
    with pytest.raises(ConfigError, match=r"no \*.parquet file"):
        loader.load_shard("00000.tar")


def test_tars_go_through_the_orchestrator(material, process):
    summary = process(material / "img2dataset/webdataset", max_samples=10)
    assert (summary["counts"]["rows"], summary["input"]["layout"]) == (10, "img2dataset_webdataset")


@pytest.mark.parametrize(
    "name", ["../a", "/etc/a", "a/../../b", "a//b", ".", "", "a/", "s3://other/a", "a\0b"]
)
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    loader, writer = UnifiedDataLoader(tmp_path), UnifiedOutputWriter(tmp_path / "out")
    refused = [lambda: loader.load_shard(name), lambda: loader.load_shard(f"{name}.parquet/../x.parquet")]
    if name:  # a name that is only the suffix is one
        refused.append(lambda: writer.write_json({}, f"{name}/x"))
    for act in refused:
        with pytest.raises(ConfigError, match="below the folder"):
            act()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    ["embeddings", "errors.parquet", "Errors.PARQUET/x", "_spark_embed/run", "embeddings.parquet/part"],
)
def test_names_of_a_run_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="is what a run writes"):
        UnifiedOutputWriter(tmp_path).write_parquet(pd.DataFrame({"a": [1]}), name)
    with pytest.raises(ConfigError, match="is what a run writes"):
        UnifiedOutputWriter(tmp_path).write_json({}, "metadata")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read_is_told(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    loader = UnifiedDataLoader(tmp_path)
    for shard in ("broken.parquet", "absent.parquet"):
        with pytest.raises(StorageError, match=f"{shard}: cannot be read as parquet"):
            loader.load_shard(shard)
    with pytest.raises(StorageError, match=r"broken\.parquet"):
        next(loader.iterate_samples())
    with pytest.raises(ConfigError, match="there is no such folder"):
        UnifiedDataLoader(tmp_path / "nowhere").list_shards()
    with pytest.raises(ConfigError, match="input_dir ftp://x: ftp: is not read; only local paths"):
        UnifiedDataLoader("ftp://x")


def test_the_writers_files_are_whole_or_as_they_were(tmp_path):
    writer = UnifiedOutputWriter(tmp_path / "out")
    table = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    path = writer.write_parquet(table, "stats/day")
    assert path == str(tmp_path / "out/stats/day.parquet")
    assert writer.write_json({"ä": 1}, "one.json") == str(tmp_path / "out/one.json")
    for write in (
        lambda: writer.write_parquet(pd.DataFrame({"a": [1, "mixed"]}), "stats/day.parquet"),
        lambda: writer.write_json({"a": threading.Lock()}, "one"),
    ):
        with pytest.raises(ConfigError, match="cannot be written as"):
            write()
    pd.testing.assert_frame_equal(pd.read_parquet(path), table)
    assert json.loads((tmp_path / "out/one.json").read_text()) == {"ä": 1}
    assert not list(tmp_path.rglob("*.tmp"))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        UnifiedOutputWriter(tmp_path / "file").write_json({}, "one")


def test_runs_live_with_the_writers_files(process, tmp_path):
    from spark_embed.output.folder import Output
    from spark_embed.output.verify import verify

    writer = UnifiedOutputWriter(tmp_path / "out")
    writer.write_json({"why": "before the first run"}, "settings")
    (tmp_path / "out/settings.json.1-2.tmp").touch()  # of a writer that was killed
    assert process()["counts"]["rows"] == 27
    writer.write_parquet(pd.DataFrame({"a": [1]}), "after/stats")
    assert process()["this_run"]["rows"] == 27  # nothing to do: still the first run's
    assert process(config={"overwrite": True})["counts"]["rows"] == 27
    assert json.loads((tmp_path / "out/settings.json").read_text()) == {"why": "before the first run"}
    assert len(pd.read_parquet(tmp_path / "out/after/stats.parquet")) == 1
    verify(Output(str(tmp_path / "out"))).check()
    assert len(pd.read_parquet(tmp_path / "out/embeddings.parquet")) == 24
    (tmp_path / "out/thesis.txt").touch()
    with pytest.raises(ConfigError, match=r"not ours \(thesis.txt\)"):
        process()


def test_a_run_that_fails_leaves_the_writers_files(process, tmp_path):
    UnifiedOutputWriter(tmp_path / "out").write_json({}, "settings")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError):
        process(tmp_path / "empty")
    assert (tmp_path / "out/settings.json").exists()


def test_options_come_from_everywhere_and_are_the_commands(process, shards, tmp_path):
    config = {
        "normalize": False,
        "batch_size": "4",
        "num_workers": 2,
        "input_dir": f"{shards}/../{shards.name}",
    }
    told = process(config=config, batch_size=4, max_samples=9)["config"]
    assert (told["normalize"], told["batch_size"], told["num_workers"], told["max_samples"]) == (
        False,
        4,
        2,
        9,
    )
    assert (told["input_dir"], told["output_dir"]) == (str(shards), str(tmp_path / "out"))


def test_options_of_a_file_and_of_a_config_count(process, shards, tmp_path):
    (tmp_path / "run.yaml").write_text("batch_size: 3\nparity_samples: 0\n")
    told = process(config=tmp_path / "run.yaml")["config"]
    assert (told["batch_size"], told["parity_samples"]) == (3, 0)
    config = Config(
        input_dir=str(shards), output_dir=str(tmp_path / "out"), drop_columns="caption", overwrite=True
    )
    told = process(config=config, batch_size=5)["config"]
    assert (told["batch_size"], told["drop_columns"]) == (5, ["caption"])


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (
            {"batch_size": 8},
            {"batch_size": 4},
            "batch_size: config says 8, BatchInferenceOrchestrator says 4",
        ),
        ({"max_samples": 8}, {"max_samples": 4}, "max_samples: config says 8, process_dataset says 4"),
        ({"input_dir": "elsewhere"}, {}, "input_dir: config says 'elsewhere', UnifiedDataLoader says"),
        ({"batch_sise": 8}, {}, "unknown option 'batch_sise'; did you mean batch_size"),
        ({}, {"batch_size": 0}, r"--batch_size 0 \(from BatchInferenceOrchestrator\)"),
        ({"dry_run": True}, {}, "dry_run has no effect here"),
        ({"env": "prod"}, {}, "env has no effect here"),
        ("/nowhere.yaml", {}, "/nowhere.yaml: cannot be read"),
    ],
)
def test_options_that_cannot_be_are_told_and_nothing_is_written(process, tmp_path, config, given, message):
    with pytest.raises(ConfigError, match=message):
        process(config=config, **given)
    assert not (tmp_path / "out").exists()


def test_the_region_is_the_processs(monkeypatch, shards, tmp_path):
    monkeypatch.setenv("AWS_REGION", "us-east-2")
    loader = UnifiedDataLoader(shards)
    assert os.environ["AWS_REGION"] == "us-east-2"
    writer = UnifiedOutputWriter(tmp_path / "out", aws_region="eu-west-1")
    assert os.environ["AWS_REGION"] == "eu-west-1"
    with pytest.raises(ConfigError, match="aws_region: config says 'eu-west-2', UnifiedOutputWriter says"):
        BatchInferenceOrchestrator(config={"aws_region": "eu-west-2"}).process_dataset(loader, writer)


def test_a_session_that_is_there_is_used_and_left_on_any_thread(spark, process, monkeypatch):
    """Spark knows an active session only on the thread that made it."""
    summaries = []
    thread = threading.Thread(target=lambda: summaries.append(process(max_samples=3)))
    thread.start()
    thread.join()
    assert summaries[0]["counts"]["rows"] == 3
    assert spark.range(2).count() == 2


def test_the_loader_and_the_writer_work_in_s3(bucket, shards, tmp_path, monkeypatch):
    from spark_embed.output.folder import check_output
    from spark_embed.storage import is_s3, replaced_file

    for shard in sorted(shards.iterdir()):
        with replaced_file(f"s3a://{bucket}/in/{shard.name}") as staged, open(staged, "wb") as file:
            file.write(shard.read_bytes())
    local, loader = UnifiedDataLoader(shards), UnifiedDataLoader(f"s3://{bucket}/in")
    assert loader.list_shards() == local.list_shards()
    assert list(loader.iterate_samples()) == list(local.iterate_samples())
    with pytest.raises(StorageError, match=r"absent\.parquet"):
        loader.load_shard("absent.parquet")

    writer = UnifiedOutputWriter(f"s3://{bucket}/out")
    frame = local.load_shard("00001.parquet")
    path = writer.write_parquet(frame, "copies/one")
    assert is_s3(path)
    assert path.endswith(f"://{bucket}/out/copies/one.parquet")
    writer.write_json({"a": 1}, "settings")
    pd.testing.assert_frame_equal(
        UnifiedDataLoader(writer.output_dir).load_shard("copies/one.parquet"), frame
    )
    check_output(Config(input_dir=loader.input_dir, output_dir=writer.output_dir))
