"""What the records of this room say alike: of which state of a data set they are, where its vectors are."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from spark_embed.output.records import Count
from spark_embed.search.vectors import DataSet


class OfDataSet(BaseModel):
    """A record about the vectors of a data set.

    Attributes:
        product, format: what the file is, for who finds it.
        output_dir: the data set.
        run_id, generation, fingerprint: of its state.
        table, column, dim: where the vectors are, and their length.
        n_rows: of the table.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    product: str
    format: int
    output_dir: str
    run_id: str
    generation: Count
    fingerprint: dict[str, Any]
    table: str
    column: str
    dim: Count
    n_rows: Count


def of_data_set(data: DataSet, dim: int) -> dict[str, Any]:
    """Return the fields of `OfDataSet` that a data set gives, whose vectors have this length."""
    return {
        "output_dir": data.root,
        "run_id": data.run_id,
        "generation": data.generation,
        "fingerprint": data.fingerprint,
        "table": data.table,
        "column": data.column,
        "dim": dim,
        "n_rows": data.n_rows,
    }
