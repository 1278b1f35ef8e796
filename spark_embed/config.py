"""The only home of options: flags, defaults, YAML, environment, and the README's table.

A flag beats the environment (SPARK_EMBED_BATCH_SIZE), which beats the --config YAML, which beats
conf/<env>.yaml. Every other room receives a finished `Config` and never asks where a value came from.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from spark_embed.errors import EXIT_CODES, ConfigError

ENVIRONMENT_PREFIX = "SPARK_EMBED_"
MAX_YAML_BYTES = 1_000_000

Environment = Literal["dev", "prod"]
ENVIRONMENTS = get_args(Environment)

GROUPS = ("Input", "Model", "Output", "Run")


def _option(default: Any, group: str, description: str, **limits: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"group": group}, **limits)


def _split_names(value: object) -> object:
    return (
        tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value
    )


Names = Annotated[tuple[str, ...], BeforeValidator(_split_names)]


BatchSize = Annotated[int, Field(ge=1)] | Literal["auto"]


class ModelOptions(BaseModel):
    """The options that decide what a vector is; `image_embedding` takes them by the same names."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_directory: str | None = _option(
        None,
        "Model",
        "folder in Hugging Face layout, or a hub id; default: the embedded EfficientNet-Lite0",
        min_length=1,
    )
    revision: str | None = _option(None, "Model", "branch, tag or commit of a hub id", min_length=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _option(
        "auto", "Model", "precision of the forward pass; auto: what the device is fast at, if parity holds"
    )
    require_gpu: bool = _option(False, "Model", "stop at once where there is no GPU (CUDA or MPS)")
    batch_size: BatchSize = _option(
        32, "Model", "images in one forward pass; auto: as many as make the model fast, tried out first"
    )
    compile: bool = _option(
        False,
        "Model",
        "torch.compile the network: some 20 s in each worker, for the gain that the summary says",
    )
    normalize: bool = _option(True, "Model", "scale every vector to length 1 (L2)")
    allow_pickle_weights: bool = _option(
        False, "Model", "accept weights that are not safetensors (loaded with weights_only=True)"
    )
    trust_remote_code: bool = _option(False, "Model", "let the model folder bring its own Python code")
    decode_timeout_s: float = _option(
        30, "Input", "an image that takes longer to decode is an error row", gt=0
    )
    max_pixels: int = _option(
        100_000_000, "Input", "an image with more pixels (by its header) is an error row", ge=1
    )


class Config(ModelOptions):
    """All options of a run. Immutable; written as it is into metadata.json (no option is a secret)."""

    # An unset shell variable gives an empty text, which would else name the working folder.
    input_dir: str = _option(
        ..., "Input", "folder with the parquet shards, searched through its subfolders", min_length=1
    )
    image_column: str | None = _option(
        None,
        "Input",
        "binary column with the encoded images; default: jpg, jpeg, png, webp or image",
        min_length=1,
    )
    id_column: str | None = _option(
        None, "Input", "column that becomes image_id; default: key, else id, else shard#row", min_length=1
    )
    columns: Names | None = _option(
        None, "Input", "own columns to carry to the output, comma-separated; default: all"
    )
    drop_columns: Names = _option((), "Input", "own columns to leave out, comma-separated")
    allowed_roots: Names = _option(
        (), "Input", "folders outside --input_dir that local paths in a url column may point into"
    )
    image_transport: Literal["auto", "reference", "bytes"] = _option(
        "auto", "Input", "the worker reads the image column itself, or gets it from Spark; auto: what works"
    )
    max_samples: int | None = _option(None, "Input", "embed only the first N rows, in shard order", ge=1)
    parity_samples: int = _option(
        16, "Model", "images of the run to compare with plain transformers first; 0: none", ge=0
    )
    parity_min_cosine: float = _option(
        0.999, "Model", "smallest cosine with plain transformers that counts as equal", ge=-1, le=1
    )
    parity_action: Literal["warn", "fail"] = _option("warn", "Model", "what to do below --parity_min_cosine")

    output_dir: str = _option(
        ..., "Output", "folder for embeddings.parquet, errors.parquet, metadata.json", min_length=1
    )
    overwrite: bool = _option(False, "Output", "replace a run that is already in --output_dir")
    output_file_bytes: ByteSize = _option(
        "128MiB", "Output", "size to which output files are coalesced", ge=1_000, validate_default=True
    )

    num_workers: int | None = _option(
        None, "Run", "tasks at once; default: one per core here, the cluster's slots elsewhere", ge=1
    )
    config: str | None = _option(None, "Run", "YAML file with any of these options", min_length=1)
    env: Environment = _option(
        "dev", "Run", "reads conf/<env>.yaml; dev logs DEBUG for people, prod JSON lines"
    )
    aws_region: str | None = _option(
        None, "Run", "region of the S3 buckets; without effect until S3 is read", min_length=1
    )
    profile_dir: str | None = _option(
        None,
        "Run",
        "folder on the workers for a profile of each task (needs spark-embed[profile])",
        min_length=1,
    )
    dry_run: bool = _option(False, "Run", "print what was found and what would run, then stop")


def load_config(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Merge flags, environment and YAML files into a `Config`.

    Raises:
        ConfigError: an unknown or wrong option, with where it came from and the nearest real name.
    """
    flags = _read_flags(argv)
    environment = _read_environment(environ)
    chosen = {**environment, **flags}
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("the environment", environment),
        ("the command line", flags),
    ]
    if path := chosen.get("config"):
        layers.insert(0, (str(path), _read_yaml(str(path), f"--config {path}", refused=("config",))))
    env = next(
        (layer["env"] for _, layer in reversed(layers) if "env" in layer), Config.model_fields["env"].default
    )
    if env in ENVIRONMENTS:  # any other value is refused with the rest
        path = str(conf_folder() / f"{env}.yaml")
        layers.insert(0, (path, _read_yaml(path, path, refused=("config", "env"))))
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


def options_table() -> str:
    """Return the README's table of flags, as Markdown."""
    lines = ["| flag | default | what it does |", "|---|---|---|"]
    for name, field in _sorted_options():
        lines.append(f"| `--{name}` | {_default_text(field)} | {_with_choices(field)} |")
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    """argparse that raises our error instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (--help lists the flags)")


def _read_flags(argv: Sequence[str]) -> dict[str, Any]:
    parser = _Parser(
        prog="spark-embed",
        description="Turn a folder of images in parquet shards into a folder of embeddings, with Spark.",
        epilog="exit codes: " + "; ".join(f"{code} {text}" for code, text in EXIT_CODES.items()),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=100),
    )
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for name, field in _sorted_options():
        text = _with_choices(field) + (
            "" if field.is_required() else f" [{_default_text(field, plain=True)}]"
        )
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
        metavar = "true|false" if switch else name.split("_")[-1].upper()
        groups[_group(field)].add_argument(
            f"--{name}", metavar=metavar, help=text.replace("%", "%%"), **switch
        )
    known, unknown = parser.parse_known_args(argv)
    for word in unknown:
        if word.startswith("-"):
            flag = word.split("=")[0]
            raise ConfigError(f"unknown flag {flag}{_nearest(flag.lstrip('-').replace('-', '_'), '--')}")
        raise ConfigError(f"{word!r} does not belong to a flag; every option is written --name value")
    return vars(known)


def _read_environment(environ: Mapping[str, str]) -> dict[str, str]:
    values = {}
    for variable, value in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name not in Config.model_fields:
            raise ConfigError(
                f"unknown environment variable {variable}{_nearest(name, ENVIRONMENT_PREFIX, upper=True)}"
            )
        values[name] = value
    return values


def _read_yaml(path: str, called: str, *, refused: Sequence[str]) -> dict[str, Any]:
    """Read a file of options, `called` so in errors, in which the options `refused` have no effect."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_YAML_BYTES + 1)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{called}: cannot be read: {exc}") from exc
    if len(text) > MAX_YAML_BYTES:
        raise ConfigError(f"{called}: larger than {MAX_YAML_BYTES} bytes, so not a list of options")
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # ValueError: a date such as 2026-02-31
        raise ConfigError(f"{called}: not YAML: {' '.join(str(exc).split())}") from exc
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{called}: must hold lines such as 'batch_size: 64', not a {type(values).__name__}"
        )
    for name in values:
        if name not in Config.model_fields:
            raise ConfigError(f"{called}: unknown option {name!r}{_nearest(str(name), '')}")
        if name in refused:
            raise ConfigError(f"{called}: {name} has no effect in this file; give it as a flag")
    return values


