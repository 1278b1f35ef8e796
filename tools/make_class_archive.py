"""Store the classes that a run loads, so that later JVMs map them instead of reading 300 jars: 3 s a run.

Usage: python tools/make_class_archive.py

Runs the job once on a few made-up images in a JVM that writes an archive when it ends (JEP 350), and puts it
where `spark_embed.spark.session` looks. A JVM that the archive does not fit ignores it.
"""

import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyspark import SparkContext
from pyspark.sql import SparkSession

from spark_embed import Config, pipeline
from spark_embed.spark.session import class_archive, local_properties

N_IMAGES = 40
END_WITHIN_S = 300


def make_shard(path: Path) -> None:
    """Write images of noise, in the shape that img2dataset gives its shards."""
    rows = []
    for number in range(N_IMAGES):
        buffer = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, "JPEG")
        rows.append(
            {"key": str(number), "url": "", "caption": "noise", "width": 32, "jpg": buffer.getvalue()}
        )
    pq.write_table(pa.Table.from_pylist(rows), path)


def main() -> None:
    archive = class_archive()
    archive.unlink(missing_ok=True)
    archive.parent.mkdir(parents=True, exist_ok=True)
    staged = archive.with_suffix(".tmp")
    os.environ.update(PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")
    properties = local_properties()
    properties["spark.driver.extraJavaOptions"] += f" -XX:ArchiveClassesAtExit={staged} -Xlog:disable"
    builder = SparkSession.builder.master("local[2,4]").config("spark.log.level", "ERROR")
    for name, value in properties.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    with tempfile.TemporaryDirectory() as folder:
        shards, output = Path(folder, "in"), Path(folder, "out")
        shards.mkdir()
        make_shard(shards / "00000.parquet")
        pipeline.run(spark, Config(input_dir=str(shards), output_dir=str(output), dtype="float32"))
    gateway = SparkContext._gateway
    if gateway is None:
        raise RuntimeError("Spark runs, but not in a JVM of this process")
    jvm = gateway.proc
    spark.stop()
    jvm.stdin.close()  # it ends when its parent is gone, and writes the archive then
    jvm.wait(END_WITHIN_S)
    staged.replace(archive)


if __name__ == "__main__":
    main()
