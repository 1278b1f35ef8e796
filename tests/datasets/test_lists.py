"""CSV, TSV and JSONL: every line is part of a row, all columns are text, and no broken row goes unsaid."""

import codecs
import contextlib
import csv
import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_embed.datasets import lists
from spark_embed.datasets.lists import column_names, read_list
from spark_embed.errors import ConfigError, StorageError


def read(path, data: bytes, quoting="standard") -> list[dict]:
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
    return [row for batch in read_list(str(path), "url", quoting) for row in batch.to_pylist()]


def test_numbers_and_dates_stay_the_text_that_they_are(tmp_path):
    rows = read(tmp_path / "a.csv", b'url,zip,when,empty\r\na.jpg,007,2026-01-02,\r\n\r\n"b,\nc",1e5,,""\r\n')
    assert rows == [
        {"url": "a.jpg", "zip": "007", "when": "2026-01-02", "empty": None},
        {"url": "b,\nc", "zip": "1e5", "when": None, "empty": None},
    ]


def test_a_list_without_rows_has_its_columns(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"url,n\n")
    (batch,) = read_list(str(tmp_path / "a.csv"))
    assert (batch.schema.names, len(batch)) == (["url", "n"], 0)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.tsv", codecs.BOM_UTF8 + "url\tn\nä.jpg\t1\n".encode()),
        ("a.csv", "url,n\r\nä.jpg,1\r\n".encode("utf-16")),
        ("a.csv", codecs.BOM_UTF16_BE + "url,n\nä.jpg,1".encode("utf-16-be")),
        ("a.csv", "\nurl;n\nä.jpg;1\n".encode()),
        ("a.csv", "url\tn\nä.jpg\t1\n".encode()),
        ("a.tsv", '"url"|"n"\n"ä.jpg"|"1"\n'.encode()),
        ("a.csv", ' url, "n" \nä.jpg, "1"\n'.encode()),
        ("a.csv", gzip.compress("url,n\nä.jpg,1\n".encode(), mtime=0)),
        ("a.jsonl", '{"url": "ä.jpg", "n": 1}\n'.encode("utf-16")),
    ],
)
def test_encoding_delimiter_and_blanks_are_found(tmp_path, name, data):
    assert read(tmp_path / name, data) == [{"url": "ä.jpg", "n": "1"}]
    assert column_names(str(tmp_path / name), "url") == ["url", "n"]


def test_json_lines_may_have_different_keys(tmp_path):
    data = b'{"n": 1}\n\n{"url": null, "tags": ["x", {"y": 1}], "s": "\\u00e9\\ud83d"}\n'
    assert read(tmp_path / "a.jsonl.gz", data) == [
        {"url": None, "n": "1", "tags": None, "s": None},
        {"url": None, "n": None, "tags": '["x", {"y": 1}]', "s": "é\ufffd"},
    ]
    assert "url" in column_names(str(tmp_path / "a.jsonl.gz"), "url")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b'url,n\n"a\n.jpg",1\nb.jpg\n', "line 4 has 1 field, and the header 2 columns: 'b.jpg'"),
        ("a.csv", b'url,n\n\na.jpg,"x" y, z\n', "line 3 has 3 fields"),
        ("a.csv", b"url\n\xff\xfe\n", "not in utf-8 .*save it as UTF-8"),
        ("a.csv", b"", "mpty"),
        ("a.jsonl", b'{"url": 1}\n{"url"\n', "line 2 is no JSON"),
        ("a.jsonl", b'{"url": 1}\n[1]\n', "line 2 is no JSON object"),
        ("a.jsonl", b"[" * 100_000, "line 1 is no JSON"),
        ("a.jsonl", b'{"url": "\xff"}', "not in utf-8"),
        ("a.jsonl", b"".join(b'{"%d": 1}\n' % n for n in range(3000)), "more than 2000 different keys"),
    ],
)
def test_what_is_no_row_stops_the_job_and_is_named(tmp_path, name, data, message):
    with pytest.raises(StorageError, match=message) as caught:
        read(tmp_path / name, data)
    assert str(tmp_path / name) in str(caught.value)


SWALLOWED = {
    "to the end of the file": 'i/1.jpg\t"Big sale\ni/2.jpg\tx\ni/3.jpg\ty\n',
    "the last line": 'i/0.jpg\tx\ni/1.jpg\t"Big sale',
    "to a quote within a field": 'i/1.jpg\t"Big sale\ni/2.jpg\tso called "star" here\n',
    "of rows whose urls look like none": '1\t"Big sale\n2\tso called "star" here\n',
    "to the end of another row": 'i/1.jpg\t"Big sale\ni/2.png\tx\ni/3.jpg\tTV 42"\n',
    "to an empty field": 'i/1.jpg\t"Big sale\ni/2.jpg\t""\ni/3.jpg\tTV 42"\n',
}


