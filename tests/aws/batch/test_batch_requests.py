"""What is asked of AWS Batch: calls that its model takes, wrong flags and parameters, refusals, the price."""

import json
import os

import pytest

from spark_embed.aws.batch.api import call, explain
from spark_embed.aws.calls import make_client
from spark_embed.errors import CloudError

JOB = ["--input_dir", "s3://in/images", "--output_dir", "s3://out/vectors"]


@pytest.fixture
def nobody(monkeypatch):
    """An environment without credentials and region, where AWS would be an address that nobody answers."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_a_dry_run_needs_nobody_and_says_what_would_be_sent(nobody, batch_command):
    from support.aws_server import check_request

    label = ["--task", "label", *JOB, "--model_directory", "s3://in/parser.yaml", "--batch_size", "8"]
    code, out, err = batch_command("submit", "--stack", "s", "--memory", "60000", "--dry_run", "--", *label)
    assert (code, err) == (0, "")
    told = json.loads(out)
    check_request("batch", told["operation"], told["parameters"])
    assert told == {
        "operation": "SubmitJob",
        "parameters": {
            "jobName": "spark_embed-to-s3-out-vectors",
            "jobQueue": "s",
            "jobDefinition": "s",
            "containerOverrides": {
                "command": label,
                "resourceRequirements": [{"type": "MEMORY", "value": "60000"}],
            },
        },
    }
    code, out, err = batch_command(
        "setup", "--dry_run", "--parameter", "VpcId=vpc-1", "--parameter", "Gpus=0"
    )
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["parameters"]["Parameters"][0] == {"ParameterKey": "Gpus", "ParameterValue": "0"}
    check_request("cloudformation", told["operation"], told["parameters"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["submit"], "behind --"),
        (["submit", "--", "--input_dir", "s3://b/in"], "--output_dir is required"),
        (["submit", "--", *JOB, "--batchsize", "3"], "did you mean --batch_size?"),
        (["submit", "--", "--input_dir", "/data", *JOB[2:]], "--input_dir /data: is not in S3"),
        (["submit", "--", *JOB, "--model_directory", "./parser.yaml"], "copy it to S3 (aws s3 cp"),
        (["submit", "--gpus", "0", "--", *JOB], "--gpus: must be a number from 1 on, not '0'"),
        (["submit", "--que", "a", "--", *JOB], "--que"),
        (["status", "--job_id", "a", "--", *JOB], "only 'spark-embed batch submit' takes flags"),
        (["logs"], "--job_id"),
        (["setup", "--parameter", "Gpu=1"], "did you mean Gpus?"),
        (["setup", "--parameter", "Gpus"], "--parameter Gpus: must be NAME=VALUE"),
        (["setup", "--template", "none.yaml"], "--template none.yaml: cannot be read: No such file"),
        (["submit", "--", *JOB], "nobody says in which region of AWS: give --region, or set AWS_REGION"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(nobody, batch_command, argv, words):
    code, out, err = batch_command(*argv)
    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        ("ClientException", "JobQueue spark-embed not found.", "; 'spark-embed batch setup' makes the stack"),
        ("AccessDeniedException",
         "User: arn:aws:iam::1:user/me is not authorized to perform: batch:SubmitJob on resource: "
         "arn:aws:batch:a:1:job-queue/b",
         "you may not batch:SubmitJob on arn:aws:batch:a:1:job-queue/b; the stack's SubmitterPolicy"),
        ("ExpiredTokenException", "The security token included is expired", "; AWS does not accept"),
        ("TooManyRequestsException", "Too Many Requests", "asked too often"),
        ("ClientException", "Container Overrides length must be at most 8192", "give --config"),
        ("ValidationError", "Parameters: [VpcId] must have values", "--parameter NAME=VALUE"),
        ("ValidationError", "Stack:arn:aws:x is in ROLLBACK_COMPLETE state and can not be updated.",
         "delete-stack"),
        ("", "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE - maxvCpus", "MaxVcpus"),
        ("", "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - none", "--vcpus, --memory, --gpus"),
        ("", "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - Service cannot fulfill", "add InstanceTypes"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_with_a_cure(code, message, words):
    assert words in explain(code, message)


def test_a_refused_call_has_its_exit_code(batch, batch_command):
    batch.refusals["SubmitJob"] = ("ClientException", "JobDefinition spark-embed not found")
    code, out, err = batch_command("submit", "--", *JOB)
    assert (code, out) == (11, "")
    assert "SubmitJob: ClientException: JobDefinition spark-embed not found; 'spark-embed batch setup'" in err
    code, _, err = batch_command("submit", "--stack", "other", "--", *JOB)
    assert code == 11
    assert "there is no job queue other in eu-west-1; 'spark-embed batch setup' makes" in err
    assert [name for name, _ in batch.requests].count("SubmitJob") == 1
    code, _, err = batch_command("status", "--job_id", "j-1")
    assert code == 11
    assert "--job_id j-1: there is no such job in eu-west-1" in err


def test_who_has_no_credentials_is_told(nobody):
    with pytest.raises(CloudError, match="DescribeJobs: no AWS credentials; set AWS_PROFILE"):
        call(make_client("batch", "eu-west-1"), "DescribeJobs", jobs=["a"])


@pytest.mark.parametrize("given", [[], ["--hourly_price", "9"]])
def test_the_job_is_told_the_spot_price_of_the_first_type_unless_somebody_has(
    batch, batch_command, tmp_path, monkeypatch, given
):
    prices = {
        "date": "2026-01-01",
        "region": batch.region,
        "instances": {"g6.2xlarge": {"ec2": 1, "spot": 0.25}},
    }
    (tmp_path / "prices.yaml").write_text(json.dumps(prices))
    monkeypatch.setattr("spark_embed.aws.job_flags.conf_folder", lambda: tmp_path)
    assert batch_command("submit", "--", *JOB, "--max_cost", "5", *given)[0] == 0
    command = batch.parameters("SubmitJob")["containerOverrides"]["command"]
    assert command == [*JOB, "--max_cost", "5", "--hourly_price", "9" if given else "0.2500"]
    prices["instances"] = {}
    (tmp_path / "prices.yaml").write_text(json.dumps(prices))
    code, _, err = batch_command("submit", "--", *JOB)
    assert code == 0
    assert "the summary will not say what the run has cost: " in err
    assert "has no spot price of g6.2xlarge" in err
