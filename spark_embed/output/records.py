"""What is written below _spark_embed, field by field: the run, its waves, its published files, its progress.

Plain values, checked when they are read; no file and no Spark.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from spark_embed.output.executors import Executor
from spark_embed.schema import EMBEDDINGS_NAME, ERRORS_NAME

Count = Annotated[int, Field(ge=0, lt=1 << 63)]


def now() -> str:
    """Return the time as records have it: ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Part(NamedTuple):
    """Rows that are complete together: `n_rows` of a shard's content `version`, from row `first` on.

    `shard` is its name in the data set; of an image folder, a group's.
    """

    shard: str
    version: str
    first: Count
    n_rows: Count


class Record(BaseModel):
    """A file of the state: it says what wrote it, and in which format."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    product: Literal["spark_embed"] = "spark_embed"
    format: Literal[1] = 1


class RunRecord(Record):
    """run.json: what a run is bound to, so that a later one can go on with it.

    Attributes:
        run_id: made anew by --overwrite; markers and ledger of another one are of an older run.
        options: the options that decide what a vector is, as given: while they are the same, and nothing
            is left to embed, no model need be started to know it.
        fingerprint: what decides what a vector is, as found; `spark_embed.output.fingerprint`.
        table_schema: of the embedded table, as Spark's JSON.
        model, parity, versions: preflight's, for metadata.json.
        output_files: the option, which holds for all runs over this output; None: folders of files.
    """

    run_id: str
    started_at: str
    options: dict[str, Any]
    fingerprint: dict[str, Any]
    table_schema: dict[str, Any]
    model: dict[str, Any]
    parity: dict[str, Any]
    versions: dict[str, str]
    output_files: Literal[1] | None = None


class Counted(BaseModel):
    """What a committed wave holds.

    Attributes:
        n_errors_by_code: rows without any result, by code.
        n_errors_by_result: rows that lack a result, by its name and by code; of several results only.
        n_tasks: tasks that had at least one row.
        n_model_loads: how often a worker process had to load the model.
        stage_s: seconds by stage, summed over threads and tasks.
        s3_requests, s3_bytes: what the workers themselves have asked S3 for, and got.
        batch_limit: images that fitted into the memory of the smallest device at once; None: all of a batch.
        executors: what each of them did, by name.
        n_rows_again: rows of tasks that had been tried before.
        longest_task_s, median_task_s: seconds of its tasks, without those of loading the model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_rows: Count
    n_errors_by_code: dict[str, Count]
    n_tasks: Count
    n_model_loads: Count
    stage_s: dict[str, float]
    batch_limit: int | None
    n_errors_by_result: dict[str, dict[str, Count]] = {}
    s3_requests: Count = 0
    s3_bytes: Count = 0
    executors: dict[str, Executor] = {}
    n_rows_again: Count = 0
    longest_task_s: float = 0.0
    median_task_s: float = 0.0

    @property
    def n_errors(self) -> int:
        """Rows without any result."""
        return sum(self.n_errors_by_code.values())

    @property
    def errors(self) -> dict[tuple[str, str], int]:
        """Rows that lack a result, by its name and code; "" for the one result of a model."""
        by_result = self.n_errors_by_result or {"": self.n_errors_by_code}
        return {(name, code): n for name, by_code in by_result.items() for code, n in by_code.items()}


class Marker(Record):
    """markers/<wave>.json: a complete wave.

    Attributes:
        wave: name of its folder, below waves/; no other attempt's.
        kind: "embed", or "retry" of rows that are published as errors (its `units` are empty).
        files: bytes by name of its data files, and no others: what a dead driver's executors still write
            is in none.
        embed_s: seconds on the clock.
    """

    run_id: str
    wave: str
    kind: Literal["embed", "retry"] = "embed"
    units: tuple[Part, ...]
    files: dict[str, Count]
    counted: Counted
    embed_s: float
    finished_at: str


class PublishedFile(BaseModel):
    """A file of a table.

    Attributes:
        n_errors_by_code: rows without any result, by code; of errors.parquet only.
        n_errors_by_result: rows that lack a result, by its name and by code; where there are several.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    n_rows: Count
    n_bytes: Count
    n_errors_by_code: dict[str, Count] = {}
    n_errors_by_result: dict[str, dict[str, Count]] = {}


class ShardState(NamedTuple):
    """What of a shard is published: its content's version, and rows as (first, number), in order."""

    version: str
    ranges: tuple[tuple[Count, Count], ...]


class Ledger(Record):
    """files.json: a complete state that readers can rely on.

    Attributes:
        generation: counts the states.
        table: the name of the table with the results.
        results: its files; their key in files.json is "embeddings", whatever the table.
        errors: the files of errors.parquet.
        shards: what is published of each shard, by its name.
        waves: those that this state took in: their data may be left over.
        voided: of an image folder, by an earlier version only.
    """

    run_id: str
    generation: Count
    updated_at: str
    table: str = EMBEDDINGS_NAME
    shards: dict[str, ShardState]
    results: Annotated[tuple[PublishedFile, ...], Field(alias="embeddings")]
    errors: tuple[PublishedFile, ...]
    waves: tuple[str, ...] = ()
    voided: tuple[str, ...] = ()

    @property
    def n_embedded(self) -> int:
        """Rows with a result."""
        return sum(file.n_rows for file in self.results)

    @property
    def n_errors(self) -> int:
        """Rows without one."""
        return sum(file.n_rows for file in self.errors)

    @property
    def n_errors_by_code(self) -> dict[str, int]:
        """Rows without one, by code, sorted."""
        counts: Counter[str] = Counter()
        for file in self.errors:
            counts.update(file.n_errors_by_code)
        return dict(sorted(counts.items()))

    @property
    def n_errors_by_result(self) -> dict[str, dict[str, int]]:
        """Rows that lack a result, by its name and by code, sorted; none where there is one result only."""
        counts: dict[str, Counter[str]] = {}
        for file in (*self.results, *self.errors):
            for name, by_code in file.n_errors_by_result.items():
                counts.setdefault(name, Counter()).update(by_code)
        return {name: dict(sorted(by_code.items())) for name, by_code in sorted(counts.items())}

    @property
    def tables(self) -> tuple[tuple[str, tuple[PublishedFile, ...]], ...]:
        """Both tables: name and files."""
        return (self.table, self.results), (ERRORS_NAME, self.errors)


class ProgressRecord(Record):
    """progress.json: how far the run is that is at work, rewritten every few seconds.

    Attributes:
        phase: "embed", "publish", or as the last act of a run that has ended as it should "done" or, at its
            limit (--max_hours, --max_cost), "stopped".
        updated_s: Unix time, seconds, of the machine that runs the driver.
        n_rows: rows that there will be in the end.
        n_complete: of them in complete waves or published.
        n_done_now: of them embedded by this run, those of unfinished waves included; an estimate.
        n_shards, n_complete_shards: those of the input, and of them complete.
        n_errors_by_code: of the complete rows.
        embed_s: seconds that this run has been embedding.
        left_s: seconds until all rows are embedded, about; None while nothing can be said.
    """

    run_id: str
    phase: Literal["embed", "publish", "done", "stopped"]
    started_at: str
    updated_s: float
    n_rows: Count
    n_complete: Count
    n_done_now: Count
    n_shards: Count
    n_complete_shards: Count
    n_errors_by_code: dict[str, Count]
    embed_s: float
    left_s: float | None