@pytest.mark.parametrize("text", SWALLOWED.values(), ids=SWALLOWED)
def test_a_quote_that_would_swallow_rows_stops_the_job_with_its_line(tmp_path, text):
    line = 2 + text[: text.index('"')].count("\n")
    with pytest.raises(ConfigError, match=rf"a\.tsv: line {line}: .*\\t\"Big.*--list_quoting none"):
        read(tmp_path / "a.tsv", b"url\tcaption\n" + text.encode())
    rows = read(tmp_path / "a.tsv", b"url\tcaption\n" + text.encode(), "none")
    assert [(row["url"], row["caption"]) for row in rows] == [
        tuple(line.split("\t")) for line in text.splitlines()
    ]


def test_captions_have_line_breaks_and_urls_in_them(tmp_path):
    captions = ['a\n"b"\nc', "see\nhttp://x.org, yes", "i/0.jpg\n", "a,\nb,c\n\n", 'so "called', '"']
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([("url", "caption"), *((f"http://x.org/{n}.jpg", c) for n, c in enumerate(captions))])
    assert [row["caption"] for row in read(tmp_path / "a.csv", text.getvalue().encode())] == captions


def test_quotes_that_enclose_nothing_are_characters(tmp_path):
    data = b'url\tcaption\n"i/1.jpg"\t"Alien" poster\ni/2.jpg\tTV 42"\ni/3.jpg\t"\\"no\\", he said"\n'
    rows = read(tmp_path / "a.tsv", data)
    assert [row["url"] for row in rows] == ["i/1.jpg", "i/2.jpg", "i/3.jpg"]
    assert [row["caption"] for row in rows] == ['"Alien" poster', 'TV 42"', '"\\"no\\", he said"']


TEXTS = st.text(st.sampled_from(list(' ",;\t|\n\r\\aé\x00\u2028')), max_size=6)


@given(rows=st.lists(st.tuples(TEXTS, TEXTS), max_size=6), delimiter=st.sampled_from(",\t;|"))
def test_what_a_csv_writer_writes_is_read(tmp_path_factory, rows, delimiter):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([("n", "url"), *rows])
    found = read(tmp_path_factory.mktemp("l") / "a.csv", text.getvalue().encode())
    assert [(row["n"] or "", row["url"] or "") for row in found] == rows


@given(captions=st.lists(st.text('"a ,', max_size=4), min_size=1, max_size=6), url_first=st.booleans())
def test_no_row_is_lost_where_quotes_are_characters(tmp_path_factory, captions, url_first):
    """As captions stand in tables that no CSV writer has made: all rows, or an error."""
    rows = [(f"i/{number}.jpg", caption) for number, caption in enumerate([*captions, "end"])]
    lines = ["\t".join(row if url_first else row[::-1]) for row in [("url", "caption"), *rows]]
    path = tmp_path_factory.mktemp("l") / "a.tsv"
    as_characters = read(path, "\n".join(lines).encode(), "none")
    assert [(row["url"], row["caption"] or "") for row in as_characters] == rows
    with contextlib.suppress(ConfigError):
        assert [row["url"] for row in read(path, "\n".join(lines).encode())] == [url for url, _ in rows]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz"])
@given(data=st.binary(max_size=40) | st.text('{}[]":,url\\0n\n', max_size=40).map(str.encode))
def test_whatever_is_in_a_list_there_is_no_traceback(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("l") / name
    with contextlib.suppress(ConfigError, StorageError):
        read(path, data)
    with contextlib.suppress(ValueError):
        column_names(str(path), "url")


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "_MAX_LINE_CHARS", 100)
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(StorageError, match="line 2 has 100 characters and more"):
            read(tmp_path / name, json.dumps({"url": 1}).encode() + b"\n" + b"x" * 200)


def test_a_broken_gzip_is_named(tmp_path):
    for suffix in ("csv", "jsonl"):
        path = tmp_path / f"a.{suffix}.gz"
        path.write_bytes(gzip.compress(b"url\n" + bytes(range(256)) * 100, mtime=0)[:-40])
        with pytest.raises(StorageError, match=r"a\.\w+\.gz"):
            list(read_list(str(path)))


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="two columns are called 'url'"):
        read(tmp_path / "a.csv", b"url, url\n1,2\n")


def test_lists_that_others_have_made(material):
    """Which rows there are, or the line that says why not."""
    found = material / "found"
    for name in ("18b-tsv-stray-quote", "18c-tsv-unclosed-quote"):
        path = str(found / name / "list.tsv")
        with pytest.raises(ConfigError, match=r"list\.tsv: line 3: "):
            list(read_list(path, "url"))
        rows = [row for batch in read_list(path, "url", "none") for row in batch.to_pylist()]
        assert [row["url"] for row in rows] == [f"i/{n}.jpg" for n in range(len(rows))]
        assert len(rows) == {"18b": 5, "18c": 4}[name[:3]]
    for name, rows in {
        "18d-csv-semicolon/list.csv": [{"url": "i/0.jpg", "caption": "x"}],
        "18k-csv-utf16/l.csv": [{"url": "i/0.jpg", "caption": "café"}],
        "18m-csv-spaces-header/l.csv": [{"id": "1", "url": "i/0.jpg", "caption": "x"}],
    }.items():
        assert [row for batch in read_list(str(found / name), "url") for row in batch.to_pylist()] == rows
