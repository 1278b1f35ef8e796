"""What Prometheus is told, under the names that dashboards know; one set for each process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

PROCESSES_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client lets several processes answer as one."""

# The library's own begin at 5 ms and end at 10 s: too few where a batch takes 2 ms, or a minute.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WAIT_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


disable_created_metrics()  # type: ignore[no-untyped-call]  # series of other names than those above


class Metrics:
    """The metrics of one service; every one has the label `model`."""

    def __init__(self, model: str) -> None:
        self._registry = registry = CollectorRegistry()
        self._model = model
        self._requests = Counter(
            "inference_requests_total", "Requests by HTTP status", ("model", "status"), registry=registry
        )
        self._errors = Counter(
            "inference_errors_total", "Errors by code", ("model", "type"), registry=registry
        )

        def of_model(metric: type[Histogram], name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            made = metric(name, text, ("model",), registry=registry, buckets=buckets)
            return made.labels(model)

        self.duration = of_model(
            Histogram, "inference_request_duration_seconds", "From a request's head to its answer", _SECONDS
        )
        self.batch_size = of_model(Histogram, "inference_batch_size", "Images in a forward pass", _IMAGES)
        self.batch_wait = of_model(
            Histogram,
            "inference_batch_wait_seconds",
            "From the moment that an image is prepared to its forward pass",
            _WAIT_SECONDS,
        )
        self.queue_rejections = Counter(
            "inference_queue_rejections_total",
            "Requests refused because the queue was full",
            ("model",),
            registry=registry,
        ).labels(model)

        def gauge(name: str, text: str, mode: str) -> Gauge:
            made = Gauge(name, text, ("model",), registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]
            return made.labels(model)

        self.queue_depth = gauge(
            "inference_queue_depth", "Images accepted, and not in a forward pass yet", "livesum"
        )
        self.load_s = gauge("inference_model_load_seconds", "Loading the model took", "max")
        self.warmup_s = gauge("inference_model_warmup_seconds", "Its first batches took", "max")

    def ran(self, n_images: int, waited_s: Sequence[float]) -> None:
        """Count a forward pass, whose images had waited so long since they were prepared."""
        self.batch_size.observe(n_images)
        for seconds in waited_s:
            self.batch_wait.observe(seconds)

    def count_request(self, status: int) -> None:
        """Count a request that has been answered."""
        self._requests.labels(self._model, str(status)).inc()

    def count_errors(self, n_by_code: Mapping[str, int]) -> None:
        """Count errors; codes are of a closed set."""
        for code, n in n_by_code.items():
            self._errors.labels(self._model, code).inc(n)

    def exposition(self) -> bytes:
        """Return all of it as Prometheus reads it; of several processes, added up."""
        if not os.environ.get(PROCESSES_FOLDER):
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
