"""spark-embed estimate: what a sample says of the whole run, and what it leaves behind (nothing)."""

import json
import os
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.cli.estimate import read_estimate_flags
from spark_embed.cli.main import main
from spark_embed.config import Config
from spark_embed.datasets.shards import Shard
from spark_embed.datasets.units import Unit
from spark_embed.errors import ConfigError
from spark_embed.output.estimate import Pace, Pass, Sampled, estimate, find_pace
from spark_embed.run import sampling
from spark_embed.run.sampling import spread


def passes(*seconds_of_a_row: float, overhead_s: float, rows: int = 100) -> list[tuple[Pass, Pass]]:
    """Rounds in tasks that cost something besides their rows."""
    return [
        (Pass(rows / 4, overhead_s + rows / 4 * row_s), Pass(rows, overhead_s + rows * row_s))
        for row_s in seconds_of_a_row
    ]


@pytest.mark.parametrize("overhead_s", [0.0, 0.3])
@pytest.mark.parametrize("row_s", [0.001, 0.5])
def test_the_pace_is_that_of_rows_whatever_a_task_costs_besides(row_s, overhead_s):
    pace = find_pace(passes(row_s, row_s, overhead_s=overhead_s))
    assert pace.row_s == pytest.approx(row_s)
    assert pace.uncertainty == 0.05


def test_the_uncertainty_is_what_rounds_or_tasks_differ_by():
    pace = find_pace(passes(0.01, 0.012, overhead_s=0.1))
    # Twice the standard error of 10 and 12 ms, as a part of 11.
    assert (pace.row_s, pace.uncertainty) == (pytest.approx(0.011), pytest.approx(2 * 0.001 / 0.011))
    assert find_pace([(Pass(25, 1.0), Pass(100, 4.0, spread=0.2))]).uncertainty == 0.2


@pytest.mark.parametrize("disturbed_s", [0.01, 30.0])
def test_a_small_pass_that_was_disturbed_does_not_make_rows_free_or_dear(disturbed_s):
    pace = find_pace([(Pass(25, disturbed_s), Pass(100, 2.0))])
    assert 0.02 / 10 <= pace.row_s <= 0.02


def sampled(**values) -> Sampled:
    given = {
        "n_rows": 1_000_000, "n_shards": 100, "n_sampled": 200, "seconds": 30.0, "n_slots": 2,
        "n_machines": 1, "device": "cpu", "pace": Pace(0.02, 0.1),
    }  # fmt: skip
    return Sampled(**given | values)


def test_the_whole_run_is_the_fixed_seconds_and_the_rows_on_so_many_machines():
    found = estimate(sampled(), 4, 0.9)
    assert found.images_per_s == 400  # two tasks at once on each of four, 50 a second each
    assert found.fixed_s == 28  # the sample's own rows took 2 of the 30 s
    assert found.seconds == 28 + 2500
    assert found.most_s == pytest.approx(28 * 1.15 + 2500 * 1.1)
    assert found.least_s == pytest.approx(28 / 1.15 + 2500 / 1.1, abs=0.01)
    assert found.cost.instance_hours == pytest.approx(4 * 2528 / 3600, abs=1e-6)
    assert (
        found.cost.cost_per_million_images == pytest.approx(found.cost.cost) == pytest.approx(2.528, abs=1e-3)
    )
    assert found.text().splitlines() == [
        "rows    1,000,000 in 100 shards; 200 of them embedded",
        "speed   400.0 images/s on 4 machines, 8 tasks at once (cpu); give or take 10%",
        "fixed   28.0 s: start, plan, preflight, loading the model, publishing",
        "time    42 min: from 38 min to 46 min",
        "cost    2.8 instance-hours at $0.90: $2.53, $2.53 per million images",
    ]
    on_two = estimate(sampled(n_machines=2, n_slots=4), 2, None)
    assert (on_two.images_per_s, on_two.cost) == (200, None)


