"""Another kind of model goes through the engine, which knows nothing of it: counted, resumed, verified."""

import json
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.config import Config
from spark_embed.errors import ConfigError, ErrorBudgetExceeded, ResumeError
from spark_embed.inference import feed
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch.references import Reference
from spark_embed.models import Recipe
from spark_embed.models.registry import IMAGE_EMBEDDER
from spark_embed.output.folder import Output
from spark_embed.output.status import read_status
from spark_embed.output.verify import verify
from spark_embed.pipeline import run

from support.colour_and_length import KIND, ColourAndLength
from support.commands import BIN
from support.crashes import Run

FIND_KIND = "spark_embed.inference.recipes.find_kind"

# What goes wrong: no image; no caption; neither; no image that can be read.
ROWS = [("a cat", True), ("a dog", None), (None, True), (None, None), ("a broken one", False), ("last", True)]


@pytest.fixture
def captioned(tmp_path, photo_bytes):
    """Three shards of the same six rows."""
    (tmp_path / "in").mkdir()
    for shard in range(3):
        images = [photo_bytes[shard] if is_there else is_there for _, is_there in ROWS]
        images = [b"broken" if image is False else image for image in images]
        table = {"caption": [caption for caption, _ in ROWS], "jpg": images}
        pq.write_table(pa.table(table), tmp_path / f"in/{shard}.parquet")
    return tmp_path / "in"


@pytest.fixture
def predict(spark, captioned, tmp_path, monkeypatch):
    """Run the shards through the other kind of model; returns metadata.json and both tables."""
    monkeypatch.setattr(FIND_KIND, lambda options: KIND)

    def predict(**options):
        config = {"input_dir": str(captioned), "output_dir": str(tmp_path / "out"), **options}
        run(spark, Config(**config))
        tables = [pd.read_parquet(tmp_path / f"out/{name}.parquet") for name in ("predictions", "errors")]
        return json.loads((tmp_path / "out/metadata.json").read_text()), *tables

    predict.output = Output(str(tmp_path / "out"))
    return predict


def test_each_result_has_a_column_and_an_error_of_its_own(predict, tmp_path):
    metadata, predictions, errors = predict()
    assert not (tmp_path / "out/embeddings.parquet").exists()
    assert metadata["counts"]["rows"] == 18
    assert (metadata["counts"]["embedded"], metadata["counts"]["errors"]) == (15, 3)
    assert metadata["counts"]["errors_by_code"] == {"null_bytes": 3}
    assert metadata["counts"]["errors_by_result"] == {
        "length": {"missing_value": 3, "null_bytes": 3},
        "mean_colour": {"not_an_image": 3, "null_bytes": 6},
    }
    first = predictions[predictions["shard"] == "0.parquet"].set_index("shard_row").sort_index()
    assert list(first.index) == [0, 1, 2, 4, 5]
    assert first["mean_colour_error"].to_list() == [None, "null_bytes", None, "not_an_image", None]
    assert first["length_error"].to_list() == [None, None, "missing_value", None, None]
    assert [colour is not None and len(colour) for colour in first["mean_colour"]] == [3, False, 3, False, 3]
    assert first["length"].dropna().to_list() == [5, 5, 12, 4]
    assert first["first_word"].to_list() == ["a", "a", None, "a", "last"]
    assert first["caption"].to_list() == ["a cat", "a dog", None, "a broken one", "last"]
    assert errors["shard_row"].to_list() == [3, 3, 3]
    assert errors[["mean_colour_error", "length_error"]].to_numpy().tolist() == [["null_bytes"] * 2] * 3
    assert metadata["parity"]["unmeasured"] == "this kind of model has no reference"
    report = verify(predict.output)
    assert report.n_findings == 0, report.text()
    assert read_status(predict.output).state == "complete"


def test_rows_that_lack_one_result_are_tried_again_with_the_others(predict, captioned, photo_bytes):
    predict()
    path = captioned / "0.parquet"
    before = path.stat()
    rows = pq.read_table(path).to_pylist()
    assert predict()[0]["this_run"]["rows"] == 18  # what the first run said: nothing was left to do
    metadata, predictions, errors = predict(retry_errors=True)
    assert metadata["this_run"]["rows"] == 12  # four of the six rows of each shard lack something
    assert metadata["counts"]["rows"] == len(predictions) + len(errors) == 18
    keys = pd.concat([predictions, errors])[["shard", "shard_row"]]
    assert not keys.duplicated().any()
    assert verify(predict.output).n_findings == 0
    assert (before.st_mtime_ns, rows) == (path.stat().st_mtime_ns, pq.read_table(path).to_pylist())


def test_appended_shards_are_done_and_no_others(predict, captioned):
    predict()
    pq.write_table(pq.read_table(captioned / "0.parquet"), captioned / "3.parquet")
    metadata, _, _ = predict()
    assert (metadata["this_run"]["rows"], metadata["counts"]["rows"]) == (6, 24)
    assert metadata["counts"]["errors_by_result"]["mean_colour"] == {"not_an_image": 4, "null_bytes": 8}
    assert verify(predict.output).n_findings == 0


