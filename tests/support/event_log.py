"""What Spark's event log says of a run's tasks."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

SETTINGS = {
    "spark.eventLog.enabled": "true",
    "spark.eventLog.compress": "false",
    "spark.eventLog.rolling.enabled": "false",
}


@dataclass(frozen=True)
class Task:
    """An attempt at a task of a wave, in milliseconds."""

    executor: str
    started: int
    ended: int
    failed: bool


def wave_tasks(folder: Path) -> list[Task]:
    """Return the tasks of all waves, of the one application that has logged there."""
    (path,) = folder.iterdir()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    waves = {
        event["Stage Info"]["Stage ID"]
        for event in events
        if event["Event"] == "SparkListenerStageSubmitted"
        and "spark_embed: wave" in (event["Properties"].get("spark.job.description") or "")
    }
    ended = (e for e in events if e["Event"] == "SparkListenerTaskEnd" and e["Stage ID"] in waves)
    infos = [(event["Task Info"], event["Task End Reason"]["Reason"]) for event in ended]
    return [
        Task(info["Executor ID"], info["Launch Time"], info["Finish Time"], reason != "Success")
        for info, reason in infos
    ]


def n_failed(folder: Path) -> int:
    """Return how many attempts at a wave's tasks failed, their executor's end included."""
    return sum(task.failed for task in wave_tasks(folder))


def busy_shares(tasks: list[Task]) -> dict[str, float]:
    """Return the share of the time between an executor's first and last task in which it had one.

    Of executors that run one task at a time.
    """
    by_executor = defaultdict(list)
    for task in tasks:
        by_executor[task.executor].append(task)
    return {
        executor: sum(one.ended - one.started for one in own)
        / max(1, max(one.ended for one in own) - min(one.started for one in own))
        for executor, own in by_executor.items()
    }
