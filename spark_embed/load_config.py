"""Flags, environment and YAML files -> one `Config`; every other room receives it finished.

A flag beats the environment (SPARK_EMBED_BATCH_SIZE), which beats the --config YAML, which beats
conf/<env>.yaml. Which options there are is config.py's business.
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from spark_embed import storage
from spark_embed.config import (
    ENVIRONMENTS,
    Config,
    grouped_options,
)
from spark_embed.errors import EXIT_CODES, ConfigError, one_line
from spark_embed.flags import OptionParser, nearest

ENVIRONMENT_PREFIX = "SPARK_EMBED_"
MAX_YAML_BYTES = 1_000_000

_SPELLINGS = {"input": "input_dir", "output": "output_dir", "model": "model_directory"}
"""Of flags, as scripts of other programs have them."""


def load_config(argv: Sequence[str], environ: Mapping[str, str], description: str = "") -> Config:
    """Merge flags, environment and YAML files into a `Config`.

    Args:
        argv: the flags.
        environ: the environment.
        description: what --help says above them.

    Raises:
        ConfigError: an unknown or wrong option, with where it came from and the nearest real name.
    """
    flags = _read_flags(argv, description)
    environment = _read_environment(environ)
    chosen = {**environment, **flags}
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("the environment", environment),
        ("the command line", flags),
    ]
    if path := chosen.get("config"):
        layers.insert(0, (str(path), read_yaml(str(path), f"--config {path}", refused=("config",))))
    env = next(
        (layer["env"] for _, layer in reversed(layers) if "env" in layer), Config.model_fields["env"].default
    )
    if env in ENVIRONMENTS:  # any other value is refused with the rest
        path = str(conf_folder() / f"{env}.yaml")
        layers.insert(0, (path, read_yaml(path, path, refused=("config", "env"))))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        values.update(layer)
        origins.update(dict.fromkeys(layer, origin))
    return make_config(values, origins)


def make_config(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> Config:
    """Validate `values` into a `Config`; from Python, `Config(...)` does the same with pydantic's errors.

    Raises:
        ConfigError: one line that names the first wrong option, its value and what is allowed.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as exc:
        raise ConfigError(_explain(exc, origins or {})) from exc


def conf_folder() -> Path:
    """Return the folder conf/: inside the package when installed from a wheel, else beside it."""
    package = Path(__file__).parent
    if not package.is_dir():
        return _unpacked_conf_folder()
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


