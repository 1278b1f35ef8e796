"""spark_embed: image data sets into embeddings with Spark; start reading at `spark_embed.pipeline.run`."""

from importlib import import_module
from typing import TYPE_CHECKING

from spark_embed.config import Config
from spark_embed.errors import ConfigError, ModelError, SparkEmbedError, StorageError

if TYPE_CHECKING:
    from spark_embed.inference.udf import image_embedding, image_embedding_result
    from spark_embed.service.batch import (
        BatchInferenceEngine,
        BatchInferenceOrchestrator,
        UnifiedDataLoader,
        UnifiedOutputWriter,
    )

__all__ = [
    "BatchInferenceEngine",
    "BatchInferenceOrchestrator",
    "Config",
    "ConfigError",
    "ModelError",
    "SparkEmbedError",
    "StorageError",
    "UnifiedDataLoader",
    "UnifiedOutputWriter",
    "image_embedding",
    "image_embedding_result",
]


_ROOMS = {
    "image_embedding": "inference.udf",
    "image_embedding_result": "inference.udf",
    "BatchInferenceEngine": "service.batch",
    "BatchInferenceOrchestrator": "service.batch",
    "UnifiedDataLoader": "service.batch",
    "UnifiedOutputWriter": "service.batch",
}


def __getattr__(name: str) -> object:
    """Import what needs pyspark when it is first asked for: it takes the command a second."""
    if name in _ROOMS:
        return getattr(import_module(f"spark_embed.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
