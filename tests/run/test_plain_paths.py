"""A path without a scheme is this machine's, whatever Spark's default file system is (YARN: HDFS)."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.config import Config
from spark_embed.pipeline import run
from spark_embed.spark.settings import settings

NOBODYS = {"fs.defaultFS": "hdfs://127.0.0.1:1"}  # whoever asks it is refused


@pytest.mark.slow
def test_a_run_and_its_retry_stay_on_this_machine_whatever_the_names(spark, tiny_clip, tmp_path, photo_bytes):
    folder, output_dir = tmp_path / "in [1] a%20b {x}#", tmp_path / "out [2] %41*"
    folder.mkdir()
    images = [*photo_bytes[:3], None]
    pq.write_table(pa.table({"key": list("abcd"), "jpg": images}), folder / "x[1] %2B?.parquet")
    given = {"input_dir": folder, "output_dir": output_dir, "model_directory": tiny_clip}
    config = Config(**{name: str(path) for name, path in given.items()})
    with settings(spark, NOBODYS):
        for again in (config, config.model_copy(update={"retry_errors": True})):
            summary = run(spark, again)
    assert summary.to_dict()["this_run"]["rows"] == 1  # the retry read the published errors
    embeddings, errors = (
        pd.read_parquet(output_dir / f"{name}.parquet") for name in ("embeddings", "errors")
    )
    assert sorted(embeddings["image_id"]) == list("abc")
    assert set(embeddings["shard"]) == {"x[1] %2B?.parquet"}
    assert list(errors["error"]) == ["null_bytes"]
