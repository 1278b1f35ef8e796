"""spark-embed verify on an image folder, where every image is a shard of its own."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.cli.main import main
from spark_embed.output.folder import Output
from spark_embed.output.records import ShardState

from support.output_files import (
    fingerprint,
    list_anew,
    make_output,
    make_run,
    publish,
    rewrite,
)
from support.verified import FIRST, SECOND, findings, path_of, with_column, without


@pytest.fixture
def output(tmp_path) -> Output:
    return make_output(tmp_path / "out")


@pytest.fixture
def folder(tmp_path) -> Output:
    """Three hundred images in two index files; ten of the first have changed, and their rows are void."""
    output = Output(str(tmp_path / "out"))
    make_run(output, made_by=fingerprint("image_folder"))
    first, second = [image(i) for i in range(250)], [image(i) for i in (*range(10), *range(250, 300))]
    write_index(output, "0000-x.parquet", first)
    write_index(output, "0001-y.parquet", second)
    write_index(output, "0001-y.void.parquet", second[:10])
    shards = {
        "0000-x.parquet": ShardState("", ((0, 100), (120, 130))),  # so twenty images are not done yet
        "0001-y.parquet": ShardState("", ((0, 60),)),
    }
    images = [(name, 0) for name in (*first[10:100], *first[120:], *second)]
    errors = dict.fromkeys(images[::50], "not_found")
    keys = [key for key in images if key not in errors]
    publish(output, [keys[:150], keys[150:]], errors, shards, fingerprint("image_folder"))
    list_anew(output, voided=("0001-y.void.parquet",))
    return output


def image(number: int) -> str:
    return f"cat/ü {number:03d}.jpg"


def write_index(output: Output, name: str, images: list[str]) -> None:
    path = Path(output.index, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"__shard__": images, "__shard_row__": [0] * len(images)})
    pq.write_table(table, path, row_group_size=64)


def test_a_good_image_folder_is_good(folder, capsys):
    assert findings(folder, capsys) == []


def test_images_that_are_not_there_once(folder, capsys):
    names = pq.read_table(path_of(folder, FIRST))["shard"].to_pylist()

    def change(table):
        changed = with_column("shard", lambda names: [image(110), *names[1:5], names[6], *names[6:]])(table)
        return without(9)(changed)

    rewrite(path_of(folder, FIRST), change)
    list_anew(folder)
    assert findings(folder, capsys) == [
        "rows 279 images are there, 280 are in the index",
        *sorted(
            [
                f"rows image {names[0]}: is missing",
                f"rows image {names[5]}: is missing",
                f"rows image {names[6]}: is there 2 times",
                f"rows image {names[9]}: is missing",
                f"rows image {image(110)}: is there, and should not be",
            ]
        ),
    ]


@pytest.mark.parametrize("position", [0, 77, 149])
def test_an_image_under_another_name(folder, capsys, position):
    gone = pq.read_table(path_of(folder, FIRST))["shard"][position].as_py()
    rewrite(
        path_of(folder, FIRST),
        with_column("shard", lambda names: [*names[:position], "new.jpg", *names[position + 1 :]]),
    )
    list_anew(folder)
    assert findings(folder, capsys) == [
        "rows 280 images are there, 280 are in the index",
        f"rows image {gone}: is missing",
        "rows image new.jpg: is there, and should not be",
    ]


def test_an_image_has_one_row(folder, capsys):
    rewrite(path_of(folder, SECOND), with_column("shard_row", lambda rows: [1, 2, *rows[2:]]))
    list_anew(folder)
    assert findings(folder, capsys) == ["rows 2 rows have a shard_row other than 0, that of an image"]


def test_an_index_that_is_not_what_it_was(folder, capsys):
    write_index(folder, "0001-y.parquet", [image(i) for i in range(30)])
    (found,) = findings(folder, capsys)
    assert "0001-y.parquet of the index has 30 rows, in files.json 60" in found
    Path(folder.index, "0001-y.void.parquet").unlink()
    write_index(folder, "0001-y.parquet", [image(i) for i in range(60)])
    (found,) = findings(folder, capsys)
    assert (
        "which images there should be cannot be said: 0001-y.void.parquet of the index cannot be read"
        in found
    )


def test_many_images_that_are_wrong_are_told_shortly(folder, capsys, monkeypatch):
    monkeypatch.setattr("spark_embed.output.verify.folder_rows._MAX_NAMES", 8)
    path_of(folder, FIRST).unlink()
    found = findings(folder, capsys)
    assert found[1] == "rows 130 images are there, 280 are in the index"
    assert 1 <= len(found) - 2 <= 8


def test_an_older_image_folder_is_checked_but_for_its_images(folder, capsys):
    make_run(folder, "run-2")
    Path(folder.index, "0000-x.parquet").unlink()
    assert main(["verify", folder.root]) == 0
    assert "the index is that of the newer run" in capsys.readouterr().out
