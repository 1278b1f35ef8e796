"""Runs that stop at --max_hours or --max_cost: what is complete stays, and the same command goes on."""

import shutil
import threading
import time
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed import pipeline
from spark_embed.config import Config
from spark_embed.datasets.shards import Shard
from spark_embed.datasets.units import Unit
from spark_embed.errors import ConfigError, StoppedError
from spark_embed.load_config import load_config
from spark_embed.output.folder import Output
from spark_embed.output.status import read_status
from spark_embed.output.verify import verify
from spark_embed.run import wave_job, waves
from spark_embed.run.clock import Clock
from spark_embed.run.limit import Limit
from spark_embed.run.publisher import Publisher

from support.output_files import count_places
from support.waiting import PATIENCE_S

HOUR = 3600


class SetClock(Clock):
    """One whose seconds the test sets."""

    total_s = 0.0


def make_limit(clock, **options) -> Limit:
    return Limit(Config(input_dir="in", output_dir="out", **options), clock)


@pytest.mark.parametrize(
    ("options", "n_machines", "left_s", "name"),
    [
        ({}, 1, float("inf"), "no limit"),
        ({"max_hours": 2}, 1, 2 * HOUR - 60, "--max_hours 2"),
        ({"max_cost": 6, "hourly_price": 2}, 1, 3 * HOUR - 60, "--max_cost 6 (a machine at $2 an hour)"),
        ({"max_cost": 6, "hourly_price": 2}, 3, HOUR - 60, "--max_cost 6 (3 machines at $2 an hour)"),
        ({"max_cost": 6, "hourly_price": 2, "max_hours": 2}, 1, 2 * HOUR - 60, "--max_hours 2"),
    ],
)
def test_the_first_of_the_limits_counts_from_the_start(options, n_machines, left_s, name):
    clock = SetClock()
    clock.total_s = 60.0
    limit = make_limit(clock, **options)
    limit.saw(f"host-{number % n_machines}:{number}" for number in range(2 * n_machines))
    assert (limit.left_s, str(limit)) == (left_s, name)


def test_a_cost_without_a_price_is_refused():
    argv = ["--input_dir", "in", "--output_dir", "out", "--max_cost", "5"]
    with pytest.raises(ConfigError, match=r"^--max_cost '5' \(from the command line\): needs --hourly_price"):
        load_config(argv, {})
    assert load_config([*argv, "--hourly_price", "0.9"], {}).max_cost == 5


@pytest.mark.parametrize(
    ("thought", "limit_s", "done_share"),
    [(0.55, 1000, 0.85), (1.0, 1000, 0.85), (4.0, 1000, 0.85), (None, 1000, 0.85), (1.0, 15, 0.5)],
)
def test_waves_end_before_the_limit_even_if_the_speed_was_thought_another(
    monkeypatch, thought, limit_s, done_share
):
    """Of 100 rows a second, with what preflight thought of that; the time is the test's own."""
    rate, clock, lock = 100.0, SetClock(), threading.Lock()
    limit = make_limit(clock, max_hours=limit_s / HOUR, wave_s=300)
    monkeypatch.setattr(waves, "time", SimpleNamespace(monotonic=lambda: clock.total_s))
    shard = Shard("a", 10**6, 10**6, "1", None)
    done = []

    def run_one(context, name, wave):
        with lock:  # two waves at once have the machine in turns
            assert clock.total_s < limit_s, "started past the limit"
            clock.total_s += wave.n_rows / rate
            done.append(wave.n_rows)
        return SimpleNamespace(counted=SimpleNamespace(n_rows=wave.n_rows, executors={}))

    monkeypatch.setattr(waves, "run_one", run_one)
    preflight = SimpleNamespace(row_s=1 / (rate * thought) if thought else None)
    context = SimpleNamespace(
        run=SimpleNamespace(
            config=limit.config, watch=lambda: None, output=SimpleNamespace(attempt="a")
        ),
        binding=SimpleNamespace(preflight=preflight, n_slots=1, wave_rows=300 * rate * (thought or 1)),
        jobs=SimpleNamespace(n_done=lambda: sum(done), cancel=lambda: None),
        limit=limit,
        done=lambda marker: None,
    )  # fmt: skip
    assert waves.run_waves(context, [Unit(shard, 0, 10**6)], 0) == []
    assert limit.is_reached
    assert clock.total_s <= limit_s
    assert sum(done) >= done_share * rate * limit_s


@pytest.fixture
def folder(tmp_path, photo_bytes):
    """Three shards of 2,500 rows: hardly an image in them, for many waves of hardly any work."""
    images = [photo_bytes[0], *[None] * 2499]
    (tmp_path / "in").mkdir()
    for shard in range(3):
        table = pa.table({"key": [f"{shard}-{row}" for row in range(2500)], "jpg": images})
        pq.write_table(table, tmp_path / f"in/{shard}.parquet", row_group_size=500)
    return tmp_path / "in"


