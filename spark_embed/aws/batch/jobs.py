"""Jobs in the stack's queue: what is asked for, how far one is, and why it ended as it did."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spark_embed.aws.batch.api import call, explain
from spark_embed.aws.batch.environments import describe_environment, list_environments
from spark_embed.aws.batch.logs import find_stream, read_end
from spark_embed.aws.calls import make_client
from spark_embed.aws.log_lines import find_error
from spark_embed.aws.waiting import Detached, Say, describe_progress, news
from spark_embed.errors import EXIT_CODES, CloudError

START_PATIENCE_S = 600.0
"""Until a job that waits for an instance gets a line that says what to look at: a GPU's comes in minutes."""

ENDED = ("SUCCEEDED", "FAILED")

_BY_ITSELF = "Essential container in task exited"  # so Batch says of a job with an exit code of its own
_NAME_CHARS = 128


def submit_job(
    stack: str,
    job: Sequence[str],
    *,
    output_dir: str,
    vcpus: int | None = None,
    memory: int | None = None,
    gpus: int | None = None,
) -> dict[str, Any]:
    """Return the parameters of SubmitJob; asks nobody.

    Args:
        stack: whose queue and definition have its name.
        job: the flags of spark-embed.
        output_dir: where the job's name is from.
        vcpus, memory, gpus: in place of the definition's; memory in MiB.
    """
    wanted = {"VCPU": vcpus, "MEMORY": memory, "GPU": gpus}
    resources = [{"type": kind, "value": str(value)} for kind, value in wanted.items() if value is not None]
    name = re.sub(r"[^\w-]+", "-", f"spark_embed to {output_dir}", flags=re.ASCII)[:_NAME_CHARS]
    overrides = {"command": list(job), **({"resourceRequirements": resources} if resources else {})}
    return {
        "jobName": name,
        "jobQueue": stack,
        "jobDefinition": stack,
        "containerOverrides": overrides,
    }


def describe_job(client: Any, job_id: str) -> Mapping[str, Any]:
    """Return a job, as DescribeJobs has it.

    Raises:
        CloudError: AWS refuses, or there is none.
    """
    found: list[Mapping[str, Any]] = call(client, "DescribeJobs", jobs=[job_id])["jobs"]
    if not found:
        raise CloudError(
            f"--job_id {job_id}: there is no such job in {client.meta.region_name}; jobs that have ended are "
            "forgotten after a week"
        )
    return found[0]


def describe(client: Any, job: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of `spark-embed batch status`: the job, and what its queue takes instances from."""
    yield _text(job)
    for environment in list_environments(client, job["jobQueue"]):
        yield describe_environment(environment)


def follow_job(region: str | None, job_id: str, say: Say) -> None:
    """Wait until a job has ended; a line whenever there is news.

    Raises:
        CloudError: it failed, with its own last words or Batch's reason; or AWS refuses to say.
        Detached: Ctrl-C.
    """
    client = make_client("batch", region)

    def look() -> Mapping[str, Any]:
        try:
            return _with_wait(client, describe_job(client, job_id))
        except CloudError as exc:  # credentials that have expired, say
            raise CloudError(f"{exc}; this says nothing of job {job_id}") from exc

    try:
        job = next(job for job in news(look, _text, say) if job["status"] in ENDED)
        if job["status"] == "FAILED":
            raise CloudError(f"job {job_id} FAILED: {explain_failure(region, job)}")
    except KeyboardInterrupt as exc:
        raise Detached(
            f"not waiting any more; the job goes on: 'spark-embed batch status --job_id {job_id} --wait' "
            f"follows it, 'spark-embed batch cancel --job_id {job_id}' ends it"
        ) from exc


def explain_failure(region: str | None, job: Mapping[str, Any]) -> str:
    """Return why a job failed: what its log says, or what Batch says of it, with what to do."""
    container = job.get("container", {})
    code, reason, status = container.get("exitCode"), container.get("reason"), job.get("statusReason")
    if reason or status not in (None, _BY_ITSELF) or code not in EXIT_CODES:
        said = ": ".join(filter(None, (status, reason))) or "nobody says why"
        return explain("", said + (f" (exit code {code})" if code else ""))
    try:
        error = find_error(read_end(make_client("logs", region), find_stream(job)))
    except CloudError:
        error = None  # it may not be there yet, or be out of reach
    return f"exit code {code}: {error or EXIT_CODES[code]}"


def _with_wait(client: Any, job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a job; with what to look at, if it has waited for an instance for too long."""
    waits_s = time.time() - job.get("createdAt", 0) / 1000
    if job["status"] != "RUNNABLE" or job.get("statusReason") or waits_s < START_PATIENCE_S:
        return job
    environments = "; ".join(map(describe_environment, list_environments(client, job["jobQueue"])))
    reason = (
        f"no instance for it yet. Look at {environments}. With 0 vCPUs: your quota (Service Quotas, EC2: 'G "
        "and VT' for GPUs), or EC2 has none. With some: the subnets' way to ECR, ECS and CloudWatch Logs"
    )
    return {**job, "statusReason": reason}


def _text(job: Mapping[str, Any]) -> str:
    """Return a line on a job: its state, which attempt it is, why it waits, or how far it is."""
    state, attempts = job["status"], job.get("attempts", [])
    said = f"job {job['jobId']} {state}"
    if attempts and state not in ENDED:
        lost = (
            attempts[-1].get("statusReason") or attempts[-1].get("container", {}).get("reason") or "it failed"
        )
        said += f", attempt {len(attempts) + 1} ({lost})"
    if state in ("RUNNING", "SUCCEEDED"):
        command = job.get("container", {}).get("command", [])
        more = describe_progress(command, has_ended=state == "SUCCEEDED")
    else:
        more = explain("", job["statusReason"]) if job.get("statusReason") else None
    return said + (f": {more}" if more else "")
