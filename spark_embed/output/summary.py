"""The record of a run: what metadata.json holds and what a person is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from spark_embed.errors import one_line
from spark_embed.output.cost import Cost
from spark_embed.output.executors import Executor, Skew, describe_executors
from spark_embed.output.pace import WaveTime
from spark_embed.output.report_text import report_text

_SHOWN_CHARS = 120


@dataclass(frozen=True)
class Counts:
    """Rows of a run: `rows` is always `embedded` + `errors`.

    Of a model with several results, a row is embedded if it has any; `errors_by_result` has those missing.
    """

    rows: int
    embedded: int
    errors: int
    errors_by_code: dict[str, int]
    errors_by_result: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class ThisRun:
    """Rows and waves of one run, where `Counts` is of all that is complete."""

    rows: int
    embedded: int
    errors: int
    errors_by_code: dict[str, int]
    n_waves: int


@dataclass(frozen=True)
class Pending:
    """What a later run may still change.

    Of the bad shards there are the first few and why; rows are left by --max_hours and --max_cost.
    """

    n_bad_shards: int
    bad_shards: dict[str, str]
    n_gone_shards: int
    n_rows_left: int = 0


@dataclass(frozen=True)
class ErrorExample:
    """A row of errors.parquet."""

    image_id: str
    error_detail: str | None


@dataclass(frozen=True)
class InputSummary:
    """What was read; `not_used` is how many files, or parts of them, of each kind were not."""

    input_dir: str
    layout: str
    n_shards: int
    n_rows: int
    n_bytes: int
    image_column: str
    transport: str
    not_used: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputSummary:
    """What is published."""

    output_dir: str
    n_files: int
    n_bytes: int
    generation: int
    run_id: str


@dataclass(frozen=True)
class Throughput:
    """Rows over the seconds of embedding."""

    images_per_s: float


VerdictKind = Literal["start-up", "small tasks", "fetch", "decode", "read", "device", "nothing"]


@dataclass(frozen=True)
class Verdict:
    """What held a run back: `kind` names the bottleneck for machines, `text` for people."""

    kind: VerdictKind
    text: str


@dataclass(frozen=True)
class S3Traffic:
    """What a run has asked of S3: its workers for the waves' images, its tasks for all else, its driver."""

    worker_requests: int
    worker_bytes: int
    worker_bytes_per_s: float
    requests_per_image: float
    task_requests: int
    task_bytes: int
    driver_requests: int


