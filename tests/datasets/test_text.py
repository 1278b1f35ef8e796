"""Text in the output is text: bytes that name rows become hex, and what is not UTF-8 is marked."""

import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.shard_files import find, write
from support.sources import table_of

DIGESTS = [b"\xff\x00", bytes(range(2)), None]


def written(spark, folder, out, **options) -> list[dict]:
    """What readers see of the references of a folder, in the rows' order."""
    table = table_of(spark, find(folder, **options)).drop("__image__")
    table.orderBy("shard", "shard_row").write.parquet(str(out))
    return pq.read_table(out).to_pylist()


def broken(texts: list[bytes]) -> pa.Array:
    """Text that is not UTF-8, as files have it whose writer does not look."""
    plain = pa.array(texts, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(plain), plain.buffers())


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pa.array(DIGESTS), ["ff00", "0001", "a.parquet#2"]),
        (pa.array(DIGESTS, pa.binary(2)), ["ff00", "0001", "a.parquet#2"]),
        (pa.array(DIGESTS, pa.binary_view()), ["ff00", "0001", "a.parquet#2"]),
        (pa.array(DIGESTS).dictionary_encode(), ["ff00", "0001", "a.parquet#2"]),
        (pa.array([uuid.UUID(int=n).bytes for n in (1, 2, 1 << 127)], pa.uuid()), None),
        (broken([b"a\xff", b"", b"\xc3\xa9"]), ["a\ufffd", "", "é"]),
        (pa.StructArray.from_arrays([pa.array([b"\xff"] * 3)], ["x"]), ["{\ufffd}"] * 3),
    ],
    ids=["digests", "fixed size", "views", "dictionary", "uuid", "broken text", "bytes in a struct"],
)
def test_bytes_that_name_a_row_are_text_in_its_image_id(spark, tmp_path, column, ids):
    write(tmp_path / "in", "a.parquet", {"id": column, "jpg": [b"1"] * 3})
    ids = ids or [uuid.UUID(int=n).hex for n in (1, 2, 1 << 127)]
    assert [row["image_id"] for row in written(spark, tmp_path / "in", tmp_path / "out")] == ids


@pytest.mark.matrix
def test_text_that_is_not_utf_8_is_marked_wherever_it_stands_and_the_rest_is_as_it_was(spark, tmp_path):
    text = broken([b"\xff1", b"x\xed\xa0\x80", b"\xf0\x9f\x99\x82"])
    pairs = pa.MapArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), text, text)
    deep = pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 1, 2, 3], text), text], ["l", "a.b"])
    nulls = pa.array([None, ["y"], []], pa.list_(pa.string()))
    gone = deep.take(pa.array([0, None, 1]))
    columns = {"text": text, "pairs": pairs, "deep": deep, "nulls": nulls, "gone": gone, "jpg": [b""] * 3}
    write(tmp_path / "in", "a.parquet", columns)
    rows = written(spark, tmp_path / "in", tmp_path / "out")
    texts = ["\ufffd1", "x\ufffd", "🙂"]
    for row, one in zip(rows, texts, strict=True):
        assert row["text"].replace("\ufffd\ufffd\ufffd", "\ufffd") == one  # how many marks is the writer's
        one = row["text"]
        assert (row["pairs"], row["deep"]) == ([(one, one)], {"l": [one], "a.b": one})
    assert [row["nulls"] for row in rows] == [None, ["y"], []]
    assert [row["gone"] and row["gone"]["l"] for row in rows] == [["\ufffd1"], None, [rows[1]["text"]]]


def test_the_output_of_a_data_set_with_binary_keys_can_be_read_and_verified(
    embed, tmp_path, photo_bytes, capsys
):
    from spark_embed.cli.main import main

    keys = [b"\xff\xfe%d" % row for row in range(3)]
    write(tmp_path / "in", "a.parquet", {"key": keys, "text": broken(keys), "jpg": [*photo_bytes[:2], None]})
    _, embeddings, errors = embed(tmp_path / "in")
    assert embeddings["image_id"].tolist() == [key.hex() for key in keys[:2]]
    assert embeddings["key"].tolist() == keys[:2]
    assert errors["text"].tolist() == ["\ufffd\ufffd2"]
    assert np.isfinite(np.stack(embeddings["embedding"])).all()
    assert main(["verify", str(embed.output_dir)]) == 0
