"""`spark-embed batch ...`: the stack, jobs, logs; knows what people type, aws/batch/ knows how it is done."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial

from spark_embed.aws.batch import api, environments, jobs, logs, stack
from spark_embed.aws.calls import make_client
from spark_embed.aws.job_flags import add_price, check_job
from spark_embed.cli.aws_commands import Commands, add_commands, run_command, tell
from spark_embed.cli.commands import Write
from spark_embed.errors import CloudError
from spark_embed.flags import Parser
from spark_embed.prices import Prices

logger = logging.getLogger(__name__)

_TORCH_FOR_CPU = "https://download.pytorch.org/whl/cpu"
_MODEL_CURE = "copy it to S3 (aws s3 cp, aws s3 sync) and give that"
_CODES = "exit codes: 0 done; 2 a flag or a parameter is wrong; 11 AWS refuses"
_ENDS = f"{_CODES}, or (--wait) the job failed; 130 Ctrl-C while waiting: the job goes on"


def run_batch(argv: Sequence[str], write: Write) -> None:
    """Do what one of the subcommands says.

    Raises:
        SparkEmbedError: as the epilogs of the subcommands say.
    """
    run_command(_parser(), argv, lambda given: given.command(given, write))


def _setup(given: argparse.Namespace, write: Write) -> None:
    request = stack.create_stack(given.stack, given.template, given.parameter)
    if given.dry_run:
        shown = {**request, "TemplateBody": f"file://{given.template}"}
        return tell({"operation": "CreateStack", "parameters": shown}, write)
    outputs = stack.set_up(given.region, request, logger.info)
    tell({"stack": given.stack, **outputs}, write)
    image = outputs.get("Image", "")
    logger.info(
        "once for each version (with Gpus=0 add --build-arg TORCH_INDEX=%s): "
        "docker build --platform linux/amd64 -f deploy/images/Dockerfile --target job -t %s . && "
        "aws ecr get-login-password%s | docker login --username AWS --password-stdin %s && docker push %s",
        *(_TORCH_FOR_CPU, image, f" --region {given.region}" if given.region else ""),
        *(image.partition("/")[0], image),
    )
    return None


def _submit(given: argparse.Namespace, write: Write) -> None:
    job = given.job
    if not given.dry_run:
        # What is wrong is told before AWS is asked for the price; --max_cost alone wants one.
        check_job([*job, *(["--hourly_price", "1"] if job else [])], _MODEL_CURE)
        job = add_price(job, partial(_find_price, given))
    config = check_job(job, _MODEL_CURE)
    request = jobs.submit_job(
        given.stack,
        job,
        output_dir=config.output_dir,
        vcpus=given.vcpus,
        memory=given.memory,
        gpus=given.gpus,
    )
    if given.dry_run:
        return tell({"operation": "SubmitJob", "parameters": request}, write)
    client = make_client("batch", given.region, is_repeatable=False)
    job_id = api.call(client, "SubmitJob", **request)["jobId"]
    tell({"job_id": job_id}, write)
    if given.wait:
        jobs.follow_job(given.region, job_id, logger.info)
    return None


def _find_price(given: argparse.Namespace, prices: Prices) -> float:
    client = make_client("batch", given.region)
    found = environments.list_environments(client, given.stack)
    return environments.find_price(found, client.meta.region_name, prices)


def _status(given: argparse.Namespace, write: Write) -> None:
    client = make_client("batch", given.region)
    for line in jobs.describe(client, jobs.describe_job(client, given.job_id)):
        write(line + "\n")
    if given.wait:
        jobs.follow_job(given.region, given.job_id, logger.info)


def _logs(given: argparse.Namespace, write: Write) -> None:
    job = jobs.describe_job(make_client("batch", given.region), given.job_id)
    stream = logs.find_stream(job)
    for line in logs.read_lines(make_client("logs", given.region), stream):
        write(line + "\n")
    said = f"job {given.job_id} {job['status']}, {stream['logGroupName']} {stream['logStreamName']}"
    if job["status"] == "FAILED":
        said += f": {jobs.explain_failure(given.region, job)}"
    write(said + "\n")


def _cancel(given: argparse.Namespace, write: Write) -> None:
    client = make_client("batch", given.region)
    job = jobs.describe_job(client, given.job_id)
    if job["status"] in jobs.ENDED:
        raise CloudError(f"job {given.job_id} has ended already: {job['status']}")
    # In any state: what has not begun it cancels, and what runs gets SIGTERM; neither is tried again.
    api.call(client, "TerminateJob", jobId=given.job_id, reason="spark-embed batch cancel")
    tell({"job_id": given.job_id, "state": jobs.describe_job(client, given.job_id)["status"]}, write)


_COMMANDS: Commands = {
    "setup": (
        _setup,
        "Make the stack that jobs run in, or change it: queue, instances, image repository, roles. Prints "
        "where the image is to be pushed. While no job runs it costs the storage of images and logs.",
        _CODES,
    ),
    "submit": (
        _submit,
        "Run the job on an instance of its own. Its flags come last, behind --; the same command goes on "
        "after whatever has ended a run.",
        _ENDS,
    ),
    "status": (_status, "Say what a job and the queue's instances do, and how far the job is.", _ENDS),
    "logs": (_logs, "Print the log of a job's last attempt; the last line says what was wrong.", _CODES),
    "cancel": (_cancel, "End a job. Nothing complete is lost: the same command goes on.", _CODES),
}


def _parser() -> Parser:
    parser = Parser(
        prog="spark-embed batch",
        description="Run the job on AWS Batch: one container on one instance, from S3 to S3. First 'setup', "
        "then push the image, then 'submit'; each has a --help.",
        epilog=_ENDS,
        allow_abbrev=False,
    )
    of = add_commands(parser, _COMMANDS)
    for name in of:
        of[name].add_argument("--region", metavar="REGION", help="of AWS [AWS_REGION, or the profile's]")
    for name in ("setup", "submit"):
        says = "names stack, queue and job definition [spark-embed]"
        of[name].add_argument("--stack", metavar="NAME", default="spark-embed", help=says)
        says = "print the API call as JSON and send nothing; needs no credentials"
        of[name].add_argument("--dry_run", action="store_true", help=says)
    says = "of the stack [deploy/aws_batch/template.yaml]"
    of["setup"].add_argument(
        "--template", metavar="FILE", default="deploy/aws_batch/template.yaml", help=says
    )
    says = "of the template; again for each. Of a stack that is there the others stay as they are"
    of["setup"].add_argument("--parameter", metavar="NAME=VALUE", action="append", default=[], help=says)
    submit = of["submit"]
    submit.usage = (
        "%(prog)s [--wait] [--dry_run] [--vcpus N] [--memory MIB] [--gpus N] [--stack NAME] "
        "[--region REGION] -- --input_dir S3 --output_dir S3 ..."
    )
    for name, metavar, says in (("vcpus", "N", "cores"), ("memory", "MIB", "memory"), ("gpus", "N", "GPUs")):
        says = f"{says} of the job [the stack's]"
        submit.add_argument(f"--{name}", metavar=metavar, type=_count, help=says)
    submit.add_argument(
        "--wait", action="store_true", help="wait until the job has ended, and show its progress"
    )
    for name in ("status", "logs", "cancel"):
        of[name].add_argument("--job_id", metavar="ID", required=True, help="of 'submit'")
    of["status"].add_argument("--wait", action="store_true", help="then wait until the job has ended")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, not {text!r}")
    return int(text)
