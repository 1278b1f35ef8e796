"""The one CSV file of predictions: ids of every type can be read back, a broken disk is one line."""

import csv

import pyarrow as pa
import pytest

from spark_embed.errors import StorageError
from spark_embed.output import prediction_csv
from spark_embed.output.folder import Output
from spark_embed.output.prediction_csv import write_csv_rows, write_prediction_csv
from spark_embed.output.records import Ledger


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
def test_an_id_with_a_comma_or_a_quote_can_be_read_back(tmp_path, kind):
    ids = ["a,b", 'c"d', "e"]
    path = tmp_path / "out.csv"
    with pa.OSFile(str(path), "wb") as sink:
        write_csv_rows(pa.table({"id": pa.array(ids, kind), "score": [0.5, 1.0, 0.25]}), sink)
    with path.open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ids


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    def fail(paths):
        raise OSError("the disk is gone")

    monkeypatch.setattr(prediction_csv, "_columns", fail)
    ledger = Ledger(run_id="r", generation=1, updated_at="", shards={}, embeddings=(), errors=())
    with pytest.raises(StorageError, match=r"out\.csv: cannot be written: the disk is gone"):
        write_prediction_csv(Output(str(tmp_path)), ledger, str(tmp_path / "out.csv"))
