"""Deploy, wait, status, logs, cancel, terminate: against EMR's API on the loopback, without Spark."""

import gzip
import json
import shutil
import time
from datetime import timedelta

import pytest

from spark_embed.aws.emr import deploy, follow, logs
from spark_embed.aws.log_lines import find_error
from spark_embed.errors import CloudError, ConfigError

from support.checkout import REPOSITORY
from support.s3_runs import keys_below

JOB = ["--input_dir", "s3://b/in", "--output_dir", "s3://b/out"]


@pytest.fixture
def release(s3_server, bucket) -> str:
    """A release that is deployed, as far as submit looks."""
    for key, told in (("current", {"version": "1-a"}), ("releases/1-a/manifest", {})):
        s3_server.direct.put_object(Bucket=bucket, Key=f"home/{key}.json", Body=json.dumps(told).encode())
    return "1-a"


@pytest.fixture
def submitted(release, command, cluster_file):
    """A step on a cluster of its own; returns the flags that name both."""

    def submitted(*flags: str) -> list[str]:
        code, out, err = command("submit", "--cluster", cluster_file, *flags, "--", *JOB)
        assert code == 0, err
        told = json.loads(out)
        return [
            "--cluster",
            str(cluster_file),
            "--cluster_id",
            told["cluster_id"],
            "--step_id",
            told["step_id"],
        ]

    return submitted


@pytest.fixture
def ship(s3_server, bucket):
    """Put a log where EMR puts it."""

    def ship(text: str, key: str) -> None:
        s3_server.direct.put_object(Bucket=bucket, Key=f"logs/{key}", Body=gzip.compress(text.encode()))

    return ship


def test_what_is_unchanged_is_sent_once(emr, s3_server, bucket, cluster_file, command, tmp_path, monkeypatch):
    model = tmp_path / "clip"
    (model / "deep").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "deep/weights").write_bytes(b"w" * (9 << 20))  # in parts
    runs = []
    for _ in range(2):
        code, out, err = command("deploy", "--cluster", cluster_file, "--model_directory", model)
        assert code == 0, err
        runs.append((json.loads(out), s3_server.direct.list_objects_v2(Bucket=bucket)["Contents"]))
    (first, objects), (second, later) = runs
    assert first == second
    assert [(o["Key"], o["LastModified"]) for o in objects] == [(o["Key"], o["LastModified"]) for o in later]
    keys = {
        key.removeprefix(f"home/releases/{first['release_version']}/")
        for key in keys_below(s3_server, bucket)
    }
    assert {
        *("bootstrap.sh", "constraints.txt", "jobs/embed.py", "conf/gpu.conf", "conf/gpus.sh"),
        *("spark_embed.zip", "spark_embed-0.1.0-py3-none-any.whl", "manifest.json", "home/current.json"),
    } <= keys
    here = first["model_directory"].removeprefix(f"s3://{bucket}/")
    weights = (model / "deep/weights").read_bytes()
    assert s3_server.content(bucket, f"{here}/") == {"config.json": b"{}", "deep/weights": weights}
    (model / "config.json").write_text("[]")
    monkeypatch.setattr("spark_embed.aws.emr.deploy._build_wheel", lambda *_: pytest.fail("it is there"))
    _, out, _ = command("deploy", "--cluster", cluster_file, "--model_directory", model)
    assert json.loads(out)["model_directory"] != first["model_directory"]


def test_a_release_that_was_cut_off_is_none_yet(emr, s3_server, bucket, cluster_file, command, tmp_path):
    """A checkout of another content is another release, and its manifest is written last."""
    checkout = tmp_path / "checkout"
    for name in ("conf", "emr", "jobs", "spark_embed"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, checkout / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "constraints.txt"):
        shutil.copy(REPOSITORY / name, checkout)
    assert deploy.version_of(checkout) == deploy.version_of(REPOSITORY)
    (checkout / "jobs/embed.py").write_text("")
    version = deploy.version_of(checkout)
    assert version != deploy.version_of(REPOSITORY)
    s3_server.direct.put_object(Bucket=bucket, Key=f"home/releases/{version}/spark_embed.zip", Body=b"")
    code, _, err = command("submit", "--cluster", cluster_file, "--release_version", version, "--", *JOB)
    assert (code, emr.requests) == (2, [])
    assert f"--release_version {version}: there is no such release" in err
    code, _, err = command("submit", "--cluster", cluster_file, "--", *JOB)
    assert (code, emr.requests) == (2, [])
    assert "nothing is deployed there yet; run 'spark-embed emr deploy' first" in err


