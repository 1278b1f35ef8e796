"""Sessions of a Spark Connect server: how one begins and ends, and what it goes without; knows no JVM."""

from __future__ import annotations

import logging
import socket
import threading
from urllib.parse import urlsplit

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.errors import ConfigError
from spark_embed.platforms import platform
from spark_embed.spark.s3.s3a import needs_s3
from spark_embed.storage import is_s3

logger = logging.getLogger(__name__)

# A server that is away pyspark would ask again for ten minutes.
_PATIENCE_S = 10.0
_PORT = 15002  # pyspark's default


def connect(remote: str) -> SparkSession:
    """Return a session of the server that SPARK_REMOTE names.

    Raises:
        ConfigError: it cannot be reached, or a package is missing.
    """
    address = urlsplit(remote)
    try:
        if address.scheme == "sc":
            socket.create_connection((address.hostname or "", address.port or _PORT), _PATIENCE_S).close()
        return SparkSession.builder.getOrCreate()
    except (PySparkException, Py4JError, RuntimeError, OSError, ValueError, ImportError) as exc:
        why = str(exc).partition("\n")[0] or type(exc).__name__
        where, _, parameters = remote.partition(";")
        for secret in filter(None, parameters.split(";")):  # a token, maybe
            why = why.replace(secret, "...")
        raise ConfigError(f"Spark Connect cannot be used: SPARK_REMOTE {where}: {why}") from None


def disconnect(spark: SparkSession) -> None:
    """End a session, if its server is there to be told."""
    thread = threading.Thread(target=spark.stop, name="disconnect", daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)


def say_what_is_missing(config: Config) -> None:
    """Tell, in one line, what of the options such a session cannot follow; nothing, if it can all."""
    missing = []
    if not platform() and (needs_s3(config) or any(map(is_s3, config.model_directories))):
        missing.append("S3's jars, endpoint, region and credentials are its server's own, not this program's")
    if config.max_error_fraction is not None:
        missing.append("--max_error_fraction counts at the end of each wave, not of each task")
    if missing:
        logger.warning("this is a Spark Connect session: %s", "; ".join(missing))
