"""Store the classes that a run loads, so that later JVMs map them instead of reading 300 jars: 3 s a run.

Usage: python tools/make_class_archive.py

Runs the job once on a few made-up images in a JVM that writes an archive when it ends (JEP 350), and puts it
where `spark_embed.spark.session` looks. A JVM that the archive does not fit ignores it. What spark-submit
starts is not told by the job, which runs in it: it reads the conf/spark-env.sh of this environment's pyspark,
which is written here, too.
"""

import contextlib
import io
import os
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
from PIL import Image
from pyspark import SparkContext
from pyspark.sql import SparkSession

from spark_embed import Config, pipeline
from spark_embed.load_config import conf_folder
from spark_embed.spark.session import class_archive, local_properties

N_IMAGES = 40
END_WITHIN_S = 300

SPARK_ENV = """\
# Written by tools/make_class_archive.py: a plain spark-submit starts its JVM as spark-embed starts its own.
# Spark reads this file at each start (bin/load-spark-env.sh); what the user has set stays.
SPARK_SUBMIT_OPTS="{options} $SPARK_SUBMIT_OPTS"
SPARK_DRIVER_MEMORY="${{SPARK_DRIVER_MEMORY:-{memory}}}"
# The JVM that only puts the command line together.
SPARK_LAUNCHER_OPTS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC $SPARK_LAUNCHER_OPTS"
# Spark puts this folder on the class path, and there a JVM takes no archive if a folder holds anything.
if [ "$(ls -A "$SPARK_CONF_DIR")" = spark-env.sh ]; then SPARK_CONF_DIR="$SPARK_CONF_DIR/none"; fi
"""


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


def spark_env() -> Path:
    """Return what Spark's scripts source where SPARK_CONF_DIR is not set."""
    return Path(pyspark.__file__).parent / "conf" / "spark-env.sh"


def write_spark_env() -> None:
    """Let plain spark-submit, of this environment, have the options of the driver's JVM.

    Not where a path holds what a shell does not take as it is: Spark's own script would not read the file.
    """
    path, properties = spark_env(), local_properties()
    told = f"{path}{class_archive()}{conf_folder().absolute()}"
    if shlex.quote(told) != told:
        return
    options, memory = properties["spark.driver.extraJavaOptions"], properties["spark.driver.memory"]
    path.parent.mkdir(exist_ok=True)
    path.write_text(SPARK_ENV.format(options=options, memory=memory))


def main() -> None:
    archive = class_archive()
    for stale in (archive, spark_env()):
        stale.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # empty, it would be on the class path here and not later
        spark_env().parent.rmdir()
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
    write_spark_env()


if __name__ == "__main__":
    main()
