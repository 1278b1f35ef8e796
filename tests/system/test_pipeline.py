"""run(), end to end on real Spark and real files: every row in is one row out, and the vectors are right."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spark_embed.config import Config
from spark_embed.inference.feed import FeedOptions
from spark_embed.models import Recipe
from spark_embed.output.folder import Output
from spark_embed.output.verify import verify
from spark_embed.run.wave import embed_table
from spark_embed.search.build import build_index
from spark_embed.search.index import Index

from support.bad_server import BadServer
from support.image_files import encode
from support.sources import find_source, table_of


def vectors_of(table: pd.DataFrame) -> np.ndarray:
    return np.stack(table["embedding"].to_list())


def knn_scores(vectors: np.ndarray, labels: np.ndarray, k: int) -> tuple[float, float]:
    """Leave-one-out top-1 accuracy and precision at k, by cosine; `vectors` have length 1."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    same = labels[np.argsort(-similarity, axis=1)[:, :k]] == labels[:, None]
    return same[:, 0].mean(), same.mean()


@pytest.mark.slow
def test_the_default_model_finds_photos_of_the_same_category(embed, material, tmp_path):
    """The figures that NOTES.md gives for the reference network: 0.968 and 0.943."""
    metadata, embeddings, _ = embed(
        material / "img2dataset/parquet", model_directory=None, output_dir=str(tmp_path / "out")
    )
    assert metadata["model"]["name"] == "efficientnet_lite0"
    assert metadata["model"]["embedding_dim"] == 1280
    photos = embeddings[embeddings["category"] != ""].dropna(subset=["category"])
    counted = photos.groupby("category")["key"].transform("count") >= 20  # one image is not of the photos
    photos = photos[counted]
    top1, precision = knn_scores(vectors_of(photos), photos["category"].to_numpy(), k=5)
    assert len(photos) == 400
    assert top1 >= 0.95
    assert precision >= 0.92
    check_index(tmp_path / "out", photos, precision)


def check_index(output_dir, photos: pd.DataFrame, precision: float) -> None:
    """An index finds as many of the same category as a comparison with all photos does."""
    build_index(str(output_dir))
    index = Index.open(str(output_dir))
    same = []
    for row in photos.itertuples():
        where = f"category <> '' and key in ({', '.join(map(repr, photos['key']))})"
        hits = index.search(row.embedding, 6, where, columns=["key", "category"])
        others = [hit for hit in hits if hit.columns["key"] != row.key][:5]
        same += [hit.columns["category"] == row.category for hit in others]
    assert len(same) == 5 * len(photos)
    assert np.mean(same) == pytest.approx(precision, abs=1e-9)


@pytest.mark.matrix
def test_images_by_reference_and_through_spark_give_the_same(embed, shards, tmp_path):
    by_reference, vectors, errors = embed(shards)
    assert by_reference["input"]["transport"] == "reference"
    through_spark, other_vectors, other_errors = embed(
        shards, image_transport="bytes", output_dir=str(tmp_path / "out"), overwrite=True
    )
    assert through_spark["input"]["transport"] == "bytes"
    pd.testing.assert_frame_equal(errors, other_errors)
    order = ["shard", "shard_row"]
    pd.testing.assert_frame_equal(
        vectors.sort_values(order, ignore_index=True), other_vectors.sort_values(order, ignore_index=True)
    )


@pytest.mark.matrix
def test_rows_keep_their_columns_and_their_place(embed, shards, photo_bytes):
    metadata, embeddings, errors = embed(shards)
    own = pd.concat([pd.read_parquet(path) for path in sorted(shards.iterdir())]).drop(columns="jpg")
    names = ["key", "caption", "width"]
    out = pd.concat([embeddings, errors]).sort_values(["shard", "shard_row"])
    assert out[names].values.tolist() == own[names].values.tolist()
    assert out["image_id"].tolist() == own["key"].tolist()
    assert list(embeddings.columns) == [*names, "image_id", "shard", "shard_row", "embedding"]
    assert list(errors.columns) == [*names, "image_id", "shard", "shard_row", "error", "error_detail"]
    assert errors["shard_row"].tolist() == [5, 5, 5]
    assert not embeddings.isna().to_numpy().any()
    assert np.linalg.norm(vectors_of(embeddings), axis=1) == pytest.approx(1, abs=1e-5)
    assert embeddings["embedding"][0].dtype == np.float32
    assert metadata["counts"]["errors_by_code"] == {"null_bytes": 3}


