"""What held a run back, as one sentence with a number and an advice; knows nothing but seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["start-up", "small tasks", "fetch", "decode", "read", "device"]

# From this share of the workers' time on, loading models or the gaps between tasks are what to mend first.
_LARGE_SHARE = 0.4
_SHORT_TASK_S = 2.0


@dataclass(frozen=True)
class Measured:
    """What a verdict rests on.

    Attributes:
        stage_s: seconds by stage over all tasks, as in metadata.json.
        n_tasks: tasks that had at least one row.
        n_slots: tasks that Spark could run at once.
        embed_s: seconds on the clock.
        device: "cpu", "cuda" or "mps".
    """

    stage_s: Mapping[str, float]
    n_tasks: int
    n_slots: int
    embed_s: float
    device: str

    @property
    def busy_s(self) -> float:
        """Seconds that the tasks' own threads can account for."""
        return sum(self.stage_s[name] for name in ("load_s", "read_s", "wait_s", "predict_s", "encode_s"))

    def share(self, stage: str) -> float:
        """Return the part of the tasks' time that a stage took, 0 to 1."""
        return self.stage_s[stage] / self.busy_s if self.busy_s else 0.0


@dataclass(frozen=True)
class Verdict:
    """`kind` names the bottleneck for machines, `text` for people."""

    kind: Kind
    text: str


def judge(run: Measured) -> Verdict:
    """Name the one thing that held this run back most."""
    if run.share("load_s") > _LARGE_SHARE:
        return Verdict(
            "start-up",
            f"Loading the model took {run.share('load_s'):.0%} of the workers' time: for so few images fewer "
            "workers would do (--num_workers)",
        )
    between = 1 - run.busy_s / max(run.n_slots * run.embed_s, 1e-9)
    task_s = run.busy_s / max(run.n_tasks, 1)
    if between > _LARGE_SHARE and run.n_tasks > run.n_slots and task_s < _SHORT_TASK_S:
        return Verdict(
            "small tasks",
            f"{between:.0%} of the time passed between tasks: {run.n_tasks:,} of them, {task_s:.2f} s each; "
            "merge the shards into fewer, larger files",
        )
    slowest = max(("wait_s", "read_s", "predict_s"), key=run.share)
    if slowest == "wait_s":
        return _waiting(run)
    if slowest == "read_s":
        return Verdict(
            "read",
            f"The workers waited for rows {run.share('read_s'):.0%} of the time: faster storage, or fewer "
            "own columns (--columns)",
        )
    return _computing(run)


def _waiting(run: Measured) -> Verdict:
    share = f"{run.share('wait_s'):.0%}"
    if run.stage_s["fetch_s"] > run.stage_s["decode_s"]:
        return Verdict(
            "fetch",
            f"The device waited for images to be fetched {share} of the time: faster storage, or images "
            "inside the shards",
        )
    return Verdict(
        "decode",
        f"The device waited for decoded images {share} of the time: more cores for each task "
        "(spark.task.cpus), or smaller images",
    )


def _computing(run: Measured) -> Verdict:
    share = f"{run.share('predict_s'):.0%}"
    advice = (
        "a GPU, --dtype bfloat16 where the CPU has it, or a smaller model"
        if run.device == "cpu"
        else "a larger --batch_size, a faster GPU, or a smaller model"
    )
    return Verdict(
        "device", f"The model computed {share} of the time, and images were ready for it: {advice}"
    )
