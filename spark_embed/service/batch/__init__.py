"""The objects of scripts that were written for the batch service before this one: doors to the same rooms.

They read, write and run what the other rooms read, write and run, and decide nothing of it themselves.
docs/batch-service.md shows a script.
"""

from spark_embed.service.batch.inference_engine import BatchInferenceEngine
from spark_embed.service.batch.loader import UnifiedDataLoader
from spark_embed.service.batch.orchestrator import BatchInferenceOrchestrator
from spark_embed.service.batch.writer import UnifiedOutputWriter

__all__ = ["BatchInferenceEngine", "BatchInferenceOrchestrator", "UnifiedDataLoader", "UnifiedOutputWriter"]
