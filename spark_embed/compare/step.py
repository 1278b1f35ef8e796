"""One step in a process of its own: python -m spark_embed.compare.step NAME SETTINGS.json.

`PHOTOS` as a name makes the data sets that all steps have, rows `key` and `jpg` in shards of a task each, and
lets the job begin with them: its preflight chooses the precision.
"""

from __future__ import annotations

import io
import itertools
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from spark_embed import pipeline
from spark_embed.compare.ladder import JOB, PHOTOS, STEPS
from spark_embed.compare.work import Work
from spark_embed.config import Config
from spark_embed.datasets import find_layout, open_source, readable_roots
from spark_embed.errors import ConfigError, RowError, SparkEmbedError
from spark_embed.inference.decode import decode
from spark_embed.inference.preflight.rows import fetched
from spark_embed.inference.recipes import make_feed_options, make_recipe
from spark_embed.models.vision.preprocess import Preprocessing
from spark_embed.output.summary import RunSummary
from spark_embed.run.binding import make_fetch_policy
from spark_embed.run.clock import Clock
from spark_embed.spark.context import context_of
from spark_embed.spark.s3.s3a import export_s3_environment
from spark_embed.spark.session import make_session, stop_session
from spark_embed.spark.settings import count_slots
from spark_embed.storage import delete, hadoop_path, read_json, write_json
from spark_embed.storage.store import write_bytes

_ROWS_PER_SHARD = 50
_SAMPLED_PLACES = 4  # of which one alone may have as many rows as are wanted
_SHARD_BYTES = str(1 << 40)
_WARM = "warm"
_WARM_ROWS = 4  # for each task that runs at once


def make_photos(spark: SparkSession, given: dict[str, Any]) -> dict[str, Any]:
    """Write the data sets "warm", "slow" and "fast": the same images in turns, as many as each is to have.

    Raises:
        ConfigError: no image can be decoded, or read from this machine.
        SparkEmbedError: as `find_layout` and `open_source`.
    """
    config, folder = Config.model_validate(given["config"]), given["folder"]
    export_s3_environment(config)
    images = _read_images(lambda: spark, config, folder)
    if not images:
        raise ConfigError(f"--input_dir {config.input_dir}: none of the images looked at can be decoded")
    n_slots, _ = count_slots(spark)
    n_rows = {_WARM: _WARM_ROWS * n_slots, **given["n_rows"]}
    for name, n in n_rows.items():
        per_shard = max(1, min(_ROWS_PER_SHARD, math.ceil(n / n_slots / (1 if name == _WARM else 2))))
        rows = [(f"{row:08d}", image) for row, image in zip(range(n), itertools.cycle(images), strict=False)]
        for number in range(0, n, per_shard):
            keys, data = zip(*rows[number : number + per_shard], strict=True)
            file = io.BytesIO()
            pq.write_table(pa.table({"key": keys, "jpg": pa.array(data, pa.binary())}), file)
            write_bytes(f"{folder}/{name}/{number:08d}.parquet", file.getvalue())
    return {"n_rows": len(images), "n_bytes": sum(map(len, images))}


def _read_images(session: Callable[[], SparkSession], config: Config, folder: str) -> list[bytes]:
    """Return the images of the first rows of some shards, those that can be decoded."""
    source = open_source(
        session,
        config,
        find_layout(config),
        index_folder=f"{folder}/index",
        catalogue_path=f"{folder}/catalogue",
    )
    source = replace(source, transport=source.transports(config.image_transport)[0])
    options = make_feed_options(
        config, make_fetch_policy(config, readable_roots(config, source.root), source.image_column)
    )
    n, images, errors = config.max_samples or 1, list[bytes](), list[RowError]()
    rows = ((row.reference, None) for row in source.sample(_SAMPLED_PLACES * n))
    for data, _ in fetched(rows, options, errors):
        with suppress(RowError):
            decode(data, config.max_pixels, config.allow_truncated)
            images.append(bytes(data))
        if len(images) == n:
            break
    return images


def run_program(spark: SparkSession, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Run a step's program over a few images, so that workers have imported what they need; then measure."""
    embed = import_module(next(step for step in STEPS if step.name == name).module).embed
    model = given["model"]
    float32 = replace(make_recipe(Config.model_validate(given["config"])), dtype="float32")
    loads = context_of(spark).accumulator(0)
    preprocessing = {name: _hashable(value) for name, value in model["preprocessing"].items()}
    work = Work(float32, replace(float32, dtype=model["dtype"]), Preprocessing(**preprocessing), loads)
    # A task for each shard, as in a large data set; what else is here by default is Spark's own.
    spark.conf.set("spark.sql.files.maxPartitionBytes", _SHARD_BYTES)
    spark.conf.set("spark.sql.files.openCostInBytes", _SHARD_BYTES)
    for data in (_WARM, given["data"]):
        began = time.time()
        _write(embed(spark.read.parquet(hadoop_path(f"{given['folder']}/{data}")), work), given["output"])
        ended = time.time()
    return {"began": began, "ended": ended, "seconds": ended - began, "n_model_loads": loads.value}


def _write(table: DataFrame, folder: str) -> None:
    table.write.mode("overwrite").parquet(hadoop_path(folder))


def run_job(spark: SparkSession, given: dict[str, Any]) -> dict[str, Any]:
    """Run the job the same way: its session and preflight are left out, as the sessions of programs are."""
    done: list[RunSummary] = []
    for data in (_WARM, given["data"]):
        output = f"{given['output']}/{data}"
        values = {"input_dir": f"{given['folder']}/{data}", "output_dir": output, "max_samples": None}
        began = time.time()
        done.append(pipeline.run(spark, Config.model_validate({**given["config"], **values}), Clock()))
        ended = time.time()
    delete(f"{given['output']}/{_WARM}")
    timings = done[-1].timings_s
    seconds = timings["embed"] + timings["publish"]
    return {
        "began": max(began, ended - seconds),
        "ended": ended,
        "seconds": seconds,
        "n_model_loads": sum(one.n_model_loads for one in done),
        "stage_s": done[-1].stage_s,
        "model": done[-1].model,
    }


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def run(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Run one step, or make the photos, in a session of its own.

    Raises:
        SparkEmbedError: it cannot be run.
    """
    config = Config.model_validate({**given["config"], "output_dir": given["folder"]})
    spark = make_session(config)
    try:
        if name == PHOTOS:
            photos = make_photos(spark, given)
            return {"photos": photos, "model": run_job(spark, {**given, "data": _WARM})["model"]}
        return run_job(spark, given) if name == JOB.name else run_program(spark, name, given)
    finally:
        stop_session(spark)


def main(argv: Sequence[str]) -> None:
    """Write what came of it, or what is wrong."""
    name, path = argv
    given = read_json(path)
    try:
        result = run(name, given)
    except SparkEmbedError as exc:
        result = {"error": type(exc).__name__, "said": str(exc)}
    write_json(given["result"], result)


if __name__ == "__main__":
    main(sys.argv[1:])
