"""BATCH INFERENCE REPORT: what the predictions of a table are, as a whole; reads their scores, no feature."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spark_embed.errors import StorageError, one_line
from spark_embed.schema import PREDICTION_CLASS, PREDICTION_SCORE
from spark_embed.storage import parquet_input

REPORT_TITLE = "BATCH INFERENCE REPORT"

_BANDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_LINE = "=" * 60
_SHOWN_CLASSES = 12
_BATCH_ROWS = 1 << 18


@dataclass
class Scores:
    """Figures of scores, added up batch by batch.

    Attributes:
        bands: how many are in each fifth of 0 to 1, upper end included; 0 itself is in the first.
        classes: rows by class, as text.
    """

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    min: float = math.inf
    max: float = -math.inf
    bands: list[int] = field(default_factory=lambda: [0] * (len(_BANDS) - 1))
    classes: Counter[str] = field(default_factory=Counter)

    def add(self, values: npt.NDArray[np.float64], classes: pa.Array | None = None) -> None:
        """Add the scores of some rows, and their classes where there are some."""
        if len(values) == 0:
            return
        mean, n = float(values.mean()), len(values)
        # Chan, Golub, LeVeque 1979: the sums of squares of two parts.
        between = (mean - self.mean) ** 2 * self.n * n / (self.n + n)
        self.squares += float(((values - mean) ** 2).sum()) + between
        self.mean += (mean - self.mean) * n / (self.n + n)
        self.n += n
        self.min, self.max = min(self.min, float(values.min())), max(self.max, float(values.max()))
        # Of float32: 0.2 there is a little more than 0.2, and in the first band.
        edges = np.array(_BANDS[1:-1], np.float32).astype(np.float64)
        for place, count in enumerate(np.bincount(np.searchsorted(edges, values), minlength=5)):
            self.bands[place] += int(count)
        if classes is not None:
            for one in pc.value_counts(classes).to_pylist():
                self.classes[str(one["values"])] += one["counts"]

    @property
    def std(self) -> float:
        """Sample standard deviation, as pandas has it."""
        return math.sqrt(self.squares / (self.n - 1)) if self.n > 1 else 0.0


@dataclass(frozen=True)
class PredictionReport:
    """The report; report.json, field by field.

    Attributes:
        classes: rows by class, of the model's classes in their order; none of a model of a number.
        positives, negatives: of the second and the first of two classes; None where there are not two.
        score: mean, std, min, max; None without a row.
        bands: fifths of 0 to 1 with rows and percent; none of a model of a number.
    """

    input: str
    output: str
    model: str
    generated_at: str
    rows: int
    predicted: int
    errors: int
    errors_by_code: dict[str, int]
    threshold: float | None
    positives: int | None
    negatives: int | None
    classes: dict[str, int]
    score: dict[str, float] | None
    bands: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def read_scores(paths: Iterable[str]) -> Scores:
    """Add up the scores of published files.

    Raises:
        StorageError: one cannot be read.
    """
    scores = Scores()
    for path in paths:
        try:
            with pq.ParquetFile(parquet_input(path)) as file:
                has_classes = PREDICTION_CLASS in file.schema_arrow.names
                names = [PREDICTION_SCORE, *([PREDICTION_CLASS] if has_classes else [])]
                for batch in file.iter_batches(_BATCH_ROWS, columns=names):
                    values = batch.column(PREDICTION_SCORE).to_numpy(zero_copy_only=False)
                    classes = batch.column(PREDICTION_CLASS) if has_classes else None
                    scores.add(values.astype(np.float64), classes)
        except (OSError, pa.ArrowException) as exc:
            raise StorageError(f"{path}: cannot be read back: {one_line(exc)}") from exc
    return scores


def make_report(
    scores: Scores,
    signature: Mapping[str, Any],
    errors_by_code: Mapping[str, int],
    *,
    input_: str,
    output: str,
    model: str,
    generated_at: str,
) -> PredictionReport:
    """Return the report of some scores; `signature` as a model's description has it."""
    kind = signature["kind"]
    names = [str(name) for name in signature["classes"]] if kind != "regression" else []
    n_errors = sum(errors_by_code.values())
    counts = {name: scores.classes[name] for name in names}
    bands = [
        {"band": f"({low:.1f}, {high:.1f}]", "count": n, "percent": round(100 * n / max(scores.n, 1), 2)}
        for low, high, n in zip(_BANDS, _BANDS[1:], scores.bands, strict=False)
    ]
    is_binary = kind == "binary"
    return PredictionReport(
        input=input_,
        output=output,
        model=model,
        generated_at=generated_at,
        rows=scores.n + n_errors,
        predicted=scores.n,
        errors=n_errors,
        errors_by_code=dict(errors_by_code),
        threshold=signature["threshold"] if is_binary else None,
        positives=counts[names[1]] if is_binary else None,
        negatives=counts[names[0]] if is_binary else None,
        classes=counts,
        score={"mean": scores.mean, "std": scores.std, "min": scores.min, "max": scores.max}
        if scores.n
        else None,
        bands=[] if kind == "regression" else bands,
    )


def report_text(report: Mapping[str, Any]) -> str:
    """Return a report, as JSON values, as a block of text for a person."""
    n, score = report["predicted"], report["score"]
    lines = [
        _LINE,
        REPORT_TITLE,
        _LINE,
        f"generated     {report['generated_at']}",
        f"input         {report['input']}",
        f"output        {report['output']}",
        f"model         {report['model']}",
        f"rows          {report['rows']:,}",
        f"predicted     {n:,}",
        f"errors        {report['errors']:,}",
        *(f"  {code:<22}{number:>14,}" for code, number in report["errors_by_code"].items()),
    ]
    if report["positives"] is not None:
        lines += [
            _share(f"positive ({_class(report, 1)})", report["positives"], n)
            + f"   score >= {report['threshold']:g}",
            _share(f"negative ({_class(report, 0)})", report["negatives"], n),
        ]
    else:
        lines += [_share(name, number, n) for name, number in _largest(report["classes"])]
    if score:
        lines += [f"score {name:<8}{score[name]:.6f}" for name in ("mean", "std", "min", "max")]
        lines += [_share(f"  {band['band']}", band["count"], n) for band in report["bands"]]
    return "\n".join([*lines, _LINE])


def _class(report: Mapping[str, Any], place: int) -> str:
    return str(list(report["classes"])[place])


def _largest(classes: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    return sorted(classes.items(), key=lambda item: -item[1])[:_SHOWN_CLASSES]


def _share(what: str, number: int, whole: int) -> str:
    return f"{what:<24}{number:>14,}  {100 * number / max(whole, 1):6.2f} %"
