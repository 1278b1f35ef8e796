"""Whether the workers reach the output by themselves, found out before hours of work: they publish it."""

from __future__ import annotations

from pyspark.sql import SparkSession

from spark_embed.errors import StorageError
from spark_embed.spark.tasks import run_tasks
from spark_embed.storage import impatient, is_s3, list_names


def check_reach(spark: SparkSession, root: str) -> None:
    """Let a worker look into an output folder on S3; on this machine workers have the driver's own means.

    Raises:
        StorageError: it cannot, be it for want of credentials.
    """
    if is_s3(root) and not str(spark.sparkContext.master).startswith("local["):
        look_from_worker(spark, root)


def look_from_worker(spark: SparkSession, root: str) -> None:
    """Let a worker list a folder.

    Raises:
        StorageError: it cannot.
    """
    try:
        run_tasks(spark, _look, [root])
    except StorageError as exc:
        raise StorageError(
            f"--output_dir {root}: the driver reaches it, but not the workers, who publish the files: {exc}; "
            "give their machines a role, or credentials in their environment"
        ) from exc


def _look(root: str) -> None:
    with impatient():
        list_names(root)