@cache
def _unpacked_conf_folder() -> Path:
    """Return a copy of conf/ out of the zip that the package is in, as spark-submit --py-files brings it."""
    folder = Path(tempfile.mkdtemp(prefix="spark_embed-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _unpack(resources.files("spark_embed").joinpath("conf"), folder)
    return folder


def _unpack(source: Traversable, folder: Path) -> None:
    for there in source.iterdir():
        here = folder / there.name
        if there.is_dir():
            here.mkdir()
            _unpack(there, here)
        else:
            here.write_bytes(there.read_bytes())


def read_properties(path: str) -> dict[str, str]:
    """Read a Spark properties file: a name, white space or =, a value; # begins a comment line."""
    values = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            text = line.strip()
            if text and not text.startswith("#"):
                name, value = re.split(r"\s*=\s*|\s+", text, maxsplit=1)
                values[name] = value
    return values


def _read_flags(argv: Sequence[str], description: str) -> dict[str, Any]:
    parser = OptionParser(
        prog="spark-embed",
        usage="--input_dir DIR --output_dir DIR [--OPTION VALUE ...]",
        description=description,
        epilog="\n".join(["exit codes:", *(f"  {code:<4}{text}" for code, text in EXIT_CODES.items())]),
    )
    for title, options in grouped_options().items():
        parser.add_options(title, options)
    return parser.read(list(map(plain_flag, argv)))


def plain_flag(word: str) -> str:
    """Return a word of a command line with the flag in it by its own name: --batch-size is --batch_size.

    What names no flag stays as it is.
    """
    flag, equals, value = word.partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    name = _SPELLINGS.get(name, name)
    is_ours = flag.startswith("--") and name in Config.model_fields
    return f"--{name}{equals}{value}" if is_ours else word


def _read_environment(environ: Mapping[str, str]) -> dict[str, str]:
    values = {}
    for variable, value in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name not in Config.model_fields:
            said = nearest(name, Config.model_fields, lambda known: ENVIRONMENT_PREFIX + known.upper())
            raise ConfigError(f"unknown environment variable {variable}{said}")
        values[name] = value
    return values


def read_yaml(path: str, called: str, *, refused: Sequence[str]) -> dict[str, Any]:
    """Read a file of options, `called` so in errors, in which the options `refused` have no effect.

    Raises:
        ConfigError: it cannot be read, or holds anything else.
    """
    values = load_yaml(path, called)
    for name in values:
        if name not in Config.model_fields:
            raise ConfigError(f"{called}: unknown option {name!r}{nearest(str(name), Config.model_fields)}")
        if name in refused:
            raise ConfigError(f"{called}: {name} has no effect in this file; give it as a flag")
    return values


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which would let the last of two equal keys win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node.

        Raises:
            yaml.YAMLError: a key is there twice.
        """
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_yaml(path: str, called: str) -> dict[Any, Any]:
    """Read a YAML file of names and values, here or in S3, `called` so in errors.

    Raises:
        ConfigError: it cannot be read, or holds anything else.
    """
    try:
        values = yaml.load(_read_text(path, called), _Loader)  # noqa: S506  it is a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # ValueError: a date such as 2026-02-31
        raise ConfigError(f"{called}: not YAML: {one_line(exc, None)}") from exc
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{called}: must hold lines such as 'batch_size: 64', not a {type(values).__name__}"
        )
    return values


def _read_text(path: str, called: str) -> str:
    if storage.is_s3(path):
        path = storage.folder_path(path, "--config")
    try:
        # The first look at a store: a wrong endpoint should not take minutes to be told.
        with storage.impatient(), storage.open_binary(path) as file:
            data = file.read(MAX_YAML_BYTES + 1)
        if len(data) > MAX_YAML_BYTES:
            raise ConfigError(f"{called}: larger than {MAX_YAML_BYTES} bytes, so not a list of options")
        return data.decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{called}: cannot be read: {exc}") from exc


def _explain(exc: ValidationError, origins: Mapping[str, str]) -> str:
    error = exc.errors()[0]
    name = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "missing":
        return f"--{name} is required: {Config.model_fields[name].description}"
    if error["type"] == "extra_forbidden":
        return f"unknown option {name!r}{nearest(name, Config.model_fields)}"
    return explain_value(exc, 1, f"--{name}", origins.get(name))


def explain_value(exc: ValidationError, depth: int, called: str, origin: str | None) -> str:
    """Return what is wrong with the first wrong value, that of an option which lies `depth` names deep."""
    errors = exc.errors()
    place = errors[0]["loc"][:depth]
    # One error for each kind of value that the option takes.
    message = ", or ".join(reworded(error["msg"]) for error in errors if error["loc"][:depth] == place)
    return f"{called} {errors[0]['input']!r}{f' (from {origin})' if origin else ''}: {message}"


def explain_entry(
    exc: ValidationError,
    known: Callable[[str], Iterable[str]],
    what: str = "name",
    secret: Collection[str] = (),
) -> str:
    """Return what is wrong with the first wrong entry of a file that a pydantic model describes.

    Args:
        exc: what the model said.
        known: the names that there are beside the one at a place such as `prices.page`.
        what: such an entry is called.
        secret: entries whose values are not shown, nor what is in them.
    """
    error = exc.errors()[0]
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{name} is missing"
    if error["type"] == "extra_forbidden":
        names = list(known(name))
        hint = nearest(str(error["loc"][-1]), names, otherwise=f"; there are {', '.join(names)}")
        return f"unknown {what} {name!r}{hint}"
    # What a check of ours says names the value where it may be shown.
    is_secret = error["type"] == "value_error" or str(error["loc"][0]) in secret
    shown = "" if is_secret else f" {error['input']!r}"
    return f"{name}{shown}: {reworded(error['msg'])}" if name else reworded(error["msg"])


def reworded(message: str) -> str:
    """Return one of pydantic's messages as the rest of a sentence that begins with the option."""
    return (
        message.removeprefix("Value error, ").replace("Input should", "must").replace("String should", "must")
    )
