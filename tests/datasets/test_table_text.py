"""CSV and JSONL tables: what was written is read, a row for each row, and no line is lost in quotes."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_embed.datasets.table_text import read_table
from spark_embed.errors import ConfigError, StorageError
from spark_embed.schema import FAULT

WANTED = ("id", "a")


def read(path, wanted=WANTED, **more):
    return [row for batch in read_table(str(path), wanted, **more) for row in batch.to_pylist()]


def values(rows):
    return [(row["id"], row["a"]) for row in rows]


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"id,a,b\n001,1,2\n", [("001", "1")]),
        (b"\xef\xbb\xbfid,a\n001,1\n", [("001", "1")]),
        (b"b,a,id\nx,1,001\n", [("001", "1")]),  # by name, never by position
        (b"id;a\r\n001;1,5\r\n", [("001", "1,5")]),
        (b"id\ta\n001\t1", [("001", "1")]),
        (b"id|a\r001|1\r002|2\r", [("001", "1"), ("002", "2")]),
        (b'"id","a"\n"x\n""y"", z",1\n\n,\n', [('x\n"y", z', "1"), ("", "")]),
        (b"id, a\n1, 5\n", [("1", "5")]),
        (b"id,a\n", []),
        (gzip.compress(b"id,a\n1,2\n", mtime=0) + gzip.compress(b"3,4\n", mtime=0), [("1", "2"), ("3", "4")]),
        ("id,a\nä,1\n".encode("utf-16"), [("ä", "1")]),
    ],
)
def test_files_as_people_write_them(tmp_path, data, rows):
    (tmp_path / "t.csv").write_bytes(data)
    assert values(read(tmp_path / "t.csv")) == rows


FIELDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters='\n",;'), max_size=8)


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(FIELDS.filter(str.strip), FIELDS, FIELDS), max_size=12),
    bad=st.dictionaries(st.integers(0, 12), st.sampled_from(["x", "x,y,z,u", "1,2", '"q, r",s'])),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    end=st.sampled_from(["\n", "\r\n"]),
    order=st.permutations(["id", "a", "note"]),
)
def test_what_is_written_is_read_and_rows_that_are_none_are_told_in_their_place(
    tmp_path_factory, rows, bad, delimiter, end, order
):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    text, wanted = io.StringIO(), []
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
    writer.writerow(order)
    for number, row in enumerate(rows):
        if number in bad:
            text.write(bad[number].replace(",", delimiter) + end)
            wanted.append(None)
        named = dict(zip(("id", "a", "note"), row, strict=True))
        writer.writerow([named[name] for name in order])
        wanted.append((row[0], row[1]))
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    found = read(path)
    assert [None if row[FAULT] else (row["id"], row["a"]) for row in found] == wanted
    assert all(row[FAULT].startswith("wrong_field_count: ") for row in found if row[FAULT])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'id,a\n1,"2\n3,4\n', "line 2: a field begins with a quote that is not closed"),
        (b'id,a,n\n1,5,"2\n3,4,"x\n4,4,5\n', "the lines to 3 would be lost in it"),
        (b"id,b\n1,2\n", "has no column 'a', which the model's signature or --id_column names; it has id, b"),
        (b"id,a,a\n1,2,3\n", "two columns are called 'a'"),
        (b"", "it is empty, without even a header"),
        (b"id,a\n\xff,1\n", "save it as UTF-8"),
        (gzip.compress(b"id,a\n" + b"1,2\n" * 9999, mtime=0)[:-20], "cannot be read as a table"),
    ],
)
def test_a_file_that_nobody_can_read_rightly_is_refused(tmp_path, data, said):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises((ConfigError, StorageError)) as told:
        read(tmp_path / "t.csv")
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_quotes_may_be_characters(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'id,a\n1,"2\n3,4\n')
    assert values(read(tmp_path / "t.csv", quoting="none")) == [("1", '"2'), ("3", "4")]


def test_lines_of_json(tmp_path):
    rows = [{"id": "007", "a": 5}, {"a": 1.5, "c": [1]}, {"id": 7, "a": None}, {"id": "x", "a": True}]
    lines = [json.dumps(row) for row in rows]
    lines[1:1] = ["[1]", "", "{"]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    found = read(tmp_path / "t.jsonl")
    none = (None, None)
    assert values(found) == [("007", "5"), none, none, (None, "1.5"), ("7", None), ("x", "true")]
    assert [row[FAULT] for row in found][1:3] == [
        "not_an_object: line 2 is no JSON object: [1]",
        "not_an_object: line 4 is no JSON object: {",
    ]
