"""What the page can ask: an index, its model and its pictures, each on its own threads; knows no HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from spark_embed.errors import ConfigError, ModelError, SparkEmbedError
from spark_embed.search.explore.thumbnails import Thumbnails
from spark_embed.search.index import Hit, Index
from spark_embed.search.pictures import Pictures
from spark_embed.search.query import QueryModel
from spark_embed.search.vectors import Vectors, unit_vectors
from spark_embed.search.where import PLAIN, Where
from spark_embed.service.realtime.refusals import RefusedError

logger = logging.getLogger(__name__)

MAX_K = 240
_MAX_WAITING = 32
_WHERE_LIMIT_S = 20.0
_KEPT_KEYS = 20_000
_CELL_CHARS = 2000
_SAFE_INTEGER = 2**53  # of JavaScript
_CAPTIONS = ("caption", "text", "title", "alt", "description", "prompt", "label", "category", "class")

Got = TypeVar("Got")


class Asked(BaseModel):
    """A question: what is near to words, a picture or a row, or nothing: what there is.

    Attributes:
        like: the number of a row in the index.
        where: a condition on the columns.
        k: how many.
        columns: to be told of each; None for all.
    """

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)] | None = (
        None
    )
    like: int | None = Field(None, ge=0, lt=2**63)
    where: Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)] | None = None
    k: int = Field(48, ge=1, le=MAX_K)
    columns: list[str] | None = None


class Explorer:
    """An index that is open, a model that is loaded meanwhile, and pictures; lives in one event loop.

    Args:
        index: to be looked at.
        given: where the model is now, and the like: as `QueryModel` takes them.
    """

    def __init__(self, index: Index, given: Mapping[str, Any] | None = None) -> None:
        self._index = index
        self._given = given or {}
        self._model: QueryModel | None = None
        self._model_state = "loading"
        self._pictures: Thumbnails | None = None
        self._read: Callable[[str, int], bytes] | None = None
        try:
            self._read = Pictures(index.data.root).read
        except SparkEmbedError as exc:
            logger.warning("no pictures: %s", exc)
        self._modelling, self._searching = ThreadPoolExecutor(1, "model"), ThreadPoolExecutor(1, "search")
        self._n_waiting = 0
        self._keys: dict[int, tuple[str, int]] = {}

    async def run(self) -> None:
        """Load the model, and look after the threads, until cancelled.

        Raises:
            RuntimeError: as `Thumbnails.watch`.
        """
        if self._read:
            self._pictures = Thumbnails(self._read)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._load())
            if self._pictures:
                tasks.create_task(self._pictures.watch())

    def info(self) -> dict[str, Any]:
        """Return what the page says of the index before anybody asks."""
        index, manifest = self._index, self._index.manifest
        names = {name.lower(): name for name in index.rows.schema.names}
        return {
            "name": index.data.root.rstrip("/").rpartition("/")[2],
            "state": f"{manifest.run_id}-{manifest.built_at}",
            "n_vectors": manifest.n_vectors,
            "n_new_files": index.rows.n_new,
            "n_gone_files": index.rows.n_gone,
            "recall": manifest.recall,
            "columns": [{"name": field.name, "kind": _kind(field.type)} for field in index.rows.schema],
            "caption": next((names[name] for name in _CAPTIONS if name in names), None),
            "has_pictures": self._read is not None,
            "model": {
                "state": self._model_state,
                "takes_words": bool(self._model and self._model.takes_text),
            },
            "max_k": MAX_K,
        }

    async def search(self, asked: Asked, image: bytes | None = None) -> list[dict[str, Any]]:
        """Return the rows that are nearest to what is asked for, or with nothing to be near to, some of all.

        Raises:
            RefusedError: too much is asked at once, or there is no model.
            RowError: the image cannot be used.
            ConfigError: there is no such row, or the condition cannot be used.
            StorageError: a file cannot be read.
        """
        if sum(one is not None for one in (asked.text, asked.like, image)) > 1:
            raise ConfigError("give one of a picture, words and a row")
        vector = None
        if image is not None or asked.text is not None:
            vector = await self._in(self._modelling, lambda: self._vector(image, asked.text))
        hits = await self._in(self._searching, lambda: self._find(asked, vector))
        if len(self._keys) > _KEPT_KEYS:
            self._keys.clear()
        # Their pictures are asked for next, and need not wait for another's search.
        self._keys |= {hit.number: (hit.shard, hit.shard_row) for hit, _ in hits}
        return [{**_shown(hit), "score": None if score is None else round(score, 4)} for hit, score in hits]

    async def thumbnail(self, number: int, width: int) -> bytes:
        """Return a row's picture as a small JPEG.

        Raises:
            RefusedError: there is no such row, or the picture cannot be had.
        """
        if self._pictures is None:
            raise RefusedError(404, "no_pictures", "the pictures of this data set cannot be read here")
        key = self._keys.get(number)
        if key is None:
            key = await self._in(self._searching, lambda: self._key_of(number))
        shard, row = key
        return await self._pictures.get(shard, row, width)

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._model = await loop.run_in_executor(self._modelling, self._load_model)
            self._model_state = "ready"
            logger.info("the model is ready")
        except SparkEmbedError as exc:
            logger.error("nothing can be found by a picture or words: %s", exc)
            self._model_state = "failed"

    def _load_model(self) -> QueryModel:
        root, column = self._index.data.root, self._index.manifest.column
        try:
            return QueryModel(root, column, self._given, with_text=True)
        except (ConfigError, ModelError):  # it has no text tower; or what the next line says
            return QueryModel(root, column, self._given)

    async def _in(self, threads: ThreadPoolExecutor, work: Callable[[], Got]) -> Got:
        """Await work on a thread; who is cancelled while it waits is not worked for."""
        if self._n_waiting >= _MAX_WAITING:
            raise RefusedError(503, "busy", "too much is asked at once; try again", 1.0)
        self._n_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        finally:
            self._n_waiting -= 1

    def _vector(self, image: bytes | None, text: str | None) -> Vectors:
        model = self._model
        if model is None:
            raise RefusedError(503, "no_model", "the model could not be loaded; the log says why")
        if image is not None:
            return model.of_image(image)
        if not model.takes_text:
            raise ConfigError("this data set's model takes no words")
        return model.of_text(text or "")

    def _find(self, asked: Asked, vector: Vectors | None) -> list[tuple[Hit, float | None]]:
        index = self._index
        where = None
        if asked.where:
            try:
                where = Where(asked.where, index.rows.schema, functions=PLAIN, limit_s=_WHERE_LIMIT_S)
                return self._find_where(asked, vector, where)
            except ConfigError as exc:
                raise ConfigError(str(exc).removeprefix(f"--where {asked.where}: ")) from exc
        return self._find_where(asked, vector, where)

    def _find_where(
        self, asked: Asked, vector: Vectors | None, where: Where | None
    ) -> list[tuple[Hit, float | None]]:
        index, k, columns = self._index, asked.k, asked.columns
        if asked.like is not None:
            self._check_number(asked.like)
            found = index.search(index.vector_of(asked.like), k + 1, where, columns=columns)
            others = [hit for hit in found if hit.number != asked.like][:k]
            return [(hit, hit.score) for hit in others]
        if vector is None:
            return [(hit, None) for hit in index.sample(k, where, columns=columns)]
        _, vectors = unit_vectors(vector.reshape(1, -1))
        return [(hit, hit.score) for hit in index.search(vectors[0], k, where, columns=columns)]

    def _key_of(self, number: int) -> tuple[str, int]:
        self._check_number(number)
        hit = self._index.hit(number, [])
        return hit.shard, hit.shard_row

    def _check_number(self, number: int) -> None:
        if number >= self._index.manifest.n_rows:
            raise RefusedError(404, "not_found", "there is no row with this number")


def _shown(hit: Hit) -> dict[str, Any]:
    return {
        "number": hit.number,
        "image_id": hit.image_id,
        "shard": hit.shard,
        "shard_row": hit.shard_row,
        "columns": {name: _cell(value) for name, value in hit.columns.items()},
    }


def _cell(value: Any) -> Any:
    """Return a value as JSON has it and JavaScript holds it; what is long is cut."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _SAFE_INTEGER else str(value)
    if isinstance(value, (bytes, bytearray)):
        return f"({len(value)} bytes)"
    text = (
        json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, (list, dict)) else str(value)
    )
    return text if len(text) <= _CELL_CHARS else f"{text[:_CELL_CHARS]}…"


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return "number" if is_number else str(kind)
