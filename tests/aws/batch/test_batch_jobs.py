"""Set up, submit, wait, logs, cancel: against Batch's API on the loopback, without Spark."""

import json
import time

import pytest
from botocore.exceptions import ClientError

from spark_embed.aws.batch.jobs import follow_job
from spark_embed.errors import CloudError

from support.batch_fixtures import TEMPLATE

JOB = ["--input_dir", "s3://in/images", "--output_dir", "s3://out/vectors"]
QUEUED = {"status": "RUNNABLE"}
ENDED = "Essential container in task exited"
LOST = {"statusReason": "Host EC2 (instance i-0123456789) terminated.", "container": {}}


@pytest.fixture
def submitted(batch, batch_command):
    """A job; returns its id."""

    def submitted() -> str:
        code, out, err = batch_command("submit", "--", *JOB)
        assert code == 0, err
        return json.loads(out)["job_id"]

    return submitted


def test_setting_up_prints_what_to_push(batch, batch_command):
    code, out, err = batch_command("setup", "--template", TEMPLATE)
    assert code == 0, err
    image = json.loads(out)["Image"]
    assert image.endswith(".amazonaws.com/spark-embed-job:0.1.0")
    assert f"docker push {image}" in err
    assert "docker build --platform linux/amd64 " in err
    assert "get-login-password | " in err
    code, _, err = batch_command("setup", "--template", TEMPLATE, "--region", batch.region)
    assert code == 0, err
    assert f"get-login-password --region {batch.region} | " in err


class Formation:
    """CloudFormation, as far as moto lacks it."""

    def __init__(self, *states: str, refusal: str = "") -> None:
        self.states = list(states)
        self.refusal = refusal
        self.sent: list[dict] = []

    def describe_stacks(self, **_):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return {
            "Stacks": [
                {"StackStatus": state, "Parameters": [{"ParameterKey": "Old"}, {"ParameterKey": "VpcId"}]}
            ]
        }

    def update_stack(self, **sent):
        self.sent.append(sent)
        if self.refusal:
            error = {"Code": "ValidationError", "Message": self.refusal}
            raise ClientError({"Error": error}, "UpdateStack")

    def describe_stack_events(self, **_):
        events = [
            ("s", "UPDATE_ROLLBACK_IN_PROGRESS", "they failed"),
            ("Queue", "UPDATE_FAILED", "Resource update cancelled"),
            ("SpotInstances", "UPDATE_FAILED", "subnet-1 does not exist"),
            ("s", "UPDATE_IN_PROGRESS", "User Initiated"),
            ("Old", "CREATE_FAILED", "long ago"),
        ]
        keys = ("LogicalResourceId", "ResourceStatus", "ResourceStatusReason")
        return {"StackEvents": [dict(zip(keys, event, strict=True)) for event in events]}


def test_a_stack_that_fails_names_what_failed_first(batch_command, monkeypatch):
    monkeypatch.setattr("spark_embed.aws.waiting.POLL_S", 0)
    formation = Formation("UPDATE_COMPLETE", "UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE")
    monkeypatch.setattr("spark_embed.aws.batch.stack.make_client", lambda *_: formation)
    code, _, err = batch_command("setup", "--stack", "s", "--template", TEMPLATE, "--parameter", "Gpus=0")
    assert code == 11
    assert err.endswith("stack s UPDATE_ROLLBACK_COMPLETE: SpotInstances: subnet-1 does not exist")
    (sent,) = formation.sent
    assert sent["Parameters"] == [
        {"ParameterKey": "Gpus", "ParameterValue": "0"},
        {"ParameterKey": "VpcId", "UsePreviousValue": True},  # and none that the template has no more
    ]


def test_a_stack_that_is_so_already_stays_so(batch_command, monkeypatch):
    formation = Formation("UPDATE_COMPLETE", refusal="No updates are to be performed.")
    monkeypatch.setattr("spark_embed.aws.batch.stack.make_client", lambda *_: formation)
    code, out, err = batch_command("setup", "--stack", "s", "--template", TEMPLATE)
    assert (code, json.loads(out)) == (0, {"stack": "s"})
    assert "stack s is so already" in err


def test_who_waits_sees_why_nothing_happens_and_how_far_the_job_is(batch, batch_command, monkeypatch):
    monkeypatch.setattr("spark_embed.aws.batch.jobs.describe_progress", lambda argv, **_: f"{argv[1]} half")
    batch.next_job = [
        {"status": "SUBMITTED"},
        {**QUEUED, "statusReason": "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - none"},
        {"status": "STARTING"},
        {"status": "RUNNING"},
        {**QUEUED, "attempts": [LOST]},
        {"status": "RUNNING", "attempts": [LOST]},
        {"status": "SUCCEEDED"},
    ]
    code, out, err = batch_command("submit", "--wait", "--", *JOB)
    assert code == 0, err
    job = f"job {json.loads(out)['job_id']}"
    said = [line.partition("INFO ")[2].strip() for line in err.splitlines()]
    lost = "attempt 2 (Host EC2 (instance i-0123456789) terminated.)"
    assert said[-7:] == [
        f"{job} SUBMITTED",
        f"{job} RUNNABLE: CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - none; EC2 has none of these instances "
        "now: add InstanceTypes, or Subnets in other zones, in 'setup'",
        f"{job} STARTING",
        f"{job} RUNNING: s3://in/images half",
        f"{job} RUNNABLE, {lost}",
        f"{job} RUNNING, {lost}: s3://in/images half",
        f"{job} SUCCEEDED: s3://in/images half",
    ]


