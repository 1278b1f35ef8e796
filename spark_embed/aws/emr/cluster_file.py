"""emr/cluster.yaml -> one `Cluster`: the file that people edit, checked before anything is asked of AWS."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from spark_embed.errors import ConfigError, one_line
from spark_embed.load_config import conf_folder, load_yaml, reworded
from spark_embed.storage import is_s3, split_s3

_PLACEHOLDER = re.compile(r"\bBUCKET\b|\bsubnet-ID\b")


def _as_text(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int) else value


def _s3_folder(value: object) -> object:
    if not isinstance(value, str) or not is_s3(value) or not split_s3(value)[0]:
        raise ValueError("must be a folder in S3: s3://bucket/folder")
    bucket, key = split_s3(value.rstrip("/"))
    return f"s3://{bucket}/{key}".rstrip("/")


Text = Annotated[str, Field(min_length=1), BeforeValidator(_as_text)]
S3Folder = Annotated[str, BeforeValidator(_s3_folder)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fleet(_Part):
    """Instances of one kind of node: how many, and of which types EC2 may take whichever it has."""

    # An allocation strategy allows 30 types in a fleet (API_InstanceFleetConfig).
    types: tuple[Text, ...] = Field(min_length=1, max_length=30)
    on_demand: int = Field(0, ge=0)
    spot: int = Field(0, ge=0)
    volume_gb: int = Field(100, ge=10, le=16_384)

    @property
    def n_instances(self) -> int:
        """How many there are when all have come."""
        return self.on_demand + self.spot


class Fleets(_Part):
    """The nodes of a cluster: primary has YARN's master and the driver, core and task have executors."""

    primary: Fleet
    core: Fleet
    task: Fleet | None = None

    @model_validator(mode="after")
    def _check(self) -> Fleets:
        if self.primary.n_instances != 1:
            raise ValueError("primary must be one instance: on_demand: 1")
        if not self.core.n_instances:
            raise ValueError("core must be one instance at least")
        return self


class Configuration(_Part):
    """Settings of a program on the nodes, as EMR has them."""

    Classification: Text
    Properties: dict[str, Text] = Field(default_factory=dict)
    Configurations: tuple[Configuration, ...] = ()


class Cluster(_Part):
    """All of a cluster file."""

    release: str = Field(pattern=r"^emr-(spark-)?\d+\.\d+\.\d+$")
    region: Text
    home: S3Folder
    log_uri: S3Folder
    subnets: tuple[Text, ...] = Field(min_length=1)
    service_role: Text
    instance_profile: Text
    security_configuration: Text | None = None
    idle_timeout_s: int = Field(ge=60, le=604_800)  # what API_AutoTerminationPolicy takes
    tags: dict[str, Text] = Field(default_factory=dict)
    gpu: bool
    conf: Text | None = None
    executors_per_instance: int = Field(1, ge=1)
    spark: dict[str, Text] = Field(default_factory=dict)
    fleets: Fleets
    configurations: tuple[Configuration, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Cluster:
        there = sorted(path.name for path in conf_folder().glob("*.conf"))
        if self.conf_file not in there:
            raise ValueError(f"conf must be one of conf/: {', '.join(there)}, not {self.conf!r}")
        return self

    @property
    def conf_file(self) -> str:
        """The name of the file of Spark settings, in conf/."""
        return self.conf or ("gpu.conf" if self.gpu else "cpu.conf")

    @property
    def workers(self) -> tuple[Fleet, ...]:
        """The fleets that have executors."""
        return tuple(filter(None, (self.fleets.core, self.fleets.task)))


def read_cluster(path: str) -> Cluster:
    """Read a cluster file (--cluster).

    Raises:
        ConfigError: it cannot be read, a key is wrong (which, its value, what is allowed), or a placeholder
            stands there still.
    """
    called = f"--cluster {path}"
    if not os.path.exists(path):
        raise ConfigError(f"{called}: there is no such file; the checkout has emr/cluster.yaml")
    values = load_yaml(str(path), called)
    if left := _placeholders(values):
        names = ", ".join(f"{key} ({found})" for key, found in left.items())
        raise ConfigError(f"{called}: put your own in place of the placeholders of {names}")
    try:
        return Cluster.model_validate(values)
    except ValidationError as exc:
        raise ConfigError(f"{called}: {_explain(exc)}") from exc


def _placeholders(values: Mapping[Any, Any]) -> dict[str, str]:
    """Return the keys of the file that are still as they were shipped, with what stands there."""
    # No further than these are: aliases can make a small file a huge text.
    lists = {str(key): value if isinstance(value, list) else [value] for key, value in values.items()}
    texts = {key: " ".join(filter(_is_text, value)) for key, value in lists.items()}
    return {key: found[0] for key, text in texts.items() if (found := _PLACEHOLDER.search(text))}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _explain(exc: ValidationError) -> str:
    """Return what is wrong with the first wrong key, in one line."""
    errors = exc.errors()
    # A wrong name first: what is missing may be there under it.
    error = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    places = [str(place) for place in error["loc"]]
    name = ".".join(places)
    if error["type"] == "missing":
        return f"{name} is missing"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(places[-1], _keys_beside(places[:-1]), n=1, cutoff=0.5)
        known = (
            f"; did you mean {close[0]}?" if close else f" (known: {', '.join(_keys_beside(places[:-1]))})"
        )
        return f"unknown key {name}{known}"
    if error["type"] == "value_error" and isinstance(error["input"], dict):
        return f"{name}{': ' if name else ''}{reworded(error['msg'])}"
    return f"{name} {error['input']!r}: {one_line(reworded(error['msg']))}"


def _keys_beside(places: list[str]) -> list[str]:
    model: type[BaseModel] = Cluster
    if "configurations" in places:
        model = Configuration
    elif places[:1] == ["fleets"]:
        model = Fleet if places[1:] else Fleets
    return list(model.model_fields)
