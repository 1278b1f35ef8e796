"""An output folder, whatever its state -> what a report says of its run, as plain values; changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spark_embed.output.error_rows import ErrorRow, read_error_rows
from spark_embed.output.fingerprint import results_of
from spark_embed.output.folder import Output
from spark_embed.output.pace import WaveTime, in_order, pace
from spark_embed.output.prediction_report import Columns, Scores, read_scores
from spark_embed.output.records import now
from spark_embed.output.snapshot import Snapshot, read_snapshot
from spark_embed.output.state import read_metadata
from spark_embed.output.status import Status, read_status
from spark_embed.output.summary import RunSummary
from spark_embed.report.blocks import Picture
from spark_embed.schema import Result

N_EXAMPLES = 3
N_PICTURES = 24
MAX_CLASSES = 1000

_WITHOUT_PICTURE = {"null_bytes", "not_found", "forbidden", "fetch_failed", "no_text", "not_an_image"}
_CLASSES = ("string", "boolean", "int", "bigint")

ReadPicture = Callable[[str, int], bytes | None]
"""A row, by shard and shard_row -> a small JPEG of it, None where it cannot be read."""


@dataclass(frozen=True)
class Example:
    """A row without a result, and its picture where it can be read."""

    row: ErrorRow
    picture: Picture | None


@dataclass(frozen=True)
class Distribution:
    """What is in a column of numbers, in one of classes, or in two that belong together.

    `scores` has no classes where they are more than `MAX_CLASSES` different ones: text, not classes.
    """

    columns: Columns
    scores: Scores


@dataclass(frozen=True)
class RunFacts:
    """All that a report of a run is made from.

    Attributes:
        summary: metadata.json; None before the first run has come to its end.
        waves: of the last run that came to its end, or those that are complete and not published.
        examples: of rows without a result, by code.
        distributions: of what the model gives besides vectors.
    """

    generated_at: str
    status: Status
    summary: RunSummary | None
    fingerprint: Mapping[str, Any]
    parity: Mapping[str, Any]
    waves: Sequence[WaveTime]
    examples: Mapping[str, Sequence[Example]]
    distributions: Sequence[Distribution]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, without the pictures."""
        return {
            "product": "spark_embed_report",
            "format": 1,
            "generated_at": self.generated_at,
            "status": asdict(self.status),
            "metadata": self.summary.to_dict() if self.summary else None,
            "fingerprint": dict(self.fingerprint),
            "images_per_s": pace(self.waves),
            "error_examples": {
                code: [example.row._asdict() for example in found] for code, found in self.examples.items()
            },
            "distributions": [_described(one) for one in self.distributions],
        }


def read_run_facts(output: Output, read_picture: ReadPicture) -> RunFacts:
    """Read them.

    Args:
        output: of a run, at work, interrupted or complete.
        read_picture: how the pictures of rows are read.

    Raises:
        ConfigError: there is no such folder, or it is not ours.
        ResumeError: a file of its state is broken.
        StorageError: one cannot be read.
    """
    snapshot, summary = read_snapshot(output), read_metadata(output)
    if summary and snapshot.run and summary.output.run_id != snapshot.run.run_id:
        summary = None  # of the data set that this run is to replace
    ledger = None if snapshot.is_older else snapshot.ledger
    unpublished = [WaveTime(one.finished_at, one.embed_s, one.counted.n_rows) for one in snapshot.waves]
    examples = read_error_rows(output, ledger.errors, ledger.n_errors_by_code, N_EXAMPLES) if ledger else {}
    return RunFacts(
        generated_at=now(),
        status=read_status(output),
        summary=summary,
        fingerprint=snapshot.run.fingerprint if snapshot.run else {},
        parity=snapshot.run.parity if snapshot.run else {},
        waves=in_order(unpublished) or (summary.waves if summary else []),
        examples=_with_pictures(examples, read_picture),
        distributions=_distributions(output, snapshot) if ledger else [],
    )


def _with_pictures(
    rows: Mapping[str, Sequence[ErrorRow]], read_picture: ReadPicture
) -> dict[str, list[Example]]:
    found: dict[str, list[Example]] = {}
    n_left = N_PICTURES
    for code, examples in rows.items():
        for row in examples:
            is_wanted = n_left > 0 and code not in _WITHOUT_PICTURE
            jpeg = read_picture(row.shard, row.shard_row) if is_wanted else None
            n_left -= jpeg is not None
            picture = Picture(jpeg, f"the picture of {row.image_id}") if jpeg else None
            found.setdefault(code, []).append(Example(row, picture))
    return found


def _distributions(output: Output, snapshot: Snapshot) -> list[Distribution]:
    ledger, run = snapshot.ledger, snapshot.run
    if ledger is None or run is None:
        return []
    columns = [pair for result in results_of(run.fingerprint) for pair in _columns(result)]
    paths = [output.data_path(ledger.table, file.name) for file in ledger.results]
    scores = read_scores(paths, columns, find_range=True, max_classes=MAX_CLASSES) if columns else []
    return [
        Distribution(pair, one) for pair, one in zip(columns, scores, strict=True) if one.n or one.classes
    ]


def _columns(result: Result) -> list[Columns]:
    """Return the columns of a result to tell of, the first of numbers with the first of classes."""
    fields = [field for field in result.fields if not field.name.startswith("label_id")]
    numbers = [field.name for field in fields if field.type in ("float", "double")]
    others = [field.name for field in fields if field.type in _CLASSES]
    pairs = zip(numbers[:1], others[:1], strict=False) if numbers and others else ()
    paired = [Columns(number, name) for number, name in pairs]
    n = len(paired)
    return [
        *paired,
        *(Columns(name, None) for name in numbers[n:]),
        *(Columns(None, name) for name in others[n:]),
    ]


def _described(one: Distribution) -> dict[str, Any]:
    scores = one.scores
    numbers = {
        "n": scores.n,
        **{name: getattr(scores, name) for name in ("mean", "std", "min", "max", "low", "high", "bins")},
    }
    classes = dict(scores.classes.most_common())
    return {**one.columns._asdict(), "numbers": numbers if scores.n else None, "rows_by_class": classes}
