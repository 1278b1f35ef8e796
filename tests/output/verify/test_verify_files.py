"""spark-embed verify finds bad vectors, errors that are none, and files that are not those listed."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.output.folder import Output
from spark_embed.output.state import read_ledger, write_ledger
from spark_embed.output.verify import verify

from support.output_files import (
    DIM,
    fingerprint,
    list_anew,
    make_output,
    rewrite,
    write_table,
)
from support.verified import ERRORS, FIRST, SECOND, findings, path_of, with_column, with_vector, without


@pytest.fixture
def output(tmp_path) -> Output:
    return make_output(tmp_path / "out")


@pytest.mark.parametrize(
    ("vector", "text"),
    [
        (None, "null"),
        ([], f"not of length {DIM}"),
        ([0.5] * (DIM - 1), f"not of length {DIM}"),
        ([0.5] * (DIM + 1), f"not of length {DIM}"),
        ([0.0] * DIM, "all zero"),
        ([-0.0] * DIM, "all zero"),
        ([0.5] * (DIM - 1) + [float("nan")], "not finite"),
        ([float("inf")] + [0.5] * (DIM - 1), "not finite"),
        ([-float("inf")] + [0.0] * (DIM - 1), "not finite"),
        ([None] + [0.5] * (DIM - 1), "not finite"),
    ],
)
def test_a_vector_that_no_model_gives(output, capsys, vector, text):
    rewrite(path_of(output, SECOND), with_vector(3, vector))
    list_anew(output)
    assert findings(output, capsys) == [
        f"vectors {SECOND}: 1 row with a vector that is {text}: shard b.parquet, row 3"
    ]


def test_vectors_that_only_look_odd(output, capsys):
    """Their squares are no float32."""
    rewrite(path_of(output, FIRST), with_vector(0, [1e-30] * DIM))
    rewrite(path_of(output, SECOND), with_vector(0, [3e38] * DIM))
    list_anew(output)
    assert findings(output, capsys) == []


def test_many_bad_vectors_are_counted(output, capsys):
    rewrite(
        path_of(output, FIRST),
        with_column("embedding", lambda values: [[0.0] * DIM, None, None, *values[3:-1], [0.0] * DIM]),
    )
    list_anew(output)
    assert findings(output, capsys) == [
        f"vectors {FIRST}: 2 rows with a vector that is null, the first is shard a.parquet, row 1",
        f"vectors {FIRST}: 2 rows with a vector that is all zero, the first is shard a.parquet, row 0",
    ]


@pytest.mark.parametrize("code", ["oops", "", None])
def test_an_error_that_is_none(output, capsys, code):
    rewrite(path_of(output, ERRORS), with_column("error", lambda codes: [*codes[:-1], code]))
    list_anew(output)
    found = findings(output, capsys)
    assert f"errors {ERRORS}: 1 row with an error that is no known code: shard b.parquet, row 0" in found


def test_errors_that_are_not_those_listed(output, capsys):
    rewrite(path_of(output, ERRORS), with_column("error", lambda codes: ["timeout", *codes[1:]]))
    ledger = read_ledger(output)
    size = path_of(output, ERRORS).stat().st_size
    listed = ledger.errors[0].model_copy(update={"n_bytes": size})
    write_ledger(output, ledger.model_copy(update={"errors": (listed,)}), ledger)
    text = "has errors 1 corrupt, 1 null_bytes, 1 timeout, in files.json 2 corrupt, 1 null_bytes"
    assert findings(output, capsys) == [f"errors {ERRORS}: {text}"]


def test_errors_with_vectors(output, capsys):
    rewrite(
        path_of(output, ERRORS),
        lambda table: table.append_column("embedding", pa.array([None] * 3, pa.list_(pa.float32()))),
    )
    list_anew(output)
    assert findings(output, capsys) == [f"errors {ERRORS}: has a column embedding"]


def test_a_file_that_is_gone(output, capsys):
    path_of(output, FIRST).unlink()
    assert findings(output, capsys) == [
        f"files {FIRST}: cannot be read: No such file or directory",
        "rows shard a.parquet: 3 of 10 rows are there: missing 0-2, 5-8",
    ]


@pytest.mark.parametrize("name", ["part-9.parquet", "notes.txt", "sub/x.parquet"])
def test_a_file_that_nobody_lists(output, capsys, name):
    path = path_of(output, f"errors.parquet/{name}")
    path.parent.mkdir(exist_ok=True)
    path.touch()
    (found,) = findings(output, capsys)
    assert found.startswith(f"files errors.parquet/{name}: is not in files.json; ")


def test_files_that_readers_do_not_see_are_in_nobodys_way(output, capsys):
    for name in ("_SUCCESS", ".part-0.parquet.crc"):
        path_of(output, f"embeddings.parquet/{name}").touch()
    assert findings(output, capsys) == []


@pytest.mark.parametrize("folder", ["embeddings.parquet", "errors.parquet"])
def test_a_folder_that_is_gone(output, capsys, folder):
    path_of(output, folder).rename(path_of(output, "_spark_embed/moved"))
    found = findings(output, capsys)
    assert any(line.startswith("files ") and folder in line and "cannot be listed" in line for line in found)


def test_damage_anywhere_in_a_file_is_told_in_a_line(output, capsys):
    """No byte of a file makes a traceback; whatever does not read is told."""
    path = path_of(output, FIRST)
    whole = path.read_bytes()
    n_found = 0
    for position in range(0, len(whole), 97):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        n_found += bool(verify(output).n_findings)
    assert n_found > len(whole) / 97 / 3  # statistics, offsets of pages and the like are not read
    path.write_bytes(whole[: len(whole) // 2])
    found = findings(output, capsys)
    assert any(line.startswith(f"files {FIRST}: has ") and " bytes, in files.json " in line for line in found)
    assert any(line.startswith(f"files {FIRST}: cannot be read: ") for line in found)
    path.write_bytes(b"")
    assert any(line.startswith(f"files {FIRST}: cannot be read: ") for line in findings(output, capsys))


def test_a_file_of_other_rows_than_listed(output, capsys):
    rewrite(path_of(output, FIRST), without(6))
    found = findings(output, capsys)
    assert f"files {FIRST}: has 6 rows, in files.json 7" in found
    assert "rows shard a.parquet: 9 of 10 rows are there: missing 8" in found


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda table: table.drop_columns(["shard"]), "has no column shard"),
        (lambda table: table.drop_columns(["shard_row"]), "has no column shard_row"),
        (lambda table: table.drop_columns(["embedding"]), "has no column embedding"),
        (with_column("caption", lambda values: values), None),
        (
            lambda table: table.set_column(1, "shard", pa.array(range(len(table)))),
            "its column shard is of type int64",
        ),
        (
            lambda table: table.set_column(3, "embedding", pa.array(["x"] * len(table))),
            "its column embedding is of type string",
        ),
    ],
)
def test_columns_that_are_not_ours(output, capsys, change, text):
    rewrite(path_of(output, FIRST), change)
    list_anew(output)
    found = findings(output, capsys)
    assert (found[0] if found else None) == (text and f"files {FIRST}: {text}")


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (
            {"fingerprint": fingerprint(dtype="bfloat16")},
            "than run.json says (dtype)",
        ),
        ({"fingerprint": {**fingerprint(), "new": 1}}, "than run.json says (new)"),
        ({"model": "tiny"}, "does not say what made its vectors"),
        ([1], "does not say what made its vectors"),
        ("\udcff", "does not say what made its vectors"),
    ],
)
def test_a_file_of_other_vectors(output, capsys, facts, text):
    path = path_of(output, SECOND)
    write_table(pq.read_table(path), path, facts)
    list_anew(output)
    (found,) = findings(output, capsys)
    assert found.startswith(f"files {SECOND}: ")
    assert text in found
