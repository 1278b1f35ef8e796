"""POST /v1/embeddings in OpenAI's shape, so that existing clients get these vectors unchanged.

https://platform.openai.com/docs/api-reference/embeddings; an input that is a data: url of an image is an
image, as no text of anybody's is.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spark_embed.live.model import Answer, LiveModel
from spark_embed.schema import EMBEDDING, TEXT_EMBEDDING
from spark_embed.service.realtime.answers import JSON, to_json
from spark_embed.service.realtime.batcher import Done
from spark_embed.service.realtime.engine import Engine
from spark_embed.service.realtime.refusals import RefusedError, refused_row
from spark_embed.service.realtime.requests import Asked, check_count, explain, parse_json, read_base64

Ask = Callable[[Request, Engine, list[Asked]], Awaitable[list[Done[Answer]]]]

_IMAGE_URL = "data:image/"


class Wanted(BaseModel):
    """The body of a request; further keys of OpenAI's are not for embeddings, and refused."""

    model_config = ConfigDict(extra="forbid")

    input: str | Annotated[list[str], Field(min_length=1)]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


def add_routes(app: FastAPI, engine: Engine, ask: Ask) -> None:
    """Add the routes of OpenAI's shape."""
    schema = {"required": True, "content": {JSON: {"schema": Wanted.model_json_schema()}}}

    @app.post("/v1/embeddings", openapi_extra={"requestBody": schema}, tags=["inference"])
    async def embeddings(request: Request) -> Response:
        """Return vectors as OpenAI's API does: of texts, and of images given as data: urls."""
        given = parse_json(await request.body())
        if isinstance(given, dict):
            check_count(given.get("input"), engine.settings.server.max_images)
        try:
            wanted = Wanted.model_validate(given)
        except ValidationError as exc:
            raise RefusedError(422, "invalid_parameters", explain(exc)) from exc
        inputs = [wanted.input] if isinstance(wanted.input, str) else wanted.input
        if engine.live is not None:
            _check_model(wanted, engine.live)
        rows = [_asked(text, number) for number, text in enumerate(inputs)]
        done = await ask(request, engine, rows)
        data = [
            {"object": "embedding", "index": number, "embedding": _encoded(vector, wanted)}
            for number, vector in enumerate(_vectors_of(engine.live, rows, done))
        ]
        usage = {"prompt_tokens": 0, "total_tokens": 0}  # nothing is paid by the token here
        return Response(
            to_json({"object": "list", "data": data, "model": wanted.model, "usage": usage}), media_type=JSON
        )

    @app.get("/v1/models", tags=["operation"])
    async def models() -> Response:
        """Say by which name the model may be asked for."""
        names = _names(engine.live) if engine.live else []
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "spark_embed"} for name in names]
        return Response(to_json({"object": "list", "data": data}), media_type=JSON)


def _asked(text: str, number: int) -> Asked:
    if text[: len(_IMAGE_URL)].lower() == _IMAGE_URL:
        return Asked(image=read_base64(text, f"input {number}"))
    return Asked(text=text)


def _check_model(wanted: Wanted, live: LiveModel) -> None:
    """Refuse another model's name: its vectors would be taken for those of the one that was meant."""
    names = _names(live)
    if wanted.model not in names:
        raise RefusedError(
            404, "model_not_found", f"model {wanted.model!r} is not served here, but {' or '.join(names)}"
        )
    if not {EMBEDDING, TEXT_EMBEDDING} & live.result_of.keys():
        raise RefusedError(422, "no_vector", f"{live.name} gives {', '.join(live.result_of)}; ask /infer")
    dim = live.about.get("embedding_dim")
    if wanted.dimensions not in (None, dim):
        raise RefusedError(422, "invalid_parameters", f"dimensions: the vectors have {dim}, and are not cut")


def _names(live: LiveModel) -> list[str]:
    return list(dict.fromkeys((live.name, str(live.about.get("source", live.name)))))


def _vectors_of(live: LiveModel | None, rows: list[Asked], done: list[Done[Answer]]) -> Iterator[Any]:
    """Yield the vector of each input: that of its image, or of its text.

    Raises:
        RefusedError: it has none.
    """
    for number, (row, one) in enumerate(zip(rows, done, strict=True)):
        column = TEXT_EMBEDDING if row.image is None else EMBEDDING
        result = live.result_of.get(column) if live else None
        if error := one.answer.errors.get(result or "") or one.answer.error:
            raise refused_row(error, f"input {number}: ")
        if column not in one.answer.values:
            given = ", ".join(one.answer.values)
            raise RefusedError(422, "no_vector", f"input {number}: the model gives {given}, no {column}")
        yield one.answer.values[column]


def _encoded(vector: Any, wanted: Wanted) -> Any:
    if wanted.encoding_format == "float":
        return vector
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
