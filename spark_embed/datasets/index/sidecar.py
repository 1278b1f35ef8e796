"""img2dataset's parquet beside a tar or a folder: its rows, joined by key with where their images are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed.datasets.detection.first_rows import texts_of
from spark_embed.datasets.image_types import is_text
from spark_embed.datasets.index.rows import ROWS_PER_BATCH, Place, Rows, make_rows
from spark_embed.errors import ConfigError, StorageError
from spark_embed.storage import parquet_input, shown_path

KEY = "key"


def join_sidecar(path: str, shard: str, places: Mapping[str, list[Place]]) -> Iterator[Rows]:
    """Yield every row of the parquet with the place of its key's image, None for a row that has none.

    Images whose key is in no row come last, with that key and nulls.

    Args:
        path: of the parquet.
        shard: the name of the shard.
        places: of the images by key; a key may have several, which its rows take in turn.

    Raises:
        ConfigError: the parquet has no text column "key", or two columns of one name.
        StorageError: it cannot be read.
    """
    left = {key: list(found) for key, found in places.items()}
    try:
        with pq.ParquetFile(parquet_input(path)) as file:
            schema = file.schema_arrow.remove_metadata()
            if repeated := [name for name in schema.names if schema.names.count(name) > 1]:
                raise ConfigError(f"{path}: two columns are called {repeated[0]!r}; rename one")
            if KEY not in schema.names or not is_text(schema.field(KEY).type):
                raise ConfigError(
                    f"{path}: has no text column {KEY!r} that names its images; choose another --layout"
                )
            first = 0
            for batch in file.iter_batches(ROWS_PER_BATCH):
                keys = [key and shown_path(key) for key in texts_of(batch.column(KEY))]  # as the images' are
                taken = [left[key].pop(0) if key and left.get(key) else None for key in keys]
                own = pa.Table.from_batches([batch])
                own = own.set_column(own.column_names.index(KEY), KEY, pa.array(keys, pa.string()))
                yield make_rows(own, shard, first, taken)
                first += len(batch)
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{path}: cannot be read as parquet: {exc}") from exc
    alone = [(key, place) for key, found in left.items() for place in found]
    own = pa.table({KEY: pa.array([key for key, _ in alone], pa.string())})
    for field in schema:
        if field.name != KEY:
            own = own.append_column(field, pa.nulls(len(own), field.type))
    yield make_rows(own.select(schema.names), shard, first, [place for _, place in alone])
