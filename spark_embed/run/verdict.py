"""What held a run back, as one sentence with a number and an advice; knows nothing but seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spark_embed.output.summary import Verdict, VerdictKind

# From this share of the workers' time on, loading models or the gaps between tasks are what to mend first.
_LARGE_SHARE = 0.4
_SHORT_TASK_S = 2.0
_OWN_STAGES = ("load_s", "read_s", "download_wait_s", "wait_s", "predict_s", "encode_s")


@dataclass(frozen=True)
class Measured:
    """What a verdict rests on.

    Attributes:
        stage_s: seconds by stage over all tasks, as in metadata.json.
        n_tasks: tasks that had at least one row.
        n_slots: tasks that Spark could run at once.
        embed_s: seconds on the clock.
        device: "cpu", "cuda" or "mps"; "remote" where another machine's is asked.
        task_cpus: cores, and decode threads, of each task.
    """

    stage_s: Mapping[str, float]
    n_tasks: int
    n_slots: int
    embed_s: float
    device: str
    task_cpus: int = 1

    @property
    def busy_s(self) -> float:
        """Seconds that the tasks' own threads can account for."""
        return sum(self.stage_s[name] for name in _OWN_STAGES)

    def share(self, stage: str) -> float:
        """Return the part of the tasks' time that a stage took, 0 to 1."""
        return self.stage_s[stage] / self.busy_s if self.busy_s else 0.0


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
            "merge the shards into fewer, larger files, or raise spark.sql.files.maxPartitionBytes",
        )
    costs = _costs(run)
    kind = max(costs, key=costs.__getitem__)
    share = costs[kind] / max(sum(costs.values()), 1e-9)
    return Verdict(kind, _TEXTS[kind](run, f"{share:.0%}"))


def _costs(run: Measured) -> dict[VerdictKind, float]:
    """Return the seconds of the tasks that go to each possible bottleneck.

    A device of its own waits for what is not ready. On a CPU the stages share the cores, and who waits for
    whom says nothing: there the threads' own seconds count. Downloads overlap and take no core, so their
    own seconds say nothing: what they cost is the time in which nothing but them was waited for.
    """
    seconds = run.stage_s
    ahead: VerdictKind = "fetch" if seconds["fetch_s"] > seconds["decode_s"] else "decode"
    threads_s = (seconds["fetch_s"] + seconds["decode_s"]) / run.task_cpus
    costs: dict[VerdictKind, float] = {
        "device": seconds["predict_s"],
        "read": seconds["read_s"],
        "fetch": seconds["download_wait_s"],
        "decode": 0.0,
    }
    if run.device == "remote":  # to prepare a row is to wait until it may be asked about
        ahead = "device"
    costs[ahead] += threads_s if run.device == "cpu" else seconds["wait_s"]
    return costs


def _decode_text(run: Measured, share: str) -> str:
    if run.device == "cpu":
        return f"Decoding and resizing took {share} of the tasks' time: more cores, or smaller images"
    n_cpus = math.ceil(run.stage_s["decode_s"] / max(run.stage_s["predict_s"], 1e-9))
    return (
        f"The device waited for decoded images {share} of the time: give each task {n_cpus} cores instead of "
        f"{run.task_cpus} (spark.task.cpus), or store smaller images"
    )


def _fetch_text(run: Measured, share: str) -> str:
    if run.stage_s["download_wait_s"] > run.stage_s["fetch_s"] / run.task_cpus:
        at_once = run.stage_s["download_s"] / max(run.busy_s - run.stage_s["load_s"], 1e-9)
        return (
            f"The tasks waited for downloads {share} of the time, {at_once:.0f} at once in each: raise "
            "--fetch_concurrency and --fetch_concurrency_per_host, or use a faster network"
        )
    return f"Fetching images took {share} of the tasks' time: faster storage, or images inside the shards"


def _read_text(run: Measured, share: str) -> str:
    return (
        f"The workers waited for rows {share} of the time: faster storage, or fewer own columns (--columns)"
    )


def _device_text(run: Measured, share: str) -> str:
    if run.device == "remote":
        return (
            f"The tasks waited for answers {share} of the time: if the provider allows more, raise the "
            "limits in the YAML file (concurrency, requests_per_s)"
        )
    advice = (
        "a GPU, --dtype bfloat16 where the CPU has it, or a smaller model"
        if run.device == "cpu"
        else "a larger --batch_size, --compile, a faster GPU, or a smaller model"
    )
    return f"The model computed {share} of the time, and images were ready for it: {advice}"


_TEXTS: dict[VerdictKind, Callable[[Measured, str], str]] = {
    "fetch": _fetch_text,
    "decode": _decode_text,
    "read": _read_text,
    "device": _device_text,
}
