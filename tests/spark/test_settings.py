"""The user's settings count."""

from spark_embed.spark.settings import is_task_size_set, settings


def test_a_size_that_somebody_has_set_is_seen(spark):
    assert not is_task_size_set(spark)
    with settings(spark, {"spark.sql.files.maxPartitionBytes": "1000000"}):
        assert is_task_size_set(spark)
    assert not is_task_size_set(spark)
