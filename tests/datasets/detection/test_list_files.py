"""A list beside images is read, or the reason why not is told; one that is broken stops no other."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.datasets.detection.detect import detect
from spark_embed.datasets.detection.not_used import NotUsed
from spark_embed.datasets.index.files import index_list
from spark_embed.datasets.index.rows import IndexTask
from spark_embed.errors import ConfigError, StorageError
from spark_embed.storage import StoredFile


@pytest.fixture
def folder(tmp_path):
    """Write files; an image lies beside them."""
    (tmp_path / "i").mkdir()
    (tmp_path / "i/0.jpg").write_bytes(b"an image")

    def write(**files: bytes):
        for name, data in files.items():
            (tmp_path / name.replace("_", ".")).write_bytes(data)
        return str(tmp_path)

    return write


def told(layout) -> list[str]:
    return [f"{number} {kind} ({example})" for kind, (number, example) in layout.not_used.kinds.items()]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("l_csv", b"url;caption\ni/0.jpg;x\n"),
        ("l_csv", "url,caption\ni/0.jpg,x\n".encode("utf-16")),
        ("l_csv", b"id, url, caption\n1, i/0.jpg, x\n"),
        ("l_jsonl", b'{"id": 1}\n{"id": 2, "url": "i/0.jpg"}\n'),
    ],
)
def test_a_list_that_names_the_images_beside_it_is_the_data_set(folder, name, data):
    layout = detect(folder(**{name: data}), "auto", "url")
    assert (layout.name, [file.path for file in layout.files]) == ("url_list", [name.replace("_", ".")])
    assert not layout.not_used


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n"
WITHOUT = ".{} without a column 'url' (--url_column; it has {})"
BROKEN = ".{} that cannot be read as a list ({}"


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("l_csv", b"file;caption\ni/0.jpg;x\n", WITHOUT.format("csv", "file, caption")),
        ("l_tsv", "ürl\tn\n".encode("utf-16-le"), WITHOUT.format("tsv", "� r l , n")),
        ("l_jsonl", b'{"id": 1}\n', WITHOUT.format("jsonl", "id")),
        ("l_csv", b"", "empty .csv"),
        ("l_csv", POINTER, ".csv that cannot be read as a list (a Git LFS pointer, not the file"),
        ("l_jsonl", b"[" * 200_000, BROKEN.format("jsonl", "line 1 is no JSON object: max")),
        ("l_jsonl", b"nothing\n", BROKEN.format("jsonl", "line 1 is no JSON object: Exp")),
        ("l_csv_gz", gzip.compress(b"url\n" * 99, mtime=0)[:-20], BROKEN.format("csv.gz", "Compressed")),
    ],
)  # fmt: skip
def test_a_list_that_is_not_used_says_why(folder, name, data, reason):
    layout = detect(folder(**{name: data}), "auto", "url")
    assert layout.name == "image_folder"
    (one,) = told(layout)
    assert one.startswith(f"1 {reason}")
    assert one.endswith(f"({name.replace('_', '.')})")


def test_a_broken_list_is_a_bad_shard_and_the_others_are_read(folder):
    root = folder(a_jsonl=b"[" * 200_000, b_csv=b"url\ni/0.jpg\n", c_csv=b"x\n1\n")
    layout = detect(root, "url_list", "url")
    assert [file.path for file in layout.files] == ["a.jsonl", "b.csv"]
    assert [kind for kind in layout.not_used.kinds if "c.csv" in str(layout.not_used.kinds[kind])]
    with pytest.raises(StorageError, match=r"a\.jsonl: cannot be read as a list: line 1 is no JSON object"):
        list(index_list(IndexTask("url_list", root, layout.files[0]), NotUsed()))


def test_what_is_wrong_with_the_rows_of_a_list_is_told_before_anything_runs(folder):
    with pytest.raises(StorageError, match=r"a\.csv: .*not in utf-8"):  # and not "mixes layouts"
        detect(folder(a_csv="url,n\ni/0.jpg,é\n".encode("latin-1")), "auto", "url")
    assert detect(folder(b_csv=b"url\ni/0.jpg\n"), "auto", "url").name == "url_list"
    folder(a_csv=b"", b_csv=b"")
    root = folder(l_tsv=b'url\tcaption\ni/0.jpg\t"x\ni/1.jpg\ty\n')
    with pytest.raises(ConfigError, match=r"l\.tsv: line 2: .*--list_quoting none"):
        detect(root, "auto", "url")
    layout = detect(root, "auto", "url", quoting="none")
    tasks = [IndexTask("url_list", root, file, quoting="none") for file in layout.files]
    rows = [row for task in tasks for rows in index_list(task, NotUsed()) for row in rows.table.to_pylist()]
    assert [row["caption"] for row in rows] == ['"x', "y"]


def test_a_column_that_the_index_needs_is_refused(folder):
    root = folder(l_csv=b"url,__shard__\ni/0.jpg,x\n")
    with pytest.raises(ConfigError, match=r"l\.csv: has a column '__shard__'.* rename it"):
        list(index_list(IndexTask("url_list", root, StoredFile("l.csv", 1)), NotUsed()))


def test_how_quotes_are_read_tells_one_version_of_a_list_from_another():
    file = StoredFile("l.tsv", 1, version="v")
    versions = {
        IndexTask(layout, "/", file, quoting=quoting).version
        for layout in ("url_list", "webdataset")
        for quoting in ("standard", "none")
    }
    assert versions == {"v", "v+quoting-none"}


@pytest.mark.parametrize(
    ("name", "data", "url_column", "layout"),
    [
        ("metadata_csv", b"file_name,text\ni/0.jpg,x\n", "url", "image_folder"),
        ("metadata_csv", b"mask_file_name;text\ni/0.jpg;x\n", "url", "image_folder"),
        ("metadata_jsonl", b'{"file_name": "i/0.jpg", "url": "http://x.org/0.jpg"}\n', "url", "image_folder"),
        ("metadata_csv", b"file_name,text\ni/0.jpg,x\n", "file_name", "url_list"),
        ("metadata_csv", b"file_name,url\nx.jpg,i/0.jpg\n", "url", "url_list"),
    ],
)
def test_metadata_with_file_names_belongs_to_the_images(folder, name, data, url_column, layout):
    found = detect(folder(**{name: data}), "auto", url_column)
    assert found.name == layout
    assert [file.path for file in (*found.metadata, *found.files)] == [name.replace("_", ".")]
    assert not found.not_used


def test_metadata_in_parquet_belongs_to_the_images_too_and_to_nothing_else(folder, tmp_path):
    root = folder()
    pq.write_table(pa.table({"file_name": ["i/0.jpg"], "n": [1]}), tmp_path / "metadata.parquet")
    assert [file.path for file in detect(root, "auto", "url").metadata] == ["metadata.parquet"]
    folder(metadata_csv=b"text\nx\n")
    layout = detect(root, "auto", "url")
    assert told(layout) == ["1 .csv without a column 'url' (--url_column; it has text) (metadata.csv)"]


def test_all_rows_of_a_list_whose_quotes_are_characters_are_embedded(embed, material):
    source = material / "found/18b-tsv-stray-quote"
    with pytest.raises(ConfigError, match=r"list\.tsv: line 3: "):
        embed(source)
    metadata, embeddings, errors = embed(source, list_quoting="none")
    lines = (source / "list.tsv").read_text().splitlines()[1:]
    assert (metadata["input"]["layout"], len(errors)) == ("url_list", 0)
    assert embeddings.sort_values("shard_row")["caption"].tolist() == [line.split("\t")[1] for line in lines]
