"""img2dataset's parquet is joined with its images by key, whatever type of text that has."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.datasets.index.sidecar import join_sidecar
from spark_embed.errors import ConfigError
from spark_embed.schema import IMAGE

KEYS = pa.array([b"a", b"caf\xe9", b"gone"]).view(pa.string())
TYPES = {
    "string": KEYS,
    "large_string": KEYS.cast(pa.large_binary()).view(pa.large_string()),
    "string_view": pa.array([b"a", b"caf\xe9", b"gone"], pa.binary_view()).view(pa.string_view()),
    "dictionary": KEYS.dictionary_encode(),
}


@pytest.mark.parametrize("name", TYPES)
def test_rows_have_the_images_of_their_keys_and_the_others_come_last(tmp_path, name):
    path = str(tmp_path / "0.parquet")
    pq.write_table(pa.table({"key": TYPES[name], "n": [1, 2, 3]}), path)
    places = {key: [{"uri": os.fsencode(key)}] for key in ("alone", r"caf\xe9", "a")}
    parts = [rows.table for rows in join_sidecar(path, "0", places)]
    table = pa.concat_tables(parts)  # one schema
    uris = [image["uri"] for image in table[IMAGE].to_pylist()]
    assert table["key"].to_pylist() == ["a", r"caf\xe9", "gone", "alone"]
    assert uris == [b"a", rb"caf\xe9", None, b"alone"]
    assert table["n"].to_pylist() == [1, 2, 3, None]


@pytest.mark.parametrize(
    ("names", "text"), [(["key", "a", "a"], "two columns are called 'a'"), (["a"], "no text column 'key'")]
)
def test_columns_that_cannot_be_joined_stop_the_job(tmp_path, names, text):
    path = tmp_path / "0.parquet"
    pq.write_table(pa.Table.from_arrays([KEYS] * len(names), names=names), path)
    with pytest.raises(ConfigError, match=text):
        list(join_sidecar(str(path), "0", {}))
