"""Images beside a table that names images by their paths: those that no row names are counted."""

import os
from types import SimpleNamespace

import pyarrow as pa
import pytest

from spark_embed.datasets.detection.detect import detect
from spark_embed.datasets.detection.not_used import NotUsed
from spark_embed.datasets.index.files import index_list
from spark_embed.datasets.index.make import open_index, write_index
from spark_embed.datasets.index.rows import IndexTask
from spark_embed.datasets.unnamed_images import NOT_NAMED, find_not_named
from spark_embed.storage import StoredFile

from support.shard_files import find, write

NAMES = ["i/0.jpg", "i/1.jpg", os.fsdecode(b"i/caf\xe9.jpg"), "i/blank .jpg", "not named.jpg", "j/not.png"]


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"an image")
    (tmp_path / "in/notes.md").touch()
    return tmp_path / "in"


def spelled(folder) -> list[str]:
    """What rows may say to name all but two of the images, one of them twice; and what names none."""
    return [
        "./i/../i/0.jpg", "i/0.jpg", f" file://{folder}/i/1.jpg ", NAMES[2], f"{folder}/i/blank .jpg",
        "http://there/j/not.png", "i/gone.jpg", "",
    ]  # fmt: skip


def not_named_of_list(folder, tmp_path) -> NotUsed:
    layout = detect(str(folder), "auto", "url")
    assert (layout.name, bool(layout.beside), str(layout.not_used)) == ("url_list", True, "")
    task = IndexTask("url_list", str(folder), StoredFile("l.csv", 1))
    write_index(index_list(task, NotUsed()), str(tmp_path / "a.parquet"))
    shards = open_index(str(tmp_path), [("a.parquet", "l.csv", "1")]).shards
    index = SimpleNamespace(root=str(folder), folder=str(tmp_path), shards=shards, image_column="__image__")
    return find_not_named(index)


def test_images_that_no_line_of_a_list_names_are_counted(folder, tmp_path):
    lines = [uri for uri in spelled(folder) if uri.isascii()]
    (folder / "l.csv").write_text("\n".join(["url", *lines]))
    (folder / os.fsdecode(NAMES[2])).unlink()
    assert not_named_of_list(folder, tmp_path).kinds == {NOT_NAMED: (2, "j/not.png")}
    (folder / "l.csv").write_text("url\ni/none.jpg\n")
    (folder / "not named.jpg").rename(folder / os.fsdecode(b"\xff.jpg"))
    assert not_named_of_list(folder, tmp_path).kinds[NOT_NAMED][0] == 5


@pytest.mark.parametrize("kind", ["text", "dictionary", "Hugging Face's", "Hugging Face's without any bytes"])
def test_images_that_no_row_of_parquet_names_are_counted(folder, kind):
    uris = pa.array([os.fsencode(uri) for uri in spelled(folder)]).view(pa.string())
    bytes_type = pa.null() if kind.endswith("any bytes") else pa.binary()
    images = pa.StructArray.from_arrays([pa.nulls(len(uris), bytes_type), uris], ["bytes", "path"])
    tables = {"text": {"url": uris}, "dictionary": {"url": uris.dictionary_encode()}}
    columns = tables.get(kind, {"image": images})
    write(folder, "0.parquet", columns)
    write(folder, "1.parquet", {"other": [1]})
    write(folder, "2.parquet", columns)
    (folder / "2.parquet").write_bytes(b"PAR1 broken")
    source = find(folder)
    assert detect(str(folder), "auto", "url").beside
    found = find_not_named(source)
    assert found.kinds == {NOT_NAMED: (2, "j/not.png")}


def test_where_a_table_of_images_is_chosen_none_beside_it_is_named(folder):
    write(folder, "0.parquet", {"jpg": [b"1"]})
    layout = detect(str(folder), "parquet", "url")
    assert (bool(layout.beside), str(layout.not_used)) == (True, "")
    source = find(folder, layout="parquet")
    found = find_not_named(source)
    assert found.kinds[NOT_NAMED][0] == len(NAMES)
