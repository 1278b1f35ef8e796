"""Column names, in and out, and what a model's results are called; so reading the output needs no Spark."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

# Output columns. (shard, shard_row) identifies a row; image_id is for people.
IMAGE_ID = "image_id"
TABLE_ID = "id"  # of a table without --id_column
SHARD = "shard"
SHARD_ROW = "shard_row"
EMBEDDING = "embedding"
TEXT_EMBEDDING = "text_embedding"
LABEL = "label"
ERROR = "error"
ERROR_DETAIL = "error_detail"

# Columns that live only between the table of references and the published files.
IMAGE = "__image__"
RESULT = "__result__"

# Columns of an index: the row's shard, its number there, and where its image is (datasets/index/).
INDEX_SHARD = "__shard__"
INDEX_ROW = "__shard_row__"
INDEX_COLUMNS = (INDEX_SHARD, INDEX_ROW, IMAGE)

FAULT = "__fault__"  # in the index of a table of text: why a row is none

METADATA = "_metadata"  # Spark's hidden column: a real one of that name would take its place

RESERVED = (IMAGE_ID, SHARD, SHARD_ROW, EMBEDDING, ERROR, ERROR_DETAIL, IMAGE, RESULT, METADATA)
"""Names that no own column may have, in any case: Spark's readers do not tell cases apart by default."""


FieldType = Literal[
    "vector",
    "string",
    "int",
    "bigint",
    "float",
    "double",
    "boolean",
    "timestamp",
    "array<string>",
    "array<float>",
]
"""Of a column that a model gives, in Spark's words. A vector is array<float> to readers, packed before."""


class Field(NamedTuple):
    """A column of the output that a model gives."""

    name: str
    type: FieldType


class Result(NamedTuple):
    """Columns that a model makes of a row together: all of them are there, or none and an error.

    `name` is what the error is of: where a model gives several results, `<name>_error` holds its code.
    """

    name: str
    fields: tuple[Field, ...]


Results = tuple[Result, ...]

EMBEDDING_RESULTS: Results = (Result(EMBEDDING, (Field(EMBEDDING, "vector"),)),)
"""What an image embedder gives: one vector."""


LABEL_FIELDS = (
    Field(LABEL, "string"),
    Field("label_id", "int"),
    Field("score", "float"),
    Field("top_labels", "array<string>"),
    Field("top_scores", "array<float>"),
)
"""What a classifier gives; the best label by itself, too. `label_id` is null where nobody says it."""


PREDICTION_SCORE = "prediction_score"
PREDICTION_CLASS = "prediction_class"
SCORES = "scores"
TIMESTAMP = "timestamp"
# Of tables: the score of the best of several classes, or of the second of two.

EMBEDDINGS_NAME = "embeddings.parquet"
PREDICTIONS_NAME = "predictions.parquet"
ERRORS_NAME = "errors.parquet"


def table_name(results: Results) -> str:
    """Return the name of the table that a run writes: the one for embeddings if its model gives one."""
    fields = [field for result in results for field in result.fields]
    return EMBEDDINGS_NAME if any(map(_is_embedding, fields)) else PREDICTIONS_NAME


def _is_embedding(field: Field) -> bool:
    """Say whether a column is one, or that of one model of several: embedding_clip."""
    if field.type != "vector":
        return field.name in (EMBEDDING, TEXT_EMBEDDING)
    return re.fullmatch(rf"({EMBEDDING}|{TEXT_EMBEDDING})(_.+)?", field.name) is not None


def error_column(result: str) -> str:
    """Return the name of the column with the code of a result that is missing where others are there."""
    return f"{result}_error"


def error_columns(results: Results) -> list[str]:
    """Return the columns with errors of single results; none where there is one: it is then the row's."""
    return [error_column(result.name) for result in results] if len(results) > 1 else []


def result_columns(results: Results) -> list[str]:
    """Return the columns of the output that are not the data set's own, without those of error rows."""
    return [*(field.name for result in results for field in result.fields), *error_columns(results)]


def vector_columns(results: Results) -> list[str]:
    """Return the columns that hold vectors."""
    return [field.name for result in results for field in result.fields if field.type == "vector"]


def read_results(values: Iterable[Sequence[object]]) -> Results:
    """Return results of their JSON values, lists instead of tuples.

    Raises:
        TypeError, ValueError: they are none.
    """
    return tuple(
        Result(str(name), tuple(Field(str(field), kind) for field, kind in fields))  # type: ignore[attr-defined]
        for name, fields in values
    )
