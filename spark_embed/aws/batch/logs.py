"""The log of a job's container, in CloudWatch Logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spark_embed.aws.batch.api import call
from spark_embed.errors import CloudError

_DEFAULT_GROUP = "/aws/batch/job"  # of a definition that names none


def find_stream(job: Mapping[str, Any]) -> dict[str, str]:
    """Return where the log of a job's last attempt is, as GetLogEvents takes it.

    Raises:
        CloudError: no attempt has begun.
    """
    container = job.get("container", {})
    attempts = [attempt.get("container", {}) for attempt in job.get("attempts", [])]
    streams = [one["logStreamName"] for one in (*attempts, container) if one.get("logStreamName")]
    if not streams:
        raise CloudError(
            f"job {job['jobId']} {job['status']}: it has no log yet, as its container has not begun"
        )
    options = container.get("logConfiguration", {}).get("options", {})
    return {"logGroupName": options.get("awslogs-group", _DEFAULT_GROUP), "logStreamName": streams[-1]}


def read_lines(client: Any, stream: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a log, oldest first."""
    token: dict[str, str] = {}
    while True:
        page = call(client, "GetLogEvents", **stream, startFromHead=True, **token)
        for event in page["events"]:
            yield str(event["message"])
        if page["nextForwardToken"] == token.get("nextToken"):  # what the end of a stream looks like
            return
        token = {"nextToken": page["nextForwardToken"]}


def read_end(client: Any, stream: Mapping[str, str]) -> str:
    """Return the end of a log, up to a megabyte."""
    page = call(client, "GetLogEvents", **stream, startFromHead=False)
    return "\n".join(str(event["message"]) for event in page["events"])
