"""Fixtures of the tests of EMR: a server for its API, a bucket, a cluster file of the test's own."""

from functools import partial
from pathlib import Path

import pytest
import yaml

from support.checkout import REPOSITORY


@pytest.fixture(scope="session")
def emr_server(s3_server):
    """EMR's API on the loopback."""
    from support.emr_server import EmrServer  # moto takes a second

    with EmrServer(s3_server.region) as server:
        yield server


@pytest.fixture
def emr(emr_server, bucket, monkeypatch):
    """The same for one test, whose environment leads to it, and which does not wait."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", emr_server.endpoint)
    monkeypatch.setattr("spark_embed.aws.waiting.POLL_S", 0.02)
    monkeypatch.setattr("spark_embed.aws.emr.follow.LOG_POLL_S", 0.02)
    monkeypatch.setattr("spark_embed.aws.emr.follow.LOG_PATIENCE_S", 20)
    emr_server.requests.clear()
    return emr_server


@pytest.fixture
def write_cluster(tmp_path):
    """Write a cluster file: one that is shipped, with the placeholders filled in and keys changed."""

    def write_cluster(shipped: str = "cluster.yaml", **changes) -> Path:
        """Return its path."""
        text = (REPOSITORY / "emr" / shipped).read_text()
        values = yaml.safe_load(text.replace("BUCKET", "bucket").replace("subnet-ID", "subnet-0abc"))
        path = tmp_path / "cluster.yaml"
        path.write_text(yaml.safe_dump({**values, **changes}))
        return path

    return write_cluster


@pytest.fixture
def cluster_file(emr, bucket, write_cluster) -> Path:
    """The CPU cluster, in the bucket."""
    return write_cluster(
        "cluster-cpu.yaml", region=emr.region, home=f"s3://{bucket}/home", log_uri=f"s3://{bucket}/logs/"
    )


@pytest.fixture
def command(capsys):
    """Give `spark-embed emr` to this process; returns its exit code, its stdout and its stderr."""
    return partial(_command, capsys)


def _command(capsys, *argv) -> tuple[int, str, str]:
    from spark_embed.cli.main import main

    code = main(["emr", *map(str, argv)])
    said = capsys.readouterr()
    return code, said.out, said.err.strip()
