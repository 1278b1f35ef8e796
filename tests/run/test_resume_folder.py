"""A second run over an image folder: groups of images are shards like any other."""

import json
from collections import Counter

import pytest

from spark_embed.config import Config
from spark_embed.datasets.index import image_folder
from spark_embed.errors import ResumeError
from spark_embed.output.folder import Output
from spark_embed.output.status import read_status
from spark_embed.output.verify import verify
from spark_embed.run.dry_run import describe_run


@pytest.fixture
def folder(tmp_path, photo_bytes, monkeypatch):
    """Twelve images, in groups of four."""
    monkeypatch.setattr(image_folder, "IMAGES_PER_GROUP", 4)
    for number in range(12):
        path = tmp_path / f"in/{number % 2}/{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo_bytes[number % 4])
    return tmp_path / "in"


@pytest.fixture
def index_in_this_process(monkeypatch):
    """Groups of four are known here only, not in Spark's workers."""
    monkeypatch.setattr(image_folder, "run_tasks", lambda spark, function, items: [function(items[0])])


@pytest.fixture
def embed_folder(embed, folder, index_in_this_process):
    def embed_folder(**options):
        metadata, embeddings, errors = embed(folder, **options)
        assert verify(Output(str(embed.output_dir))).n_findings == 0
        ids = Counter([*embeddings["image_id"], *errors["image_id"]])
        assert set(ids.values()) <= {1}
        return metadata, set(ids)

    return embed_folder


def there(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")}


def test_what_changes_redoes_its_group(embed_folder, folder, photo_bytes, embedded_rows):
    metadata, ids = embed_folder()
    assert (metadata["input"]["n_shards"], metadata["input"]["n_rows"]) == (3, 12)
    assert ids == there(folder)
    (folder / "0/00.jpg").write_bytes(photo_bytes[3])  # another
    _, ids = embed_folder()
    (folder / "1/12.jpg").write_bytes(photo_bytes[3])  # new
    (folder / "1/13.jpg").write_bytes(b"no image")
    _, ids = embed_folder()
    assert ids == there(folder)
    (folder / "1/01.jpg").unlink()  # gone, and its row with it
    metadata, ids = embed_folder()
    assert ids == there(folder)
    assert metadata["counts"]["errors"] == 1
    assert embed_folder()[1] == ids
    assert embedded_rows == [12, 4, 6, 3]  # the groups' images


def test_all_images_of_a_group_may_go(embed_folder, folder, embedded_rows):
    embed_folder()
    for path in sorted(folder.rglob("*.jpg"))[:4]:
        path.unlink()
    _, ids = embed_folder()
    assert ids == there(folder)
    assert embed_folder()[1] == ids
    assert embedded_rows == [12]  # to take away takes no model


def test_a_kill_between_index_and_waves_costs_nothing(embed_folder, folder, photo_bytes, monkeypatch):
    embed_folder()
    (folder / "0/00.jpg").write_bytes(photo_bytes[3])
    with monkeypatch.context() as patch:
        patch.setattr("spark_embed.pipeline.bind_run", lambda context, plan: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            embed_folder()
    metadata, ids = embed_folder()
    assert metadata["this_run"]["rows"] == 4
    assert ids == there(folder)


def test_errors_are_tried_again(embed_folder, folder, photo_bytes):
    (folder / "0/00.jpg").write_bytes(b"no image")
    metadata, _ = embed_folder(max_image_bytes=1000)
    assert metadata["counts"]["errors"] == 12
    metadata, ids = embed_folder(retry_errors=True)
    assert (metadata["counts"]["errors"], metadata["this_run"]["rows"]) == (1, 12)
    assert ids == there(folder)


def test_an_id_may_be_the_label(embed, folder, index_in_this_process):
    _, embeddings, _ = embed(folder, id_column="label")
    assert sorted(set(embeddings["image_id"])) == ["0", "1"]


def test_a_dry_run_changes_nothing(embed, embed_folder, spark, tiny_clip, folder, photo_bytes):
    embed_folder()
    (folder / "0/02.jpg").unlink()
    (folder / "0/03.jpg").write_bytes(photo_bytes[1])
    before = {path: path.read_bytes() for path in embed.output_dir.rglob("*") if path.is_file()}
    paths = {"input_dir": str(folder), "output_dir": str(embed.output_dir)}
    text = describe_run(spark, Config(model_directory=str(tiny_clip), **paths))
    assert "of which 4 would be embedded" in text
    assert {path: path.read_bytes() for path in embed.output_dir.rglob("*") if path.is_file()} == before


def test_an_output_of_an_earlier_version_is_refused_in_one_line(embed, embed_folder):
    embed_folder()
    path = embed.output_dir / "_spark_embed/run.json"
    record = json.loads(path.read_text())
    del record["fingerprint"]["images_per_group"]
    record["fingerprint"]["image_id"] = "shard#row"
    path.write_text(json.dumps(record))
    index = {one.name for one in (embed.output_dir / "_spark_embed/index").iterdir()}
    with pytest.raises(ResumeError, match=r"an image folder of an earlier version.*--overwrite") as caught:
        embed_folder()
    assert "\n" not in str(caught.value)
    assert {one.name for one in (embed.output_dir / "_spark_embed/index").iterdir()} == index
    output = Output(str(embed.output_dir))
    assert "an image folder of an earlier version" in verify(output).text()
    assert read_status(output).n_complete == 12
    assert embed_folder(overwrite=True)[0]["counts"]["rows"] == 12
