"""conf/*.conf: Spark knows every setting in them, and each has its reason above it."""

import json
import re
import subprocess

import pytest

from spark_embed.load_config import conf_folder, read_properties

FILES = sorted(conf_folder().glob("*.conf"))

# What is registered with the first use of it; the rest is with the context.
ENTRIES = ("Python", "Worker", "Deploy")
# Hadoop's and the environment's are names of others; resources are built from the resource's name.
OTHERS = r"spark\.hadoop\.fs\.s3a\.\S+|spark\.hadoop\.(mapreduce|parquet)\.\S+|spark\.executorEnv\.\w+"
RESOURCES = r"spark\.(executor\.resource\.gpu\.(amount|discoveryScript|vendor)|task\.resource\.gpu\.amount)"
LATER = {"spark.python.factory.idleWorkerMaxPoolSize": (4, 1)}  # the version from which it is known


def is_known(spark, name: str) -> bool:
    jvm = spark._jvm
    for entries in ENTRIES:
        getattr(jvm.org.apache.spark.internal.config, entries)
        jvm.java.lang.Class.forName(f"org.apache.spark.internal.config.{entries}$")
    found = jvm.org.apache.spark.internal.config.ConfigEntry.findEntry(name)
    return found is not None or bool(re.fullmatch(f"{OTHERS}|{RESOURCES}", name))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_spark_knows_every_setting(spark, path):
    version = tuple(map(int, spark.version.split(".")[:2]))
    names = [name for name in read_properties(str(path)) if version >= LATER.get(name, (0, 0))]
    assert names
    assert [name for name in names if not is_known(spark, name)] == []


def test_a_setting_that_spark_does_not_know_is_found_out(spark):
    assert not is_known(spark, "spark.python.worker.faulthandler.enable")
    assert not is_known(spark, "spark.executor.resource.gpu.count")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_setting_has_its_reason_above_it(path):
    """Some lines with one reason are one paragraph: the reason above the first is for all."""
    lines = path.read_text().splitlines()
    bare = []
    for number, line in enumerate(lines):
        above = number
        while above and lines[above].startswith("spark."):
            above -= 1
        if line.startswith("spark.") and not re.match(r"# .{20}", lines[above]):
            bare.append(line)
    assert bare == []
    assert FILES


@pytest.mark.parametrize("n_gpus", [1, 3])
def test_the_discovery_script_says_what_spark_reads(tmp_path, n_gpus):
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\nseq 0 {n_gpus - 1}\n")
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    said = subprocess.run(
        [conf_folder() / "gpus.sh"], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(said.stdout) == {"name": "gpu", "addresses": list(map(str, range(n_gpus)))}


def test_where_there_is_no_gpu_the_discovery_script_fails(tmp_path):
    environment = {"PATH": "/usr/bin:/bin"}
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\nexit 9\n")
    fake.chmod(0o755)
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    assert subprocess.run([conf_folder() / "gpus.sh"], env=environment, check=False).returncode == 9
