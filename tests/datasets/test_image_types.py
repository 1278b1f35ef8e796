"""Images in parquet, however the writer's Arrow lays them out: bytes, text, or named with what helps."""

import base64
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from spark_embed.inference.fetch.references import FetchPolicy, make_locate
from spark_embed.schema import IMAGE

from support.shard_files import error_of, find, write
from support.sources import table_of

IMAGES = [b"one", None, b"two", b""]


def structs(data: pa.Array, paths: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([data, paths], ["bytes", "path"])


LAYOUTS = {
    "views": pa.array(IMAGES, pa.binary_view()),
    "dictionary": pa.array(IMAGES).dictionary_encode(),
    "large": pa.array(IMAGES, pa.large_binary()),
    "struct of views": structs(pa.array(IMAGES, pa.binary_view()), pa.nulls(4, pa.string_view())),
    "struct of dictionaries": structs(
        pa.array(IMAGES).dictionary_encode(), pa.array([""] * 4).dictionary_encode()
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_bytes_are_read_by_spark_and_by_the_worker_whatever_arrow_calls_them(spark, tmp_path, name):
    write(tmp_path, "a.parquet", {"image": LAYOUTS[name], "n": range(4)})
    source = find(tmp_path)
    assert source.layout == ("huggingface" if "struct" in name else "parquet")
    table = table_of(spark, source).orderBy("n")
    assert [row[IMAGE]["bytes"] for row in table.collect()] == IMAGES
    sample = replace(source, transport="reference").sample(4)
    read = make_locate(FetchPolicy(column="image"))
    got = [read(row.reference).inline for row in sample]
    assert [None if data is None else bytes(data) for data in got] == IMAGES


def test_bytes_of_one_length_are_images_only_where_they_are_called_so(tmp_path):
    """Elsewhere they are digests."""
    digests = pa.array([b"1234"], pa.binary(4))
    write(tmp_path, "a.parquet", {"sha": digests, "url": ["a.jpg"]})
    assert find(tmp_path).layout == "url_table"
    assert find(tmp_path, image_column="sha").layout == "parquet"
    write(tmp_path, "a.parquet", {"jpg": digests, "url": ["a.jpg"]})
    assert find(tmp_path).image_column == "jpg"


@pytest.mark.parametrize(("name", "options"), [("image", {}), ("url", {}), ("x", {"image_column": "x"})])
@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_images_written_out_as_text_are_read_and_go_to_no_output(
    tmp_path, photo_bytes, name, options, prefix
):
    texts = [None, prefix + base64.b64encode(photo_bytes[0]).decode()]
    write(tmp_path, "a.parquet", {name: texts, "n": [1, 2]})
    source = find(tmp_path, **options)
    assert (source.layout, source.transport, source.has_urls) == ("parquet", "uri", False)
    assert [field.name for field in source.own_columns] == ["n"]


def test_text_that_names_images_stays_a_column(tmp_path):
    write(tmp_path, "a.parquet", {"image": ["a.jpg"], "sha": [b"x"], "n": [1]})
    assert "--image_column, one of sha" in error_of(tmp_path)
    source = find(tmp_path, image_column="image")
    assert (source.layout, [field.name for field in source.own_columns]) == (
        "url_table",
        ["image", "sha", "n"],
    )


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        (
            "11-hf-list-of-images",
            "'images' (list<element: struct<bytes: binary, path: string>>) holds several",
        ),
        (
            "13b-spark-image-struct",
            "holds pixels as Spark's image source decodes them: write the files' bytes",
        ),
        ("34e-list-of-uint8", "'jpg' (list<element: uint8>) holds bytes as a list of numbers"),
    ],
)
def test_images_in_types_that_are_not_read_are_named_with_what_helps(material, folder, text):
    column = text.split("'")[1] if text.startswith("'") else "image"
    assert text in error_of(material / "found" / folder)
    assert text in error_of(material / "found" / folder, image_column=column)


@pytest.mark.parametrize(
    "folder", ["12b-base64-parquet", "12c-data-uri", "34-dict-binary", "34c-binary-view"]
)
def test_other_writers_images_become_vectors(embed, material, folder):
    metadata, embeddings, errors = embed(material / "found" / folder)
    assert (len(embeddings), len(errors)) == (metadata["counts"]["rows"], 0)
    assert np.isfinite(np.stack(embeddings["embedding"])).all()
    (path,) = (material / "found" / folder).glob("*.parquet")
    names = [name for name in ("id", "key") if name in embeddings]
    wanted = pd.read_parquet(path, columns=names)
    pd.testing.assert_frame_equal(embeddings.sort_values("shard_row", ignore_index=True)[names], wanted)
    assert not {"image", "url", "jpg"} & set(embeddings)
