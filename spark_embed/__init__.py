"""spark_embed: image data sets into embeddings with Spark; start reading at `spark_embed.pipeline.run`."""

from spark_embed.config import Config
from spark_embed.errors import ConfigError, ModelError, SparkEmbedError, StorageError
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