@pytest.mark.parametrize(
    ("sizes", "group_rows", "n_places", "expected"),
    [
        ([100], 0, 2, [(0, 0, 10), (0, 50, 10)]),
        ([100], 30, 2, [(0, 0, 10), (0, 30, 10)]),  # at the beginning of a row group
        ([100], 100, 2, [(0, 0, 10), (0, 10, 10)]),  # but no row twice
        ([40, 4, 4, 40], 0, 2, [(0, 0, 10), (2, 0, 4), (3, 0, 6)]),  # over the end of a shard
        ([8, 8], 0, 2, [(0, 0, 8), (1, 0, 8)]),  # there are no more
    ],
)
def test_the_sample_is_from_all_over_the_data_set(sizes, group_rows, n_places, expected):
    shards = [
        Shard(f"{number}", 1, n_rows, pa.schema([]), f"{number}", group_rows=group_rows)
        for number, n_rows in enumerate(sizes)
    ]
    units = spread([Unit(shard, 0, shard.n_rows) for shard in shards], n_places, 10)
    assert [(int(unit.shard.name), unit.first, unit.n_rows) for unit in units] == expected


def test_what_the_price_is_of_is_said_and_two_prices_are_refused():
    options, others = read_estimate_flags(
        ["--input_dir", "in", "--instance", "g5.xlarge", "--batch_size", "8"]
    )
    place = others.pop()
    assert others == ["--input_dir", "in", "--batch_size", "8", "--output_dir"]
    assert os.path.dirname(place) == tempfile.gettempdir()
    config = Config(input_dir="in", output_dir=place)
    price, price_of = options.hourly_price(config)
    assert price > 0
    assert price_of.startswith("g5.xlarge on demand in ")
    with pytest.raises(ConfigError, match="--instance and --hourly_price: give one"):
        options.hourly_price(config.model_copy(update={"hourly_price": 1.0}))
    unknown, _ = read_estimate_flags(["--instance", "p9.xlarge"])
    with pytest.raises(
        ConfigError, match=r"^--instance: .*prices\.yaml .* has no ec2 price of p9\.xlarge: add"
    ):
        unknown.hourly_price(config)


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_number_of_samples_is_a_number(value):
    with pytest.raises(ConfigError, match=f"argument --samples: must be a number from 1 on, not '{value}'"):
        read_estimate_flags([f"--samples={value}"])


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, empty."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


@pytest.mark.usefixtures("command_here")  # it puts the handlers of signals back
def test_the_command_says_how_long_and_how_much_and_leaves_nothing_behind(
    spark, tiny_clip, capsys, photo_bytes, tmp_path, temporary, monkeypatch
):
    monkeypatch.setattr(sampling, "_MAX_ROUNDS", 1)
    monkeypatch.setattr("spark_embed.spark.task_size._MIN_TASK_S", 0.001)  # as of a slow model: many tasks
    rounds = []
    monkeypatch.setattr(sampling, "find_pace", lambda passes: rounds.extend(passes) or find_pace(passes))
    (tmp_path / "in").mkdir()
    for shard in range(3):
        images = [photo_bytes[(shard + row) % len(photo_bytes)] for row in range(200)]
        pq.write_table(pa.table({"jpg": images}), tmp_path / f"in/{shard}.parquet", row_group_size=10)
    argv = ["estimate", "--input_dir", tmp_path / "in", "--model_directory", tiny_clip, "--samples", "10"]
    options = ["--workers", "3", "--hourly_price", "0.9", "--max_hours", "1e-9", "--json"]
    assert main([*map(str, argv), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_rows"], found["n_shards"]) == (600, 3)
    assert found["n_sampled"] == 100  # 50 for each of two tasks at once
    assert [[one.rows_per_task for one in passes] for passes in rounds] == [[13, 50]]  # two tasks in each
    assert (found["n_workers"], found["n_slots"], found["cost"]["n_machines"]) == (3, 6, 3)
    assert 0 < found["least_s"] < found["seconds"] < found["most_s"]
    assert found["seconds"] == pytest.approx(found["fixed_s"] + 600 / found["images_per_s"], rel=0.01)
    assert found["cost"]["cost"] == pytest.approx(3 * found["seconds"] / 3600 * 0.9, rel=0.01)
    assert list(temporary.iterdir()) == []


def test_a_data_set_without_a_row_is_told(spark, command_here, tmp_path, temporary):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"jpg": pa.array([], pa.binary())}), tmp_path / "in/0.parquet")
    code, said = command_here("estimate", "--input_dir", tmp_path / "in")
    assert (code, said.splitlines()[-1].partition(": ")[2]) == (2, "there is no row, so nothing to measure")
    assert list(temporary.iterdir()) == []