def test_a_cluster_for_many_steps_is_made_used_and_ended(emr, release, cluster_file, command):
    code, out, _ = command("create-cluster", "--cluster", cluster_file, "--wait")
    assert code == 0
    here = ["--cluster", cluster_file, "--cluster_id", json.loads(out)["cluster_id"]]
    assert emr.parameters("RunJobFlow")["Instances"]["KeepJobFlowAliveWhenNoSteps"] is True
    for _ in range(2):
        assert command("submit", *here, "--", *JOB)[0] == 0
    code, out, _ = command("status", *here)
    assert code == 0
    assert "fleet task RUNNING: 0 of 0 on demand, 0 of 4 spot" in out
    states = [line.split()[2].strip(":;") for line in out.splitlines() if line.startswith("step ")]
    assert states == ["PENDING", "RUNNING"]
    newest = emr.step(here[-1]).id
    assert json.loads(command("cancel", *here)[1])["step_id"] == newest
    assert emr.parameters("CancelSteps")["StepCancellationOption"] == "SEND_INTERRUPT"
    code, _, err = command("cancel", *here, "--step_id", newest)
    assert code == 11
    assert "is in state CANCELLED" in err
    code, _, err = command("status", *here, "--wait")
    assert code == 11
    assert err.endswith("CANCELLED: by somebody")
    assert command("submit", *here, "--deploy_mode", "cluster", "--", *JOB)[0] == 0
    in_cluster_mode = emr.step(here[-1])
    in_cluster_mode.state = "RUNNING"
    code, _, err = command("cancel", *here)
    assert code == 2
    assert "runs in cluster mode" in err
    in_cluster_mode.state = "PENDING"  # nothing runs of it that could go on
    assert command("cancel", *here)[0] == 0
    for _ in range(2):
        assert json.loads(command("terminate", *here)[1])["state"] == "TERMINATED"


