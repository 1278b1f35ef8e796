"""What predictions are, as a whole: figures of their scores, rows by class; reads no feature, no vector."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spark_embed.errors import StorageError, one_line
from spark_embed.storage import parquet_input

_BANDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_N_BINS = 20  # four in each band
_BATCH_ROWS = 1 << 18


class Columns(NamedTuple):
    """A column of numbers and one of classes that belong together; either may be missing."""

    score: str | None
    classes: str | None


@dataclass
class Scores:
    """Figures of scores, added up batch by batch.

    Attributes:
        low, high: the range of the bins; what lies outside is in the first or the last.
        bins: how many are in each twentieth of it, upper end included; `low` itself is in the first.
        classes: rows by class, as text.
    """

    low: float = 0.0
    high: float = 1.0
    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    min: float = math.inf
    max: float = -math.inf
    bins: list[int] = field(default_factory=lambda: [0] * _N_BINS)
    classes: Counter[str] = field(default_factory=Counter)

    def add(self, values: npt.NDArray[np.float64], classes: pa.Array | None = None) -> None:
        """Add the scores of some rows, and their classes where there are some."""
        if classes is not None:
            for one in pc.value_counts(classes).to_pylist():
                self.classes[str(one["values"])] += one["counts"]
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
        edges = np.linspace(self.low, self.high, _N_BINS + 1)[1:-1].astype(np.float32).astype(np.float64)
        for place, count in enumerate(np.bincount(np.searchsorted(edges, values), minlength=_N_BINS)):
            self.bins[place] += int(count)

    @property
    def bands(self) -> list[int]:
        """How many are in each fifth of the range."""
        size = _N_BINS // (len(_BANDS) - 1)
        return [sum(self.bins[i : i + size]) for i in range(0, _N_BINS, size)]

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


def read_scores(
    paths: Sequence[str],
    columns: Sequence[Columns],
    find_range: bool = False,
    max_classes: int | None = None,
) -> list[Scores]:
    """Add up columns of published files, in one pass and in memory that does not grow with the rows.

    Args:
        paths: of the files.
        columns: that belong together; a null or a number that is not finite counts nowhere.
        find_range: let the files' footers say the range of the bins, where it is not within 0 to 1.
        max_classes: a column with more different ones holds no classes, and none of them is told.

    Raises:
        StorageError: a file cannot be read.
    """
    found, many = [Scores() for _ in columns], set[Columns]()
    if find_range:
        for one, scores in zip(columns, found, strict=True):
            scores.low, scores.high = _range(paths, one.score)
    names = sorted({name for one in columns for name in one if name})
    for path in paths:
        with _opened(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=names):
                for one, scores in zip(columns, found, strict=True):
                    values = batch.column(one.score) if one.score else pa.nulls(0)
                    is_counted = one.classes and one not in many
                    classes = batch.column(one.classes).drop_null() if is_counted else None
                    scores.add(_finite(values), classes)
                    if max_classes is not None and len(scores.classes) > max_classes:
                        many.add(one)
                        scores.classes.clear()
    return found


def _finite(values: pa.Array) -> npt.NDArray[np.float64]:
    numbers = values.drop_null().cast(pa.float64()).to_numpy(zero_copy_only=False)
    finite: npt.NDArray[np.float64] = numbers[np.isfinite(numbers)]
    return finite


def _range(paths: Sequence[str], column: str | None) -> tuple[float, float]:
    """Return the least and the most of a column, as the files' footers say; 0 and 1 where it lies between."""
    ends: list[float] = []
    for path in paths if column else ():
        with _opened(path) as file:
            leaf = [file.schema.column(i).path for i in range(len(file.schema))].index(column)
            for group in range(file.num_row_groups):
                said = file.metadata.row_group(group).column(leaf).statistics
                if said is not None and said.has_min_max:
                    ends += [float(said.min), float(said.max)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    inside = low >= 0 and high <= 1
    return (0.0, 1.0) if inside else (low, high if high > low else low + 1)


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(parquet_input(path)) as file:
            yield file
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"{path}: cannot be read back: {one_line(exc)}") from exc


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
