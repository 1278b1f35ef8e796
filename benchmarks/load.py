"""Load from vegeta, open or closed, and what its answers amount to; knows no service.

vegeta (Go, a few percent of a core here) sends at a constant rate whatever the service does, so that a slow
answer does not delay the next request; or as fast as N clients get answers. It is built once, in seconds.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import CACHE

VERSION = "v12.13.0"
VEGETA = CACHE / "bin" / f"vegeta-{VERSION}"
N_CORES = len(os.sched_getaffinity(0))

REFUSED = (429, 503, 504)


@dataclass(frozen=True)
class Answers:
    """What came back of one attack: one entry for each request.

    Attributes:
        started_s: when it was sent, from the attack's first one on.
        took_s: until its answer was read.
        status: of HTTP; 0 where there was none.
    """

    started_s: np.ndarray
    took_s: np.ndarray
    status: np.ndarray

    @classmethod
    def of(cls, lines: Iterable[str]) -> Answers:
        """Read what `vegeta encode --to csv` writes: nanoseconds of the clock, status, nanoseconds, ..."""
        rows = [(int(row[0]), int(row[1]), int(row[2])) for row in csv.reader(lines)]
        started, status, took = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        return cls((started - started.min(initial=started.max(initial=0))) / 1e9, took / 1e9, status)


@dataclass(frozen=True)
class Figures:
    """One case of one service.

    Attributes:
        offered_per_s: requests sent.
        answered_per_s: answers 200 that came while the load lasted: the throughput, and the goodput.
        p50_s, p99_s: of the answers 200.
        n_refused: answers 429, 503 and 504.
        refused_p99_s: in what time; None without any.
        n_failed: any other answer, or none.
    """

    offered_per_s: float
    answered_per_s: float
    p50_s: float | None
    p99_s: float | None
    n_refused: int
    refused_p99_s: float | None
    n_failed: int

    @classmethod
    def of(cls, answers: Answers, begin_s: float, end_s: float) -> Figures:
        """Sum up a window of an attack: what was sent in it, and for the rate what was answered in it."""
        sent = (answers.started_s >= begin_s) & (answers.started_s < end_s)
        ended_s = answers.started_s + answers.took_s
        good, refused = answers.status == 200, np.isin(answers.status, REFUSED)
        in_window = good & (ended_s >= begin_s) & (ended_s < end_s)
        p50_s, p99_s = percentiles(answers.took_s[sent & good], (50, 99))
        return cls(
            offered_per_s=float(sent.sum() / (end_s - begin_s)),
            answered_per_s=float(in_window.sum() / (end_s - begin_s)),
            p50_s=p50_s,
            p99_s=p99_s,
            n_refused=int((sent & refused).sum()),
            refused_p99_s=percentiles(answers.took_s[sent & refused], (99,))[0],
            n_failed=int((sent & ~good & ~refused).sum()),
        )


def percentiles(values: np.ndarray, wanted: Sequence[float]) -> list[float | None]:
    """Return the nearest-rank percentiles: values that were measured, none in between."""
    if not len(values):
        return [None] * len(wanted)
    return [float(value) for value in np.percentile(values, wanted, method="inverted_cdf")]


def attack(
    targets: Path, seconds: float, skip_s: float, *, clients: int | None = None, rate: float | None = None
) -> dict[str, Any]:
    """Load a service and return its figures and the generator's share of all cores.

    Args:
        targets: file in vegeta's format, used round and round.
        seconds: that requests are sent for; what is under way then is waited for.
        skip_s: of the beginning, that do not count.
        clients: how many send again as soon as they are answered; or
        rate: requests a second, sent whatever comes back.
    """
    pace = ["-rate", f"{round(rate * 1000)}/1000s"] if rate else ["-rate", "0", "-max-workers", str(clients)]
    raw = targets.with_suffix(".bin")
    command = [VEGETA, "attack", "-targets", targets, "-output", raw, "-max-body", "0", "-timeout", "40s"]
    started = time.perf_counter()
    running = subprocess.Popen([*command, *pace, "-workers", str(clients or 16), "-duration", f"{seconds}s"])
    _, status, usage = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    share = (usage.ru_utime + usage.ru_stime) / (time.perf_counter() - started) / N_CORES
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)
    shown = subprocess.run([VEGETA, "encode", "--to", "csv", raw], capture_output=True, text=True, check=True)
    raw.unlink()
    answers = Answers.of(shown.stdout.splitlines())
    n_answered = int((answers.status == 200).sum())  # of the whole attack
    return {
        **asdict(Figures.of(answers, skip_s, seconds)),
        "n_answered": n_answered,
        "generator_share": share,
    }


def make_vegeta() -> None:
    """Build the generator with the Go of this machine, unless it is there."""
    if VEGETA.exists():
        return
    if shutil.which("go") is None:
        raise SystemExit(
            "bench-service: the load generator, vegeta, is built with Go; there is none on the PATH"
        )
    source = f"github.com/tsenart/vegeta/v12@{VERSION}"
    folder = VEGETA.parent.resolve()
    subprocess.run(
        ["go", "install", source], env={**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"}, check=True
    )
    (folder / "vegeta").rename(VEGETA)
