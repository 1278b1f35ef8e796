"""spark-embed verify compares each file's columns with run.json's: a footer has no checksum."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.output.folder import Output
from spark_embed.output.state import read_run, write_run
from spark_embed.output.verify import verify
from spark_embed.output.verify.columns import SPARK_SCHEMA, expected_columns
from spark_embed.schema import EMBEDDING_RESULTS

from support.output_files import TABLE_SCHEMA, list_anew, make_output, rewrite
from support.verified import ERRORS, FIRST, findings, path_of

VECTOR = {"type": "array", "elementType": "float", "containsNull": False}
N_FLIPS = 400


def spark_schema(**columns: object) -> str:
    """What Spark's own metadata says of a file of the hand-made output."""
    given = [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in columns.items()]
    return json.dumps({**TABLE_SCHEMA, "fields": [*TABLE_SCHEMA["fields"], *given]})


@pytest.fixture
def output(tmp_path) -> Output:
    """Of one file of each kind, as runs write them: with a schema for Spark."""
    output = make_output(tmp_path / "out", n_files=1)
    schemas = {
        FIRST: spark_schema(embedding=VECTOR),
        ERRORS: spark_schema(error="string", error_detail="string"),
    }
    for name, schema in schemas.items():
        path = path_of(output, name)
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, SPARK_SCHEMA: schema}), path)
    list_anew(output)
    assert not verify(output).n_findings
    return output


def as_read(path) -> object:
    """What readers get: names, types and values; and what Spark takes for the columns."""
    for_spark = (pq.read_metadata(path).metadata or {}).get(SPARK_SCHEMA)
    return pq.read_table(path).replace_schema_metadata(None), for_spark and json.loads(for_spark)


@pytest.mark.parametrize("name", [FIRST, ERRORS])
def test_a_flipped_bit_in_a_footer_that_changes_what_is_read_is_found(output, name):
    path = path_of(output, name)
    whole = path.read_bytes()
    table, for_spark = as_read(path)
    n_footer = int.from_bytes(whole[-8:-4], "little")
    bits = random.Random(0).sample(range((len(whole) - 8 - n_footer) * 8, (len(whole) - 8) * 8), N_FLIPS)
    passed = []
    for bit in bits:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        if not verify(output).n_findings:
            passed.append(bit)
            other, others_for_spark = as_read(path)
            assert other.schema == table.schema, bit
            assert other == table, bit
            assert others_for_spark in (for_spark, None), bit
    assert 0 < len(passed) < N_FLIPS  # statistics and sizes say nothing of what is read


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda table: table.rename_columns(["captjon", *table.column_names[1:]]), "has no column caption"),
        (
            lambda table: table.set_column(0, "caption", pa.array([b"x"] * len(table))),
            "its column caption is of type binary, in run.json string",
        ),
        (
            lambda table: table.append_column("more", pa.array([1] * len(table))),
            "has a column more, which run.json does not have",
        ),
    ],
)
def test_own_columns_that_are_not_the_data_sets(output, capsys, change, text):
    rewrite(path_of(output, FIRST), change)
    list_anew(output)
    assert any(line.startswith(f"files {FIRST}: {text}") for line in findings(output, capsys))


def test_what_a_file_says_to_spark_is_compared_too(output, capsys):
    path = path_of(output, FIRST)
    table = pq.read_table(path)
    renamed = spark_schema(embedding=VECTOR).replace("caption", "captioo")
    for schema in (renamed, "{", "[]", '{"fields": [1]}'):
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, SPARK_SCHEMA: schema}), path)
        list_anew(output)
        assert findings(output, capsys) == [
            f"files {FIRST}: what its metadata says to Spark of its columns is damaged"
        ]


def test_columns_are_compared_only_where_run_json_knows_them(output, capsys):
    write_run(output, read_run(output).model_copy(update={"table_schema": {}}))
    rewrite(path_of(output, FIRST), lambda table: table.drop_columns(["caption"]))
    list_anew(output)
    assert findings(output, capsys) == []
    assert expected_columns({}, EMBEDDING_RESULTS, has_results=True) == {}