@pytest.mark.matrix
def test_a_url_column_of_local_paths_is_read_within_its_roots(embed, tmp_path, photo_bytes):
    for name in ("in/sub/near.jpg", "in/top.jpg", "allowed/far.jpg", "secret/no.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo_bytes[0])
    urls = {
        "near.jpg": None,
        "../top.jpg": None,
        str(tmp_path / "in/top.jpg"): None,
        str(tmp_path / "allowed/far.jpg"): None,
        "missing.jpg": "not_found",
        "../../secret/no.jpg": "forbidden",
        str(tmp_path / "secret/no.jpg"): "forbidden",
        "file:///etc/passwd": "forbidden",
        "http://127.0.0.1/x.jpg": "forbidden",
        None: "null_bytes",
    }
    pq.write_table(pa.table({"url": list(urls)}), tmp_path / "in/sub/urls.parquet")

    metadata, embeddings, errors = embed(tmp_path / "in", allowed_roots=(str(tmp_path / "allowed"),))

    outcome = {**dict.fromkeys(embeddings["url"]), **dict(zip(errors["url"], errors["error"], strict=True))}
    assert outcome == urls
    assert metadata["input"]["layout"] == "url_table"
    assert not errors["error_detail"].str.contains("root:").any()


def test_urls_are_downloaded_in_sparks_workers(embed, tmp_path):
    """By the preflight, too, which compares some of the images."""
    paths = ["image/1", "status/404", "redirect?to=/image/2", "dead", "image/3"]
    (tmp_path / "in").mkdir()
    given = {"allow_private_addresses": True, "fetch_read_timeout_s": 1, "fetch_attempts": 1}
    with BadServer() as server:
        urls = [server.url(path) for path in paths]
        pq.write_table(pa.table({"url": [*urls, None]}), tmp_path / "in/a.parquet")
        metadata, embeddings, errors = embed(tmp_path / "in", **given)
    assert embeddings["url"].tolist() == [urls[0], urls[2], urls[4]]
    assert dict(zip(errors["url"], errors["error"], strict=True)) == {
        urls[1]: "not_found",
        urls[3]: "timeout",
        None: "null_bytes",
    }
    assert metadata["parity"]["n_images"] == 3
    assert metadata["stage_s"]["download_s"] > 0


@pytest.mark.matrix
def test_every_kind_of_own_column_arrives_unchanged(embed, tmp_path, photo_bytes):
    table = pa.table(
        {
            "jpg": photo_bytes[:2],
            "when": pa.array([datetime.datetime(1969, 7, 20), None], pa.timestamp("us")),
            "utc": pa.array([datetime.datetime(2026, 1, 2), None], pa.timestamp("us", "UTC")),
            "dotted.name": [[1.5], []],
            "nested": [{"a": 1, "b": ["x", None]}, None],
            "big": pa.array([2**60, None]),
            "small": pa.array([-128, None], pa.int8()),
            "half": pa.array([0.5, None], pa.float32()),
            "is": [True, None],
            "day": [datetime.date(1969, 7, 20), None],
            "price": [decimal.Decimal("1.50"), None],
            "raw": [b"\xff", None],
            "pairs": pa.array(
                [[("a", [{"x": 1}])], []], pa.map_(pa.string(), pa.list_(pa.struct({"x": pa.int32()})))
            ),
            "nothing": pa.nulls(2),
            "text": ["naïve 🙂", ""],
        }
    )
    (tmp_path / "in/cat=a b").mkdir(parents=True)
    pq.write_table(table, tmp_path / "in/cat=a b/0.parquet")
    embed(tmp_path / "in")
    out = pq.read_table(tmp_path / "out/embeddings.parquet").sort_by("shard_row")
    for name in table.column_names[1:]:
        assert out[name].to_pylist() == table[name].to_pylist(), name
    assert out["cat"].to_pylist() == ["a b", "a b"]
    assert out.schema.field("when").type == pa.timestamp("us")
    assert verify(Output(str(tmp_path / "out"))).text().endswith("nothing is wrong")


@pytest.mark.matrix
def test_an_image_that_cannot_be_used_is_a_row_and_never_an_exception(embed, tmp_path, photo_bytes):
    images = [photo_bytes[0], b"", b"<html>", photo_bytes[0][:3000], None]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"id": range(5), "jpg": images}), tmp_path / "in/a.parquet")
    _, embeddings, errors = embed(tmp_path / "in")
    assert dict(zip(errors["image_id"], errors["error"], strict=True)) == {
        "1": "not_an_image",
        "2": "not_an_image",
        "3": "corrupt",
        "4": "null_bytes",
    }
    assert embeddings["image_id"].tolist() == ["0"]


