"""metadata.json of duplicates: what the tables hold, of which state of a data set, and how sure that is."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from spark_embed.output.records import Count
from spark_embed.search.data_set_record import OfDataSet
from spark_embed.storage import read_text

METADATA_NAME = "metadata.json"


class Duplicates(OfDataSet):
    """metadata.json: what was found.

    Attributes:
        question: tells these options and this state from others.
        same_bytes_by: what says whether two rows have the same bytes.
        n_pairs, ...: `spark_embed.search.duplicate_tables.Counts`.
        n_queries, n_true_pairs: rows that were compared with all others, and the near ones they have.
        recall: the part of these that are a pair or in one cluster; 1 where all was compared with all, None
            where there is nothing to tell it by.
    """

    product: Literal["spark_embed_duplicates"] = "spark_embed_duplicates"
    format: Literal[1] = 1
    made_at: str
    question: str
    threshold: float
    keep: str | None
    same_bytes_by: str
    n_pairs: Count
    n_clusters: Count
    n_removable: Count
    n_exact: Count
    n_near: Count
    n_unknown: Count
    n_queries: Count
    n_true_pairs: Count
    recall: float | None


def read_duplicates(root: str) -> Duplicates | None:
    """Return what an earlier call has found; None if there is none, or it is another version's.

    Raises:
        StorageError: it cannot be read.
    """
    text = read_text(f"{root}/{METADATA_NAME}")
    try:
        return None if text is None else Duplicates.model_validate_json(text)
    except ValidationError:
        return None
