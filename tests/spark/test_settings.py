"""Tasks of a good length, whatever the model's speed; the user's settings count."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from spark_embed.config import Config
from spark_embed.spark.settings import Rate, is_task_size_set, settings, task_settings

from support.sources import find_source, table_of

GB = 1 << 30


def n_tasks(n_bytes, n_rows, n_files, rate) -> float:
    """How many tasks the settings make of such an input."""
    values = task_settings(n_bytes, n_rows, n_files, rate)
    opening = n_files * int(values["spark.sql.files.openCostInBytes"])
    return (n_bytes + opening) / int(values["spark.sql.files.maxPartitionBytes"])


@pytest.mark.parametrize(
    ("row_s", "n_rows", "n_slots"), [(0.001, 10_000_000, 2), (0.05, 1_000_000, 64), (0.5, 10_000, 8)]
)
def test_a_task_of_a_long_run_takes_up_to_a_minute(row_s, n_rows, n_slots):
    tasks = n_tasks(n_rows * 100_000, n_rows, 100, Rate(row_s, n_slots))
    assert 30 < n_rows * row_s / tasks <= 64


def test_a_short_run_has_four_tasks_a_slot_or_tasks_of_two_seconds():
    assert n_tasks(2 * GB, 16_000, 16, Rate(0.004, 2)) == pytest.approx(8, rel=0.02)
    assert n_tasks(GB, 4_000, 4, Rate(0.001, 2)) == pytest.approx(2, rel=0.02)
    assert n_tasks(1000, 10, 1, Rate(0.001, 2)) == pytest.approx(2, rel=0.02)


def test_spark_cuts_the_shards_as_planned(spark, tmp_path, photo_bytes):
    for shard in range(4):
        rows = {"jpg": [photo_bytes[0]] * 60}
        pq.write_table(pa.table(rows), tmp_path / f"{shard}.parquet", row_group_size=5)
    source = find_source(Config(input_dir=str(tmp_path), output_dir="unused"))
    with settings(spark, task_settings(source.n_bytes, source.n_rows, 4, Rate(0.1, 2))):
        table = table_of(spark, source)
        assert table.rdd.getNumPartitions() == 8  # 12 s a slot: 4 tasks of 3 s each
        assert table.groupBy(F.spark_partition_id()).count().agg(F.max("count")).first()[0] <= 35


def test_a_size_that_somebody_has_set_is_seen(spark):
    assert not is_task_size_set(spark)
    with settings(spark, {"spark.sql.files.maxPartitionBytes": "1000000"}):
        assert is_task_size_set(spark)
    assert not is_task_size_set(spark)
