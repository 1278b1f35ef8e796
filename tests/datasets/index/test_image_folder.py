"""Which images make up a group, and which groups are others when the folder changes. No Spark."""

import json
import os
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_embed.datasets.detection.detect import Layout
from spark_embed.datasets.index import image_folder
from spark_embed.datasets.index.image_folder import FolderTask, Group, make_folder_index, update_groups
from spark_embed.errors import ResumeError
from spark_embed.storage import local_walk
from spark_embed.storage.files import StoredFile


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(image_folder, "IMAGES_PER_GROUP", 10)


class Walks:
    """A folder, and what walk after walk finds in it; knows no Spark."""

    def __init__(self, folder: Path, monkeypatch):
        self.root, self.index = folder / "in", folder / "index"
        monkeypatch.setattr(
            image_folder, "run_tasks", lambda spark, function, tasks: self._run(function, tasks)
        )
        self.tried_before = lambda task: None

    def _run(self, function, tasks):
        self.tried_before(tasks[0])
        return [json.loads(json.dumps(function(tasks[0])))]

    def put(self, *names: str, content: bytes = b"an image") -> None:
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def shards(self, *, has_labels=False, max_rows=None):
        """Return name, version and rows of the shards, by name, once each file has been looked at."""
        layout = Layout("image_folder", str(self.root), has_labels=has_labels)
        index = make_folder_index(None, layout, str(self.index), max_rows)
        for shard in index.shards:
            table = pq.read_table(self.index / shard.path)
            assert (len(table), table.schema, (self.index / shard.path).stat().st_size) == (
                shard.n_rows, shard.schema, shard.n_bytes,
            )  # fmt: skip
            assert table["__shard__"].to_pylist() == [shard.name] * shard.n_rows
            assert table["__shard_row__"].to_pylist() == list(range(shard.n_rows))
        assert {path.name for path in self.index.iterdir()} == {
            "groups.json", *(shard.path for shard in index.shards),
        }  # fmt: skip
        return {shard.name: (shard.version, self.paths(shard)) for shard in index.shards}

    def paths(self, shard) -> list[str]:
        return pq.read_table(self.index / shard.path)["image_id"].to_pylist()


@pytest.fixture
def walks(tmp_path, monkeypatch, small_groups) -> Walks:
    return Walks(tmp_path, monkeypatch)


def names_of(numbers, folder="a") -> list[str]:
    return [f"{folder}/{number:03d}.jpg" for number in numbers]


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_groups_are_ranges_of_the_paths(walks):
    walks.put(*names_of(range(25)), *names_of(range(8), "b"))
    shards = walks.shards()
    assert [paths for _, paths in shards.values()] == [
        names_of(range(10)), names_of(range(10, 20)), [*names_of(range(20, 25)), *names_of(range(8), "b")],
    ]  # fmt: skip
    assert list(shards) == ["images-000000", "images-000001", "images-000002"]
    assert walks.shards() == shards


@pytest.mark.parametrize(
    ("change", "groups"),
    [
        (lambda walks: walks.put("a/015.jpg", content=b"another"), {"images-000001"}),
        (lambda walks: walks.put("a/0155.jpg"), {"images-000001"}),
        (lambda walks: (walks.root / "a/000.jpg").unlink(), {"images-000000"}),
        (lambda walks: walks.put("0.jpg"), {"images-000000"}),  # before all others
        (lambda walks: walks.put("z.jpg"), {"images-000003"}),  # behind
        (lambda walks: walks.put("a/notes.txt"), set()),
    ],
)
def test_what_changes_is_another_group_and_no_more(walks, change, groups):
    walks.put(*names_of(range(45)))
    before = walks.shards()
    change(walks)
    assert changed(before, walks.shards()) == groups


def test_a_group_that_grows_is_cut_and_the_names_of_others_stay(walks):
    walks.put(*names_of(range(0, 60, 2)))
    before = walks.shards()
    walks.put(*names_of(range(21, 41, 2)))
    after = walks.shards()
    assert changed(before, after) == {"images-000001", *(after.keys() - before.keys())}
    assert sorted(path for _, paths in after.values() for path in paths) == sorted(
        {*names_of(range(0, 60, 2)), *names_of(range(21, 41, 2))}
    )
    assert all(len(paths) < 20 for _, paths in after.values())


def test_an_append_redoes_the_last_group_only(walks):
    walks.put(*names_of(range(33)))
    before = walks.shards()
    walks.put(*names_of(range(100, 150)))
    after = walks.shards()
    assert changed(before, after) & before.keys() == {list(before)[-1]}


