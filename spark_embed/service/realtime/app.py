"""The routes: what is asked -> the engine -> what is answered, and how the service is."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException

from spark_embed.live.model import Answer
from spark_embed.service.realtime import openai_api
from spark_embed.service.realtime.answers import (
    FLOAT32,
    JSON,
    check_one_vector,
    float32_body,
    json_body,
    to_json,
)
from spark_embed.service.realtime.batcher import Done
from spark_embed.service.realtime.engine import Engine
from spark_embed.service.realtime.gate import Gate, Passing, not_found, until_gone
from spark_embed.service.realtime.metrics import CONTENT_TYPE
from spark_embed.service.realtime.refusals import RefusedError, refused_row
from spark_embed.service.realtime.requests import ANY_BYTES, FORM, Asked, Row, read_rows

_ROW = Row.model_json_schema()
_ROWS = {  # pydantic's own points to #/$defs, which an OpenAPI document has not
    "type": "object",
    "properties": {"inputs": {"type": "array", "items": _ROW, "minItems": 1}},
    "required": ["inputs"],
    "additionalProperties": False,
}
_BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        ANY_BYTES: {"schema": {"type": "string", "format": "binary"}},
        FORM: {
            "schema": {
                "type": "object",
                "properties": {
                    "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    "text": {"type": "array", "items": {"type": "string"}},
                },
            }
        },
        JSON: {"schema": {"anyOf": [_ROW, _ROWS]}},
    },
}


def make_app(engine: Engine, api_key: str | None, on_end: Callable[[BaseException | None], None]) -> FastAPI:
    """Return the ASGI application.

    Args:
        engine: what answers; it begins to load its model when the application starts.
        api_key: that requests must bring; None for none.
        on_end: is called when the engine has ended by itself: with why.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(engine.run())
        running.add_done_callback(lambda task: None if task.cancelled() else on_end(task.exception()))
        yield
        running.cancel()
        await asyncio.wait({running})

    settings = engine.settings
    app = FastAPI(title=settings.service.name, lifespan=lifespan)
    app.add_exception_handler(HTTPException, not_found)  # type: ignore[arg-type]  # it always raises
    app.add_middleware(Gate, engine=engine, api_key=api_key)
    if settings.server.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.server.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    _add_asking(app, engine)
    _add_watching(app, engine)
    return app


async def ask(request: Request, engine: Engine, rows: list[Asked]) -> list[Done[Answer]]:
    """Return the answers of a request's rows, unless its client goes.

    Raises:
        RefusedError: what it brings is not what the model takes.
        Exception: as `Engine.answer` and `until_gone`.
    """
    _check_takes(engine, rows)
    done: list[Done[Answer]] = await until_gone(request.receive, engine.answer(rows))
    passing: Passing = request.state.passing
    passing.timings |= {
        "wait_s": round(max(one.wait_s for one in done), 6),
        "predict_s": round(max(one.predict_s for one in done), 6),
        "batch_size": max(one.batch_size for one in done),
    }
    return done


def _check_takes(engine: Engine, rows: list[Asked]) -> None:
    live = engine.live
    if live is None:
        return  # not ready, as the engine says itself
    for row in rows:
        has_image = row.image is not None or row.url is not None
        if row.url is not None and not engine.settings.server.allow_urls:
            raise RefusedError(422, "url_not_allowed", "urls are not fetched here (server.allow_urls)")
        if row.text is not None and not live.takes_text:
            raise RefusedError(
                422,
                "unexpected_text",
                f"{live.name} takes no text here; a CLIP or SigLIP does with --text_column text",
            )
        if has_image and not live.takes_image:
            raise RefusedError(422, "unexpected_image", f"{live.name} takes texts alone")
        if not has_image and not live.takes_text:
            raise RefusedError(422, "null_bytes", "the request has no image")


def _add_asking(app: FastAPI, engine: Engine) -> None:
    @app.post("/infer", openapi_extra={"requestBody": _BODY}, tags=["inference"])
    async def infer(request: Request) -> Response:
        """Return a vector, or labels, of each image (and text).

        An image as it is, a form with files, or JSON with base64. One that cannot be used alone is refused
        with its code; among several, its row says why. `Accept: application/octet-stream` gives float32.
        """
        started = time.perf_counter()
        server, live = engine.settings.server, engine.live
        rows = await read_rows(request, min(server.max_images, server.max_queue_size))
        accept = request.headers.get("accept", "")
        wants_float32 = FLOAT32 in accept and JSON not in accept
        vectors = live.vectors if live else []
        if wants_float32:
            check_one_vector(vectors)
        done = await ask(request, engine, rows)
        if len(done) == 1 and (error := done[0].answer.error) is not None:
            raise refused_row(error)
        if wants_float32:
            return Response(float32_body(done, vectors), media_type=FLOAT32)
        if engine.metrics:
            engine.metrics.count_errors(Counter(one.answer.error.code for one in done if one.answer.error))
        body = json_body(done, vectors, request.state.passing.request_id, time.perf_counter() - started)
        return Response(body, media_type=JSON)

    openai_api.add_routes(app, engine, ask)


def _add_watching(app: FastAPI, engine: Engine) -> None:
    def answer(values: Any, status: int = 200) -> Response:
        return Response(to_json(values), status, media_type=JSON)

    @app.get("/health", tags=["operation"])
    async def health() -> Response:
        """Say that the process answers."""
        return answer({"status": "alive"})

    @app.get("/ready", tags=["operation"])
    async def ready() -> Response:
        """Say whether requests may come: the model is warm, works, and its queue is not full; else 503."""
        if why := engine.why_not_ready:
            raise RefusedError(503, "not_ready", why, 1.0)
        return answer({"status": "ready"})

    @app.get("/metrics", tags=["operation"])
    async def metrics() -> Response:
        """Return what Prometheus reads."""
        if engine.metrics is None:
            raise RefusedError(503, "not_ready", "the model is being loaded", 1.0)
        return Response(engine.metrics.exposition(), media_type=CONTENT_TYPE)

    @app.get("/info", tags=["operation"])
    async def info() -> Response:
        """Say which model answers, as a run's metadata.json does, and within which limits."""
        return answer(engine.describe())
