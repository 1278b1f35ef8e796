"""A store that is wrong, slow, away or gone, and runs that are killed: what is said, and nothing is lost."""

import contextlib
import time

import pandas as pd
import pytest

from spark_embed.config import Config
from spark_embed.errors import StorageError
from spark_embed.output.folder import Output
from spark_embed.output.verify import verify
from spark_embed.pipeline import run
from spark_embed.spark.settings import settings

from support.bad_s3 import FAULTS
from support.crashes import OPTIONS, Folder
from support.s3_runs import assert_tidy, keys_below, read_parquet, upload_tree
from support.s3_server import find_server

SAID_WITHIN_S = 30
AWAY_S = 30


@pytest.fixture
def run_on_s3(start, stamped, tiny_clip):
    """Start the command from a bucket to the same bucket."""

    def run(store, bucket, *options, **happening):
        input_dir = upload_tree(store, stamped, bucket, "in")
        out = f"s3://{bucket}/out"
        return start(out, "--input_dir", input_dir, *options, **happening)

    return run


def fetch(store, bucket, tmp_path, name="fetched") -> Folder:
    """Return a copy of the output on the disk."""
    for key in keys_below(store, bucket, "out"):
        path = tmp_path / name / key
        path.parent.mkdir(parents=True, exist_ok=True)
        store.client().download_file(bucket, key, str(path))
    return Folder(tmp_path / name / "out")


@pytest.fixture
def own_server_and_bucket(tmp_path, monkeypatch):
    """A server that the test may kill."""
    with find_server(tmp_path / "s3") as server:
        server.set_environment(monkeypatch)
        yield server, server.make_bucket()


@pytest.fixture
def event_log(tmp_path, monkeypatch):
    """Where Spark writes down what it knows of a run; its own log says all it can."""
    (tmp_path / "events").mkdir()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/spark-defaults.conf").write_text(
        f"spark.eventLog.enabled true\nspark.eventLog.dir file:{tmp_path}/events\nspark.log.level INFO\n"
    )
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path / "conf"))
    return tmp_path / "events"


def assert_no_secret(store, bucket, tmp_path) -> None:
    """Neither in a file that a run has written or said, nor in its output."""
    secret = store.secret_key.encode()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path
    for key in keys_below(store, bucket, "out"):
        body = store.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        assert secret not in body, key


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.crash
def test_a_store_that_fails_every_fifth_time_costs_nothing_and_no_secret_is_written_anywhere(
    run_on_s3, s3_server, bucket, bad_s3, uninterrupted, tmp_path, event_log
):
    run = run_on_s3(s3_server, bucket, "--max_image_bytes", "10KB", wave_rows=300)
    assert run.wait() == 0, run.said
    assert_no_secret(s3_server, bucket, tmp_path)
    fine_s = float(run.printed.split("total ")[1].split(" s")[0])
    assert_tidy(s3_server, bucket, "out")
    bad_s3.rate, bad_s3.faults, bad_s3.delay_s = 0.2, FAULTS, 1.0
    run = run_on_s3(s3_server, bucket, "--overwrite", wave_rows=300)
    assert run.wait() == 0, run.said
    assert {fault for fault, _ in bad_s3.met} == set(FAULTS)
    assert float(run.printed.split("total ")[1].split(" s")[0]) < 3 * fine_s
    bad_s3.rate = 0
    assert len(list(event_log.iterdir())) == 2
    assert_no_secret(s3_server, bucket, tmp_path)
    fetch(s3_server, bucket, tmp_path).assert_same(uninterrupted)
    assert_tidy(s3_server, bucket, "out")


@pytest.fixture
def run_here(s3_spark_elsewhere, s3_server, bucket, bad_s3, stamped, tiny_clip):
    """Run the stamped shards from a bucket behind a bad server to the same bucket; returns the rows' keys."""
    input_dir = upload_tree(s3_server, stamped, bucket, "in")
    paths = {"input_dir": input_dir, "output_dir": f"s3://{bucket}/out", "model_directory": str(tiny_clip)}

    def run_here(rate, faults, seed=0, only=frozenset({"GetObject"}), **options):
        bad_s3.rate, bad_s3.faults, bad_s3.seed, bad_s3.only = rate, faults, seed, only
        try:
            run(s3_spark_elsewhere, Config(**paths, **OPTIONS, **options))
        finally:
            bad_s3.rate = 0.0
        tables = [read_parquet(s3_server, bucket, f"out/{name}.parquet") for name in ("embeddings", "errors")]
        return sorted(pd.concat(tables)["key"])

    return run_here


ALL_KEYS = sorted(f"{shard}-{row}" for shard in range(12) for row in range(50))


def test_answers_that_break_off_cost_no_row(run_here, bad_s3):
    assert run_here(0.2, ("cut",)) == ALL_KEYS
    assert bad_s3.met["cut", "GetObject"] > 10


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("faults", [("cut",), ("cut", "reset", "slow_down")])
@pytest.mark.parametrize("rate", [0.08, 0.2])
@pytest.mark.parametrize("vectored", [False, True])
@pytest.mark.crash
def test_whatever_breaks_between_all_rows_are_there_or_the_run_says_go_on(
    run_here, s3_spark, seed, faults, rate, vectored
):
    """Also where ranges are read side by side, which S3A does not ask for again."""
    with settings(s3_spark, {"parquet.hadoop.vectored.io.enabled": str(vectored).lower()}):
        with contextlib.suppress(StorageError):  # exit code 4
            assert run_here(rate, faults, seed, only=None) == ALL_KEYS
        assert run_here(0.0, faults) == ALL_KEYS