def test_a_group_without_images_stays_and_no_name_is_given_again(walks):
    walks.put(*names_of(range(40)))
    before = walks.shards()
    for name in names_of(range(10, 20)):
        (walks.root / name).unlink()
    after = walks.shards()
    assert changed(before, after) == {"images-000001"}
    assert after["images-000001"][1] == []
    assert walks.shards() == after
    walks.put(*names_of(range(10, 20)))
    assert walks.shards().keys() == before.keys()


def test_the_order_of_the_disk_does_not_matter(walks, monkeypatch):
    walks.put(*names_of(range(30)), *names_of(range(30), "a.b"), *names_of(range(30), "a b"), "a.jpg")
    before = walks.shards()
    scandir = os.scandir

    class Shuffled:
        def __init__(self, folder):
            entries = list(scandir(folder))
            random.shuffle(entries)
            self._entries = iter(entries)

        def __iter__(self):
            return self

        def __next__(self):
            return next(self._entries)

        def __enter__(self):  # pathlib's, from Python 3.13 on
            return self

        def __exit__(self, *exc_info):
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    monkeypatch.setattr(local_walk, "_MAX_SORTED", 5)
    assert walks.shards() == before


def test_an_attempt_that_saw_other_images_leaves_nothing(walks):
    walks.put(*names_of(range(20)))

    def see_others(task: FolderTask) -> None:
        walks.put("a/0005.jpg")
        update_groups(task)
        (walks.root / "a/0005.jpg").unlink()

    before = walks.shards()
    walks.tried_before = see_others
    assert walks.shards() == before


def test_labels_are_those_of_the_first_run(walks):
    walks.put("cat/1.jpg", "dog/2.jpg")
    walks.shards(has_labels=True)
    walks.put("3.jpg")
    layout = Layout("image_folder", str(walks.root), has_labels=False)
    (shard,) = make_folder_index(None, layout, str(walks.index), None).shards
    table = pq.read_table(walks.index / shard.path)
    assert table["label"].to_pylist() == [None, "cat", "dog"]


def test_names_that_are_no_text_are_kept_and_shown_each_in_its_way(walks):
    names = [b"\xff/1.jpg", b"\xfe/1.jpg", b"\\xff/1.jpg", "ü [x]=1,\n.jpg".encode()]
    walks.put(*(os.fsdecode(name) for name in names))
    before = walks.shards(has_labels=True)
    assert walks.shards(has_labels=True) == before
    table = pq.read_table(next(walks.index.glob("*.parquet")))
    shown = dict(zip(table["image_id"].to_pylist(), table["__image__"].to_pylist(), strict=True))
    assert {name: image["uri"] for name, image in shown.items()} == {
        r"\xff/1.jpg": os.fsencode(walks.root) + b"/\xff/1.jpg",
        r"\xfe/1.jpg": os.fsencode(walks.root) + b"/\xfe/1.jpg",
        r"\x5cxff/1.jpg": os.fsencode(walks.root) + b"/\\xff/1.jpg",
        "ü [x]=1,\n.jpg": os.fsencode(walks.root) + "/ü [x]=1,\n.jpg".encode(),
    }
    assert set(table["label"].to_pylist()) == {r"\xff", r"\xfe", r"\x5cxff", None}


def test_only_as_many_are_indexed_as_are_wanted(walks):
    walks.put(*names_of(range(50)))
    assert [paths for _, paths in walks.shards(max_rows=15).values()] == [names_of(range(15))]


@pytest.mark.parametrize("content", ["[]", '{"groups": []}', "{"])
def test_a_broken_list_is_told(walks, content):
    walks.put("1.jpg")
    walks.shards()
    (walks.index / "groups.json").write_text(content)
    with pytest.raises(ResumeError, match=r"groups.json: is broken.*--overwrite"):
        walks.shards()


@given(st.lists(st.sets(st.integers(0, 120)), min_size=1, max_size=5))
@settings(max_examples=50)
def test_every_image_is_in_one_group_whatever_came_and_went(states):
    images_of = {}
    groups: list[Group] = []
    n_names = 0
    size = image_folder.IMAGES_PER_GROUP
    image_folder.IMAGES_PER_GROUP = 4
    try:
        for state in states:
            files = [StoredFile(f"{number:03d}.jpg", 1) for number in sorted(state)]
            found = list(image_folder._cut(iter(files), groups, lambda path: path.split("/")))
            assert [image for _, images in found for image in images] == files
            assert [known for known, _ in found if known] == groups
            assert all(len(images) < 8 for _, images in found)
            groups = []
            for known, images in found:
                first = known.first if known else images[0].path if images else ""
                name = known.name if known else str(n_names)
                n_names += known is None
                groups.append(Group(name, first, "", len(images), 0, 0))
            groups[0] = groups[0]._replace(first="")
            images_of = {group.name: images for group, (_, images) in zip(groups, found, strict=True)}
        assert len(images_of) == len(groups)
    finally:
        image_folder.IMAGES_PER_GROUP = size
