"""Files of a wave -> files of the output: every row, every type, whole files only."""

import errno
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_type

from spark_embed.errors import StorageError
from spark_embed.inference.arrow import unpack_vectors
from spark_embed.output.publish import output_files
from spark_embed.output.publish.merge import Merge, merge_files
from spark_embed.output.publish.output_files import Target
from spark_embed.output.publish.removal import Removal
from spark_embed.schema import EMBEDDING_RESULTS, RESULT
from spark_embed.spark.types import result_type

DIM = 3
RESULT_ARROW = to_arrow_type(result_type(EMBEDDING_RESULTS, packed=True))


def write_wave(path, first, codes):
    """Write rows numbered from `first`, with these error codes; the vector of a good row is its number."""
    numbers = range(first, first + len(codes))
    results = [
        {"embedding": None if code else np.full(DIM, number, "<f4").tobytes(), "error": code}
        for number, code in zip(numbers, codes, strict=True)
    ]
    table = pa.table({"own": list(numbers), RESULT: pa.array(results, RESULT_ARROW)})
    pq.write_table(table, path)
    return str(path)


@pytest.fixture
def merge(tmp_path):
    files = [
        write_wave(tmp_path / "a.parquet", 0, [None, "corrupt", None, None, None]),
        write_wave(tmp_path / "b.parquet", 5, []),
        write_wave(tmp_path / "c.parquet", 5, [None, None, "corrupt"]),
    ]
    return Merge(
        tuple(files),
        Target(str(tmp_path / "good"), str(tmp_path), "part", 100, {"made_by": "x"}),
        Target(str(tmp_path / "bad"), str(tmp_path), "part", 100, {"made_by": "y"}),
    )