@pytest.fixture
def run_stopped(spark, tiny_clip, tmp_path, monkeypatch):
    """Run until some waves are complete, then to the limit while another one hangs; returns the error."""

    def run_stopped(input_dir, n_waves: int, **options) -> StoppedError:
        clock, complete = SetClock(), []
        add, run_wave = Publisher.add, wave_job.run_wave
        started = threading.Lock()

        def counted_add(publisher, marker):
            complete.append(marker)
            add(publisher, marker)

        def held_run_wave(embedded, folder):
            with started:
                run_wave.n_started += 1
                number = run_wave.n_started
            if number <= n_waves:
                run_wave(embedded, folder)
                return
            deadline = time.monotonic() + PATIENCE_S
            while len(complete) < n_waves and time.monotonic() < deadline:
                time.sleep(0.02)
            clock.total_s = HOUR
            spark.sql("SELECT reflect('java.lang.Thread', 'sleep', 60000L)").collect()

        run_wave.n_started = 0
        with monkeypatch.context() as patch:
            patch.setattr(Publisher, "add", counted_add)
            patch.setattr(wave_job, "run_wave", held_run_wave)
            patch.setattr(waves._Loop, "_wave_rows", lambda loop: 1000)
            given = {"model_directory": str(tiny_clip), "output_dir": str(tmp_path / "out"), **options}
            with pytest.raises(StoppedError) as told:
                pipeline.run(spark, Config(input_dir=str(input_dir), max_hours=1, **given), clock)
        return told.value

    return run_stopped


def test_what_is_complete_is_published_and_the_same_command_does_the_rest(
    embed, run_stopped, folder, embedded_rows
):
    stopped = run_stopped(folder, 3, hourly_price=2.0)
    assert stopped.exit_code == 10
    assert str(stopped) == (
        "stopped at --max_hours 1: 3,000 of 7,500 rows are complete and published; the same command goes on"
    )
    assert "PENDING 4,500 rows" in stopped.summary
    assert "1.0 instance-hours at $2.00: $2.00, $666.67 per million images" in stopped.summary
    output = Output(str(embed.output_dir))
    status = read_status(output)
    assert (status.state, status.n_complete, status.n_rows) == ("incomplete", 3000, 7500)
    assert "stopped at --max_hours or --max_cost; start the same command again" in status.text()
    verify(output).check()

    metadata, embeddings, errors = embed(folder)
    assert embedded_rows == [7500, 4500]
    assert metadata["status"] == "complete"
    assert metadata["pending"]["n_rows_left"] == 0
    assert metadata["cost"] == {}  # without a price
    places = count_places(embeddings, errors)
    assert (len(places), set(places.values())) == (7500, {1})
    assert read_status(output).state == "complete"
    verify(output).check()


@pytest.mark.parametrize("why", ["replaced", "overwrite", "one file"])
def test_readers_never_find_half_of_what_replaces_something(embed, run_stopped, folder, embedded_rows, why):
    options = {"output_files": 1} if why == "one file" else {}
    if why != "one file":
        embed(folder)
    if why == "replaced":
        shutil.copy(folder / "1.parquet", folder / "0.parquet")
    before = sorted(embed.output_dir.glob("*.parquet/*"))
    n_new = 2500 if why == "replaced" else 7500
    stopped = run_stopped(folder, 1, overwrite=why == "overwrite", normalize=why != "overwrite", **options)
    assert f"{7500 - n_new + 1000:,} of 7,500 rows are complete, and will be published once all are" in str(
        stopped
    )
    assert ("without --overwrite" in str(stopped)) == (why == "overwrite")
    assert stopped.summary == ""
    assert sorted(embed.output_dir.glob("*.parquet/*")) == before
    assert read_status(Output(str(embed.output_dir))).state == "interrupted"

    _, embeddings, errors = embed(folder, normalize=why != "overwrite", **options)
    assert embedded_rows[-2:] == [n_new, n_new - 1000]
    places = count_places(embeddings, errors)
    assert (len(places), set(places.values())) == (7500, {1})
    verify(Output(str(embed.output_dir))).check()
    if why == "replaced":
        keys = pd.concat([embeddings, errors]).query("shard == '0.parquet'")["key"]
        assert set(keys.str[:2]) == {"1-"}


def test_without_time_for_a_single_wave_nothing_is_written_and_the_command_says_so(
    spark, command_here, shards, tmp_path
):
    argv = ["--input_dir", shards, "--output_dir", tmp_path / "out", "--max_hours", "0.0000001"]
    code, said = command_here(*argv)
    assert code == 10
    assert said.splitlines()[-1].endswith(
        "stopped at --max_hours 1e-07: 0 of 27 rows are complete, and will be published once all are; "
        "the same command goes on, but give it more time, or shorter waves (--wave_s): "
        "this run has completed none"
    )
    assert not (tmp_path / "out/embeddings.parquet").exists()
    assert read_status(Output(str(tmp_path / "out"))).state == "interrupted"