@pytest.mark.crash
def test_a_store_that_is_away_for_half_a_minute_is_waited_for(
    run_on_s3, tmp_path, uninterrupted, own_server_and_bucket
):
    server, bucket = own_server_and_bucket
    run = run_on_s3(server, bucket, row_s=0.02)
    run.await_(lambda: run.images(), "images")
    server.kill()
    left = time.monotonic() + AWAY_S
    while time.monotonic() < left:
        run.wait_at_most(left - time.monotonic())
        assert not run.has_ended, run.said
    server.start()
    assert run.wait() == 0, run.said
    fetch(server, bucket, tmp_path).assert_same(uninterrupted)
    assert_tidy(server, bucket, "out")


@pytest.mark.crash
def test_a_store_that_dies_ends_the_run_and_when_it_is_back_the_same_command_goes_on(
    run_on_s3, tmp_path, uninterrupted, own_server_and_bucket
):
    server, bucket = own_server_and_bucket
    run = run_on_s3(server, bucket, row_s=0.02, silent_s=20)
    run.await_(lambda: keys_below(server, bucket, "out/_spark_embed/markers"), "a marker")
    server.kill()
    assert run.wait() == 4, run.said
    assert "same command" in run.last_line
    assert "it goes on" in run.last_line
    assert "Traceback" not in run.said
    server.start()
    n_images = len(run.images())
    run = run_on_s3(server, bucket)
    assert run.wait() == 0, run.said
    assert len(run.images()) < 12 * 50 - 60 < n_images + len(run.images())
    fetch(server, bucket, tmp_path).assert_same(uninterrupted)


@pytest.mark.crash
def test_after_kills_on_s3_nothing_is_missing_or_left(run_on_s3, s3_server, bucket, uninterrupted, tmp_path):
    run = run_on_s3(s3_server, bucket, row_s=0.01)
    run.await_(lambda: keys_below(s3_server, bucket, "out/_spark_embed/markers"), "a marker")
    run.kill()
    run.await_silence()
    run = run_on_s3(s3_server, bucket, hold="spark_embed.output.publish.publish publish_file embeddings 1")
    run.await_hold()
    uploads = s3_server.client().list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [one for one in uploads if "embeddings" in one["Key"]]
    run.kill()
    run.await_silence()
    run = run_on_s3(s3_server, bucket)
    assert run.wait() == 0, run.said
    verify(Output(f"s3a://{bucket}/out")).check()
    assert_tidy(s3_server, bucket, "out")
    assert not [key for key in keys_below(s3_server, bucket) if "__magic" in key]
    fetch(s3_server, bucket, tmp_path).assert_same(uninterrupted)


WRONG = {
    "wrong secret": ("in", "credentials"),
    "wrong key": ("in", "credentials"),
    "no keys": ("in", "no AWS credentials"),
    "missing bucket": ("in", "there is no bucket"),
    "missing folder": ("in", "there is no such folder"),
    "denied input": ("in", "access denied"),
    "denied output": ("out", "access denied"),
    "dead endpoint": ("in", "cannot be reached"),
    "wrong region": ("in", "is in another region: --aws_region eu-west-1"),
}


def put_shard(store, bucket, shards) -> None:
    store.direct.upload_file(str(shards / "00000.parquet"), bucket, "in/0.parquet")


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_one_line_that_names_the_place(
    command_here, s3_server, bucket, monkeypatch, wrong, shards, tmp_path
):
    place, text = WRONG[wrong]
    input_dir = f"s3://{bucket}/in"
    if wrong != "missing folder":
        put_shard(s3_server, bucket, shards)
    if wrong == "wrong secret":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "MARKED-SECRET-BUT-WRONG")
    elif wrong == "wrong key":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "MARKEDKEYBUTWRONG")
    elif wrong == "no keys":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    elif wrong == "missing bucket":
        input_dir = "s3://no-bucket-of-this-name/in"
    elif wrong.startswith("denied"):
        user = s3_server.make_user(f"user-{bucket}", "MARKED-SECRET-OF-A-USER")
        if wrong == "denied output":
            s3_server.allow(bucket, user.access_key, "in")
            s3_server.allow(bucket, user.access_key, action="s3:ListBucket")
        user.set_environment(monkeypatch)
    elif wrong == "wrong region":
        monkeypatch.setenv("AWS_REGION", "us-west-2")
    elif wrong == "dead endpoint":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    began = time.monotonic()
    code, said = command_here("--input_dir", input_dir, "--output_dir", f"s3://{bucket}/out")
    assert time.monotonic() - began < SAID_WITHIN_S
    assert code in (2, 4), said
    assert_one_line(said, place, text)


def assert_one_line(said: str, place: str, text: str) -> None:
    lines = said.strip().splitlines()
    assert text in lines[-1], said
    assert f"/{place}" in lines[-1]
    assert "Traceback" not in said
    assert "MARKED" not in said
    assert len(lines) <= 3


@pytest.mark.slow
def test_nothing_else_is_said_by_a_process_of_its_own(start, s3_server, bucket, monkeypatch, shards):
    put_shard(s3_server, bucket, shards)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "MARKED-SECRET-BUT-WRONG")
    run = start(f"s3://{bucket}/out", "--input_dir", f"s3://{bucket}/in")
    assert run.wait() in (2, 4), run.said
    assert_one_line(run.said, *WRONG["wrong secret"])
