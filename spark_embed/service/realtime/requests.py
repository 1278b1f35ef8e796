"""The body of a request -> images and texts; knows no model. Limits on the number of bytes are the gate's."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Annotated

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from spark_embed.errors import one_line
from spark_embed.service.realtime.refusals import RefusedError

JSON, FORM, ANY_BYTES = "application/json", "multipart/form-data", "application/octet-stream"

# A tokenizer reads all of a text before it cuts it: 1 to 2 s for a million characters, while its batch waits.
_MAX_TEXT_CHARS = 1 << 16
# Small ones cost Python 20 times their bytes, and the event loop stands still meanwhile.
_MAX_JSON_VALUES = 1_000_000
_UTF8 = ("utf-8", "utf8", "us-ascii")


@dataclass(frozen=True)
class Asked:
    """One row of a request: an image, a text, or both.

    Attributes:
        image: encoded.
        url: where it is instead.
        text: a caption, or a query.

    Raises:
        RefusedError: the text is too long.
    """

    image: bytes | None = None
    url: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None and len(self.text) > _MAX_TEXT_CHARS:
            raise RefusedError(
                422, "text_too_long", f"a text has {len(self.text)} characters, at most {_MAX_TEXT_CHARS}"
            )


class Row(BaseModel):
    """One row, as JSON has it."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = Field(None, description="base64, with or without data:image/...;base64, before it")
    url: str | None = Field(None, description="http(s); only where the service allows urls")
    text: str | None = None

    @model_validator(mode="after")
    def _has_something(self) -> Row:
        if self.image is None and self.url is None and self.text is None:
            raise ValueError("needs an image, a url or a text")
        if self.image is not None and self.url is not None:
            raise ValueError("has an image and a url: leave one out")
        return self


class Rows(BaseModel):
    """Several rows, as JSON has them."""

    model_config = ConfigDict(extra="forbid")

    inputs: Annotated[list[Row], Field(min_length=1)]


async def read_rows(request: Request, max_rows: int) -> list[Asked]:
    """Read the rows of a request.

    Raises:
        RefusedError: 415 another type of body, 422 what it says cannot be used, too many rows.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        rows = await _read_form(request, max_rows)
    elif kind == JSON:
        rows = _read_json(await request.body(), max_rows)
    elif kind.startswith("image/") or kind == ANY_BYTES:
        rows = [Asked(image=await request.body())]
    else:
        raise RefusedError(
            415,
            "unsupported_type",
            f"Content-Type {kind or '(none)'}: send an image as image/jpeg (or another image type), "
            f"{FORM} with a field image, or {JSON}",
        )
    check_count(rows, max_rows)
    return rows


def check_count(rows: object, max_rows: int) -> None:
    """Refuse a list of more rows than there may be, before anything is made of them.

    Raises:
        RefusedError: they are too many.
    """
    if isinstance(rows, list) and len(rows) > max_rows:
        raise RefusedError(422, "too_many_images", f"{len(rows)} rows in one request, at most {max_rows}")


def read_base64(text: str, what: str) -> bytes:
    """Return the bytes of base64, with or without the head of a data: url.

    Raises:
        RefusedError: it is none.
    """
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise RefusedError(
                422, "invalid_base64", f"{what}: a data: url must be data:image/...;base64,..."
            )
    try:
        text = "".join(text.split()) if "\n" in text else text  # as the base64 command breaks its lines
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as exc:  # also of characters that are not ASCII
        raise RefusedError(422, "invalid_base64", f"{what}: {one_line(exc)}") from exc


async def _read_form(request: Request, max_rows: int) -> list[Asked]:
    content_type = request.headers["content-type"]
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1").lower()
    if charset not in _UTF8:
        raise RefusedError(422, "invalid_form", f"charset={charset}: texts of a form are read as UTF-8 here")
    parser = MultiPartParser(
        # It would take what is no UTF-8 for latin-1, without a word.
        Headers({"content-type": f"{content_type}; charset=latin-1"}),
        request.stream(),
        max_files=max_rows,
        max_fields=max_rows,
        max_part_size=4 * _MAX_TEXT_CHARS,
    )
    # A request is bounded before it comes here: in memory, no file is written and no thread waited for.
    parser.spool_max_size = 1 << 62
    try:
        form = await parser.parse()
    except MultiPartException as exc:
        raise RefusedError(422, "invalid_form", one_line(exc.message)) from exc
    except (KeyError, ValueError) as exc:  # a head without boundary
        raise RefusedError(422, "invalid_form", f"cannot be read as {FORM}: {one_line(exc)}") from exc
    try:
        return await _rows_of_form(form)
    except UnicodeError as exc:
        raise RefusedError(422, "invalid_form", f"a text is no UTF-8: {one_line(exc)}") from exc
    finally:
        await form.close()


async def _rows_of_form(form: FormData) -> list[Asked]:
    if unknown := sorted({name for name in form if name not in ("image", "text")}):
        raise RefusedError(
            422,
            "invalid_form",
            f"field {unknown[0]!r}: there are image (a file) and text, each as often as needed",
        )
    images: list[bytes] = []
    for part in form.getlist("image"):
        if not isinstance(part, UploadFile):
            raise RefusedError(422, "invalid_form", "image must be a file: give it a filename")
        images.append(await part.read())
    texts: list[str] = []
    for field in form.getlist("text"):
        if isinstance(field, UploadFile):
            raise RefusedError(422, "invalid_form", "text must be a field, not a file")
        texts.append(field.encode("latin-1").decode())
    if images and texts and len(images) != len(texts):
        raise RefusedError(
            422,
            "invalid_form",
            f"{len(images)} images and {len(texts)} texts: give one text for each image, or none",
        )
    n_rows = len(images) or len(texts)
    if not n_rows:
        raise RefusedError(422, "invalid_form", "there is neither a field image nor a field text")
    return [
        Asked(
            image=images[row] if images else None,
            text=texts[row] if texts else None,
        )
        for row in range(n_rows)
    ]


def parse_json(body: bytes) -> object:
    """Return what a body of JSON says.

    Raises:
        RefusedError: it is none.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_JSON_VALUES:
        raise RefusedError(422, "invalid_json", f"the body has more than {_MAX_JSON_VALUES} values")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RefusedError(422, "invalid_json", f"the body is no JSON: {one_line(exc)}") from exc


def explain(exc: ValidationError) -> str:
    """Return the first thing that is wrong with a body, as one line; shows no value."""
    error = exc.errors(include_input=False, include_url=False)[0]
    where = ".".join(map(str, error["loc"]))
    return one_line(f"{where}: {error['msg']}" if where else error["msg"])


def _read_json(body: bytes, max_rows: int) -> list[Asked]:
    values = parse_json(body)
    is_many = False
    if isinstance(values, dict) and "inputs" in values:
        is_many = True
        check_count(values["inputs"], max_rows)
    try:
        rows = Rows.model_validate(values).inputs if is_many else [Row.model_validate(values)]
    except ValidationError as exc:
        raise RefusedError(422, "invalid_parameters", explain(exc)) from exc
    return [
        Asked(
            image=None if row.image is None else read_base64(row.image, f"image {number}"),
            url=row.url,
            text=row.text,
        )
        for number, row in enumerate(rows)
    ]
