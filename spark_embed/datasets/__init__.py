"""Data sets of any layout, as the table of references: a row per image, where its bytes are, its columns."""

from spark_embed.datasets.detection.detect import Layout
from spark_embed.datasets.open import check_input, find_layout, needs_index, open_source, readable_roots
from spark_embed.datasets.parquet import ParquetSource
from spark_embed.datasets.shards import BadShard

__all__ = [
    "BadShard",
    "Layout",
    "ParquetSource",
    "check_input",
    "find_layout",
    "needs_index",
    "open_source",
    "readable_roots",
]
