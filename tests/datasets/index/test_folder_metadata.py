"""Hugging Face's metadata of an image folder: every row of it and every image is a row."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.datasets.detection.detect import detect
from spark_embed.datasets.index import image_folder
from spark_embed.datasets.index.image_folder import make_folder_index
from spark_embed.errors import ConfigError, StorageError


@pytest.fixture
def rows_of(tmp_path, monkeypatch):
    """Return the versions of the groups and the rows of all, without Spark."""
    monkeypatch.setattr(
        image_folder, "run_tasks", lambda spark, function, tasks: [json.loads(json.dumps(function(tasks[0])))]
    )
    monkeypatch.setattr(image_folder, "IMAGES_PER_GROUP", 2)

    def rows_of(max_rows=None):
        layout = detect(str(tmp_path / "in"), "auto", "url")
        assert layout.name == "image_folder"
        index = make_folder_index(None, layout, str(tmp_path / "index"), max_rows)
        tables = [pq.read_table(tmp_path / "index" / shard.path) for shard in index.shards]
        for table, shard in zip(tables, index.shards, strict=True):
            assert (table.schema, len(table)) == (shard.schema, shard.n_rows)
        rows = pa.concat_tables(tables).to_pylist()
        for row in rows:
            assert row["__image__"]["uri"].decode() == f"{tmp_path}/in/{row['image_id']}"
        ours = ("__image__", "__shard__", "__shard_row__")
        return [shard.version for shard in index.shards], [
            {name: value for name, value in row.items() if name not in ours} for row in rows
        ]

    return rows_of


@pytest.fixture
def put(tmp_path):
    def put(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / "in" / name.replace("__", "/").replace("_jpg", ".jpg").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return put


def test_rows_without_image_and_images_without_row_are_rows(put, rows_of):
    put(train__a_jpg="", train__b_jpg="", train__sub__c_jpg="", test__a_jpg="", z_jpg="")
    put(train__metadata_csv="file_name,text,id\n./b.jpg,second,2\ngone.jpg,gone,3\nsub/c.jpg,third,\n")
    put(test__metadata_csv="file_name,text,more\na.jpg,one,x\na.jpg,other,y\n")
    _, rows = rows_of()
    none = dict.fromkeys(["file_name", "text", "more", "id"])
    assert rows == [
        {**none, "image_id": "test/a.jpg", "file_name": "a.jpg", "text": "one", "more": "x"},
        {**none, "image_id": "test/a.jpg", "file_name": "a.jpg", "text": "other", "more": "y"},
        {**none, "image_id": "train/a.jpg"},
        {**none, "image_id": "train/b.jpg", "file_name": "./b.jpg", "text": "second", "id": "2"},
        {**none, "image_id": "train/gone.jpg", "file_name": "gone.jpg", "text": "gone", "id": "3"},
        {**none, "image_id": "train/sub/c.jpg", "file_name": "sub/c.jpg", "text": "third"},
        {**none, "image_id": "z.jpg"},
    ]
    assert rows_of(max_rows=2)[1] == rows[:3]  # images: the run itself takes no more rows than it wants


def test_several_images_of_a_row_each_have_it_and_types_stay(put, rows_of, tmp_path):
    put(a_jpg="", b_jpg="")
    table = {"file_name": ["a.jpg"], "mask_file_name": ["b.jpg"], "boxes": [[1.5]], "image_id": [7]}
    pq.write_table(pa.table(table), tmp_path / "in/metadata.parquet")
    _, rows = rows_of()
    assert [row["image_id"] for row in rows] == ["a.jpg", "b.jpg"]
    assert [(row["boxes"], row["metadata_image_id"]) for row in rows] == [([1.5], 7)] * 2


def test_only_groups_whose_images_have_other_columns_are_others(put, rows_of):
    put(a_jpg="", b_jpg="", c_jpg="", d_jpg="", e_jpg="")
    without, _ = rows_of()
    put(metadata_csv="file_name,text\na.jpg,1\nc.jpg,2\n")
    before, _ = rows_of()
    assert len({*without, *before}) == len(without) + len(before)
    put(metadata_csv="file_name,text\nc.jpg,other\na.jpg,1\n")
    after, rows = rows_of()
    assert [row["text"] for row in rows] == ["1", None, "other", None, None]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]
    put(metadata_csv="file_name,text,more\nc.jpg,other,\na.jpg,1,\n")  # each has a column more
    assert not {*after} & {*rows_of()[0]}


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ('file_name,text\na.jpg,"x\nb.jpg,y\n', ConfigError, r"metadata\.csv: line 2: a field begins"),
        ("file_name,text\na.jpg\n", StorageError, r"metadata\.csv: .* line 2 has 1 field"),
    ],
)
def test_broken_metadata_stops_the_job(put, rows_of, text, kind, message):
    put(a_jpg="", metadata_csv=text)
    with pytest.raises(kind, match=message):
        rows_of()


def test_metadata_in_parquet_whose_text_is_no_utf8_stops_the_job(put, rows_of, tmp_path):
    put(a_jpg="")
    names = pa.array([b"a.jpg", b"caf\xe9.jpg"]).view(pa.string())
    pq.write_table(pa.table({"file_name": names}), tmp_path / "in/metadata.parquet")
    with pytest.raises(StorageError, match=r"metadata\.parquet: cannot be read as parquet: .*UTF8"):
        rows_of()


def test_captions_stand_beside_the_vectors(embed, material, tmp_path):
    for name in ("20-imagefolder-metadata", "20b-imagefolder-jsonl"):
        metadata, embeddings, errors = embed(material / "found" / name, overwrite=True)
        assert (metadata["input"]["layout"], len(embeddings), len(errors)) == ("image_folder", 3, 0)
        texts = dict(zip(embeddings["image_id"], embeddings["text"], strict=True))
        expected = {}
        for path in sorted((material / "found" / name).glob("*/metadata.*")):
            read = pd.read_csv(path) if path.suffix == ".csv" else pd.read_json(path, lines=True, dtype=str)
            expected |= {f"{path.parent.name}/{row.file_name}": row.text for row in read.itertuples()}
        assert texts == expected
        assert "label" not in embeddings.columns
        assert metadata["input"]["not_used"] in ({}, None)
