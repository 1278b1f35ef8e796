"""Every layout gives the same vector for the same bytes, and accounts for every row."""

import gzip
import hashlib
import json
import os
import tarfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.errors import ConfigError

from support.shard_files import write_tar
from support.vectors import cosines

IMG2DATASET = {
    "parquet": ("parquet", "parquet"),
    "webdataset": ("img2dataset_webdataset", "webdataset"),
    "files": ("img2dataset_files", "img2dataset_files"),
}


@pytest.fixture(scope="session")
def expected(material):
    """What plain transformers gives for each key."""
    return pd.read_parquet(material / "img2dataset/expected-clip-tiny.parquet").set_index("key")


def vectors_by(embeddings: pd.DataFrame, column: str) -> pd.DataFrame:
    return embeddings.set_index(column)["embedding"]


@pytest.mark.parametrize("folder", [pytest.param("parquet", marks=pytest.mark.matrix), "webdataset", "files"])
def test_img2datasets_layouts_give_401_vectors_and_8_errors(embed, material, expected, folder):
    metadata, embeddings, errors = embed(
        material / "img2dataset" / folder, model_directory=str(material / "clip-tiny"), dtype="float32"
    )
    assert metadata["input"]["layout"] == IMG2DATASET[folder][0]
    counts = {"rows": 409, "embedded": 401, "errors": 8, "errors_by_code": {"null_bytes": 8}}
    assert metadata["counts"] == counts
    assert metadata["parity"]["n_images"] == 16
    assert metadata["parity"]["min_cosine"] >= 0.9999
    assert metadata["parity"]["max_pixel_difference"] <= 2
    assert (len(embeddings), len(errors)) == (401, 8)
    assert set(errors["error"]) == {"null_bytes"}
    assert set(errors["status"]) == {"failed_to_download", "failed_to_resize"}
    assert {"caption", "url", "key", "category", "sha256"} <= set(embeddings.columns)
    assert embeddings["image_id"].tolist() == embeddings["key"].tolist()
    assert not embeddings.duplicated(["shard", "shard_row"]).any()
    ours = vectors_by(embeddings, "key")
    got = np.stack(ours.loc[expected.index])
    assert cosines(got, np.stack(expected["embedding"])).min() > 0.99999


def test_hugging_face_and_the_photo_folder_give_400_equal_vectors(embed, material):
    options = {"model_directory": str(material / "clip-tiny"), "dtype": "float32"}
    metadata, hugging_face, errors = embed(material / "hf_datasets", **options)
    assert metadata["input"]["layout"] == "huggingface"
    assert (len(hugging_face), len(errors)) == (400, 0)
    assert "image" not in hugging_face.columns
    metadata, folder, errors = embed(material / "photos", overwrite=True, **options)
    assert (metadata["input"]["layout"], metadata["input"]["n_shards"]) == ("image_folder", 1)
    assert (len(folder), len(errors)) == (400, 0)
    assert folder["image_id"].is_unique
    assert folder["label"].tolist() == [path.split("/")[0] for path in folder["image_id"]]
    by_hash = {
        hashlib.sha256((material / "photos" / row.image_id).read_bytes()).hexdigest(): row.embedding
        for row in folder.itertuples()
    }
    shards = pa.concat_tables(
        pq.read_table(path, columns=["image"])
        for path in sorted((material / "hf_datasets").glob("*.parquet"))
    )
    hashes = [hashlib.sha256(image["bytes"]).hexdigest() for image in shards["image"].to_pylist()]
    ordered = hugging_face.sort_values(["shard", "shard_row"])["embedding"]
    assert cosines(np.stack(ordered), np.stack([by_hash[one] for one in hashes])).min() > 0.99999


def test_all_hostile_files_are_rows_as_pillow_says(embed, material):
    """Four that Pillow takes for bombs are bombs here, too; everything else decodes or not as there.

    But for two PNGs of which only the text is broken.
    """
    metadata, embeddings, errors = embed(
        material / "hostile", model_directory=str(material / "clip-tiny"), overwrite=True
    )
    manifest = pd.read_csv(material / "hostile/manifest.csv").set_index("file")
    assert metadata["input"]["layout"] == "image_folder"
    assert sorted([*embeddings["image_id"], *errors["image_id"]]) == sorted(manifest.index)
    decoded = manifest.index[manifest["pillow_stage_reached"] == "ok"]
    sound = {"images__png_decompression_dos.png", "images__unknown_compression_method.png"}
    assert set(embeddings["image_id"]) == {*decoded, *sound}
    assert set(errors["error"]) == {"corrupt", "too_many_pixels"}
    assert metadata["counts"]["rows"] == len(manifest) > 600


