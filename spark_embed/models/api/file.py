"""The YAML file that is a remote model's whole description; asks nobody and knows no secret."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from yarl import URL

from spark_embed.config import Config, ModelOptions
from spark_embed.errors import ConfigError, ModelError, one_line
from spark_embed.load_config import explain_entry, load_yaml
from spark_embed.models.api.columns import Column, parse_column
from spark_embed.schema import EMBEDDING, RESERVED, error_column

Provider = Literal["openai_chat", "openai_embeddings", "document_parse"]

RAW, PARSED = "raw", "parsed"
"""The results: an answer as it came, in a column of that name, and what is made of it."""

_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEFAULT_BASE_URLS = {"document_parse": "https://api.upstage.ai/v1"}

Usd = Annotated[float, Field(ge=0)]


class Prices(BaseModel):
    """What the provider asks for, in US dollars; what is not named costs nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    request: Usd = 0
    page: Usd = 0
    million_input_tokens: Usd = 0
    million_output_tokens: Usd = 0


class ApiFile(BaseModel):
    """A remote model: who answers, what is asked, what becomes of it, and how fast and dear it may be.

    Attributes:
        base_url: in front of the provider's own path, such as /chat/completions.
        model: as the provider calls it.
        key: the name of the environment variable that holds the key; None for a server that wants none.
        prompt: what is asked of each image.
        fields: more of the request, as the provider's reference has it: temperature, response_format, ocr ...
        columns: by name, where in the answer each is: `path` or `path as type` (`columns.parse_column`).
        max_edge: pixels; a larger image is sent as a JPEG of that size. None: images are sent as they are.
        requests_per_s, tokens_per_minute, pages_per_minute: of the key, over all tasks together; of the last
            two what the provider counts.
        concurrency: requests at once, of each task.
        timeout_s: of one attempt.
        attempts: in all, where an error may pass (429, 5xx, connections, an answer that breaks off).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    provider: Provider
    base_url: str = Field("", validate_default=True)
    model: str = Field(min_length=1)
    key: str | None = None
    prompt: str = ""
    fields: dict[str, Any] = {}
    columns: dict[str, str] = {}
    max_edge: int | None = Field(None, ge=16)
    requests_per_s: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    pages_per_minute: float | None = Field(None, gt=0)
    concurrency: int = Field(16, ge=1, le=1024)
    timeout_s: float = Field(60, gt=0)
    attempts: int = Field(5, ge=1, le=20)
    prices: Prices = Prices()

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, value: str, info: Any) -> str:
        value = value or _DEFAULT_BASE_URLS.get(info.data.get("provider"), "")
        url = URL(value)  # ValueError: brackets that are no IPv6 address, a port above 65535
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("must be a url such as http://localhost:8000/v1")
        if url.user or url.password or url.query_string:
            raise ValueError("must hold no key, password or query: name the key's variable (key)")
        return value.rstrip("/")

    @field_validator("key")
    @classmethod
    def _check_key(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE.fullmatch(value):
            # Not the value itself: it may be the key.
            raise ValueError("must be the name of an environment variable that holds the key, not the key")
        return value

    @field_validator("fields")
    @classmethod
    def _check_fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        if ours := sorted({"model", "messages", "document", "stream"} & values.keys()):
            raise ValueError(f"{ours[0]} is not yours to set here")
        try:
            json.dumps(values, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as exc:  # dates, !!binary, .nan, an alias to itself
            raise ValueError(f"must be what JSON can say: {one_line(exc, 100)}") from None
        return values

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, values: dict[str, str]) -> dict[str, str]:
        reserved = {name.lower() for name in RESERVED if name != EMBEDDING}
        taken = {RAW, error_column(RAW), error_column(PARSED), *reserved}
        for name, place in values.items():
            if not _PLAIN_NAME.fullmatch(name) or name.lower() in taken:
                raise ValueError(f"{name!r} cannot be a column's name: letters, digits, _; not {RAW}")
            parse_column(name, place)
        if len({name.lower() for name in values}) < len(values):
            raise ValueError("two names differ only in case")
        return values

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        """Refuse a limit that would do nothing."""
        counted, other = ("pages", "tokens") if self.provider == "document_parse" else ("tokens", "pages")
        if getattr(self, f"{other}_per_minute"):
            raise ValueError(f"{other}_per_minute: {self.provider} counts {counted}: {counted}_per_minute")
        prices = {"pages": ("page",), "tokens": ("million_input_tokens", "million_output_tokens")}
        if wrong := [name for name in prices[other] if getattr(self.prices, name)]:
            raise ValueError(f"prices.{wrong[0]}: {self.provider} counts {counted}, not {other}")
        return self

    @property
    def has_prices(self) -> bool:
        """Whether answers cost anything."""
        return any(self.prices.model_dump().values())

    @property
    def units_per_s(self) -> float | None:
        """Tokens or pages a second that the key allows."""
        per_minute = self.pages_per_minute or self.tokens_per_minute
        return per_minute / 60 if per_minute else None

    def parsed_columns(self) -> list[Column]:
        """Return the columns beside `RAW`, in order."""
        return [parse_column(name, place) for name, place in self.columns.items()]

    def compared(self) -> dict[str, Any]:
        """Return what decides what an answer is and what is made of it, as JSON values."""
        names = {"provider", "base_url", "model", "prompt", "fields", "max_edge"}
        plain = self.model_dump(mode="json", include=names)
        return {**plain, "answer_columns": self.columns}  # a fingerprint's "columns" are the data set's own

    def read_key(self) -> str | None:
        """Return the key; None where none is named.

        Raises:
            ModelError: its environment variable is not set here.
        """
        if self.key is None:
            return None
        if value := os.environ.get(self.key, "").strip():
            return value
        raise ModelError(
            f"{self.key}: the environment variable with the key for {self.base_url} is not set where the "
            f"tasks run: set it there, or on AWS say where it is kept (--secrets {self.key}=SECRET-NAME)"
        )


def read_options(options: ModelOptions) -> tuple[tuple[str, Any], ...]:
    """Return what a recipe holds of a remote model: its file, as JSON; on the driver.

    Raises:
        ConfigError: the file cannot be read, or something in it cannot be used; or --max_cost has no price.
    """
    api = _read(options)
    if isinstance(options, Config) and options.max_cost and not (options.hourly_price or api.has_prices):
        raise ConfigError(
            f"--max_cost {options.max_cost:g}: stops nothing without prices: say in "
            f"{options.model_directory} what the provider asks for, or give --hourly_price"
        )
    return (("api", api.model_dump_json()),)


def read_compared(options: ModelOptions) -> tuple[tuple[str, Any], ...]:
    """Return what of the file decides a result: neither how fast nor how dear; on the driver.

    Raises:
        ConfigError: as `read_options`.
    """
    return (("api", _read(options).compared()),)


def _read(options: ModelOptions) -> ApiFile:
    path = os.path.expanduser(options.model_directory or "")
    called = f"--model_directory {options.model_directory}"
    return parse_api(load_yaml(path, called), called)


def parse_api(values: dict[str, Any], called: str) -> ApiFile:
    """Return the description with these values, of a file that is `called` so in errors.

    Raises:
        ConfigError: one line that names the first that is wrong.
    """
    try:
        return ApiFile.model_validate(values)
    except ValidationError as exc:
        if "max_cost_usd" in values:
            raise ConfigError(f"{called}: max_cost_usd is an option of the command now: --max_cost") from None
        raise ConfigError(
            f"{called}: {explain_entry(exc, _names_beside, secret=('base_url', 'key'))}"
        ) from None


def _names_beside(name: str) -> Iterable[str]:
    return Prices.model_fields if name.startswith("prices.") else ApiFile.model_fields
