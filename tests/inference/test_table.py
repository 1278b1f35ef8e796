"""Parts of tables without Spark: what a file lacks makes it unreadable, and is never taken for nulls."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import types as T

from spark_embed.config import ModelOptions
from spark_embed.inference.recipes import make_recipe
from spark_embed.inference.table import TablePart, predict_part

from support.tabular import GOOD, write_config, write_state


@pytest.mark.parametrize("gone", ["user_id", "income"])
def test_a_part_without_a_column_is_unreadable(tmp_path, gone):
    folder = write_config(tmp_path / "model")
    write_state(folder / "model.pt")
    path, waves = tmp_path / "t.parquet", tmp_path / "waves"
    waves.mkdir()
    rows = pa.Table.from_pylist([{"user_id": "a", **GOOD}, {"user_id": "b", **GOOD}])
    own = (("user_id", T.StringType()),)
    part = TablePart(str(path), "t.parquet", 0, 2, str(waves), "part", "user_id", own)
    recipe = make_recipe(ModelOptions(task="predict", model_directory=str(folder)))
    pq.write_table(rows, path)
    assert pq.read_table(waves / predict_part(part, recipe, 8)["name"]).num_rows == 2
    pq.write_table(rows.drop_columns([gone]), path)
    assert predict_part(part, recipe, 8) == {"unreadable": f"{path}: has no column '{gone}'"}
