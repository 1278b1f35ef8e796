"""The routes: the page's files by fixed names, and what it asks; numbers of rows alone lead to pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spark_embed.search.explore.door import Door
from spark_embed.search.explore.explorer import Asked, Explorer
from spark_embed.search.explore.thumbnails import WIDTHS
from spark_embed.search.query import MAX_IMAGE_BYTES
from spark_embed.service.realtime.answers import JSON, to_json
from spark_embed.service.realtime.gate import until_gone
from spark_embed.service.realtime.refusals import RefusedError
from spark_embed.service.realtime.requests import FORM, explain, parse_json

_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/explore.css": ("explore.css", "text/css; charset=utf-8"),
    "/explore.js": ("explore.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_MAX_JSON_BYTES = 64 << 10


def make_app(
    explorer: Explorer,
    *,
    is_open: bool = False,
    on_end: Callable[[BaseException | None], None] = lambda exc: None,
) -> Starlette:
    """Return the ASGI application.

    Args:
        explorer: what answers; it begins to load its model when the application starts.
        is_open: see `Door`.
        on_end: is called when the explorer has ended by itself: with why.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(explorer.run())
        running.add_done_callback(
            lambda task: None if task.cancelled() or not task.exception() else on_end(task.exception())
        )
        yield
        running.cancel()
        await asyncio.wait({running})

    async def info(request: Request) -> Response:
        return _answer(explorer.info())

    async def search(request: Request) -> Response:
        asked, image = await _read(request)
        hits = await until_gone(request.receive, explorer.search(asked, image))
        return _answer({"hits": hits})

    async def thumbnail(request: Request) -> Response:
        number = _number(request.path_params["number"], "the number of a row", 2**63 - 1)
        width = _number(request.query_params.get("w", "320"), "w", WIDTHS[-1])
        made = await until_gone(request.receive, explorer.thumbnail(number, width))
        return Response(made, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    routes = [
        *(Route(path, _file(*file)) for path, file in _PAGE.items()),
        Route("/api/info", info),
        Route("/api/search", search, methods=["POST"]),
        Route("/api/thumbnail/{number}", thumbnail),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Door, is_open=is_open)],
        exception_handlers={HTTPException: _raise},  # the door says it
        lifespan=lifespan,
    )


def _file(name: str, kind: str) -> Callable[[Request], Any]:
    content = files("spark_embed.search.explore").joinpath("page", name).read_bytes()

    async def file(request: Request) -> Response:
        return Response(content, headers={"content-type": kind, "cache-control": "no-cache"})

    return file


def _answer(values: Any) -> Response:
    return Response(to_json(values), media_type=JSON, headers={"cache-control": "no-store"})


def _raise(request: Request, exc: Exception) -> Response:
    raise exc


def _number(text: str, what: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):
        raise RefusedError(422, "invalid_parameters", f"{what} must be a number from 0 to {most}")
    return int(text)


async def _read(request: Request) -> tuple[Asked, bytes | None]:
    """Return what a request asks, and the picture that it brings.

    Raises:
        RefusedError: it cannot be read.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    image: bytes | None = None
    values: object
    if kind == FORM:
        try:
            form = await request.form(max_files=1, max_fields=8, max_part_size=_MAX_JSON_BYTES)
        except (MultiPartException, HTTPException, KeyError, ValueError) as exc:
            raise RefusedError(422, "invalid_form", "the form cannot be read") from exc
        try:
            file = form.get("image")
            if not isinstance(file, UploadFile) or (file.size or 0) > MAX_IMAGE_BYTES:
                raise RefusedError(422, "invalid_form", "a form has a file, image, of at most 64 MB")
            image = await file.read()
            values = {name: value for name, value in form.items() if name != "image"}
        finally:
            await form.close()
    elif kind == JSON:
        body = await request.body()
        if len(body) > _MAX_JSON_BYTES:
            raise RefusedError(
                413, "too_many_bytes", f"at most {_MAX_JSON_BYTES} bytes of JSON can be sent here"
            )
        values = parse_json(body)
    else:
        raise RefusedError(415, "unsupported_type", f"send {JSON}, or {FORM} with a file, image")
    try:
        return Asked.model_validate(values), image
    except ValidationError as exc:
        raise RefusedError(422, "invalid_parameters", explain(exc)) from exc
