"""Folders that a table format keeps: only the files of its newest version are read, or it is refused."""

import json
import string
import struct
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.config import Config
from spark_embed.datasets import find_layout
from spark_embed.datasets.detection.table_formats import NOT_LIVE
from spark_embed.errors import StorageError

from support.shard_files import error_of, find, rows, write
from support.sources import table_of

TABLE = {"key": ["a", "b", "c", "d"], "cat": ["x y", "x y", "/%+é", None], "jpg": [b"1", b"2", b"3", b"4"]}
FEATURES = ["deletionVectors", "v2Checkpoint"]
NEW = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": FEATURES, "writerFeatures": FEATURES}
Z85 = string.digits + string.ascii_lowercase + string.ascii_uppercase + ".-:+=^!/*?&<>()[]{}@%$#"
LOG = "_delta_log/00000000000000000000.json"


@pytest.fixture
def deltalake():
    return pytest.importorskip("deltalake", reason="takes the extra spark-embed[delta]")


@pytest.fixture
def table(deltalake, tmp_path) -> Path:
    """By cat, a row deleted and a row added."""
    deltalake.write_deltalake(str(tmp_path / "in"), pa.table(TABLE), partition_by=["cat"])
    deltalake.DeltaTable(str(tmp_path / "in")).delete("key = 'a'")
    more = {name: [values[-1]] for name, values in TABLE.items()} | {"key": ["e"], "cat": ["7"]}
    deltalake.write_deltalake(str(tmp_path / "in"), pa.table(more), mode="append")
    return tmp_path / "in"


def change_log(table: Path, kind: str, change: dict) -> None:
    """Change all actions of a kind in the first version."""
    path = table / LOG
    actions = [json.loads(line) for line in path.read_text().splitlines()]
    for action in actions:
        if kind in action:
            action[kind] |= change
    path.write_text("\n".join(map(json.dumps, actions)))


def test_a_delta_table_has_the_rows_of_its_newest_version(spark, table):
    wanted = [("b", "x y"), ("c", "/%+é"), ("d", None), ("e", "7")]
    assert sorted(rows(table_of(spark, find(table)), "key", "cat"), key=str) == wanted
    layout = find_layout(Config(input_dir=str(table), output_dir="unused"))
    assert [number for number, _ in layout.not_used.kinds.values()] == [1]
    assert list(layout.not_used.kinds) == [NOT_LIVE]


def test_a_table_may_lie_in_a_subfolder_beside_plain_shards(spark, table):
    write(table.parent, "in2/cat=1/plain.parquet", {"key": ["p"], "jpg": [b"1"]})
    table.rename(table.parent / "in2/tables")
    keys = [key for (key,) in rows(table_of(spark, find(table.parent / "in2")), "key")]
    assert keys == ["b", "c", "d", "e", "p"]


def test_a_file_that_the_log_lists_and_that_is_gone_stops_the_job(table):
    (path,) = table.glob("cat=7/*.parquet")
    path.unlink()
    with pytest.raises(StorageError, match=r"lists cat=7/part-.*, which is not there"):
        find(table)
    (table / LOG).write_text("{")
    with pytest.raises(StorageError, match=r"log of this Delta table cannot be read: [^\n\x1b]*$"):
        find(table)