def test_what_is_wrong_with_one_result_is_found(predict):
    predict()
    (path,) = (file for file in (predict.output.table("predictions.parquet"),))
    name = next(iter(predict.output.data_names("predictions.parquet")))
    table = pq.read_table(f"{path}/{name}", partitioning=None)
    codes = [code and "no_such_code" for code in table["length_error"].to_pylist()]
    index = table.schema.get_field_index("length_error")
    pq.write_table(table.set_column(index, "length_error", pa.array(codes, pa.string())), f"{path}/{name}")
    text = verify(predict.output).text()
    assert "with an length_error that is no known code" in text
    assert "has length_error none, in files.json" in text


def test_the_error_budget_counts_each_result(predict):
    # A sixth of the rows are errors; half of them have no colour.
    with pytest.raises(ErrorBudgetExceeded, match=r"rows have no mean_colour \(50%, most of them null_bytes"):
        predict(max_error_fraction=0.4, min_error_count=1)


def test_another_kind_does_not_go_on_with_its_rows(embed, predict, captioned, monkeypatch):
    predict()
    pq.write_table(pq.read_table(captioned / "0.parquet"), captioned / "3.parquet")
    monkeypatch.setattr(FIND_KIND, lambda options: IMAGE_EMBEDDER)
    with pytest.raises(ResumeError, match=r"differs from this one in .*output: none -> "):
        embed(captioned)


def test_overwrite_replaces_the_table_of_another_kind(embed, predict, captioned, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(FIND_KIND, lambda options: IMAGE_EMBEDDER)
        embed(captioned)
    predict(overwrite=True)
    assert not (tmp_path / "out/embeddings.parquet").exists()
    assert verify(predict.output).n_findings == 0


def test_a_column_that_is_needed_and_not_there_is_told(predict):
    with pytest.raises(ConfigError, match=r"takes a column 'caption' .*--drop_columns"):
        predict(drop_columns="caption")


def test_a_column_that_the_model_gives_is_told(predict, captioned):
    for path in captioned.iterdir():
        table = pq.read_table(path)
        pq.write_table(table.append_column("Length", pa.nulls(len(table), pa.int32())), path)
    with pytest.raises(ConfigError, match="--drop_columns Length"):
        predict()
    assert predict(drop_columns="Length")[0]["counts"]["rows"] == 18


def test_a_code_that_the_model_does_not_declare_is_a_bug(photo_bytes, monkeypatch):
    monkeypatch.setattr(ColourAndLength, "codes", frozenset())
    rows = [(Reference(photo_bytes[0]), {"caption": None})]
    with pytest.raises(ValueError, match="does not declare the error code 'missing_value'"):
        list(feed.run_feed(rows, ColourAndLength(Recipe()), FeedOptions()))


def test_an_image_that_takes_too_long_costs_no_other_result(photo_bytes):
    stuck = threading.Event()

    class NeverDecodes(ColourAndLength):
        def prepare(self, inputs):
            if inputs.error is None:
                stuck.wait()
            return super().prepare(inputs)

    rows = [(Reference(photo_bytes[0]), {"caption": "a cat"})]
    (chunk,) = feed.run_feed(rows, NeverDecodes(Recipe()), FeedOptions(decode_timeout_s=0.1))
    stuck.set()
    assert [error and error.code for error in chunk.errors["mean_colour"]] == ["timeout"]
    assert chunk.columns["length"] == [5]
    assert np.shape(chunk.columns["mean_colour"]) == (0, 3)


@pytest.mark.crash
def test_after_a_kill_it_goes_on_and_nothing_is_missing_or_there_twice(captioned, tmp_path):
    options = ["--input_dir", captioned, "--output_dir", tmp_path / "out", "--parity_samples", 0]
    hold = "spark_embed.storage.local sync markers/ 2"  # one wave is complete, another about to be
    runs = [Run(tmp_path / "1", [BIN / "spark-embed", *options], hold=hold, wave_rows=6, kind=KIND)]
    try:
        runs[0].await_hold()
        runs[0].kill()
        runs.append(Run(tmp_path / "2", [BIN / "spark-embed", *options], wave_rows=6, kind=KIND))
        assert runs[1].wait() == 0, runs[1].said
        assert "1 of 3 shards complete, 2 to do" in runs[1].said
    finally:
        for run in runs:
            run.end()
    predictions, errors = (
        pd.read_parquet(tmp_path / f"out/{name}.parquet") for name in ("predictions", "errors")
    )
    keys = pd.concat([predictions, errors])[["shard", "shard_row"]].to_numpy().tolist()
    assert sorted(keys) == [[f"{shard}.parquet", row] for shard in range(3) for row in range(6)]
    assert verify(Output(str(tmp_path / "out"))).n_findings == 0
