"""How fast this worker's model is, on images that are prepared already; knows no Spark and no images.

Preflight asks once, and its answers bind the run: the batch size, and how long a task takes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

from spark_embed.models import Model, Prepared

# A forward pass this short is timed again: the first of its kind also makes kernels and buffers.
_SHORT_S = 0.5
# A network for which so few images take longer than this is about as fast with many: on one core, an image of
# ViT-B/32 takes 30 ms of 4 and 34 of 32, of EfficientNet-Lite0 14 to 19 and 18. A whole batch takes a second.
_FEW, _FEW_S = 4, 0.06

_BATCH_SIZES = (8, 16, 32, 64, 128, 256, 512)
_SEARCH_S = 4.0
_WORTH_IT = 1.05


@dataclass(frozen=True)
class Pace:
    """What an image costs one worker.

    Attributes:
        batch_size: images in a forward pass.
        predict_s: seconds of such a pass, for each of its images.
    """

    batch_size: int
    predict_s: float

    def row_s(self, prepare_s: float, n_threads: int, device: str) -> float:
        """Return the seconds an image costs a task that prepares images on `n_threads` threads.

        A CPU does both with the same cores; any other device computes while the next images are prepared.
        """
        ahead_s = prepare_s / n_threads
        return self.predict_s + ahead_s if device == "cpu" else max(self.predict_s, ahead_s)


def estimate_pace(model: Model, prepared: Sequence[Prepared], batch_size: int) -> Pace:
    """Time a forward pass; of a smaller batch where the network is slow: nobody waits for what is known."""
    few = measure_pace(model, prepared, min(_FEW, batch_size))
    if few.predict_s * few.batch_size > _FEW_S or few.batch_size < min(_FEW, batch_size):
        return replace(few, batch_size=batch_size)
    return measure_pace(model, prepared, batch_size)


def measure_pace(model: Model, prepared: Sequence[Prepared], batch_size: int) -> Pace:
    """Time a forward pass; `prepared` holds at least one image and is repeated to fill the batch."""
    batch = list(islice(cycle(prepared), batch_size))
    seconds, limit = _time(model, batch)
    if seconds < _SHORT_S:
        again, limit = _time(model, batch)
        seconds = min(seconds, again)
    return Pace(min(batch_size, limit or batch_size), seconds / batch_size)


def find_batch_size(model: Model, prepared: Sequence[Prepared]) -> Pace:
    """Return the smallest batch size at which the model is about as fast as at any.

    Sizes are doubled until two in a row gain less than 5 %, one does not fit into the device's memory, or
    the search has taken some seconds.
    """
    give_up = time.monotonic() + _SEARCH_S
    best = measure_pace(model, prepared, _BATCH_SIZES[0])
    n_without_gain = 0
    for batch_size in _BATCH_SIZES[1:]:
        pace = measure_pace(model, prepared, batch_size)
        if pace.batch_size < batch_size:
            break
        if best.predict_s > _WORTH_IT * pace.predict_s:
            best, n_without_gain = pace, 0
        else:
            n_without_gain += 1
        if n_without_gain == 2 or time.monotonic() > give_up:
            break
    return best


def _time(model: Model, batch: list[Prepared]) -> tuple[float, int | None]:
    started = time.perf_counter()
    prediction = model.predict(batch)
    return time.perf_counter() - started, prediction.batch_limit