def with_rows_per_file(merge, n_rows):
    return replace(
        merge,
        results=replace(merge.results, rows_per_file=n_rows),
        errors=replace(merge.errors, rows_per_file=n_rows),
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def found(folder):
    """What is there, as a merge says what it has written, error codes aside."""
    return [
        {"name": path.name, "n_rows": pq.read_metadata(path).num_rows, "n_bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    ]


def test_good_rows_and_bad_rows_each_get_their_file(merge, tmp_path):
    merge_files(merge)
    good, bad = pq.read_table(tmp_path / "good"), pq.read_table(tmp_path / "bad")
    assert good["own"].to_pylist() == [0, 2, 3, 4, 5, 6]
    assert good["embedding"].to_pylist() == [[float(number)] * DIM for number in good["own"].to_pylist()]
    assert good.schema.field("embedding").type.value_type == pa.float32()
    assert bad["own"].to_pylist() == [1, 7]
    assert bad["error"].to_pylist() == ["corrupt"] * 2
    assert RESULT not in good.column_names + bad.column_names
    assert pq.read_metadata(tmp_path / "good/part-000.parquet").metadata[b"made_by"] == b"x"
    assert pq.read_metadata(tmp_path / "bad/part-000.parquet").metadata[b"made_by"] == b"y"


@pytest.mark.parametrize("row_group_bytes", [1, 1 << 20])
def test_a_full_file_is_followed_by_another(merge, tmp_path, monkeypatch, row_group_bytes):
    monkeypatch.setattr(output_files, "_ROW_GROUP_BYTES", row_group_bytes)
    merge_files(with_rows_per_file(merge, 4))
    counts = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "good").iterdir())]
    assert counts == [4, 2]
    assert pq.read_table(tmp_path / "good")["own"].to_pylist() == [0, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("rows_per_file", [1, 2, 100])
def test_what_was_written_is_told_file_by_file(merge, tmp_path, rows_per_file):
    path = write_wave(tmp_path / "d.parquet", 8, ["timeout", "corrupt", "timeout", None])
    merge = with_rows_per_file(replace(merge, sources=(*merge.sources, path)), rows_per_file)
    answer = merge_files(merge)
    codes = [file.pop("n_errors_by_code") for file in answer["errors"]]
    assert answer["errors"] == found(tmp_path / "bad")
    assert [file.pop("n_errors_by_code") for file in answer["results"]] == [{}] * len(answer["results"])
    assert answer["results"] == found(tmp_path / "good")
    assert (
        codes
        == {
            1: [{"corrupt": 1}, {"corrupt": 1}, {"timeout": 1}, {"corrupt": 1}, {"timeout": 1}],
            2: [{"corrupt": 2}, {"timeout": 1, "corrupt": 1}, {"timeout": 1}],
            100: [{"corrupt": 3, "timeout": 2}],
        }[rows_per_file]
    )
    assert answer["n_removed"] == 0


def test_a_kind_without_rows_has_one_file_that_says_its_columns(merge, tmp_path):
    path = write_wave(tmp_path / "all good.parquet", 0, [None])
    answer = merge_files(replace(merge, sources=(path,)))
    assert names(tmp_path / "bad") == ["part-000.parquet"]
    assert pq.read_table(tmp_path / "bad").schema.names == ["own", "error", "error_detail"]
    assert [(file["n_rows"], file["n_errors_by_code"]) for file in answer["errors"]] == [(0, {})]
    answer = merge_files(replace(merge, sources=(write_wave(tmp_path / "no.parquet", 0, []),)))
    assert [file["n_rows"] for file in answer["results"]] == [0]
    assert pq.read_table(tmp_path / "good").schema.names == ["own", "embedding"]
    assert pq.read_table(tmp_path / "good").num_rows == 0


def test_without_a_limit_there_is_one_file_of_exactly_that_name(merge, tmp_path):
    good, bad = replace(merge.results, name="a.parquet"), replace(merge.errors, name="b.parquet")
    merge = with_rows_per_file(replace(merge, results=good, errors=bad), None)
    answer = merge_files(merge)
    assert (names(tmp_path / "good"), names(tmp_path / "bad")) == (["a.parquet"], ["b.parquet"])
    assert [file["name"] for file in answer["results"]] == ["a.parquet"]
    assert pq.read_table(tmp_path / "good/a.parquet").num_rows == 6


def test_each_source_has_rows_of_its_own_to_leave_out(merge, tmp_path):
    paths = [str(tmp_path / "old.parquet"), str(tmp_path / "new.parquet")]
    for path, first in zip(paths, (0, 4), strict=True):
        write_wave(path, first, [None, None, "corrupt", None])
        keys = {"shard": ["a", "b", "a", "b"], "shard_row": [first, first + 1, first + 2, first + 3]}
        table = pq.read_table(path)
        for name, values in keys.items():
            table = table.append_column(name, [values])
        pq.write_table(table, path)
    answer = merge_files(replace(merge, sources=tuple(paths), removals={paths[0]: Removal(("a",))}))
    assert pq.read_table(tmp_path / "good")["own"].to_pylist() == [1, 3, 4, 5, 7]
    assert pq.read_table(tmp_path / "bad")["own"].to_pylist() == [6]
    assert answer["n_removed"] == 2


def test_a_full_last_file_is_not_followed_by_an_empty_one(merge, tmp_path):
    merge_files(with_rows_per_file(merge, 2))
    assert [file["n_rows"] for file in found(tmp_path / "good")] == [2, 2, 2]
    assert [file["n_rows"] for file in found(tmp_path / "bad")] == [2]


def test_a_merge_that_fails_leaves_no_file_and_can_be_done_again(merge, tmp_path, monkeypatch):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    monkeypatch.setattr(output_files, "_ROW_GROUP_BYTES", 1)  # so that something has been written by then
    with pytest.raises(pa.ArrowInvalid):
        merge_files(replace(merge, sources=(*merge.sources, str(broken))))
    assert names(tmp_path / "good") == names(tmp_path / "bad") == []
    merge_files(merge)
    merge_files(merge)
    assert pq.read_table(tmp_path / "good").num_rows == 6


def test_a_full_disk_is_told_and_not_an_error_of_the_task(merge, monkeypatch):
    """Spark would try it again and again."""

    def is_full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", is_full)
    with pytest.raises(StorageError, match=r"no space left on the disk; about 1\.0 MiB more is needed"):
        merge_files(merge)


def test_floats_get_no_dictionary_and_everything_else_does(merge, tmp_path):
    merge_files(merge)
    row_group = pq.read_metadata(tmp_path / "good/part-000.parquet").row_group(0)
    columns = {row_group.column(i).path_in_schema: row_group.column(i) for i in range(row_group.num_columns)}
    assert "RLE_DICTIONARY" in columns["own"].encodings
    assert "RLE_DICTIONARY" not in columns["embedding.list.element"].encodings
    assert columns["own"].is_stats_set
    assert not columns["embedding.list.element"].is_stats_set


def test_old_dates_and_intervals_are_read_back_as_spark_wrote_them(spark, embed, tmp_path, photo_bytes):
    (tmp_path / "in").mkdir()
    rows = [("1200-02-28", 1.5), (None, None)]
    frame = spark.createDataFrame([(*row, data) for row, data in zip(rows, photo_bytes, strict=False)])
    frame = frame.selectExpr("cast(_1 as date) as day", "cast(_2 as decimal(5, 2)) as price", "_3 as jpg")
    frame.coalesce(1).write.parquet(str(tmp_path / "in/shards"))
    embed(tmp_path / "in")
    out = spark.read.parquet(str(tmp_path / "out/embeddings.parquet"))
    assert out.schema["day"].dataType == T.DateType()
    assert out.schema["price"].dataType == T.DecimalType(5, 2)
    assert out.schema["embedding"].dataType.elementType == T.FloatType()
    texts = out.selectExpr("cast(day as string) as day", "cast(price as string) as price").collect()
    assert sorted(map(tuple, texts), key=str) == [("1200-02-28", "1.50"), (None, None)]


def test_packed_vectors_are_unpacked_from_any_slice():
    packed = pa.array([np.arange(start, start + 2, dtype="<f4").tobytes() for start in range(4)] + [None])
    assert unpack_vectors(packed.slice(1, 4)).to_pylist() == [[1, 2], [2, 3], [3, 4], None]
    assert unpack_vectors(packed[:0]).to_pylist() == []


def test_a_column_that_is_called_as_a_part_of_the_result_stays_in_its_place(tmp_path, merge):
    results = pa.array([{"embedding": np.zeros(DIM, "<f4").tobytes(), "error": None}], RESULT_ARROW)
    path, name = str(tmp_path / "dots.parquet"), f"{RESULT}.error"
    pq.write_table(pa.table({"own": [1], RESULT: results, "x": ["x"], name: ["y"]}), path)
    merge_files(replace(merge, sources=(path,)))
    found = pq.read_table(tmp_path / "good")
    assert found.select(["own", "x", name]).to_pylist() == [{"own": 1, "x": "x", name: "y"}]
    assert found.column_names[-2:] == ["x", name]
