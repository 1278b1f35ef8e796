"""Any layout under --input_dir -> a table of references; one file here per layout."""

from spark_embed.source.parquet import ParquetSource, find_source

__all__ = ["ParquetSource", "find_source"]
