"""What differs between the Sparks that are supported, 3.5 to 4.3; knows no session.

Of the jars for S3, which depend on the Hadoop inside Spark, `spark_embed.spark.s3.jars` has the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyspark import accumulators
from pyspark.sql import Column
from pyspark.sql import functions as F


def find_arrow_udf() -> Callable[..., Any] | None:
    """Return what makes a column of a function over Arrow; none before 4.1: pandas, then."""
    return getattr(F, "arrow_udf", None)


def valid_utf8(text: Column) -> Column:
    """Return text with U+FFFD for what is not UTF-8."""
    if hasattr(F, "make_valid_utf8"):  # from 4.0 on, where decode() takes nothing but UTF-8
        return F.make_valid_utf8(text)
    return F.decode(text.cast("binary"), "UTF-8")


def replace_accumulators_error_handler(handler: Callable[..., None]) -> None:
    """Let the server that takes accumulators' updates from the JVM call `handler` where that goes wrong."""
    # Of 3.5, of 4.0 on, and that of Unix sockets, from 4.1 on.
    for name in ("AccumulatorServer", "AccumulatorTCPServer", "AccumulatorUnixServer"):
        if server := getattr(accumulators, name, None):
            server.handle_error = handler
