"""spark_embed: image data sets into embeddings with Spark; start reading at `spark_embed.pipeline.run`."""

from typing import TYPE_CHECKING

from spark_embed.config import Config
from spark_embed.errors import ConfigError, ModelError, SparkEmbedError, StorageError

if TYPE_CHECKING:
    from spark_embed.udf import image_embedding, image_embedding_result

__all__ = [
    "Config",
    "ConfigError",
    "ModelError",
    "SparkEmbedError",
    "StorageError",
    "image_embedding",
    "image_embedding_result",
]


def __getattr__(name: str) -> object:
    """Import the columns when they are first asked for: with pyspark they take the command a second."""
    if name in ("image_embedding", "image_embedding_result"):
        from spark_embed import udf

        return getattr(udf, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
