"""Tasks of a good length, whatever the model's speed, for any mix of files."""

import math
from collections import Counter
from dataclasses import replace
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from spark_embed.config import Config
from spark_embed.datasets.units import Unit, units_of
from spark_embed.run import binding
from spark_embed.spark.settings import settings
from spark_embed.spark.task_size import Rate, TaskSize, find_task_size

from support.sources import find_source
from support.spark_tasks import File, rows_by_task

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30
WAVE_S = 300  # the default

ONE_GROUP = 10**9


def file(n_bytes: int, group_rows: int = ONE_GROUP, row_bytes: int = 110 * KB) -> File:
    n_rows = n_bytes // row_bytes
    return File(n_rows, n_bytes, min(group_rows, n_rows))


MIXES = {
    "20 GB": [file(20 * GB, 1000)],
    "20 GB in one row group": [file(20 * GB)],
    "100,000 of 1 MB": [file(MB)] * 100_000,
    "both": [file(20 * GB), *[file(MB)] * 100_000],
    "one row group each": [file(GB)] * 1000,
    "from 1 MB to 10 GB": [file(int(MB * 10 ** (i / 125)), 1000) for i in range(500)],
    "thumbnails and photos": [*[file(GB, 1000, 5 * KB)] * 10, *[file(GB, 50, 5 * MB)] * 90],
}


def n_tasks(n_bytes, n_rows, n_files, rate) -> float:
    """How many tasks the settings make of such an input."""
    size = find_task_size(n_bytes, n_rows, n_files, rate)
    return (n_bytes + n_files * size.open_bytes) / size.n_bytes


@pytest.mark.parametrize(
    ("row_s", "n_rows", "n_slots"), [(0.001, 10_000_000, 2), (0.05, 1_000_000, 64), (0.5, 10_000, 8)]
)
def test_a_task_of_a_long_run_takes_up_to_a_minute(row_s, n_rows, n_slots):
    tasks = n_tasks(n_rows * 100_000, n_rows, 100, Rate(row_s, n_slots))
    assert 30 < n_rows * row_s / tasks <= 64


def test_tasks_are_longer_where_their_last_rows_are_waited_for():
    """Of 0.3 s an answer, 32 at once: tasks of 30 s, where those of a model here would take 10."""
    row_s = 0.3 / 32
    tasks = [n_tasks(8000 * 30_000, 8000, 8, Rate(row_s, 2, n_ahead)) for n_ahead in (0, 4 * 32)]
    assert [round(one) for one in tasks] == [8, 2]


@pytest.mark.parametrize(("n_files", "n_slots"), [(120, 4), (17, 4), (100, 8), (1000, 7), (33, 2), (5, 4)])
def test_slots_end_together_where_tasks_are_of_whole_files(n_files, n_slots):
    """No file is cut here, so nothing is shorter than rounds of one file each."""
    files = [File(50, MB, 50)] * n_files
    size = find_task_size(n_files * MB, n_files * 50, n_files, Rate(0.2, n_slots))
    tasks = rows_by_task(files, size.n_bytes, size.open_bytes)
    longest_s = max(sum(tasks[slot::n_slots]) for slot in range(n_slots)) * 0.2
    assert sum(tasks) == n_files * 50
    assert longest_s <= math.ceil(n_files / n_slots) * 10 * 1.1


def test_a_short_run_has_four_tasks_a_slot_or_tasks_of_two_seconds():
    assert n_tasks(2 * GB, 16_000, 16, Rate(0.004, 2)) == pytest.approx(8, rel=0.02)
    assert n_tasks(GB, 4_000, 4, Rate(0.001, 2)) == pytest.approx(2, rel=0.02)
    assert n_tasks(1000, 10, 1, Rate(0.001, 2)) == pytest.approx(2, rel=0.02)


def first_wave(files, rate: Rate) -> tuple[TaskSize, list[File]]:
    """The size of its tasks, and its files."""
    n_rows = sum(file.n_rows for file in files)
    wave_rows = min(n_rows, round(WAVE_S * rate.n_slots / rate.row_s))
    share = wave_rows / n_rows
    n_bytes, n_files = round(sum(file.n_bytes for file in files) * share), math.ceil(len(files) * share)
    taken, left = [], wave_rows
    for file in files:
        if left > 0:
            taken.append(file)
            left -= file.n_rows
    return find_task_size(n_bytes, wave_rows, n_files, rate), taken