@pytest.mark.matrix
def test_tars_alone_give_their_texts_as_columns(embed, tmp_path, photo_bytes):
    write_tar(
        tmp_path / "in/a.tar",
        [
            ("x/0.txt", b"a cat"),
            ("x/0.jpg", photo_bytes[0]),
            ("x/0.json", b'{"n": 1}'),
            ("x/1.jpg", photo_bytes[1]),
            ("x/2.txt", b"no image"),
            ("x/3.seg.png", b"<html>"),
        ],
    )
    write_tar(tmp_path / "in/b.tar", [("0.jpg", photo_bytes[0])])
    metadata, embeddings, errors = embed(tmp_path / "in")
    assert metadata["input"]["layout"] == "webdataset"
    assert metadata["input"]["n_shards"] == 2
    good = embeddings.sort_values(["shard", "shard_row"])
    assert good["image_id"].tolist() == ["x/0", "x/1", "0"]
    assert good["txt"].tolist() == ["a cat", None, None]
    assert good["json"].tolist() == ['{"n": 1}', None, None]
    assert "cls" not in good.columns
    assert dict(zip(errors["key"], errors["error"], strict=True)) == {
        "x/2": "null_bytes",
        "x/3": "not_an_image",
    }


def test_keys_that_are_only_in_the_tar_or_only_in_the_parquet_are_rows(embed, tmp_path, photo_bytes):
    images = [(f"{key}.jpg", photo_bytes[0]) for key in ("a", "b", "twice", "c")]
    write_tar(tmp_path / "in/0.tar", [*images, ("twice.jpg", photo_bytes[1])])
    keys = ["b", "gone", "a", "twice", "twice", "twice"]
    pq.write_table(pa.table({"key": keys, "n": range(6)}), tmp_path / "in/0.parquet")
    _, embeddings, errors = embed(tmp_path / "in")
    good = embeddings.sort_values("shard_row")
    assert good["key"].tolist() == ["b", "a", "twice", "twice", "c"]
    assert good["n"].tolist()[:4] == [0, 2, 3, 4]
    assert errors["key"].tolist() == ["gone", "twice"]
    assert set(good["shard"]) == {"0.tar"}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".jsonl", ".jsonl.gz"])
def test_lists_of_urls_are_read_with_their_columns(embed, tmp_path, photo_bytes, suffix):
    (tmp_path / "in/images").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / f"in/images/{name}.jpg").write_bytes(photo_bytes[0])
    rows = [
        {"link": "images/a.jpg", "caption": 'a "cat",\nor two\tcats', "n": "1"},
        {"link": "images/none.jpg", "caption": "naïve", "n": "2"},
        {"link": "", "caption": "no link", "n": "3"},
    ]
    frame = pd.DataFrame(rows)
    if "json" in suffix:
        text = "\n".join(json.dumps({**row, "n": int(row["n"])}) for row in rows) + "\n\n"
    else:
        text = frame.to_csv(index=False, sep="\t" if "tsv" in suffix else ",")
    data = text.encode()
    (tmp_path / f"in/list{suffix}").write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    metadata, embeddings, errors = embed(tmp_path / "in", url_column="link", layout="url_list")
    assert metadata["input"]["layout"] == "url_list"
    assert embeddings["caption"].tolist() == ['a "cat",\nor two\tcats']
    assert embeddings["n"].tolist() == ["1"]
    assert sorted(errors["error"]) == ["not_found", "null_bytes"]
    assert embeddings["image_id"].tolist() == [f"list{suffix}#0"]
    assert metadata["input"]["not_used"] == {"images that no row names": 1}


def test_null_bytes_of_a_hugging_face_image_mean_its_path(embed, tmp_path, photo_bytes):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(photo_bytes[0])
    images = [
        {"bytes": None, "path": "a.jpg"},
        {"bytes": photo_bytes[0], "path": "/etc/passwd"},
        {"bytes": None, "path": "/etc/passwd"},
        {"bytes": None, "path": None},
        None,
    ]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, struct)}), tmp_path / "in/0.parquet")
    paths = pa.array([{"bytes": None, "path": "a.jpg"}])  # without bytes, they have no type either
    pq.write_table(pa.table({"image": paths}), tmp_path / "in/1.parquet")
    pq.write_table(pa.table({"image": pa.nulls(1)}), tmp_path / "in/2.parquet")
    for transport in ("reference", "bytes"):
        _, embeddings, errors = embed(tmp_path / "in", image_transport=transport, overwrite=True)
        assert embeddings["image_id"].tolist() == ["0.parquet#0", "0.parquet#1", "1.parquet#0"]
        codes = dict(zip(errors["image_id"], errors["error"], strict=True))
        nulls = dict.fromkeys(["0.parquet#3", "0.parquet#4", "2.parquet#0"], "null_bytes")
        assert codes == {"0.parquet#2": "forbidden", **nulls}


