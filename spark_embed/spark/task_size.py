"""How much work a Spark task gets: 10 to 60 s of it, whatever the files; plain arithmetic, no session."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spark_embed.spark.settings import TASK_BYTES

_MIN_TASKS_PER_SLOT = 4
_MIN_TASK_S, _MAX_TASK_S = 2.0, 60.0
_OPEN_FILE_S = 0.02

# A slot begins nothing while the last rows of its task are under way elsewhere: tasks are so much longer.
_TIMES_AHEAD = 25
_SLACK = 1.01  # files that just fill a task should not be cut by a few bytes

# A task may have so many times the rows of others, or take so long: sorting rows into tasks takes seconds.
_MAX_TIMES = 2
_LONG_TASK_S = 10.0

# A worker that begins inside a row group reads what is in front of its rows, too: from a disk three times as
# fast as this, from S3 at a fifth of it and more.
_READ_BYTES_PER_S = 1 << 30


@dataclass(frozen=True)
class Rate:
    """How fast a session embeds, by preflight's sample.

    Attributes:
        row_s: seconds of one task a row.
        n_slots: tasks at once.
        n_ahead: rows that a task has under way elsewhere at once (`spark_embed.models.Takes.ahead`).
    """

    row_s: float
    n_slots: int
    n_ahead: int = 0


@dataclass(frozen=True)
class TaskSize:
    """What a task is to get.

    Attributes:
        n_rows: rows.
        n_bytes: by which Spark cuts files and packs them together, to get tasks of about as many rows.
        open_bytes: what a file counts for besides its own: opening it takes time, too.
        row_s: seconds of a row.
    """

    n_rows: int
    n_bytes: int
    open_bytes: int
    row_s: float

    @property
    def settings(self) -> dict[str, str]:
        """The SQL settings with which Spark makes such tasks."""
        return {
            TASK_BYTES: str(self.n_bytes),
            "spark.sql.files.openCostInBytes": str(self.open_bytes),
            "spark.sql.files.minPartitionNum": "1",  # else the number of slots, which would cut tasks smaller
            # By default 100: the longest of 400 tasks would be a fifth longer than the others.
            "spark.sql.execution.rangeExchange.sampleSizePerPartition": "1000",
        }

    def fits(self, n_rows: int, n_bytes: int, group_rows: int) -> bool:
        """Say whether none of Spark's tasks over such files will take much longer than others.

        It cuts by bytes, so that those of small images have many rows, and only between row groups.

        Args:
            n_rows: of a file.
            n_bytes: of the same.
            group_rows: of its largest row group.
        """
        by_bytes = n_rows * self.n_bytes / (n_bytes + self.open_bytes)
        return max(by_bytes, group_rows) <= max(_MAX_TIMES * self.n_rows, _LONG_TASK_S / self.row_s)

    def n_tasks(self, n_rows: int, group_bytes: float) -> int:
        """Return how many tasks `n_rows` rows are, whatever Spark would make of their files.

        Args:
            n_rows: to be embedded.
            group_bytes: of the row groups that the workers read them from, each from the beginning on. That
                takes a task no longer than its own rows.
        """
        least_rows = group_bytes / _READ_BYTES_PER_S / self.row_s
        return math.ceil(n_rows / max(self.n_rows, least_rows))


def find_task_size(n_bytes: int, n_rows: int, n_files: int, rate: Rate) -> TaskSize:
    """Return the size that cuts such an input into tasks of 10 to 60 s, shorter in a short run.

    A task costs some 0.1 s besides its rows, and a slot that is done before the others waits for them:
    each slot gets at least four tasks, as long as they take 2 s; fewer and longer ones where
    rows are under way elsewhere.
    """
    row_s = max(rate.row_s, 1e-6)
    run_s = n_rows * row_s / rate.n_slots
    task_s = min(max(run_s / _MIN_TASKS_PER_SLOT, _MIN_TASK_S), _MAX_TASK_S)
    task_s = max(task_s, _TIMES_AHEAD * rate.n_ahead * row_s)
    n_tasks = rate.n_slots * max(1, round(run_s / task_s))
    open_bytes = math.ceil(_OPEN_FILE_S / row_s * n_bytes / max(n_rows, 1))
    share = 1 / n_tasks
    if n_files > n_tasks:
        share = _files_per_task(n_files, n_tasks, rate.n_slots) / n_files
    return TaskSize(
        n_rows=math.ceil(n_rows * share),
        n_bytes=math.ceil((n_bytes + n_files * open_bytes) * share * _SLACK),
        open_bytes=open_bytes,
        row_s=row_s,
    )


def _files_per_task(n_files: int, n_tasks: int, n_slots: int) -> int:
    """Return how many whole files make a task, so that all slots end at about the same time.

    Of small files Spark puts whole ones together: 120 for 16 tasks would be 17 tasks of 7 files and one of 1,
    of which four slots do five rounds, 35 files long; 20 tasks of 6 files are 30 long.
    """
    most = math.ceil(n_files / n_tasks)

    def length(files: int) -> int:
        return files * math.ceil(math.ceil(n_files / files) / n_slots)

    return min(range(most, (most - 1) // 2, -1), key=length)