def first_row_deleted() -> dict:
    """A deletion vector of row 0, inline: PROTOCOL.md of Delta, "Deletion Vector Format"."""
    # One container of one value: https://github.com/RoaringBitmap/RoaringFormatSpec
    bitmap = struct.pack("<IIHHIH", 12346, 1, 0, 0, 16, 0)
    data = struct.pack("<IQI", 1681511377, 1, 0) + bitmap + bytes(2)
    words = struct.unpack(f">{len(data) // 4}I", data)
    text = "".join(Z85[word // 85**place % 85] for word in words for place in (4, 3, 2, 1, 0))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(data) - 2, "cardinality": 1}


def test_a_table_that_may_have_deletion_vectors_is_read_as_long_as_it_has_none(deltalake, tmp_path):
    deltalake.write_deltalake(str(tmp_path), pa.table({"key": ["a", "b"], "jpg": [b"1", b"2"]}))
    change_log(tmp_path, "protocol", NEW)
    assert find(tmp_path).n_rows == 2
    change_log(tmp_path, "add", {"deletionVector": first_row_deleted()})
    vectors = pa.table(deltalake.DeltaTable(str(tmp_path)).deletion_vectors())
    assert vectors["selection_vector"].to_pylist() == [[False, True]]
    assert "it uses deletionVectors; export it: spark.read" in error_of(tmp_path)


def test_what_is_not_applied_here_is_refused_with_the_command_that_exports(deltalake, tmp_path):
    deltalake.write_deltalake(str(tmp_path), pa.table({"key": ["a"], "jpg": [b"1"]}))
    change_log(tmp_path, "metaData", {"configuration": {"delta.columnMapping.mode": "name"}})
    told = error_of(tmp_path)
    assert "it uses columnMapping;" in told
    assert f'spark.read.format("delta").load("{tmp_path}").write.parquet("...")' in told


@pytest.mark.parametrize("value", ["8", None])
def test_partitions_that_their_folders_do_not_name_are_refused(deltalake, tmp_path, value):
    deltalake.write_deltalake(str(tmp_path), pa.table({"n": [7], "jpg": [b"1"]}), partition_by=["n"])
    assert find(tmp_path).hive == ("n",)
    change_log(tmp_path, "add", {"partitionValues": {"n": value}})
    assert "do not name its partition" in error_of(tmp_path)


def test_files_of_another_folder_are_refused(deltalake, tmp_path):
    deltalake.write_deltalake(str(tmp_path), pa.table({"jpg": [b"1"]}))
    change_log(tmp_path, "add", {"path": "s3://other/part-0.parquet"})
    assert "clone" in error_of(tmp_path)


def test_the_package_that_is_missing_is_named(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "deltalake", None)
    assert "pip install 'spark-embed[delta]'" in error_of(table)


HUDI = ".hoodie/hoodie.properties"


@pytest.mark.parametrize(
    ("name", "folder", "mark", "data"),
    [
        ("iceberg", "", "metadata/v1.metadata.json", "data/a.parquet"),
        ("iceberg", "t", "metadata/v1.metadata.json", "data/a.parquet"),
        ("hudi", "", HUDI, "data/a.parquet"),
        ("hudi", "x/t", HUDI, "p=1/5d2b3a0e-1f2a-0_0-23-25_20231010101010123.parquet"),
    ],
)
def test_other_formats_are_refused_with_the_command_that_exports(tmp_path, name, folder, mark, data):
    write(tmp_path / folder, data, {"jpg": [b"1"]})
    write(tmp_path / folder, mark, {"x": [1]})
    assert f'spark.read.format("{name}").load("{tmp_path / folder}").write.parquet' in error_of(tmp_path)


def test_a_folder_called_metadata_is_no_table(tmp_path):
    write(tmp_path, "metadata/a.parquet", {"jpg": [b"1"]})
    (tmp_path / "metadata/notes.json").write_text("{}")
    assert find(tmp_path).n_rows == 1


def test_the_live_files_of_a_delta_table_in_s3(deltalake, s3_server, bucket):
    options = {
        "AWS_ENDPOINT_URL": s3_server.endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": s3_server.region,
        "AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "AWS_S3_ALLOW_UNSAFE_RENAME": "true",
    }  # fmt: skip
    uri = f"s3://{bucket}/in/t"
    for values in (["a"], ["b", "c"]):
        deltalake.write_deltalake(
            uri, pa.table({"key": values, "jpg": [b"1"] * len(values)}), mode="overwrite",
            storage_options=options,
        )  # fmt: skip
    source = find(f"s3a://{bucket}/in")
    assert (source.n_rows, len(source.shards), bool(source.not_used)) == (2, 1, True)


def test_the_material_has_the_rows_that_were_not_deleted(spark, deltalake, material):
    folder = material / "found/07-delta"
    wanted = deltalake.DeltaTable(str(folder)).to_pyarrow_table()["key"].to_pylist()
    assert sorted(key for (key,) in rows(table_of(spark, find(folder)), "key")) == sorted(wanted)
    assert len(wanted) < sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
