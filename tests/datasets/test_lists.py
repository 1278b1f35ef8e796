"""CSV, TSV and JSONL: every row, all of its columns as text, and no broken row without a word."""

import gzip

import pytest

from spark_embed.datasets.lists import has_column, read_list
from spark_embed.errors import ConfigError, StorageError


def read(path, data: bytes) -> list[dict]:
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return [row for batch in read_list(str(path)) for row in batch.to_pylist()]


def test_numbers_and_dates_stay_the_text_that_they_are(tmp_path):
    rows = read(tmp_path / "a.csv", b'url,zip,when,empty\r\na.jpg,007,2026-01-02,\r\n"b,\nc",1e5,,""\r\n')
    assert rows == [
        {"url": "a.jpg", "zip": "007", "when": "2026-01-02", "empty": None},
        {"url": "b,\nc", "zip": "1e5", "when": None, "empty": ""},
    ]


def test_a_list_without_rows_has_its_columns(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"url,n\n")
    (batch,) = read_list(str(tmp_path / "a.csv"))
    assert (batch.schema.names, len(batch)) == (["url", "n"], 0)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    assert list(read(tmp_path / "a.tsv", b"\xef\xbb\xbfurl\tn\na.jpg\t1\n")[0]) == ["url", "n"]


def test_json_lines_may_have_different_keys(tmp_path):
    data = b'{"url": "a.jpg", "n": 1}\n\n{"url": null, "tags": ["x", {"y": 1}], "s": "\\u00e9"}\n'
    assert read(tmp_path / "a.jsonl.gz", data) == [
        {"url": "a.jpg", "n": "1", "tags": None, "s": None},
        {"url": None, "n": None, "tags": '["x", {"y": 1}]', "s": "é"},
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"url,n\na.jpg\n", "Expected 2 columns, got 1"),
        ("a.csv", b"url\n\xff\xfe\n", "utf-8"),
        ("a.csv", b"", "mpty"),
        ("a.jsonl", b'{"url": 1}\n{"url"\n', "line 2 is no JSON"),
        ("a.jsonl", b'{"url": 1}\n[1]\n', "line 2 is no JSON object"),
        ("a.jsonl", b"[" * 100_000, "line 1 is no JSON"),
        ("a.jsonl", b'{"url": "\xff"}', "decode"),
    ],
)
def test_what_is_no_row_stops_the_job_and_is_named(tmp_path, name, data, message):
    with pytest.raises(StorageError, match=message) as caught:
        read(tmp_path / name, data)
    assert str(tmp_path / name) in str(caught.value)


def test_a_broken_gzip_is_named(tmp_path):
    for suffix in ("csv", "jsonl"):
        path = tmp_path / f"a.{suffix}.gz"
        path.write_bytes(gzip.compress(b"url\n" + bytes(range(256)) * 100)[:-40])
        with pytest.raises(StorageError, match=r"a\.\w+\.gz"):
            list(read_list(str(path)))


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="two columns are called 'url'"):
        read(tmp_path / "a.csv", b"url,url\n1,2\n")


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.csv", b"n,url\n", True),
        ("a.csv", b"n;url\n", False),
        ("a.tsv", b"n\turl\n", True),
        ("a.jsonl", b'{"url": 1}\n', True),
        ("a.jsonl", b"url\n", False),
        ("a.csv", b"\xff\xfe", False),
        ("a.csv", b"", False),
        ("a.csv.gz", b"no gzip", False),
    ],
)
def test_a_list_is_known_by_its_first_line(tmp_path, name, data, expected):
    (tmp_path / name).write_bytes(data)
    assert has_column(str(tmp_path / name), "url") is expected