def test_ctrl_c_before_aws_has_answered_is_not_start_again(emr, release, cluster_file, command, monkeypatch):
    """That would be a second cluster."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("spark_embed.aws.emr.api.call", interrupt)
    code, _, err = command("submit", "--cluster", cluster_file, "--", *JOB)
    assert code == 130
    assert "interrupted; what was sent to AWS goes on ('aws emr list-clusters --active'" in err


def test_ctrl_c_leaves_the_step_running_and_says_how_to_go_on(emr, submitted, command, monkeypatch):
    here = submitted()

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    code, _, err = command("status", *here, "--wait")
    assert code == 130
    names = " ".join(here[2:])
    assert err.endswith(
        f"not waiting any more; the step goes on: 'spark-embed emr status {names} --wait' follows it, "
        f"'spark-embed emr cancel {names}' ends it"
    )
    assert emr.step(here[3]).state == "RUNNING"


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        ("BOOTSTRAP_FAILURE", "On the master instance (i-0123456789), bootstrap action 1 returned a non-zero "
         "return code", "; its log: 'spark-embed emr logs --cluster_id"),
        ("INSTANCE_FLEET_TIMEOUT", "Timed out", "EC2 has not as many"),
        ("VALIDATION_ERROR", "The subnet subnet-1 does not exist.", "check subnets"),
    ],
)  # fmt: skip
def test_a_cluster_that_dies_is_told_with_its_reason(emr, submitted, command, ship, code, message, words):
    here = submitted()
    # For minutes steps wait on, though nothing can come of it.
    emr.end_cluster(here[3], code, message, steps="PENDING" if code == "VALIDATION_ERROR" else "CANCELLED")
    exit_code, _, err = command("status", *here, "--wait")
    assert exit_code == 11
    assert "has ended before its step: " in err.splitlines()[-1]
    assert words in err.splitlines()[-1]
    if code == "BOOTSTRAP_FAILURE":
        ship("fine\n", f"{here[3]}/node/i-00000000/bootstrap-actions/1/stderr.gz")
        ship(
            "+ pip\nERROR: No matching distribution\n",
            f"{here[3]}/node/i-0123456789/bootstrap-actions/1/stderr.gz",
        )
        exit_code, out, _ = command("logs", *here)
        assert exit_code == 0
        assert out.splitlines()[-1].endswith("/bootstrap-actions/1: ERROR: No matching distribution")


def test_in_cluster_mode_the_log_is_that_of_the_last_attempts_first_container(emr, submitted, command, ship):
    here = submitted("--deploy_mode", "cluster")
    application = "application_1700000000000_0002"
    container = f"{here[3]}/containers/{application}/container_1700000000000_0002"
    said = f'INFO Application report for {application}\nException in thread "main" it failed\n'
    ship(said, f"{here[3]}/steps/{here[5]}/stderr.gz")
    ship("12:00:00 ERROR the first attempt\n", f"{container}_01_000001/stderr.gz")
    ship(
        "12:00:00 ERROR --require_gpu true: none\n22/01/01 INFO ShutdownHook\n",
        f"{container}_02_000001/stderr.gz",
    )
    ship("12:00:00 ERROR an executor\n", f"{container}_02_000002/stderr.gz")
    emr.end_step(here[3], "FAILED")
    code, out, _ = command("logs", *here)
    assert code == 0
    assert out.splitlines()[-1].endswith("_02_000001: --require_gpu true: none")
    code, _, err = command("status", *here, "--wait")
    assert code == 11
    assert err.endswith("FAILED: --require_gpu true: none")


def test_a_log_that_comes_late_is_waited_for(emr, submitted, command, ship, monkeypatch):
    here = submitted()
    key = f"{here[3]}/steps/{here[5]}/stderr.gz"
    ship("INFO half of it\n", key)
    emr.end_step(here[3], "FAILED")
    emr.step(here[3]).end_date_time += timedelta(seconds=100)  # after what is there
    reads: list[object] = []
    read_log = logs.driver_log

    def read_late(*args):
        reads.append(args)
        if len(reads) == 3:
            ship("INFO half of it\nException in thread main\n", key)
        return read_log(*args)

    monkeypatch.setattr(logs, "driver_log", read_late)
    code, out, err = command("logs", *here)
    assert code == 0
    assert len(reads) == 3
    assert out.splitlines()[-1].endswith(": Exception in thread main")
    assert "waiting for the log: EMR puts logs into S3 every 5 minutes" in err


def test_a_log_that_never_comes_is_told(emr, submitted, command, monkeypatch):
    here = submitted()
    emr.end_step(here[3], "FAILED")
    monkeypatch.setattr(follow, "LOG_PATIENCE_S", 0)
    code, _, err = command("logs", *here)
    assert code == 11
    assert "FAILED: no log is in s3://" in err
    code, _, err = command("status", *here, "--wait")
    assert code == 11
    assert "its log is not in S3 yet: spark-embed emr logs" in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12:00:00 ERROR   no such column\n22/01/01 INFO end\n", "no such column"),
        ('{"level": "ERROR", "message": "no column"}\n{"level": "INFO", "message": "b"}', "no column"),
        ("Traceback (most recent call last):\n  x\nModuleNotFoundError: No module named 'torch'\nINFO end",
         "ModuleNotFoundError: No module named 'torch'"),
        ('Exception in thread "main" a.SparkException: a\n\tat b',
         'Exception in thread "main" a.SparkException: a'),
        ("INFO all is well\n", None),
    ],
)  # fmt: skip
def test_the_line_that_says_what_was_wrong_is_found(text, expected):
    assert find_error(text) == expected


def test_only_a_checkout_makes_a_release(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(deploy, "__file__", str(tmp_path / "a/b/c.py"))
    with pytest.raises(ConfigError, match="a release is made of a checkout"):
        deploy.find_checkout()


def test_a_look_that_fails_says_nothing_of_the_step(emr, submitted):
    from spark_embed.aws.emr.api import emr_client

    here = submitted()
    emr.refusals["DescribeStep"] = ("ExpiredTokenException", "expired")
    with pytest.raises(CloudError, match=r"renew them.*; this says nothing of step s-"):
        follow.follow_step(emr_client(emr.region), here[3], here[5], print)
