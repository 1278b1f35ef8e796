"""A run in which too many images fail stops early, says why, and leaves what was there before."""

import time
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_type

from spark_embed.errors import ErrorBudgetExceeded
from spark_embed.inference.tally import tallied
from spark_embed.output.records import Counted
from spark_embed.run.error_budget import ErrorBudget
from spark_embed.run.progress import Progress
from spark_embed.schema import EMBEDDING_RESULTS
from spark_embed.spark.jobs import JobGroups
from spark_embed.spark.types import result_type


def write_shards(folder, images):
    folder.mkdir()
    pq.write_table(pa.table({"jpg": images}), folder / "0.parquet")


@pytest.mark.matrix
def test_a_run_of_mostly_errors_publishes_nothing(embed, tmp_path, photo_bytes):
    write_shards(tmp_path / "in", [photo_bytes[0], *[b"<html>"] * 6, None])
    expected = (
        r"7 of the first 8 rows are errors \(88%, most of them not_an_image: 6\), more than --max_error"
    )
    with pytest.raises(ErrorBudgetExceeded, match=expected):
        embed(tmp_path / "in", max_error_fraction=0.5, min_error_count=7)
    assert not (tmp_path / "out/embeddings.parquet").exists()
    assert not list((tmp_path / "out/_spark_embed").glob("markers/*"))  # the rows stay pending
    metadata, _, _ = embed(tmp_path / "in", max_error_fraction=0.5, min_error_count=8)
    assert (metadata["counts"]["errors"], metadata["this_run"]["rows"]) == (7, 8)
    metadata, _, _ = embed(tmp_path / "in", max_error_fraction=0.9, min_error_count=1, overwrite=True)
    assert (metadata["counts"]["errors"], metadata["this_run"]["rows"]) == (7, 8)
    assert metadata["error_examples"]["null_bytes"][0]["image_id"] == "0.parquet#7"
    assert len(metadata["error_examples"]["not_an_image"]) == 3


def run_until_cancelled(spark, jobs, budget, never):
    """Run ten tasks that only give errors; all but the first wait for a file that nobody makes."""
    arrow_type, tally = to_arrow_type(result_type(EMBEDDING_RESULTS)), budget.tally

    def run(arrays):
        for array in arrays:
            while array[0].as_py() > 0 and not never.exists():
                time.sleep(0.05)
            yield pa.array([{"error": "fetch_failed"}] * len(array), arrow_type)

    def report(arrays: Iterator[pa.Array]) -> Iterator[pa.Array]:
        return tallied(run(arrays), EMBEDDING_RESULTS, tally)

    column = F.arrow_udf(report, result_type(EMBEDDING_RESULTS))
    frame = spark.range(0, 100, 1, 10).select(column("id").alias("r"))
    with Progress(jobs, 100), budget, jobs.group("a wave", 100):
        frame.write.format("noop").mode("overwrite").save()


@pytest.mark.skipif(not hasattr(F, "arrow_udf"), reason="arrow_udf exists from Spark 4.1")
def test_the_job_is_cancelled_while_other_tasks_run(spark, tmp_path):
    jobs = JobGroups(spark)
    with pytest.raises(ErrorBudgetExceeded, match="fetch_failed: 10"):
        run_until_cancelled(spark, jobs, ErrorBudget(spark, jobs, 0.1, 5), tmp_path / "never")


def counted(n_rows, **n_errors_by_code) -> Counted:
    """What a wave of so many rows holds."""
    return Counted(
        n_rows=n_rows,
        n_errors_by_code=n_errors_by_code,
        n_tasks=1,
        n_model_loads=1,
        stage_s={},
        batch_limit=None,
    )


def test_the_waves_of_a_run_are_judged_together(spark):
    budget = ErrorBudget(spark, JobGroups(spark), 0.25, 3)
    budget.add(counted(2, timeout=2))  # too few errors to say
    budget.add(counted(14))
    budget.add(counted(4, corrupt=1, timeout=2))  # a quarter, and no more
    with pytest.raises(
        ErrorBudgetExceeded, match=r"6 of the first 20 rows are errors \(30%, most of them timeout: 4\)"
    ):
        budget.add(counted(0, corrupt=1))


def test_without_a_limit_nothing_is_counted(spark):
    with ErrorBudget(spark, JobGroups(spark), None, 1) as budget:
        assert budget.tally is None
        budget.add(counted(10, corrupt=10))