def test_an_image_folder_has_every_image_once_whatever_its_name(embed, tmp_path, photo_bytes):
    names = ["_DSC1.JPG", "a b.jpeg", "deep/er/é.jpg", "[x]*.png", "100%.webp", "file:x.jpg"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(photo_bytes[0])
    (tmp_path / "in/.hidden.jpg").write_bytes(b"x")
    (tmp_path / "in/notes.txt").write_text("x")
    (tmp_path / "in/dangling.jpg").symlink_to("nowhere")
    _, embeddings, errors = embed(tmp_path / "in")
    assert sorted(embeddings["image_id"]) == sorted(names)
    assert "label" not in embeddings.columns
    assert errors[["image_id", "error"]].to_numpy().tolist() == [["dangling.jpg", "not_found"]]


def test_mixed_layouts_are_named_and_one_can_be_chosen(embed, tmp_path, photo_bytes):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(photo_bytes[0])
    pq.write_table(pa.table({"jpg": photo_bytes[:2]}), tmp_path / "in/0.parquet")
    with pytest.raises(ConfigError, match=r"mixes layouts: parquet \(1 files, such as 0.parquet\), image_f"):
        embed(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"--layout webdataset: .* no webdataset tars; it holds parquet"):
        embed(tmp_path / "in", layout="webdataset")
    _, embeddings, _ = embed(tmp_path / "in", layout="image_folder")
    assert embeddings["image_id"].tolist() == ["a.jpg"]
    _, embeddings, _ = embed(tmp_path / "in", layout="parquet", overwrite=True)
    assert len(embeddings) == 2


def test_names_that_are_no_utf8_are_images_like_any_other(embed, tmp_path, photo_bytes):
    """Two that look alike to a terminal are two, also once one of them is replaced."""
    (tmp_path / "in").mkdir()
    names = {b"\xff.jpg": r"\xff.jpg", b"\xfe.jpg": r"\xfe.jpg", b"\\xff.jpg": r"\x5cxff.jpg"}
    for number, name in enumerate(names):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(photo_bytes[number])
    (tmp_path / "in" / os.fsdecode(b"\xfd.jpg")).symlink_to(os.fsdecode(b"nowhere\xff"))
    _, before, errors = embed(tmp_path / "in")
    assert sorted(before["image_id"]) == sorted(names.values())
    assert errors[["image_id", "error"]].to_numpy().tolist() == [[r"\xfd.jpg", "not_found"]]
    assert errors["error_detail"][0].endswith(r"/in/nowhere\xff")
    (tmp_path / "in" / os.fsdecode(b"\xff.jpg")).write_bytes(photo_bytes[3])
    _, after, _ = embed(tmp_path / "in")
    old, new = vectors_by(before, "image_id"), vectors_by(after, "image_id")
    same = {name: bool(np.array_equal(old[name], new[name])) for name in names.values()}
    assert same == {r"\xff.jpg": False, r"\xfe.jpg": True, r"\x5cxff.jpg": True}
    assert not np.array_equal(new[r"\xfe.jpg"], new[r"\x5cxff.jpg"])


def test_tars_as_people_make_them(embed, tmp_path, photo_bytes, log):
    """Compressed, with links, under odd names, and with members that are left out: said by every run."""
    members = [("a.jpg", photo_bytes[0]), ("b.1.jpg", photo_bytes[1]), ("b.2.jpg", photo_bytes[2])]
    odd = os.fsdecode(b"\xe9.tar")
    write_tar(tmp_path / "in" / odd, members)
    write_tar(tmp_path / "made.tar", [("a.jpg", photo_bytes[0]), ("d.jpg", photo_bytes[3])])
    with tarfile.open(tmp_path / "made.tar", "a") as tar:
        for name, target in (("a_link.jpg", "d.jpg"), ("dead.jpg", "none.jpg")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    (tmp_path / "in/c.tar.gz").write_bytes(gzip.compress((tmp_path / "made.tar").read_bytes()))
    (tmp_path / "in/d.zip").touch()
    (tmp_path / "in/e.tar").symlink_to(tmp_path / "made.tar")
    for _ in range(2):
        log.clear()
        metadata, embeddings, errors = embed(tmp_path / "in")
        assert metadata["input"]["not_used"] == {".zip": 1, "images in tars whose key has another": 1}
        said = r"not used: 1 .zip (d.zip), 1 images in tars whose key has another (b.2.jpg in \xe9.tar)"
        assert said in log.messages
        assert list(metadata["pending"]["bad_shards"]) == ["e.tar"]
    found = embeddings.set_index(["shard", "key"])["embedding"]
    assert set(found.index) == {
        *((r"\xe9.tar", key) for key in "ab"), *(("c.tar.gz", key) for key in ("a", "d", "a_link")),
    }  # fmt: skip
    assert np.array_equal(found[r"\xe9.tar", "a"], found["c.tar.gz", "a"])
    assert np.array_equal(found["c.tar.gz", "d"], found["c.tar.gz", "a_link"])
    assert errors[["key", "error", "error_detail"]].to_numpy().tolist() == [
        ["dead", "not_found", "a link to none.jpg, which is not in the tar"]
    ]
