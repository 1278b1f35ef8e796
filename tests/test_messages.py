"""What a run says before and besides its files: the log, parity's verdict, the dry run."""

import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.config import Config
from spark_embed.errors import ModelError
from spark_embed.pipeline import describe_run


@pytest.fixture
def log(caplog, monkeypatch):
    """What the package logs, as text."""
    monkeypatch.setattr(logging.getLogger("spark_embed"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="spark_embed"):
        yield caplog


def test_parity_below_its_limit_fails_if_told_to(embed, shards, tmp_path):
    with pytest.raises(ModelError, match="below --parity_min_cosine 1"):
        embed(shards, dtype="bfloat16", parity_min_cosine=1, parity_action="fail")
    assert not (tmp_path / "out").exists()


def test_parity_below_its_limit_is_a_warning_by_default(embed, shards, log):
    metadata, _, _ = embed(shards, dtype="bfloat16", parity_min_cosine=1)
    assert metadata["parity"]["min_cosine"] < 1
    assert [r.levelname for r in log.records if "below --parity_min_cosine 1" in r.message] == ["WARNING"]


def test_the_first_lines_say_what_was_found_and_which_model_runs(embed, shards, log):
    embed(shards, model_directory=None, max_samples=1, parity_samples=0)
    assert "found 3 parquet shards, 27 rows" in log.text
    assert "embedded EfficientNet-Lite0" in log.text
    assert "--model_directory openai/clip" in log.text


def test_without_an_image_to_compare_nobody_is_told_that_parity_holds(embed, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"jpg": [b"broken"]}), tmp_path / "in/a.parquet")
    with pytest.raises(ModelError, match="no image of the sample could be compared"):
        embed(tmp_path / "in", parity_action="fail")
    metadata, _, _ = embed(tmp_path / "in", parity_action="fail", parity_samples=0)
    assert metadata["parity"]["n_images"] == 0


def test_a_dry_run_says_what_would_run_and_writes_nothing(spark, shards, tiny_clip, tmp_path):
    config = Config(
        input_dir=str(shards), output_dir=str(tmp_path / "out"), model_directory=str(tiny_clip), max_samples=5
    )
    text = describe_run(spark, config)
    expected = [
        "3 in",
        "27, of which 5 would",
        "caption: string",
        "tiny-clip, 24 values",
        "by reference",
        " tasks, 2 at once",
    ]
    assert [words for words in expected if words not in text] == []
    assert not (tmp_path / "out").exists()
