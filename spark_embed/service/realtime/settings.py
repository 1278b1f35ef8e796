"""The only home of the service's settings: names, defaults, limits, and their table in docs/service.md.

load_settings.py makes flags, environment variables and YAML keys of them. Those that the job has as options,
too, are config's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field
from pydantic.fields import FieldInfo

from spark_embed.config import ModelChoice, ModelOptions, Names, default_text, describe_option


def _setting(default: Any, description: str, **limits: Any) -> Any:
    return Field(default, description=description, **limits)


def _as_upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_as_upper)]


def _check_rate(rate: str) -> str:
    from limits import parse_many  # of spark-embed[service], which only a service needs

    try:
        parse_many(rate)
    except ValueError:
        raise ValueError("must be a number per time, such as 100/second or 20/second;600/minute") from None
    return rate


_ORIGIN = re.compile(r"\*|https?://[^/\s]+")


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    if not all(map(_ORIGIN.fullmatch, origins)):
        raise ValueError("must be * or origins such as https://example.com, without a path, comma-separated")
    return origins


_DEVICE = re.compile(r"(auto|gpu|cuda)(:\d+)?|cpu|mps")


def _check_device(device: str) -> str:
    if not _DEVICE.fullmatch(device):
        raise ValueError("must be auto, gpu, cuda, cuda:1, mps or cpu")
    return device


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ServiceSettings(_Section):
    """What the service is called, and where it listens."""

    name: str = _setting("spark-embed", "what the service calls itself, in /info", min_length=1)
    # An unset shell variable gives an empty text, which would else mean every address of the machine.
    host: str = _setting(
        "127.0.0.1", "address to listen at; 0.0.0.0: all of this machine, as in a container", min_length=1
    )
    port: int = _setting(8000, "port to listen at; 0: any free one", ge=0, le=65535)


class ServerSettings(_Section):
    """What is accepted, and what is refused."""

    max_queue_size: int = _setting(1024, "images that may wait; more are refused with 503", ge=1)
    max_queue_bytes: ByteSize = _setting(
        "512MiB",
        "bytes of the requests under way, and of what is ready for the model; more are refused with 503",
        ge=1,
        validate_default=True,
    )
    request_timeout_s: float = _setting(30, "a request that takes longer is answered with 504", gt=0)
    predict_timeout_s: float = _setting(
        120, "a forward pass that takes longer has hung, and the process ends", gt=0
    )
    max_body_bytes: ByteSize = _setting(
        "64MiB", "a larger request is refused with 413", ge=1, validate_default=True
    )
    max_images: int = _setting(64, "images in one request; more are refused with 422", ge=1)
    rate_limit: Annotated[str, AfterValidator(_check_rate)] | None = _setting(
        None, "requests of one client, such as 100/second; more are refused with 429; default: no limit"
    )
    api_key_file: str | None = _setting(
        None,
        "file with the key that each request must bring; default: the variable INFERENCE_API_KEY, else none "
        "is asked for",
        min_length=1,
    )
    cors_origins: Annotated[Names, AfterValidator(_check_origins)] = _setting(
        (), "origins whose web pages may call the service, comma-separated; *: all; default: none"
    )
    allow_urls: bool = _setting(False, "fetch an image by its url, where a request has one")
    drain_timeout_s: float = _setting(
        30, "after SIGTERM, how long accepted requests may take to be answered", ge=0
    )
    n_decode_threads: int | None = _setting(None, "threads that decode; default: one per core", ge=1)
    n_processes: int = _setting(1, "processes, each with a model: one per device", ge=1)


class LoggingSettings(_Section):
    """What is logged, and how."""

    level: Level = _setting("INFO", "from which level on lines are logged; --env dev: DEBUG")
    format: Literal["json", "text"] = _setting("text", "lines for machines or for people; --env prod: json")


class ModelSettings(ModelChoice):
    """Which model, where and how it runs."""

    model_config = ConfigDict(allow_inf_nan=False)

    like: str | None = _setting(
        None,
        "output folder of a run (local or s3://), whose model and options are used; what else is given here "
        "wins, so --model_directory may say where the model is now",
        min_length=1,
    )
    device: Annotated[str, AfterValidator(_check_device)] = _setting(
        "auto", "auto, gpu (never the CPU), cuda, cuda:1, mps or cpu"
    )
    batch_size: int | None = _setting(
        None, "images in one forward pass at most; default: what a folder with code says, else 32", ge=1
    )
    batch_wait_s: float | None = _setting(
        None,
        "how long a batch may wait for more images while others are under way; default: what a folder with "
        "code says, else 0.003",
        ge=0,
    )


class Settings(_Section):
    """All settings of a service. Immutable, and free of secrets: of the key it knows the file's name."""

    service: ServiceSettings = ServiceSettings()
    server: ServerSettings = ServerSettings()
    logging: LoggingSettings = LoggingSettings()
    model: ModelSettings = ModelSettings()

    @property
    def n_processes(self) -> int:
        """Processes, one per device."""
        return self.server.n_processes

    def model_options(self) -> ModelOptions:
        """Return the options of the model, by the job's names."""
        chosen = {name: getattr(self.model, name) for name in ModelChoice.model_fields}
        return ModelOptions.model_validate({**chosen, **self.given_options()})

    def given_options(self) -> dict[str, Any]:
        """Return those that somebody has set, by the job's names."""
        model = self.model
        given = {
            name: getattr(model, name) for name in ModelChoice.model_fields if name in model.model_fields_set
        }
        return given if model.batch_size is None else {**given, "batch_size": model.batch_size}


SECTIONS: Mapping[str, Mapping[str, FieldInfo]] = {
    name: section.model_fields
    for name, section in (
        ("service", ServiceSettings),
        ("server", ServerSettings),
        ("logging", LoggingSettings),
        ("model", ModelSettings),
    )
}


def settings_table() -> str:
    """Return the table of docs/service.md, as Markdown."""
    lines = ["| setting | default | what it does |", "|---|---|---|"]
    for section, fields in SECTIONS.items():
        for key, field in fields.items():
            lines.append(f"| `{section}.{key}` | {default_text(field)} | {describe_option(field)} |")
    return "\n".join(lines)