@pytest.mark.parametrize(
    "rate", [Rate(0.004, 2), Rate(0.004, 400), Rate(0.05, 400), Rate(0.004, 1000)], ids=str
)
@pytest.mark.parametrize("mix", MIXES)
def test_all_slots_are_busy_and_no_task_is_much_longer_than_a_minute(mix, rate):
    size, files = first_wave(MIXES[mix], rate)
    fine = [file for file in files if size.fits(*file)]
    rows = [n_rows for n_rows in rows_by_task(fine, size.n_bytes, size.open_bytes) if n_rows]
    for file in set(files).difference(fine):
        number = size.n_tasks(file.n_rows, file.n_bytes * file.group_rows / file.n_rows)
        rows += [file.n_rows / number] * number * files.count(file)
    seconds = [n_rows * rate.row_s for n_rows in rows]
    assert max(seconds) <= max(2.1 * median(seconds), 20)
    assert max(seconds) <= 120
    # Each slot has a task, or tasks are as short as they should be, or reading a row group takes as long.
    assert len(rows) >= 0.9 * rate.n_slots or max(seconds) <= 4.5 or mix == "20 GB in one row group"


def test_tasks_out_of_one_row_group_are_so_long_that_reading_it_takes_no_longer():
    size = TaskSize(n_rows=500, n_bytes=50 * MB, open_bytes=0, row_s=0.004)
    assert size.n_tasks(100_000, group_bytes=0) == 200
    assert size.n_tasks(100_000, group_bytes=10 * GB) == 40  # of 10 s, in which 10 GB are read


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A shard of one row group, small ones that Spark cuts well, and one of tiny rows."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, n_rows, group_rows, n_bytes in [
        ("large", 6000, 6000, 400),
        *((f"small-{i}", 50, 25, 400) for i in range(30)),
        ("tiny rows", 3000, 100, 4),
    ]:
        rows = {"n": range(n_rows), "jpg": [bytes([i % 256]) * n_bytes for i in range(n_rows)]}
        pq.write_table(
            pa.table(rows), folder / f"{name}.parquet", row_group_size=group_rows, compression="none",
            use_dictionary=False,
        )  # fmt: skip
    return replace(find_source(Config(input_dir=str(folder), output_dir="unused")), transport="reference")


SIZE = TaskSize(n_rows=200, n_bytes=85_000, open_bytes=100, row_s=1.0)


def test_spark_makes_the_tasks_that_arithmetic_says(spark, mixed):
    files = [File(shard.n_rows, shard.n_bytes, shard.group_rows) for shard in mixed.shards]
    with settings(spark, SIZE.settings):
        table = mixed.table(spark, units_of(mixed.shards))
        counted = table.groupBy(F.spark_partition_id()).count().collect()
    expected = rows_by_task(files, SIZE.n_bytes, SIZE.open_bytes)
    assert dict(map(tuple, counted)) == {i: n_rows for i, n_rows in enumerate(expected) if n_rows}
    assert max(expected) == 6000


@pytest.mark.matrix
def test_of_shards_that_spark_cannot_cut_the_references_are_sorted_into_tasks(spark, mixed):
    units = [*units_of(mixed.shards[:-1]), Unit(mixed.shards[-1], 1000, 2000)]
    with settings(spark, SIZE.settings):
        table = mixed.table(spark, units, SIZE)
        rows = table.select(F.spark_partition_id(), "shard", "shard_row", "n").collect()
        plan = table._jdf.queryExecution().toString()
    assert Counter(row.shard for row in rows) == {unit.shard.name: unit.n_rows for unit in units}
    assert all(row.shard_row == row.n for row in rows)
    by_task = {}
    for task, *place, _ in rows:
        by_task.setdefault(task, []).append(tuple(place))
    coarse = {"large.parquet", "tiny rows.parquet"}
    is_coarse = {task: {shard for shard, _ in places} <= coarse for task, places in by_task.items()}
    assert sum(is_coarse.values()) == 40
    assert list(is_coarse)[:40] == sorted(is_coarse)[:40]  # they start first
    lengths = [len(places) for places in by_task.values()]
    assert max(lengths) <= 2 * median(lengths)
    for places in by_task.values():
        assert places == sorted(places)  # a worker reads a file forwards
    assert "jpg" not in plan.partition("== Physical Plan ==")[2]


def test_images_that_go_through_spark_are_never_sorted(spark, mixed):
    table = replace(mixed, transport="bytes").table(spark, units_of(mixed.shards), SIZE)
    assert "Exchange" not in table._jdf.queryExecution().executedPlan().toString()


def test_a_run_over_one_row_group_has_several_tasks(embed, tmp_path, photo_bytes, monkeypatch):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"id": range(60), "jpg": photo_bytes[:6] * 10}), tmp_path / "in/a.parquet")
    metadata, embeddings, _ = embed(tmp_path / "in", dtype="float32")
    assert metadata["n_tasks"] == 1
    size = TaskSize(n_rows=10, n_bytes=1 << 30, open_bytes=0, row_s=1.0)
    monkeypatch.setattr(binding, "find_task_size", lambda *_: size)
    metadata, others, _ = embed(tmp_path / "in", dtype="float32", overwrite=True)
    assert metadata["n_tasks"] == 6
    assert metadata["input"]["transport"] == "reference"
    by_row = [table.set_index("shard_row")["embedding"].sort_index() for table in (embeddings, others)]
    assert all((one == other).all() for one, other in zip(*by_row, strict=True))