def conf_folder() -> Path:
    """Return the folder conf/: inside the package when installed from a wheel, else beside it."""
    package = Path(__file__).parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def _nearest(name: str, prefix: str, *, upper: bool = False) -> str:
    close = difflib.get_close_matches(name.lower(), Config.model_fields, n=1, cutoff=0.5)
    if not close:
        return " (--help lists the options)"
    return f"; did you mean {prefix}{close[0].upper() if upper else close[0]}?"


def _explain(exc: ValidationError, origins: Mapping[str, str]) -> str:
    error = exc.errors()[0]
    name = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "missing":
        return f"--{name} is required: {Config.model_fields[name].description}"
    if error["type"] == "extra_forbidden":
        return f"unknown option {name!r}{_nearest(name, '')}"
    origin = f" (from {origins[name]})" if name in origins else ""
    message = (
        error["msg"]
        .removeprefix("Value error, ")
        .replace("Input should", "must")
        .replace("String should", "must")
    )
    return f"--{name} {error['input']!r}{origin}: {message}"


def _sorted_options() -> list[tuple[str, FieldInfo]]:
    """Return the options by group, the required ones of a group first."""
    return sorted(
        Config.model_fields.items(),
        key=lambda item: (GROUPS.index(_group(item[1])), not item[1].is_required()),
    )


def _group(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["group"]) if isinstance(extra, dict) else "Run"


def _with_choices(field: FieldInfo) -> str:
    choices = getattr(field.annotation, "__args__", ())
    text = field.description or ""
    if choices and all(isinstance(choice, str) for choice in choices):
        return f"{text} ({', '.join(choices)})"
    return text


def _default_text(field: FieldInfo, *, plain: bool = False) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == ():
        return "none" if plain else ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if plain else f"`{text}`"
