"""The processes of a run while it lasts: their CPU seconds and their memory, by what they are (Linux).

Usage: python -m benchmarks.processes COMMAND ...
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LOOK_EVERY_S = 0.1


@dataclass
class Process:
    """One process, as last seen.

    Attributes:
        kind: "driver", "jvm", "daemon" (from which Spark forks its workers) or "worker".
        samples: (user and system seconds of its own so far, resident memory in bytes), in time.
    """

    pid: int
    kind: str
    samples: list[tuple[float, int]] = field(default_factory=list)

    @property
    def cpu_s(self) -> float:
        """User and system seconds, as far as was seen."""
        return self.samples[-1][0]

    @property
    def peak_bytes(self) -> int:
        """Largest resident memory that was seen."""
        return max(n_bytes for _, n_bytes in self.samples)

    def growth(self, after: float) -> float:
        """Return by how much the memory grew, as a share, once that share of its CPU seconds was spent."""
        later = [n_bytes for cpu_s, n_bytes in self.samples if cpu_s >= after * self.cpu_s]
        return max(later) / later[0] - 1


def watch(
    command: Sequence[str | Path],
    *,
    quiet: bool = False,
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> list[Process]:
    """Run a command to its end and return its processes, those that ended before it included.

    Raises:
        subprocess.CalledProcessError: it failed, with `check`.
    """
    output = subprocess.DEVNULL if quiet else None
    running = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output, env=env)
    seen: dict[int, Process] = {}
    while running.poll() is None:
        _look(running.pid, seen)
        time.sleep(_LOOK_EVERY_S)
    if running.returncode and check:
        raise subprocess.CalledProcessError(running.returncode, command)
    return list(seen.values())


def cpu_by_kind(processes: Sequence[Process]) -> dict[str, float]:
    """Return the CPU seconds of all processes of each kind."""
    total: dict[str, float] = {}
    for process in processes:
        total[process.kind] = total.get(process.kind, 0.0) + process.cpu_s
    return total


def _look(root: int, seen: dict[int, Process]) -> None:
    stats = {pid: stat for pid in _pids() if (stat := _read_stat(pid))}
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _, _) in stats.items():
        children.setdefault(parent, []).append(pid)
    pending = [(root, "driver")]
    while pending:
        pid, kind = pending.pop()
        if pid not in stats:
            continue
        _, name, cpu_s, rss_bytes = stats[pid]
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
        process.samples.append((cpu_s, rss_bytes))
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


def _read_command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def main() -> None:
    processes = watch(sys.argv[1:])
    for kind, cpu_s in cpu_by_kind(processes).items():
        peak = max(process.peak_bytes for process in processes if process.kind == kind)
        print(f"{kind}: {cpu_s:.1f} CPU s, at most {peak / 1e6:.0f} MB in one process")


if __name__ == "__main__":
    main()
