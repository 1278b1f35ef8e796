"""Data sets of any layout, as the table of references: a row per image, where its bytes are, its columns."""

from spark_embed.source.detect import Layout
from spark_embed.source.opening import check_input, find_layout, needs_index, open_source
from spark_embed.source.parquet import ParquetSource
from spark_embed.source.shards import BadShard

__all__ = ["BadShard", "Layout", "ParquetSource", "check_input", "find_layout", "needs_index", "open_source"]
