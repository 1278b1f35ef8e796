"""The very command line that EMR would run, run: the test is the cluster; one step ends, one fails."""

import gzip
import json
import os
import re
import threading

import numpy as np
import pandas as pd
import pytest

from spark_embed.spark.s3.jars import find_packages, spark_home
from spark_embed.spark.s3.maven import fetch_jars

from support.commands import BIN, run_command
from support.s3_runs import read_parquet, upload_tree
from support.vectors import cosines
from support.waiting import wait_until

# As on EMR, where s3:// is Spark's own business; the master there is YARN.
DEFAULTS = """
spark.master                              local[2]
spark.driver.extraClassPath               {jars}
spark.hadoop.fs.s3.impl                   org.apache.hadoop.fs.s3a.S3AFileSystem
spark.hadoop.fs.s3a.endpoint              {endpoint}
spark.hadoop.fs.s3a.endpoint.region       {region}
spark.hadoop.fs.s3a.path.style.access     true
spark.hadoop.fs.s3a.connection.ssl.enabled false
"""


@pytest.fixture
def node(s3_server, tmp_path) -> dict[str, str]:
    """What the environment of an EMR node adds to that of the test."""
    packages = find_packages(spark_home(), "slim")
    jars = fetch_jars(spark_home(), packages.packages, packages.excludes)
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "spark-defaults.conf").write_text(
        DEFAULTS.format(jars=os.pathsep.join(jars), endpoint=s3_server.endpoint, region=s3_server.region)
    )
    return {"SPARK_CONF_DIR": str(conf), "SERVERLESS_EMR_JOB_ID": "1", "PYTHONPATH": ""}


@pytest.fixture
def cluster_here(bucket, write_cluster, tmp_path, emr):
    """A cluster file whose Python and cache are this machine's."""
    spark = {"spark.pyspark.python": str(BIN / "python"), "spark.executorEnv.XDG_CACHE_HOME": str(tmp_path)}
    places = {"region": emr.region, "home": f"s3://{bucket}/home", "log_uri": f"s3://{bucket}/logs/"}
    return write_cluster("cluster-cpu.yaml", spark=spark, **places)


def run_step(emr, store, bucket: str, cluster_id: str, node: dict[str, str]):
    """Do as a cluster does with its newest step: run it as it stands, ship its logs, set its state."""
    step = emr.step(cluster_id)
    assert step.jar == "command-runner.jar"
    done = run_command(*step.args, environ=node)
    emr.end_step(cluster_id, "FAILED" if done.returncode else "COMPLETED", step.id)
    for name in ("stdout", "stderr"):
        key = f"logs/{cluster_id}/steps/{step.id}/{name}.gz"
        store.direct.put_object(Bucket=bucket, Key=key, Body=gzip.compress(getattr(done, name).encode()))
    return done


@pytest.mark.slow
def test_what_is_submitted_embeds_the_images_and_who_waits_sees_it(
    emr, s3_server, bucket, cluster_here, node, material, command, monkeypatch
):
    monkeypatch.setattr("spark_embed.aws.waiting.POLL_S", 0.3)
    code, out, _ = command("deploy", "--cluster", cluster_here, "--model_directory", material / "clip-tiny")
    assert code == 0
    deployed = json.loads(out)
    source = upload_tree(s3_server, material / "img2dataset/parquet", bucket, "in")
    job = ["--input_dir", source, "--output_dir", f"s3://{bucket}/out", "--dtype", "float32", "--wave_s", "1"]
    job += ["--model_directory", deployed["model_directory"], "--parity_samples", "0"]

    ended: list[tuple[int, str, str]] = []
    submit = ["submit", "--cluster", cluster_here, "--wait", "--", *job]
    waiting = threading.Thread(target=lambda: ended.append(command(*submit)))
    waiting.start()
    wait_until(lambda: any(name == "RunJobFlow" for name, _ in emr.requests), "submit")
    wait_until(lambda: emr.backend.clusters, "a cluster")
    cluster_id = next(reversed(emr.backend.clusters))
    done = run_step(emr, s3_server, bucket, cluster_id, node)
    waiting.join(60)
    assert done.returncode == 0, done.stderr[-3000:]
    code, out, err = ended[0]
    assert code == 0, err
    assert json.loads(out)["cluster_id"] == cluster_id
    assert re.search(r" RUNNING: \w+, [\d,]+ of 409 complete", err)  # the job's own progress
    last = err.splitlines()[-1]
    assert "COMPLETED: complete, 409 of 409 complete (100.0 %), " in last
    assert last.endswith(", 8 errors")

    expected = pd.read_parquet(material / "img2dataset/expected-clip-tiny.parquet").set_index("key")
    embeddings = read_parquet(s3_server, bucket, "out/embeddings.parquet")
    assert (len(embeddings), len(read_parquet(s3_server, bucket, "out/errors.parquet"))) == (401, 8)
    vectors = np.stack(embeddings.set_index("key")["embedding"].loc[expected.index])
    assert cosines(vectors, np.stack(expected["embedding"])).min() > 0.99999
    assert f"/{deployed['release_version']}/" in " ".join(emr.step(cluster_id).args)

    code, out, _ = command("logs", "--cluster", cluster_here, "--cluster_id", cluster_id)
    assert code == 0
    assert "409 rows: 401 embedded, 8 errors" in out  # the job's summary
    assert "COMPLETED" in out.splitlines()[-1]

    # A second step, on the same cluster, whose flag only the data can show to be wrong.
    job[job.index("--output_dir") + 1] = f"s3://{bucket}/other"
    submit = ["submit", "--cluster", cluster_here, "--cluster_id", cluster_id]
    code, out, _ = command(*submit, "--", *job, "--image_column", "photo")
    assert code == 0
    assert emr.step(cluster_id).action_on_failure == "CONTINUE"
    assert run_step(emr, s3_server, bucket, cluster_id, node).returncode == 2
    code, out, err = command("status", "--cluster", cluster_here, "--cluster_id", cluster_id, "--wait")
    assert code == 11
    assert "FAILED: --image_column 'photo': no such column" in err.splitlines()[-1]
    code, out, _ = command("logs", "--cluster", cluster_here, "--cluster_id", cluster_id)
    assert code == 0
    assert ": --image_column 'photo': no such column" in out.splitlines()[-1]
