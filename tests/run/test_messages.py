"""What a run says before and besides its files: the log, parity's verdict, the dry run."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.config import Config
from spark_embed.errors import ModelError, ResumeError
from spark_embed.run.dry_run import describe_run


def test_parity_below_its_limit_fails_if_told_to(embed, shards, tmp_path):
    with pytest.raises(ModelError, match="below --parity_min_cosine 1"):
        embed(shards, dtype="bfloat16", parity_min_cosine=1, parity_action="fail")
    assert not (tmp_path / "out").exists()


def test_parity_below_its_limit_is_a_warning_by_default(embed, shards, log):
    metadata, _, _ = embed(shards, dtype="bfloat16", parity_min_cosine=1)
    assert metadata["parity"]["min_cosine"] < 1
    told = [r.levelname for r in log.records if "below --parity_min_cosine 1" in r.message]
    assert told == ["INFO", "WARNING"]  # jpeg_scaling goes without, parity warns


def test_the_first_lines_say_what_was_found_and_which_model_runs(embed, shards, log):
    embed(shards, model_directory=None, max_samples=1, parity_samples=0)
    assert "found 3 parquet shards, 27 rows" in log.text
    assert "embedded EfficientNet-Lite0" in log.text
    assert "--model_directory openai/clip" in log.text


def test_without_an_image_to_compare_nobody_is_told_that_parity_holds(embed, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"jpg": [b"broken"]}), tmp_path / "in/a.parquet")
    with pytest.raises(ModelError, match=r"could be compared \(the first: not_an_image: .*\); "):
        embed(tmp_path / "in", parity_action="fail")
    metadata, _, _ = embed(tmp_path / "in", parity_action="fail", parity_samples=0)
    assert metadata["parity"]["n_images"] == 0


def test_what_a_data_set_says_of_its_images_forges_no_line(embed, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"url": ["/etc/x\nERROR a lie\x1b[31m"]}), tmp_path / "in/a.parquet")
    with pytest.raises(ModelError, match=r"the first: forbidden: .*/etc/x ERROR a lie") as caught:
        embed(tmp_path / "in", parity_action="fail")
    assert str(caught.value).isprintable()


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


def test_a_dry_run_over_an_output_says_what_is_left_and_changes_nothing(
    embed, spark, shards, tiny_clip, tmp_path
):
    def contents():
        """All but what is known of the input's footers, which a dry run may add to."""
        files = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
        return {path: path.read_bytes() for path in files if path.name != "shards.parquet"}

    given = {"output_dir": str(tmp_path / "out"), "model_directory": str(tiny_clip)}
    (tmp_path / "in").mkdir()
    for name in ("00000.parquet", "00001.parquet"):
        (tmp_path / "in" / name).hardlink_to(shards / name)
    embed(tmp_path / "in")
    before = contents()
    text = describe_run(spark, Config(input_dir=str(tmp_path / "in"), **given))
    assert "18, of which 0 would" in text
    assert "0 waves, the first of 0 tasks" in text
    assert "27, of which 9 would" in describe_run(spark, Config(input_dir=str(shards), **given))
    with pytest.raises(ResumeError, match="normalized: true -> false"):
        describe_run(spark, Config(input_dir=str(shards), normalize=False, **given))
    assert contents() == before
