"""The user's settings count, and those that a platform keeps."""

from pyspark.errors import AnalysisException
from pyspark.sql.conf import RuntimeConfig

from spark_embed.spark.settings import is_task_size_set, settings


def test_a_size_that_somebody_has_set_is_seen(spark):
    assert not is_task_size_set(spark)
    with settings(spark, {"spark.sql.files.maxPartitionBytes": "1000000"}):
        assert is_task_size_set(spark)
    assert not is_task_size_set(spark)


def test_settings_that_a_platform_keeps_are_told_in_one_line_and_once(spark, monkeypatch, log):
    change = RuntimeConfig.set

    def refuse(conf, name, value):
        if name != "spark.sql.shuffle.partitions":
            raise AnalysisException(f"[CONFIG_NOT_AVAILABLE] Configuration {name} is not available.\n at x")
        change(conf, name, value)

    monkeypatch.setattr(RuntimeConfig, "set", refuse)
    wanted = {"spark.sql.caseSensitive": "true", "spark.sql.shuffle.partitions": "3"}
    before = spark.conf.get("spark.sql.shuffle.partitions")
    for _ in range(2):
        with settings(spark, {**wanted, "spark.sql.parquet.columnarReaderBatchSize": "8"}):
            assert spark.conf.get("spark.sql.shuffle.partitions") == "3"
            assert spark.conf.get("spark.sql.caseSensitive") == "false"
    assert spark.conf.get("spark.sql.shuffle.partitions") == before
    (line,) = [record.getMessage() for record in log.records]
    assert line == (
        "this platform keeps its own settings where a run would have spark.sql.caseSensitive true, "
        "spark.sql.parquet.columnarReaderBatchSize 8 ([CONFIG_NOT_AVAILABLE] Configuration "
        "spark.sql.caseSensitive is not available.)"
    )
