"""Waits for a step on EMR, says how far its job is, and ends as the step ends; looks, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from spark_embed.aws.emr import api, logs
from spark_embed.aws.waiting import Detached, Say, describe_progress, news
from spark_embed.errors import CloudError

LOG_POLL_S = 15.0
LOG_PATIENCE_S = 420.0
"""Until what EMR sends every five minutes must have come."""

_DONE = ("COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED")


def follow_step(client: Any, cluster_id: str, step_id: str, say: Say) -> None:
    """Wait until a step has ended; a line whenever there is news.

    Raises:
        CloudError: the step failed (with its driver's last words), was cancelled, or its cluster died; or AWS
            refuses to say.
        Detached: Ctrl-C.
    """
    here = f"--cluster_id {cluster_id} --step_id {step_id}"
    try:
        step = _wait(client, cluster_id, step_id, say)
        if step["Status"]["State"] != "COMPLETED":
            _raise_failure(client, cluster_id, step, say)
    except KeyboardInterrupt as exc:
        raise Detached(
            f"not waiting any more; the step goes on: 'spark-embed emr status {here} --wait' follows it, "
            f"'spark-embed emr cancel {here}' ends it"
        ) from exc


def follow_cluster(client: Any, cluster_id: str, say: Say) -> None:
    """Wait until a cluster takes steps.

    Raises:
        CloudError: it ends before that.
        Detached: Ctrl-C.
    """
    try:
        for cluster in news(lambda: describe_cluster(client, cluster_id), _cluster_text, say):
            if cluster["Status"]["State"] in ("RUNNING", "WAITING"):
                return
            if api.has_ended(cluster):
                raise CloudError(_explain_end(cluster))
    except KeyboardInterrupt as exc:
        raise Detached(
            f"not waiting any more; the cluster goes on: 'spark-embed emr status --cluster_id {cluster_id}' "
            f"shows it, 'spark-embed emr terminate --cluster_id {cluster_id}' ends it"
        ) from exc


def wait_for_log(read: Callable[[], logs.Log | None], ended_s: float | None, say: Say) -> logs.Log | None:
    """Return a log, once all of it is in S3; what is there already where it does not come.

    Args:
        read: reads it, as far as it is there.
        ended_s: when its program ended (epoch): what was put there before may be half of it; None: it runs.
        say: told once that this takes minutes.
    """
    said = False
    while True:
        log = read()
        # S3 tells whole seconds.
        if ended_s is None or (log and (log.error() or log.written_s + 1 > ended_s)):
            return log
        if time.time() > ended_s + LOG_PATIENCE_S:
            return log
        if not said:
            say(f"waiting for the log: {logs.SHIPPED_EVERY}")
            said = True
        time.sleep(LOG_POLL_S)


def ended_s(status: Mapping[str, Any]) -> float | None:
    """Return when a step or a cluster ended, by what EMR says of it (epoch); None where it has not."""
    ended = status.get("Timeline", {}).get("EndDateTime")
    return None if ended is None else float(ended.timestamp())


def read_driver_log(log_uri: str, cluster_id: str, step: Mapping[str, Any], say: Say) -> logs.Log | None:
    """Return the log of a step's driver, waited for; where that does not come, of spark-submit."""
    ended = ended_s(step["Status"])
    log = wait_for_log(lambda: logs.driver_log(log_uri, cluster_id, step), ended, say)
    return log or logs.step_log(log_uri, cluster_id, step)


def describe(
    cluster: Mapping[str, Any], fleets: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield the lines of `spark-embed emr status`: the cluster, its fleets, its steps and their jobs."""
    yield _cluster_text(cluster)
    if death := api.death_reason(cluster):
        yield f"  {api.explain(*death)}"
    for fleet in fleets:
        numbers = [
            f"{fleet.get(f'Provisioned{kind}Capacity', 0)} of {fleet.get(f'Target{kind}Capacity', 0)} {name}"
            for kind, name in (("OnDemand", "on demand"), ("Spot", "spot"))
        ]
        yield f"fleet {fleet.get('Name')} {fleet['Status']['State']}: {', '.join(numbers)}"
    for number, step in enumerate(
        steps
    ):  # the newest first; of older ones the folder may be another's by now
        yield _step_text(step) if number == 0 else f"step {step['Id']} {step['Status']['State']}"


def _wait(client: Any, cluster_id: str, step_id: str, say: Say) -> Mapping[str, Any]:
    def look() -> Mapping[str, Any]:
        try:
            step = describe_step(client, cluster_id, step_id)
            # While it waits its cluster has something to say; then the job has.
            is_waiting = step["Status"]["State"] == "PENDING"
            return {**step, "Cluster": describe_cluster(client, cluster_id) if is_waiting else None}
        except CloudError as exc:  # credentials that have expired, say
            raise CloudError(f"{exc}; this says nothing of step {step_id} on cluster {cluster_id}") from exc

    for step in news(look, _step_text, say):
        if step["Status"]["State"] in _DONE:
            return step
        if step["Cluster"] and api.has_ended(step["Cluster"]):
            raise CloudError(_explain_end(step["Cluster"]))
    raise AssertionError  # it never ends by itself


def _step_text(step: Mapping[str, Any]) -> str:
    state, cluster = str(step["Status"]["State"]), step.get("Cluster")
    if cluster:
        return f"step {step['Id']} {state}; {_cluster_text(cluster)}"
    progress = None
    if state in ("RUNNING", "COMPLETED"):
        args = step.get("Config", {}).get("Args", [])
        progress = describe_progress(args, has_ended=state == "COMPLETED")
    return f"step {step['Id']} {state}" + (f": {progress}" if progress else "")


def _cluster_text(cluster: Mapping[str, Any]) -> str:
    message = cluster["Status"].get("StateChangeReason", {}).get("Message")
    return f"cluster {cluster['Id']} {cluster['Status']['State']}" + (f": {message}" if message else "")


def _explain_end(cluster: Mapping[str, Any]) -> str:
    """Return why a cluster ended before its step, and where to look."""
    dead = f"cluster {cluster['Id']} has ended before its step"
    reason = api.death_reason(cluster)
    if reason is None:
        return f"{dead}: {cluster['Status'].get('StateChangeReason', {}).get('Message') or 'nobody says why'}"
    said = f"{dead}: {api.explain(*reason)}"
    if reason[0] == api.BOOTSTRAP_FAILURE:
        said += f"; its log: 'spark-embed emr logs --cluster_id {cluster['Id']}'"
    return said


def _raise_failure(client: Any, cluster_id: str, step: Mapping[str, Any], say: Say) -> None:
    state = step["Status"]["State"]
    cluster = describe_cluster(client, cluster_id)
    if api.death_reason(cluster):
        raise CloudError(_explain_end(cluster))
    said = f"step {step['Id']} on cluster {cluster_id} {state}"
    if state == "CANCELLED":
        raise CloudError(
            f"{said}: {step['Status'].get('StateChangeReason', {}).get('Message') or 'by somebody'}"
        )
    log = None
    if log_uri := cluster.get("LogUri"):
        log = read_driver_log(log_uri, cluster_id, step, say)
    if log is None:
        raise CloudError(f"{said}; its log is not in S3 yet: spark-embed emr logs --cluster_id {cluster_id}")
    raise CloudError(f"{said}: {log.error() or log.last_line()}")


def describe_step(client: Any, cluster_id: str, step_id: str) -> Mapping[str, Any]:
    """Return a step, as DescribeStep has it."""
    answer: Mapping[str, Any] = api.call(client, "DescribeStep", ClusterId=cluster_id, StepId=step_id)["Step"]
    return answer


def describe_cluster(client: Any, cluster_id: str) -> Mapping[str, Any]:
    """Return a cluster, as DescribeCluster has it."""
    answer: Mapping[str, Any] = api.call(client, "DescribeCluster", ClusterId=cluster_id)["Cluster"]
    return answer
