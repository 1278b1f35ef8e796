"""The service without its door: loads the model, batches what is asked, says how it is; knows no HTTP."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from spark_embed.errors import ModelError, RowError
from spark_embed.inference.decode.pool import DecodeMemory
from spark_embed.live.like import wanted_like, wanted_model
from spark_embed.live.model import Answer, LiveModel, Ready
from spark_embed.service.realtime.batcher import Batcher, Done, HungError, Limits
from spark_embed.service.realtime.metrics import Metrics
from spark_embed.service.realtime.preparing import Preparing
from spark_embed.service.realtime.requests import Asked
from spark_embed.service.realtime.settings import Settings
from spark_embed.service.realtime.urls import download

logger = logging.getLogger(__name__)

_DECODE_MEMORY_BYTES = 512 << 20
_N_DOWNLOADS = 16

Given = tuple[bytes | RowError | None, str | None]
"""What a decode thread is given: an encoded image, or why there is none, and a text."""


class NotReadyError(Exception):
    """There is no model to answer, or it is not trusted right now."""


class Engine:
    """A model with its queue, in one process and one event loop.

    Attributes:
        settings: of the service.
        live: the model; None while it is being loaded.
        metrics: None until the model, whose label they bear, has a name.
        is_draining: no new requests are taken.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.live: LiveModel | None = None
        self.metrics: Metrics | None = None
        self.is_draining = False
        self._batcher: Batcher[Asked, Answer] | None = None

    async def run(self) -> None:
        """Load the model and answer, until cancelled.

        Raises:
            SparkEmbedError: the model cannot be used, or does not work any more.
        """
        live, warmup_s = await asyncio.to_thread(self._load)
        self.live = live
        self.metrics = metrics = Metrics(live.name)
        metrics.load_s.set(live.load_s)
        metrics.warmup_s.set(warmup_s)
        limits, server, memory = self._limits(live), self.settings.server, DecodeMemory(_DECODE_MEMORY_BYTES)
        decoding: Preparing[Given, Ready | Answer] = Preparing(
            lambda job: live.prepare(*job.given, partial(job.decoding, memory)),
            lambda given, error: live.failed(error),
            self._n_threads(),
            live.decode_timeout_s,
        )
        downloading: Preparing[str, bytes | RowError] = Preparing(
            lambda job: download(job.given, server.max_body_bytes, server.request_timeout_s / 2),
            lambda url, error: error,
            _N_DOWNLOADS if server.allow_urls else 0,
            server.request_timeout_s,
        )

        async def prepare(row: Asked) -> Ready | Answer:
            image = row.image if row.url is None else await downloading.prepare(row.url)
            return await decoding.prepare((image, row.text))

        self._batcher = Batcher(prepare, live.predict, lambda: live.try_grey(1), limits, metrics)
        logger.info(
            "ready: %s on %s, batches of up to %d",
            live.name,
            live.about.get("device"),
            limits.batch_size,
            extra={"timings": {"load_s": round(live.load_s, 3), "warmup_s": round(warmup_s, 3)}},
        )
        tasks = {asyncio.create_task(self._batcher.run()), asyncio.create_task(decoding.watch())}
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ended.pop().result()
        except (HungError, RuntimeError) as exc:  # threads are stuck, and cannot be stopped
            raise ModelError(f"{live.name}: {exc}; the process ends") from exc
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await asyncio.gather(decoding.close(), downloading.close())

    @property
    def why_not_ready(self) -> str | None:
        """Why no request should be sent here now; None if one may."""
        if self.is_draining:
            return "the service is shutting down"
        if self._batcher is None:
            return "the model is being loaded"
        if self._batcher.failure:
            return f"the model failed, and is being tried: {self._batcher.failure}"
        if self._batcher.n_queued >= self.settings.server.max_queue_size:
            return f"the queue is full: {self._batcher.n_queued} images wait"
        return None

    @property
    def queue_depth(self) -> int:
        """Images accepted, and not in a forward pass yet."""
        return self._batcher.n_queued if self._batcher else 0

    def check_room(self) -> None:
        """Refuse a request before its body is read, if there is no use in reading it.

        Raises:
            NotReadyError: there is no model yet, or no more.
            QueueFullError: there is no room.
        """
        self._running().check_room(1)

    async def answer(self, rows: Sequence[Asked]) -> list[Done[Answer]]:
        """Return the answer of each row, in order. Whoever cancels this takes them out of the queue.

        Raises:
            NotReadyError, QueueFullError: as `check_room`.
            PredictError: the forward pass of one of them failed.
        """
        return await self._running().answer(rows)

    def describe(self) -> dict[str, Any]:
        """Return what /info says."""
        settings, live = self.settings, self.live
        server = settings.server
        about: dict[str, Any] = {
            "name": settings.service.name,
            "version": _version(),
            "status": self.why_not_ready or "ready",
            "limits": {
                "max_queue_size": server.max_queue_size,
                "max_queue_bytes": server.max_queue_bytes,
                "max_body_bytes": server.max_body_bytes,
                "max_images": server.max_images,
                "request_timeout_s": server.request_timeout_s,
                "rate_limit": server.rate_limit,
            },
        }
        if live is None or self._batcher is None:
            return about
        limits = self._batcher.limits
        return {
            **about,
            "model": live.about,
            "dtype": live.about.get("dtype"),
            "dim": live.about.get("embedding_dim"),
            "device": live.about.get("device"),
            "weights_sha256": live.about.get("weights_sha256") or live.about.get("folder_sha256"),
            "takes": [
                name for name, is_so in (("image", live.takes_image), ("text", live.takes_text)) if is_so
            ],
            "batch_size": limits.batch_size,
            "batch_wait_s": limits.batch_wait_s,
        }

    def _load(self) -> tuple[LiveModel, float]:
        model = self.settings.model
        wanted = (
            wanted_like(model.like, self.settings.given_options(), model.device)
            if model.like
            else wanted_model(self.settings.model_options(), model.device)
        )
        live = LiveModel(wanted)
        gc.collect()
        gc.freeze()  # else a full collection, of all that torch brings, stops the event loop for 150 ms
        return live, live.try_grey(1, model.batch_size or live.batch_size)

    def _limits(self, live: LiveModel) -> Limits:
        model, server = self.settings.model, self.settings.server
        return Limits(
            batch_size=model.batch_size or live.batch_size,
            batch_wait_s=live.batch_wait_s if model.batch_wait_s is None else model.batch_wait_s,
            max_queue_size=server.max_queue_size,
            max_queue_bytes=server.max_queue_bytes,
            answer_within_s=server.request_timeout_s,
            hang_s=server.predict_timeout_s,
        )

    def _running(self) -> Batcher[Asked, Answer]:
        if self._batcher is None or self._batcher.failure:
            raise NotReadyError(self.why_not_ready)
        return self._batcher

    def _n_threads(self) -> int:
        n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.settings.server.n_decode_threads or max(1, n_cores // self.settings.n_processes)


def _version() -> str:
    try:
        return version("spark_embed")
    except PackageNotFoundError:  # a copy without its metadata
        return "unknown"
