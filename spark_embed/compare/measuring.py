"""The processes of a run while it lasts: their CPU seconds and their memory, by what they are (Linux).

Knows neither Spark nor what is measured.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LOOK_EVERY_S = 0.1
_WEIGH_EVERY_S = 1.0  # to add up a process's pages takes milliseconds

KINDS = {"driver": "driver", "jvm": "jvm", "daemon": "python", "worker": "python"}
"""What people ask about, by kind of process."""


class Sample(NamedTuple):
    """A process at one moment.

    Attributes:
        at: seconds since the epoch.
        cpu_s: user and system seconds of its own so far.
        n_bytes: resident memory.
        share_bytes: the same, of pages that are shared only its share (PSS); as last weighed.
    """

    at: float
    cpu_s: float
    n_bytes: int
    share_bytes: int


@dataclass
class Process:
    """One process, as last seen.

    Attributes:
        kind: "driver", "jvm", "daemon" (from which Spark forks its workers) or "worker".
        samples: in time.
    """

    pid: int
    kind: str
    samples: list[Sample] = field(default_factory=list)

    @property
    def cpu_s(self) -> float:
        """User and system seconds, as far as was seen."""
        return self.samples[-1].cpu_s

    @property
    def peak_bytes(self) -> int:
        """Largest resident memory that was seen."""
        return max(sample.n_bytes for sample in self.samples)

    def growth(self, after: float) -> float:
        """Return by how much the memory grew, as a share, once that share of its CPU seconds was spent."""
        later = [sample.n_bytes for sample in self.samples if sample.cpu_s >= after * self.cpu_s]
        return max(later) / later[0] - 1

    def seen(self, at: float) -> Sample | None:
        """Return the last sample up to a moment, if it was there by then."""
        number = bisect_right(self.samples, at, key=lambda sample: sample.at)
        return self.samples[number - 1] if number else None


def watch(
    command: Sequence[str | Path],
    *,
    output: IO[str] | int | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> list[Process]:
    """Run a command to its end and return its processes, those that ended before it included.

    Raises:
        subprocess.CalledProcessError: it failed, with `check`.
    """
    running = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output, env=env)
    seen: dict[int, Process] = {}
    weighed_at = 0.0
    try:
        while running.poll() is None:
            weigh = (now := time.time()) - weighed_at >= _WEIGH_EVERY_S
            weighed_at = now if weigh else weighed_at
            _look(running.pid, seen, now, weigh=weigh)
            time.sleep(_LOOK_EVERY_S)
    finally:
        if running.poll() is None:  # we are interrupted
            running.terminate()
            running.wait()
    if running.returncode and check:
        raise subprocess.CalledProcessError(running.returncode, command)
    return list(seen.values())


def cpu_by_kind(processes: Sequence[Process]) -> dict[str, float]:
    """Return the CPU seconds of all processes of each kind."""
    total: dict[str, float] = {}
    for process in processes:
        total[process.kind] = total.get(process.kind, 0.0) + process.cpu_s
    return total


def cpu_between(processes: Sequence[Process], began: float, ended: float) -> dict[str, float]:
    """Return the CPU seconds of driver, JVM and Python workers between two moments."""
    total = dict.fromkeys(KINDS.values(), 0.0)
    for process in processes:
        if last := process.seen(ended):
            first = process.seen(began)
            total[KINDS[process.kind]] += last.cpu_s - (first.cpu_s if first else 0.0)
    return {name: round(seconds, 2) for name, seconds in total.items()}


def memory_between(processes: Sequence[Process], began: float, ended: float) -> list[tuple[float, float]]:
    """Return the memory of the processes together, in MB, second by second between two moments."""
    n_points = max(2, round(ended - began) + 1)
    moments = [began + (ended - began) * number / (n_points - 1) for number in range(n_points)]
    return [(round(at - began, 1), round(_bytes_at(processes, at) / 1e6, 1)) for at in moments]


def _bytes_at(processes: Sequence[Process], at: float) -> int:
    samples = (process.seen(at) for process in processes)
    return sum(one.share_bytes for one in samples if one and at - one.at < 10 * _LOOK_EVERY_S)


def describe_machine() -> str:
    """Return the machine that this runs on, for people: its cores and their kind."""
    text = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return f"{len(os.sched_getaffinity(0))} cores of {name[1].strip() if name else os.uname().machine}"


class GpuWatch:
    """What the GPUs of this machine do in a `with` block, by nvidia-smi; nothing where there is none."""

    def __enter__(self) -> GpuWatch:
        program = shutil.which("nvidia-smi")
        query = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-l", "1"]
        self._process = (
            subprocess.Popen([program, *query], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            if program
            else None
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self.use: dict[str, Any] | None = None
        if self._process is None:
            return
        self._process.terminate()
        text, _ = self._process.communicate()
        rows = [line.split(",") for line in text.splitlines() if re.fullmatch(r"\d+, *\d+", line)]
        if rows:
            busy = sum(int(row[0]) for row in rows) / len(rows)
            self.use = {"utilization": round(busy, 1), "memory_mb": max(int(row[1]) for row in rows)}


def _look(root: int, seen: dict[int, Process], at: float, *, weigh: bool) -> None:
    stats = {pid: stat for pid in _pids() if (stat := _read_stat(pid))}
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _, _) in stats.items():
        children.setdefault(parent, []).append(pid)
    pending = [(root, "driver")]
    while pending:
        pid, kind = pending.pop()
        if pid not in stats:
            continue
        _, name, cpu_s, n_bytes = stats[pid]
        if kind == "driver" and name == "java":
            kind = "jvm"
        elif kind == "driver" and "spark_embed.spark.early_daemon" in _read_command(pid):
            kind = "daemon"
        elif kind == "daemon" and "jobs/embed.py" in _read_command(pid):  # a child of spark-submit's JVM
            kind = "driver"
        process = seen.setdefault(pid, Process(pid, kind))
        if not _read_command(pid):  # it is ending
            kind = process.kind
        process.kind = kind
        share = process.samples[-1].share_bytes if process.samples and not weigh else _share(pid, n_bytes)
        process.samples.append(Sample(at, cpu_s, n_bytes, share))
        below = {"driver": "driver", "jvm": "daemon", "daemon": "worker", "worker": "worker"}[kind]
        pending += [(child, below) for child in children.get(pid, ())]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _read_stat(pid: int) -> tuple[int, str, float, int] | None:
    """Return parent, name, CPU seconds and resident bytes of a process (proc(5)); None once it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return int(fields[1]), name, cpu_s, int(fields[21]) * _PAGE_BYTES


def _share(pid: int, n_bytes: int) -> int:
    """Return a process's share of its pages; all of them where nobody may ask."""
    try:
        found = re.search(r"^Pss:\s*(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return n_bytes
    return int(found[1]) << 10 if found else n_bytes


def _read_command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
