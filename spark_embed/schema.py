"""Column names, in and out; knows no type, so that what only reads the output needs no Spark."""

from __future__ import annotations

# Output columns. (shard, shard_row) identifies a row; image_id is for people.
IMAGE_ID = "image_id"
SHARD = "shard"
SHARD_ROW = "shard_row"
EMBEDDING = "embedding"
ERROR = "error"
ERROR_DETAIL = "error_detail"

# Columns that live only between the table of references and the published files.
IMAGE = "__image__"
RESULT = "__result__"

# Columns of an index: the row's shard, its number there, and where its image is (source/index.py).
INDEX_SHARD = "__shard__"
INDEX_ROW = "__shard_row__"
INDEX_COLUMNS = (INDEX_SHARD, INDEX_ROW, IMAGE)

METADATA = "_metadata"  # Spark's hidden column: a real one of that name would take its place

RESERVED = (IMAGE_ID, SHARD, SHARD_ROW, EMBEDDING, ERROR, ERROR_DETAIL, IMAGE, RESULT, METADATA)
"""Names that no own column may have, in any case: Spark's readers do not tell cases apart by default."""
