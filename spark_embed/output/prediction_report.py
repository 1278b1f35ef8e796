"""What the predictions of a table are, as a whole: figures of their scores; reads no feature."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
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

_BANDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
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
    scores: Scores, signature: Mapping[str, Any], errors_by_code: Mapping[str, int], about: Mapping[str, str]
) -> PredictionReport:
    """Return the report of some scores.

    Args:
        scores: of the rows with a prediction.
        signature: of the model, as its description has it.
        errors_by_code: of the others.
        about: `input`, `output`, `model` and `generated_at`, for people.
    """
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
        **about,
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
