"""A run on a Spark Connect session: Spark's own server in a process of its own, a driver in another.

One server and one driver for the whole file: support/connect_driver.py does what the tests look at.
"""

import json
import socket
import sys
from pathlib import Path

import pytest

from support.commands import BIN, run_command
from support.crashes import Folder, Run, write_shards

pytest.importorskip("grpc_status", reason="Spark Connect needs pip install 'pyspark[connect]'")
pytestmark = pytest.mark.slow

N_SHARDS, N_ROWS = 4, 50
WAVE_ROWS = 40

SERVER = {
    "spark.connect.grpc.binding.address": "127.0.0.1",
    "spark.connect.progress.reportInterval": "200ms",
    "spark.python.daemon.module": "spark_embed.spark.worker_daemon",
    "spark.ui.enabled": "false",
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def start_server(log: Path, port: int) -> Run:
    settings = {**SERVER, "spark.connect.grpc.binding.port": port}
    command = [
        BIN / "spark-class", "org.apache.spark.deploy.SparkSubmit", "--master", "local[2]",
        "--class", "org.apache.spark.sql.connect.service.SparkConnectServer",
        "--driver-java-options", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        *(word for name, value in settings.items() for word in ("--conf", f"{name}={value}")),
        "spark-internal",
    ]  # fmt: skip
    return Run(log, command, row_s=0.02)


@pytest.fixture(scope="module")
def driven(tmp_path_factory, photos, tiny_clip):
    """What the driver has told, by what it did; what it said; and the output folder."""
    folder = tmp_path_factory.mktemp("connect")
    write_shards(folder / "in", photos, N_SHARDS, N_ROWS)
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        server = start_server(folder / "server", port)
        patch.setenv("SPARK_REMOTE", f"sc://127.0.0.1:{port}/;user_id=somebody")
        driver = None
        try:
            server.await_(lambda: is_listening(port), "a Spark Connect server")
            argv = [folder / "in", folder / "out", tiny_clip, server.log, server.process.pid]
            driver = Run(
                folder / "driver",
                [sys.executable, "-m", "support.connect_driver", *argv],
                wave_rows=WAVE_ROWS,
            )
            assert driver.wait() == 0, driver.said[-5000:]
        finally:
            for run in filter(None, (driver, server)):
                run.end()
    return json.loads(driver.printed.splitlines()[-1]), driver.said, Folder(folder / "out")


def test_the_session_is_known_for_what_it_is(driven):
    told, _, _ = driven
    assert told["session"] == [True, True, 2]


def test_an_interrupted_run_goes_on_and_every_row_is_there_once(driven):
    told, _, out = driven
    complete = told["interrupted"]["complete"]
    n_images = N_SHARDS * (N_ROWS - 2)
    assert 0 < len(complete) < N_SHARDS * N_ROWS
    n_complete_images = sum(row not in (3, 5) for _, row in complete)
    assert told["code"] == 0
    # What the server still did of the wave that was under way, after the command had ended, is done again.
    n_again = told["images"] - told["interrupted"]["images"] - (n_images - n_complete_images)
    assert 0 <= n_again <= WAVE_ROWS
    assert len(out.vectors()) == n_images
    by_row = {3: "null_bytes", 5: "not_an_image"}
    assert out.errors() == {
        (f"{shard:05d}.parquet", row): code for shard in range(N_SHARDS) for row, code in by_row.items()
    }
    metadata = json.loads((out.root / "metadata.json").read_text())
    assert metadata["parity"]["min_cosine"] > 0.999
    out.assert_tidy()


def test_a_second_run_does_nothing(driven):
    told, _, _ = driven
    assert (told["second_code"], told["images_after"]) == (0, told["images_before"])


def test_a_bad_shard_is_named_and_the_others_stay_done(driven):
    told, said, _ = driven
    assert told["bad_shard_code"] == 8
    assert said.count("shard 00009.parquet is left out, because it cannot be read: ") == 1
    assert "ERROR   1 shards cannot be read; all others are done and published; the first, 00009" in said


def test_it_works_where_it_looks_like_databricks_serverless(driven):
    told, said, _ = driven
    assert told["serverless"] == {"code": 0, "embedded": 18, "goes_on": True}
    assert said.count("this platform keeps its own settings where a run would have") == 1


def test_image_embedding_gives_the_vectors_of_a_run(driven):
    told, _, _ = driven
    assert told["cosine"] > 0.999


def test_a_group_is_cancelled_by_its_tag_and_nobody_elses_job(driven):
    told, _, _ = driven
    assert "[OPERATION_CANCELED]" in told["cancelled"].pop("failure")
    assert told["cancelled"] == {"goes_on": True, "n_done": 0}


def test_a_server_that_is_not_there_is_told_at_once_without_the_token(shards, tmp_path):
    remote = f"sc://127.0.0.1:{free_port()}"
    options = ("--input_dir", shards, "--output_dir", tmp_path / "out")
    done = run_command("spark-embed", *options, environ={"SPARK_REMOTE": f"{remote}/;token=secret"})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        f"ERROR   Spark Connect cannot be used: SPARK_REMOTE {remote}/: [Errno 111] Connection refused"
    )
    assert not (tmp_path / "out").exists()


def test_failures_are_one_line_without_a_trace(driven):
    told, said, _ = driven
    assert told["model_error"] == (
        "ModelError('--model_directory /m: other weights than those of the run "
        "(on a worker; what is complete stays so)')"
    )
    assert told["lost"].startswith("the Spark Connect server, or this session of it, has ended in the middle")
    assert "Traceback" not in said
    assert "\tat " not in said
