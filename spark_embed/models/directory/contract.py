"""What a folder with code has to hold: config.json's keys, and the methods of ModelImpl; runs none of it."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spark_embed.errors import ModelError, one_line
from spark_embed.models.folder import parse_object

CONFIG_FILE = "config.json"
CODE_FILE = "model.py"
CODE_CLASS = "ModelImpl"
METHODS = ("load", "warmup", "batch_size", "batch_wait_s", "encode")

MAX_CONFIG_BYTES = 1 << 20

# In the config.json of transformers and timm, and of nobody else.
_OF_LIBRARIES = frozenset(("model_type", "architecture", "auto_map"))

Text = Annotated[str, Field(min_length=1)]


class Metadata(BaseModel):
    """What decides columns and table; further keys are the folder's own.

    Attributes:
        type: what `encode` returns of a row: a vector, or labels with scores.
        image: what it is given: a PIL image, or RGB uint8 (height, width, 3).
        text_column: the data set's column that it is given as `text`; None for none.
        labels: the classes in order, so that a label has a number.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Literal["embedding", "classifier"]
    image: Literal["pil", "array"] = "pil"
    text_column: Text | None = None
    labels: tuple[str, ...] = ()


class FolderConfig(BaseModel):
    """The config.json of a folder with code; further keys are the folder's own.

    Attributes:
        batch_size, batch_wait_s: for people; what counts is what `ModelImpl` says.
        weights: a folder, relative to this one, or a hub id; `ModelImpl` is given where it is.
    """

    model_config = ConfigDict(extra="allow", frozen=True, coerce_numbers_to_str=True)

    name: Text
    version: Text
    description: str = ""
    batch_size: int = Field(ge=1)
    batch_wait_s: float = Field(ge=0)
    metadata: Metadata
    weights: Text | None = None


def is_config_of_code(config: Mapping[str, Any]) -> bool:
    """Say whether a config.json is that of a folder with code, whatever else the folder holds."""
    return isinstance(config.get("metadata"), dict) and _OF_LIBRARIES.isdisjoint(config)


def is_code_folder(config: bytes | None, *, has_code: bool) -> bool:
    """Say whether a folder is one with code, by its config.json (None: it has none), and a model.py in it.

    A network of transformers or timm stays one, though many of them bring Python files, too.
    """
    try:
        values = parse_object((config or b"{}").decode())
    except ValueError:  # not JSON: told by `parse_config`
        return has_code
    return is_config_of_code(values) or (has_code and _OF_LIBRARIES.isdisjoint(values))


def untrusted(source: str) -> str:
    """Return why code from elsewhere does not run."""
    return (
        f"--model_directory {source}: holds code of its own ({CODE_FILE}), which runs from S3 or a hub only "
        "with --trust_remote_code; from a local folder without"
    )


def parse_config(data: bytes | None) -> tuple[FolderConfig, dict[str, Any]]:
    """Return a config.json, looked at and as it is; None is one that is not there.

    Raises:
        ValueError: all that is wrong with it, as one line.
    """
    if data is None:
        raise ValueError(f"there is no {CONFIG_FILE}")
    if len(data) > MAX_CONFIG_BYTES:
        raise ValueError(f"{CONFIG_FILE} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        values = parse_object(data.decode())
        return FolderConfig.model_validate(values), values
    except ValidationError as exc:
        wrong = (f"{'.'.join(map(str, error['loc']))} {_reworded(error['msg'])}" for error in exc.errors())
        raise ValueError(f"{CONFIG_FILE}: {one_line('; '.join(wrong))}") from exc
    except ValueError as exc:
        raise ValueError(f"{CONFIG_FILE} {one_line(exc)}") from exc


def read_config(folder: str, source: str) -> tuple[FolderConfig, dict[str, Any]]:
    """Do that for a folder on this machine.

    Raises:
        ModelError: it cannot be read, or something is wrong with it.
    """
    try:
        with open(os.path.join(folder, CONFIG_FILE), "rb") as file:
            data: bytes | None = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        data = None
    except OSError as exc:
        raise ModelError(f"--model_directory {source}: {CONFIG_FILE}: {one_line(exc.strerror)}") from exc
    try:
        return parse_config(data)
    except ValueError as exc:
        raise ModelError(f"--model_directory {source}: {exc}") from exc


def find_code_problem(code: bytes | None) -> str | None:
    """Say what is wrong with a model.py, as far as it tells without being run; None: it is not there."""
    if code is None:
        return f"there is no {CODE_FILE}"
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        line = f":{exc.lineno}" if isinstance(exc, SyntaxError) and exc.lineno else ""
        said = exc.msg if isinstance(exc, SyntaxError) else exc
        return f"{CODE_FILE}{line} is no Python: {one_line(said)}"
    # It may also be imported from a file beside it.
    names = {name for node in ast.walk(tree) for name in _named(node)}
    return None if CODE_CLASS in names or "*" in names else f"{CODE_FILE} has no class {CODE_CLASS}"


def _named(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    return [node.id] if isinstance(node, ast.Name) else []


def _reworded(message: str) -> str:
    return "is missing" if message == "Field required" else message.replace("Input should", "must")
