"""Tables to scores from Python, without Spark: CSV files in chunks, DataFrames, lists of dicts.

The same models, and the same policy for bad values, as --task predict.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from spark_embed import pipeline
from spark_embed.config import ModelOptions
from spark_embed.datasets.table_text import read_table
from spark_embed.datasets.tables import check_own, feature_fields
from spark_embed.errors import ConfigError, RowError
from spark_embed.inference.table import CHUNK_ROWS, shown_features
from spark_embed.load_config import make_config
from spark_embed.models import Recipe
from spark_embed.models.registry import TABULAR, find_options, find_source
from spark_embed.models.tabular.signature import Signature
from spark_embed.models.tabular.tabular_model import Predicted, TabularModel
from spark_embed.output.prediction_csv import csv_header, write_csv_rows
from spark_embed.output.prediction_report import Scores, make_report
from spark_embed.output.records import now
from spark_embed.schema import ERROR, ERROR_DETAIL, FAULT, PREDICTION_CLASS, PREDICTION_SCORE, TABLE_ID
from spark_embed.service.batch.orchestrator import open_session
from spark_embed.service.batch.paths import Folder
from spark_embed.service.batch.read_ahead import read_ahead
from spark_embed.storage import replaced_file

logger = logging.getLogger(__name__)

_BATCHES_PER_LINE = 100


class BatchInferenceEngine:
    """A model of tables, loaded once, and what it has predicted.

    Args:
        model_path: as --model_directory: a folder with config.json, or the model's file beside one.
        batch_size: rows of a forward pass.
        device: "cpu", "cuda", "mps"; None: the best that there is.
        num_workers: 0 reads a file between predictions; else the next part is read meanwhile, by a thread.
        threshold: as --threshold.
        trust_remote_code: as --trust_remote_code: load an exported program (.pt2), which may run code.

    Raises:
        ConfigError, ModelError: the model cannot be used.
    """

    def __init__(
        self,
        model_path: Folder,
        batch_size: int = 256,
        device: str | None = None,
        num_workers: int = 1,
        threshold: float | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: must be 1 or more")
        directory = os.fspath(model_path)
        options = ModelOptions(task="predict", model_directory=directory, threshold=threshold)
        recipe = Recipe(
            source=find_source(directory),
            device=device or "auto",
            trust_remote_code=trust_remote_code,
            kind=TABULAR,
            options=find_options(TABULAR, options),
        )
        self._model = TabularModel(recipe)  # a file that was replaced meanwhile is loaded anew
        self._batch_size, self._num_workers = batch_size, num_workers
        self._options = {
            "model_directory": directory,
            "threshold": threshold,
            "batch_size": batch_size,
            "trust_remote_code": trust_remote_code,
        }
        self._scores, self._errors = Scores(), Counter[str]()
        self._seconds, self._n_batches = 0.0, 0

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._model.signature

    def predict_csv(
        self,
        input_path: Folder | Sequence[Folder],
        output_path: Folder,
        id_column: str | None = None,
        include_features: bool = False,
        chunksize: int = CHUNK_ROWS,
    ) -> dict[str, Any]:
        """Write the predictions of CSV, TSV or JSONL files to one CSV file, or to parquet by its name.

        A row out for each row in, in order; those without a prediction say why in `error`. The file is there
        when it is whole.

        Args:
            input_path: of a file, or of several, whose rows follow one another.
            output_path: of the file; what is there is replaced.
            id_column: the first column of the output; None: id, of file#row.
            include_features: the features go to the output, too.
            chunksize: rows that are predicted and written together.

        Returns:
            what `get_stats` does.

        Raises:
            ConfigError: a file lacks a column, or has a quote that is not closed; or the id or a feature is
                called as a column of the output.
            StorageError: a file cannot be read or written.
        """
        check_own(self.signature, id_column, include_features=include_features)
        paths = [input_path] if isinstance(input_path, str | os.PathLike) else list(input_path)
        chunks = self._read([os.fspath(path) for path in paths], id_column, chunksize)
        if self._num_workers:
            chunks = read_ahead(chunks)
        output = os.fspath(output_path)
        writer: pq.ParquetWriter | None = None
        with replaced_file(output) as staged, pa.OSFile(staged, "wb") as sink:
            for columns, ids in chunks:
                table = self._predicted(columns, {id_column or TABLE_ID: ids}, include_features)
                if output.lower().endswith(".parquet"):
                    writer = writer or pq.ParquetWriter(sink, table.schema)
                    writer.write_table(table)
                else:
                    if sink.tell() == 0:
                        sink.write(csv_header(table.column_names))
                    write_csv_rows(table, sink)
            if writer is not None:
                writer.close()
        return self.get_stats()

    def predict_dataframe(
        self, df: pd.DataFrame, id_column: str | None = None, include_features: bool = False
    ) -> pd.DataFrame:
        """Return a frame with a row for each row of `df`, in its order and with its index.

        Columns: the id, if there is one, prediction_score, prediction_class, scores of several classes,
        timestamp, features if asked, error and error_detail. NaN and None are missing values.

        Raises:
            ConfigError: a column is missing, there twice, or called as a column of the output.
        """
        check_own(self.signature, id_column, include_features=include_features, unnamed=None)
        self._check_columns(list(df.columns), id_column)
        columns = {name: _as_array(df[name]) for name in self.signature.names}
        ids = {} if id_column is None else {id_column: _as_array(df[id_column])}
        frame: pd.DataFrame = self._predicted(columns, ids, include_features, len(df)).to_pandas()
        frame.index = df.index
        if id_column is not None:
            frame[id_column] = df[id_column]
        return frame

    def predict_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return a dict for each row, in order: prediction_score, prediction_class, ..., error, error_detail.

        A key that a row lacks is a missing value; keys that the model does not know are ignored.
        """
        columns = {
            name: _as_array(pd.Series([row.get(name) for row in rows], dtype=object))
            for name in self.signature.names
        }
        found: list[dict[str, Any]] = self._predicted(columns, {}, False, len(rows)).to_pylist()
        return found

    def predict_folder(self, input_dir: Folder, output_dir: Folder, **options: Any) -> dict[str, Any]:
        """Run --task predict over a folder or a file with Spark; returns what metadata.json holds.

        Args:
            input_dir: as --input_dir.
            output_dir: as --output_dir.
            options: any others of a run.

        Raises:
            SparkEmbedError: as `spark_embed.pipeline.run`.
        """
        given = {**self._options, "input_dir": os.fspath(input_dir), "output_dir": os.fspath(output_dir)}
        values = {**given, "task": "predict", **options}
        config = make_config({name: value for name, value in values.items() if value is not None})
        with open_session(config) as session:
            return pipeline.run(session, config).to_dict()

    def get_stats(self) -> dict[str, Any]:
        """Return the report of all rows that this object has predicted, with seconds and rows a second."""
        about = self._model.describe()
        report = make_report(
            self._scores,
            {
                "kind": self.signature.kind,
                "classes": self.signature.classes,
                "threshold": self.signature.threshold,
            },
            dict(sorted(self._errors.items())),
            {
                "input": "Python",
                "output": "Python",
                "model": f"{about['name']} at {about['source']}",
                "generated_at": now(),
            },
        ).to_dict()
        rate = report["rows"] / self._seconds if self._seconds else 0.0
        return {**report, "n_batches": self._n_batches, "seconds": self._seconds, "rows_per_s": rate}

    def _read(
        self, paths: Sequence[str], id_column: str | None, chunksize: int
    ) -> Iterator[tuple[dict[str, pa.Array], pa.Array]]:
        """Yield the columns of some rows, and their ids; at least once."""
        if chunksize < 1:
            raise ConfigError(f"chunksize {chunksize}: must be 1 or more")
        ids = (id_column,) if id_column else ()
        wanted = tuple(dict.fromkeys((*self.signature.names, *ids)))
        for path in paths:
            row = 0
            for batch in read_table(path, wanted):
                for start in range(0, max(len(batch), 1), chunksize):
                    part = batch.slice(start, chunksize)
                    columns = dict(zip(part.schema.names, part.columns, strict=True))
                    if id_column is None:
                        name = os.path.basename(path)
                        yield columns, pa.array([f"{name}#{row + n}" for n in range(len(part))], pa.string())
                    else:
                        yield columns, columns[id_column]
                    row += len(part)

    def _predicted(
        self,
        columns: Mapping[str, pa.Array],
        ids: Mapping[str, pa.Array],
        include_features: bool,
        n_rows: int | None = None,
    ) -> pa.Table:
        started = time.perf_counter()
        n_rows = len(next(iter(columns.values()))) if n_rows is None else n_rows
        predicted = self._model.predict_table(columns, n_rows, self._batch_size, columns.get(FAULT))
        own = [*ids]
        fields = feature_fields(self.signature, own[0] if own else "") if include_features else []
        shown = shown_features(self.signature, predicted, [(one.name, one.dataType) for one in fields])
        told = [predicted.errors.get(row) for row in range(n_rows)] if predicted.errors else [None] * n_rows
        table = pa.table(
            {
                **ids,
                **predicted.columns,
                **shown,
                ERROR: pa.array([error and error.code for error in told], pa.string()),
                ERROR_DETAIL: pa.array([error and error.detail for error in told], pa.string()),
            }
        )
        self._count(predicted, n_rows, time.perf_counter() - started)
        return table

    def _count(self, predicted: Predicted, n_rows: int, seconds: float) -> None:
        errors: Mapping[int, RowError] = predicted.errors
        self._errors.update(error.code for error in errors.values())
        classes = predicted.columns.get(PREDICTION_CLASS)
        scores = predicted.columns[PREDICTION_SCORE].drop_null().to_numpy()
        self._scores.add(scores.astype(np.float64), None if classes is None else classes.drop_null())
        self._seconds += seconds
        before, self._n_batches = self._n_batches, self._n_batches + -(-n_rows // self._batch_size)
        if before // _BATCHES_PER_LINE != self._n_batches // _BATCHES_PER_LINE:
            done = self._scores.n + self._errors.total()
            logger.info(
                "%s batches, %s rows (%s rows/s)",
                f"{self._n_batches:,}",
                f"{done:,}",
                f"{done / max(self._seconds, 1e-9):,.0f}",
            )

    def _check_columns(self, names: Sequence[str], id_column: str | None) -> None:
        for name in (*self.signature.names, *([id_column] if id_column else [])):
            if name not in names:
                raise ConfigError(
                    f"the frame has no column {name!r}, which the model's signature or id_column names; it "
                    f"has {', '.join(map(str, names))}"
                )
            if names.count(name) > 1:
                raise ConfigError(f"the frame has two columns {name!r}; rename one")


def _as_array(values: pd.Series) -> pa.Array:
    """Return a column for Arrow: of mixed types, as texts."""
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError):
        is_none = [pd.api.types.is_scalar(one) and pd.isna(one) for one in values]
        texts = [None if none else str(one) for none, one in zip(is_none, values, strict=True)]
        return pa.array(texts, pa.string())