def test_who_waits_long_is_told_where_to_look(batch, batch_command):
    long_ago = {**QUEUED, "createdAt": int((time.time() - 700) * 1000)}
    batch.next_job = [QUEUED, long_ago, {"status": "FAILED", "statusReason": "cancelled"}]
    batch.environment = {"status": "INVALID", "statusReason": "CLIENT_ERROR - Not authorized"}
    code, _, err = batch_command("submit", "--wait", "--", *JOB)
    assert code == 11
    (line,) = (line for line in err.splitlines() if "no instance for it yet" in line)
    assert (
        "(SPOT) ENABLED INVALID CLIENT_ERROR - Not authorized: 0 of 32 vCPUs, g6.2xlarge, g5.2xlarge;" in line
    )
    assert "(EC2) ENABLED INVALID" in line
    assert "With 0 vCPUs: your quota (Service Quotas" in line
    assert line.endswith("the subnets' way to ECR, ECS and CloudWatch Logs")  # said once


def test_who_waits_after_a_loss_waits_since_then(batch, batch_command, submitted):
    job_id = submitted()
    began = int((time.time() - 7000) * 1000)
    for stopped_s, is_told in ((10, False), (700, True)):
        attempt = LOST | {"stoppedAt": int((time.time() - stopped_s) * 1000)}
        queued = {**QUEUED, "createdAt": began, "attempts": [attempt]}
        batch.jobs[job_id] = [queued, queued, {"status": "FAILED", "statusReason": "cancelled"}]
        _, _, err = batch_command("status", "--job_id", job_id, "--wait")
        assert ("no instance for it yet" in err) is is_told


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (LOST, "terminated; its instances were taken away as often"),
        (LOST | {"container": {"exitCode": 130}}, "terminated. (exit code 130); its instances were taken"),
        ({"statusReason": ENDED,
          "container": {"exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage"}},
         "due to memory usage (exit code 137); the container took more than its memory"),
        ({"statusReason": ENDED, "container": {"exitCode": 137}},
         "the container took more than its memory"),
        ({"statusReason": "Task failed to start",
          "container": {"reason": "CannotPullContainerError: not found"}},
         "not found; push the image"),
        ({"statusReason": "Job attempt duration exceeded timeout", "container": {"exitCode": 130}},
         "TimeoutSeconds"),
        ({"statusReason": ENDED, "container": {"exitCode": 9}},
         "exit code 9: Spark's JVM or application has ended"),  # without a log
        ({"statusReason": "spark-embed batch cancel", "container": {"exitCode": 130}},
         "FAILED: spark-embed batch cancel"),
        ({}, "nobody says why"),
    ],
)  # fmt: skip
def test_a_job_that_fails_is_told_with_its_reason_and_a_cure(batch, batch_command, submitted, ended, words):
    job_id = submitted()
    batch.jobs[job_id] = [{"status": "FAILED", **ended}]
    code, _, err = batch_command("status", "--job_id", job_id, "--wait")
    assert code == 11
    last = err.splitlines()[-1]
    assert f"job {job_id} FAILED: " in last
    assert words in last


def test_the_last_line_of_the_log_says_what_was_wrong(batch, batch_command, submitted):
    job_id = submitted()
    code, out, err = batch_command("logs", "--job_id", job_id)
    assert (code, out) == (11, "")
    assert err.endswith(f"job {job_id} RUNNABLE: it has no log yet, as its container has not begun")
    error = "12:00:00 ERROR   --image_column 'photo': no such column"
    lines = [f"line {number}" for number in range(12_000)]  # more than GetLogEvents gives at once
    batch.end(job_id, 2, "\n".join([*lines, error]))
    code, out, err = batch_command("logs", "--job_id", job_id)
    assert code == 0, err
    assert out.splitlines()[:-1] == [*lines, error]
    assert out.splitlines()[-1].endswith(": exit code 2: --image_column 'photo': no such column")
    code, out, err = batch_command("status", "--job_id", job_id, "--wait")
    assert code == 11
    assert err.endswith(f"job {job_id} FAILED: exit code 2: --image_column 'photo': no such column")
    assert "vCPUs, g6.2xlarge, g5.2xlarge" in out


def test_a_job_is_cancelled_once(batch, batch_command, submitted):
    job_id = submitted()
    code, out, _ = batch_command("cancel", "--job_id", job_id)
    assert code == 0
    assert json.loads(out) == {"job_id": job_id, "state": "FAILED"}
    code, _, err = batch_command("cancel", "--job_id", job_id)
    assert code == 11
    assert err.endswith(f"job {job_id} has ended already: FAILED")


def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(batch, batch_command, submitted, monkeypatch):
    job_id = submitted()

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spark_embed.aws.waiting.time.sleep", interrupt)
    code, _, err = batch_command("status", "--job_id", job_id, "--wait")
    assert code == 130
    assert f"the job goes on: 'spark-embed batch status --job_id {job_id} --wait' follows it" in err


def test_a_look_that_fails_says_nothing_of_the_job(batch, batch_command, submitted):
    job_id = submitted()
    batch.refusals["DescribeJobs"] = ("ExpiredTokenException", "expired")
    with pytest.raises(CloudError, match=rf"renew them.*; this says nothing of job {job_id}"):
        follow_job(None, job_id, print)