def test_odd_images_are_embedded_like_any_other(embed, tmp_path, photos):
    photo = photos[0].resize((60, 40))
    turned = Image.Exif()
    turned[0x0112] = 6
    images = {
        "grey": encode(photo.convert("L")),
        "cmyk": encode(photo.convert("CMYK")),
        "palette with transparency": encode(photo.convert("P"), "PNG", transparency=0),
        "16-bit": encode(Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257), "PNG"),
        "turned": encode(photo, exif=turned),
        "animated": encode(photo, "GIF", save_all=True, append_images=[photo.rotate(90)]),
        "1x1": encode(photo.resize((1, 1)), "PNG"),
        "3 px wide": encode(photo.resize((3, 50)), "PNG"),
        "6000x2": encode(photo.resize((6000, 2)), "PNG"),
        "upright": encode(photo),
        "turned by hand": encode(photo.transpose(Image.Transpose.ROTATE_270)),
    }
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"id": list(images), "jpg": list(images.values())}), tmp_path / "in/a.parquet")
    _, embeddings, errors = embed(tmp_path / "in", dtype="float32")
    assert errors.empty
    vectors = dict(zip(embeddings["image_id"], vectors_of(embeddings), strict=True))
    assert vectors["turned"] @ vectors["turned by hand"] > 0.999
    assert vectors["turned"] @ vectors["upright"] < vectors["turned"] @ vectors["turned by hand"]
    assert vectors["16-bit"] @ vectors["grey"] > 0.999


def test_a_data_set_without_one_good_image_is_done_all_the_same(embed, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"jpg": pa.nulls(3, pa.binary())}), tmp_path / "in/a.parquet")
    metadata, embeddings, errors = embed(tmp_path / "in")
    assert (len(embeddings), len(errors)) == (0, 3)
    assert "embedding" in embeddings.columns
    assert metadata["parity"]["n_images"] == 0


def test_a_data_set_without_one_error_has_an_empty_errors_file(embed, tmp_path, photo_bytes):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"jpg": photo_bytes}), tmp_path / "in/a.parquet")
    _, embeddings, errors = embed(tmp_path / "in")
    assert (len(embeddings), len(errors)) == (len(photo_bytes), 0)
    assert {"error", "error_detail", "shard"} <= set(errors.columns)


def test_only_the_first_rows_are_embedded_if_asked(embed, shards):
    metadata, embeddings, errors = embed(shards, max_samples=11)
    assert metadata["counts"]["rows"] == 11
    places = pd.concat([embeddings, errors])[["shard", "shard_row"]].values.tolist()
    assert sorted(places) == [["00000.parquet", i] for i in range(9)] + [
        ["00001.parquet", i] for i in range(2)
    ]


@pytest.mark.matrix
def test_the_udf_stands_once_in_the_plan_even_over_shards_of_different_types(
    spark, tiny_clip, tmp_path, photo_bytes
):
    (tmp_path / "in").mkdir()
    for number, values in enumerate([pa.array([1], pa.int32()), pa.array([2], pa.int64()), pa.nulls(1)]):
        pq.write_table(pa.table({"n": values, "jpg": photo_bytes[:1]}), tmp_path / f"in/{number}.parquet")
    source = find_source(Config(input_dir=str(tmp_path / "in"), output_dir="unused"))
    embedded = embed_table(table_of(spark, source), Recipe(str(tiny_clip), dtype="float32"), FeedOptions())
    used = embedded.where("`__result__`.error is null").select("n", "`__result__`.embedding")
    assert used._jdf.queryExecution().executedPlan().toString().count("EvalPython") == 1
    assert used.count() == 3


def test_the_users_own_settings_are_put_back(embed, spark, shards):
    name = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(name)
    embed(shards, max_samples=1)
    assert spark.conf.get(name) == before