@dataclass(frozen=True)
class RunSummary:
    """metadata.json, field by field; docs/output.md explains each."""

    status: str
    counts: Counts
    this_run: ThisRun
    pending: Pending
    error_examples: dict[str, list[ErrorExample]]
    model: dict[str, Any]
    input: InputSummary
    output: OutputSummary
    timings_s: dict[str, float]
    stage_s: dict[str, float]
    throughput: Throughput
    verdict: Verdict
    parity: dict[str, Any]
    n_tasks: int
    batch_size: int
    n_model_loads: int
    versions: dict[str, str]
    config: dict[str, Any]
    started_at: str
    finished_at: str
    traffic: S3Traffic | None = None
    n_executors: int = 0
    executors: dict[str, Executor] = field(default_factory=dict)
    n_rows_again: int = 0
    skew: Skew | None = None
    cost: Cost | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    waves: list[WaveTime] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON values; what only some kinds of model have, only for those."""
        values = asdict(self)
        if not self.counts.errors_by_result:
            del values["counts"]["errors_by_result"]
        for name in ("usage", "report", "waves"):
            if not values[name]:
                del values[name]
        values["traffic"] = values["traffic"] or {}
        values["skew"] = values["skew"] or {}
        values["cost"] = values["cost"] or {}
        for executor in values["executors"].values():
            executor["devices"] = list(executor["devices"])
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunSummary:
        """Return the summary that has these JSON values.

        Raises:
            TypeError, KeyError, AttributeError: they are not a summary's.
        """
        records: dict[str, type] = {
            "counts": Counts,
            "this_run": ThisRun,
            "pending": Pending,
            "input": InputSummary,
            "output": OutputSummary,
            "throughput": Throughput,
            "verdict": Verdict,
        }
        read = {name: record(**values[name]) for name, record in records.items()}
        read["error_examples"] = {
            code: [ErrorExample(**example) for example in found]
            for code, found in values["error_examples"].items()
        }
        traffic = values.get("traffic")  # a summary of an older version has none
        read["traffic"] = S3Traffic(**traffic) if traffic else None
        read["skew"] = Skew(**values["skew"]) if values.get("skew") else None
        read["cost"] = Cost(**values["cost"]) if values.get("cost") else None
        read["executors"] = {
            name: Executor(**{**one, "devices": tuple(one["devices"])})
            for name, one in values.get("executors", {}).items()
        }
        read["waves"] = [WaveTime(**wave) for wave in values.get("waves", [])]
        return cls(**{**values, **read})

    def text(self) -> str:
        """Return the summary for a person, a few lines."""
        counts = self.counts
        by_code = _list_codes(counts.errors_by_code)
        examples = [
            f"        {code}: {_shown(example.image_id)}: {_shown(example.error_detail or '')}"
            for code, found in self.error_examples.items()
            for example in found
        ]
        this_run, n_rows_left = self.this_run, self.pending.n_rows_left
        of_this_run = "" if this_run.rows == counts.rows else ", this run alone"
        where = describe_executors(self.n_executors, self.executors, self.n_rows_again, self.skew)
        what = "rows" if self.report else "images"
        lines = [
            f"{counts.rows:,} rows: {counts.embedded:,} embedded, {counts.errors:,} errors"
            + (f" ({by_code})" if by_code else ""),
            *(
                f"        without {name}: {_list_codes(found)}"
                for name, found in counts.errors_by_result.items()
            ),
            *examples,
            *([] if this_run.rows == counts.rows else [_describe_this_run(this_run)]),
            *([f"PENDING {n_rows_left:,} rows: the same command goes on"] if n_rows_left else []),
            *(f"PENDING shard {name}: {_shown(why)}" for name, why in self.pending.bad_shards.items()),
            f"model   {describe_model(self.model)}",
            f"parity  {describe_parity(self.parity)}",
            f"speed   {self.throughput.images_per_s:,.1f} {what}/s while embedding; "
            + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.timings_s.items()),
            *([f"s3      {_describe_traffic(self.traffic)}"] if self.traffic else []),
            *([f"where   {where}"] if where else []),
            *([f"cost    {self.cost.text()}{of_this_run}"] if self.cost else []),
            *([f"usage   {_describe_usage(self.usage)}"] if self.usage else []),
            f"verdict {self.verdict.text}",
            f"output  {self.output.output_dir}",
            *([report_text(self.report)] if self.report else []),
        ]
        return "\n".join(lines)


def _shown(text: str) -> str:
    return one_line(text, _SHOWN_CHARS)


def _list_codes(by_code: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {code}" for code, n in by_code.items())


def _describe_this_run(this_run: ThisRun) -> str:
    return (
        f"of these {this_run.rows:,} by this run: {this_run.embedded:,} embedded, {this_run.errors:,} errors"
    )


def _describe_traffic(traffic: S3Traffic) -> str:
    return (
        f"{traffic.worker_requests:,} requests by the workers, {traffic.requests_per_image:.2f} an image, "
        f"{traffic.worker_bytes / 1e6:,.1f} MB at {traffic.worker_bytes_per_s / 1e6:,.1f} MB/s; "
        f"{traffic.task_requests:,} to look ahead, index and publish, "
        f"{traffic.driver_requests:,} by the driver"
    )


def _describe_usage(usage: dict[str, Any]) -> str:
    numbers = {name: value for name, value in usage.items() if isinstance(value, (int, float))}
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in numbers.items())


def describe_model(model: dict[str, Any]) -> str:
    """Return one line on the model: name, labels, size of a vector, precision, device, gain of --compile."""
    if model["device"] == "remote":
        return f"{model['name']} at {model['source']}"
    labels = f"{model['n_labels']:,} labels, " if "n_labels" in model else ""
    dim = f"{model['embedding_dim']} values, " if "embedding_dim" in model else ""
    line = f"{model['name']}, {labels}{dim}{model.get('dtype', 'no precision')} on {model['device']}"
    if min_edge := model.get("jpeg_scaling"):  # a summary of an older version says nothing of it
        line += f", JPEGs scaled down to {min_edge:,} pixels or more"
    if compiled := model["compiled"]:
        line += f", compiled in {compiled['seconds']:.0f} s: {compiled['speedup']:.2f} times as fast"
    return line


def describe_parity(parity: dict[str, Any]) -> str:
    """Return one line on how the run's results compare with plain transformers."""
    if not parity["n_images"]:
        why = parity.get("unmeasured")
        return f"not measured: {why}" if why else "not measured"
    line = describe_measures(parity)
    if parity["max_pixel_difference"] is not None:
        line += f", pixels within {parity['max_pixel_difference']:.1f} grey levels"
    return line


def _by_result(parity: dict[str, Any]) -> str:
    """Return what each of several vectors has for its smallest cosine."""
    figures = (parity.get("by_result") or {}).items()
    cosines = [
        f"{name} {one['min_cosine']:.6f}" + (f" on {one['n_compared']}" if "n_compared" in one else "")
        for name, one in figures
        if "min_cosine" in one
    ]
    return f" ({', '.join(cosines)})" if len(cosines) > 1 else ""


def describe_measures(parity: dict[str, Any]) -> str:
    """Return what was measured of labels, of vectors, or of both."""
    n_images, what, parts = parity["n_images"], parity.get("what", "images"), []
    if "n_same_label" in parity:
        parts.append(f"same label as by plain transformers on {parity['n_same_label']} of {n_images} images")
        parts.append(f"scores within {parity['max_score_difference']:.4f}")
    if parity["min_cosine"] is not None:
        rest = "" if parts else f" with plain transformers on {n_images} {what}"
        parts.append(f"smallest cosine {parity['min_cosine']:.6f}{rest}{_by_result(parity)}")
    return ", ".join(parts)
