"""The only home of options: names, defaults, limits, and their table in docs/options.md.

load_config.py makes flags, environment variables and YAML keys of them. Every other room receives a finished
`Config` and never asks where a value came from.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

Environment = Literal["dev", "prod"]
ENVIRONMENTS = get_args(Environment)

GROUPS = (
    "Input",
    "Images",
    "Urls",
    "Model",
    "Labels and texts",
    "Parity",
    "Output",
    "Run",
    "AWS",
    "Tables",
)
"""Headings of --help and of docs/options.md, in their order."""


def _option(default: Any, group: str, description: str, **limits: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"group": group}, **limits)


def _split_names(value: object) -> object:
    return (
        tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value
    )


Names = Annotated[tuple[str, ...], BeforeValidator(_split_names)]


_ANONYMOUS = re.compile(r"s3[an]?://anonymous@([^/@]+)")
_SECRET = re.compile(r"[A-Za-z_]\w*=[\w/+=.@:-]+", re.ASCII)


def _check_secrets(names: tuple[str, ...]) -> tuple[str, ...]:
    if not all(map(_SECRET.fullmatch, names)):
        raise ValueError("must be VARIABLE=secret-name or VARIABLE=secret-name:key, comma-separated")
    return names


Secrets = Annotated[tuple[str, ...], BeforeValidator(_split_names), AfterValidator(_check_secrets)]


BatchSize = Annotated[int, Field(ge=1)] | Literal["auto"]


def _as_number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.strip() == "1" else value


OneFile = Annotated[Literal[1], BeforeValidator(_as_number)]  # flags and the environment are texts


Layouts = Literal["auto", "parquet", "webdataset", "img2dataset_files", "image_folder", "url_list"]


S3Jars = Literal["slim", "full", "none"]


Task = Literal["embed", "classify", "embed_text", "label", "predict", "auto"]


class ModelChoice(BaseModel):
    """The options that choose a model and what it makes of an image; the real-time service has them, too."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    task: Task = _option(
        "embed",
        "Model",
        "embed: a vector of each image; classify: labels by the model's head, or those of --labels; "
        "embed_text: a vector of each text of --text_column, without images; label: what a remote API says; "
        "predict: scores of the rows of tables (docs/tables.md); "
        "auto: classify if config.json names a class ForImageClassification, else embed. A folder with code, "
        "and an API, say themselves what they give",
    )
    model_directory: str | None = _option(
        None,
        "Model",
        "folder in Hugging Face layout or with code of its own (local or s3://), a hub id, or a .yaml file "
        "that describes a remote API; several, comma-separated, each give columns of their own; default: the "
        "embedded EfficientNet-Lite0",
        min_length=1,
    )
    revision: str | None = _option(None, "Model", "branch, tag or commit of a hub id", min_length=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _option(
        "auto", "Model", "precision of the forward pass; auto: what the device is fast at, if parity holds"
    )
    normalize: bool = _option(True, "Model", "scale every vector to length 1 (L2)")
    top_k: int = _option(
        5, "Labels and texts", "classify: labels in top_labels and top_scores, the best first", ge=1
    )
    min_score: float = _option(
        0,
        "Labels and texts",
        "classify: labels with a lower score are not in top_labels and top_scores",
        ge=0,
        le=1,
    )
    with_embedding: bool = _option(
        False, "Labels and texts", "classify: the vector of each image as well, of the same forward pass"
    )
    allow_truncated: bool = _option(
        False, "Images", "decode a truncated image as far as it goes, instead of making it an error row"
    )
    text_column: str | None = _option(
        None,
        "Labels and texts",
        "embed: the column with captions, for text_embedding and clip_score by a CLIP or SigLIP; embed_text: "
        "the column with the texts",
        min_length=1,
    )
    labels: str | None = _option(
        None,
        "Labels and texts",
        "classify: labels to choose from, by a CLIP or SigLIP: comma-separated, or a file (local or s3://) "
        "with one on each line",
        min_length=1,
    )
    prompt: str = _option(
        "a photo of a {}",
        "Labels and texts",
        "classify: what the model is asked of each of --labels",
        pattern=r"\{\}",
    )
    threshold: float | None = _option(
        None,
        "Tables",
        "predict: the score from which on a row is of the second of two classes; default: the model's own",
        ge=0,
        le=1,
    )
    allow_pickle_weights: bool = _option(
        False, "Model", "accept weights that are not safetensors (loaded with weights_only=True)"
    )
    trust_remote_code: bool = _option(
        False,
        "Model",
        "let the model bring its own code, Python or an exported program (.pt2); a local folder with "
        "model.py need not be told",
    )
    max_pixels: int = _option(
        100_000_000, "Images", "an image with more pixels (by its header) is an error row", ge=1
    )


class ModelOptions(ModelChoice):
    """The options that decide what a vector is; `image_embedding` takes them by the same names."""

    require_gpu: bool = _option(False, "Model", "stop at once where there is no GPU (CUDA or MPS)")
    batch_size: BatchSize = _option(
        32, "Model", "images in one forward pass; auto: as many as make the model fast, tried out first"
    )
    compile: bool = _option(
        False,
        "Model",
        "torch.compile the network: some 20 s in each worker, for the gain that the summary says",
    )
    secrets: Secrets = _option(
        (),
        "AWS",
        "environment variables to fill from AWS Secrets Manager, by name, on the driver and in each worker: "
        "HF_TOKEN=secret-name, or HF_TOKEN=secret-name:key; comma-separated",
    )
    decode_timeout_s: float = _option(
        30, "Images", "an image that takes longer to decode is an error row", gt=0
    )

    @property
    def model_directories(self) -> tuple[str, ...]:
        """What --model_directory names: nothing, or several; a path with commas that is there is one."""
        given = self.model_directory
        if given is None:
            return ()
        if "," not in given or os.path.exists(os.path.expanduser(given)):
            return (given,)
        return tuple(one.strip() for one in given.split(","))


def is_api_file(model_directory: str | None) -> bool:
    """Say whether a --model_directory is the file of a remote API."""
    return (model_directory or "").lower().endswith((".yaml", ".yml"))


class Config(ModelOptions):
    """All options of a run. Immutable; written as it is into metadata.json (secrets are only named)."""

    # An unset shell variable gives an empty text, which would else name the working folder.
    input_dir: str = _option(
        ...,
        "Input",
        "folder with the images, in any layout; searched through its subfolders; predict: a table's file, or "
        "a folder of them",
        min_length=1,
    )
    layout: Layouts = _option("auto", "Input", "what --input_dir holds; auto: what its files say")
    image_column: str | None = _option(
        None,
        "Input",
        "column with the encoded images; default: jpg, jpeg, png, webp, image, or Hugging Face's",
        min_length=1,
    )
    url_column: str = _option(
        "url", "Input", "text column with the urls or paths of a url table or list", min_length=1
    )
    list_quoting: Literal["standard", "none"] = _option(
        "standard",
        "Input",
        "quotes in CSV and TSV lists; standard: they may enclose a field, which may then have delimiters and "
        "line breaks; none: they are characters like others",
    )
    id_column: str | None = _option(
        None,
        "Input",
        "column that becomes image_id; default: key, else id, else shard#row; the path in an image folder. "
        "predict: the first column of the output; default: id, of shard#row",
        min_length=1,
    )
    include_features: bool = _option(
        False, "Tables", "predict: the features, as the model got them, go to the output, too"
    )
    columns: Names | None = _option(
        None, "Input", "own columns to carry to the output, comma-separated; default: all"
    )
    drop_columns: Names = _option((), "Input", "own columns to leave out, comma-separated")
    allowed_roots: Names = _option(
        (), "Input", "folders outside --input_dir, and s3://buckets, that a url column may point into"
    )
    max_image_bytes: ByteSize = _option(
        "256MiB", "Images", "a larger encoded image is an error row", ge=1, validate_default=True
    )
    fetch_timeout_s: float = _option(
        60,
        "Urls",
        "a url whose image is not there after so long is an error row, all attempts together",
        gt=0,
    )
    fetch_connect_timeout_s: float = _option(
        10, "Urls", "seconds for one attempt to find a url's host and connect to it", gt=0
    )
    fetch_read_timeout_s: float = _option(
        20, "Urls", "seconds without a byte after which an attempt is given up", gt=0
    )
    fetch_redirects: int = _option(5, "Urls", "redirects that are followed", ge=0)
    fetch_attempts: int = _option(
        3, "Urls", "attempts at a url in all, where an error may pass (429, 5xx, connections)", ge=1
    )
    fetch_concurrency: int = _option(32, "Urls", "downloads at once in each task", ge=1, le=1024)
    fetch_concurrency_per_host: int = _option(
        16, "Urls", "downloads at once in each task from one host", ge=1, le=1024
    )
    allow_private_addresses: bool = _option(
        False, "Urls", "fetch urls also from private, loopback and link-local addresses"
    )
    image_transport: Literal["auto", "reference", "bytes"] = _option(
        "auto", "Input", "the worker reads the image column itself, or gets it from Spark; auto: what works"
    )
    verify_shards: bool = _option(
        False, "Input", "know a replaced shard by its content, not by size and modification time"
    )
    fail_on_bad_shard: bool = _option(
        True,
        "Input",
        "end with exit code 8 if a shard could not be read, once the others are done; false: with 0",
    )
    max_error_fraction: float | None = _option(
        None, "Input", "stop when more of the rows than this (0 to 1) are errors; default: never", ge=0, le=1
    )
    min_error_count: int = _option(
        100, "Input", "errors that there must be before --max_error_fraction counts", ge=1
    )
    max_samples: int | None = _option(None, "Input", "embed only the first N rows, in shard order", ge=1)
    parity_samples: int = _option(
        16, "Parity", "images of the run to compare with plain transformers first; 0: none", ge=0
    )
    parity_min_cosine: float = _option(
        0.999, "Parity", "smallest cosine with plain transformers that counts as equal", ge=-1, le=1
    )
    parity_action: Literal["warn", "fail"] = _option("warn", "Parity", "what to do below --parity_min_cosine")

    jpeg_scaling: Literal["auto", "off"] = _option(
        "auto",
        "Images",
        "decode JPEGs much larger than the model needs at 1/2, 1/4 or 1/8; auto: if the sample keeps parity",
    )

    output_dir: str = _option(
        ..., "Output", "folder for embeddings.parquet, errors.parquet, metadata.json", min_length=1
    )
    overwrite: bool = _option(
        False, "Output", "start anew, instead of going on with what is already in --output_dir"
    )
    prune: bool = _option(False, "Output", "delete the rows of shards that are no longer in --input_dir")
    retry_errors: bool = _option(False, "Output", "embed the rows of errors.parquet once more")
    output_file_bytes: ByteSize = _option(
        "128MiB", "Output", "size to which output files are coalesced", ge=1_000, validate_default=True
    )
    output_files: OneFile | None = _option(
        None,
        "Output",
        "1: embeddings.parquet and errors.parquet are one file each, to which no later run can add; "
        "default: folders of files",
    )

    output_format: Literal["parquet", "csv"] = _option(
        "parquet",
        "Tables",
        "predict; csv: predictions.csv as well, one file with a row for each row of the input, in its order",
    )

    wave_s: float = _option(
        300, "Run", "seconds of work between two checkpoints: what an interruption costs at most twice", gt=0
    )
    num_workers: int | None = _option(
        None,
        "Run",
        "tasks at once on this machine; default: one per core; a cluster's settings decide there",
        ge=1,
    )
    hourly_price: float | None = _option(
        None, "Run", "USD per hour of one machine: the summary then says what the run has cost", gt=0
    )
    max_hours: float | None = _option(
        None,
        "Run",
        "stop so many hours after the start: what is complete is published, and the same command goes on",
        gt=0,
    )
    max_cost: float | None = _option(
        None,
        "Run",
        "the same where the run's machines have cost so many USD, by --hourly_price, or a remote API's "
        "answers, by the prices in its file",
        gt=0,
    )
    config: str | None = _option(
        None, "Run", "YAML file (local or s3://) with any of these options", min_length=1
    )
    env: Environment = _option(
        "dev", "Run", "reads conf/<env>.yaml; dev logs DEBUG for people, prod JSON lines"
    )
    aws_region: str | None = _option(
        None,
        "AWS",
        "region of the S3 buckets; default: AWS_REGION, AWS_DEFAULT_REGION, else what S3 itself says",
        min_length=1,
    )
    anonymous: bool = _option(False, "AWS", "use S3 without credentials, as public buckets allow")
    anonymous_buckets: Names = _option(
        (), "AWS", "S3 buckets to use without credentials, comma-separated; all others with them"
    )
    s3_jars: S3Jars = _option(
        "slim",
        "AWS",
        "jars for Spark's S3 paths, fetched once from Maven; slim: 13 MB, full: with the whole AWS SDK, "
        "none: Spark has its own",
    )
    profile_dir: str | None = _option(
        None,
        "Run",
        "folder on the workers for a profile of each task (needs spark-embed[profile])",
        min_length=1,
    )
    dry_run: bool = _option(False, "Run", "print what was found and what would run, then stop")

    @model_validator(mode="before")
    @classmethod
    def _reads_anonymous(cls, values: Any) -> Any:
        """Take s3://anonymous@bucket/path, as pyarrow has it, for that bucket without credentials."""
        found = _ANONYMOUS.match(str(values.get("input_dir", ""))) if isinstance(values, dict) else None
        if found is None:
            return values
        buckets = _split_names(values.get("anonymous_buckets") or ())
        if not isinstance(buckets, tuple | list):  # refused below
            return values
        uri = values["input_dir"].replace("anonymous@", "", 1)
        return {**values, "input_dir": uri, "anonymous_buckets": (*buckets, found[1])}

    @field_validator("include_features", "output_format")
    @classmethod
    def _is_of_tables(cls, value: object, info: ValidationInfo) -> object:
        if value not in (False, "parquet") and info.data.get("task") != "predict":
            raise ValueError("is for --task predict")
        return value

    @field_validator("max_cost")
    @classmethod
    def _has_price(cls, value: float | None, info: ValidationInfo) -> float | None:
        needs_price = not is_api_file(info.data.get("model_directory"))
        if value is not None and needs_price and info.data.get("hourly_price") is None:
            raise ValueError("needs --hourly_price, what one machine costs an hour")
        return value


def options_table() -> str:
    """Return the table of docs/options.md, as Markdown."""
    lines = []
    for title, options in grouped_options().items():
        lines += ["", f"## {title}", "", "| flag | default | what it does |", "|---|---|---|"]
        lines += [
            f"| `--{name}` | {default_text(field)} | {describe_option(field)} |"
            for name, field in options.items()
        ]
    return "\n".join(lines)


def grouped_options() -> dict[str, dict[str, FieldInfo]]:
    """Return the options by heading, the required ones first."""
    fields = sorted(Config.model_fields.items(), key=lambda item: not item[1].is_required())
    return {title: {name: field for name, field in fields if _group(field) == title} for title in GROUPS}


def _group(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["group"]) if isinstance(extra, dict) else ""


def describe_option(field: FieldInfo) -> str:
    """Return what an option does, with the values that it may have where they are few."""
    choices = getattr(field.annotation, "__args__", ())
    text = field.description or ""
    if choices and all(isinstance(choice, str) for choice in choices):
        return f"{text} ({', '.join(choices)})"
    return text


def default_text(field: FieldInfo, *, plain: bool = False) -> str:
    """Return an option's default as people read it, in Markdown unless `plain`."""
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == ():
        return "none" if plain else ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if plain else f"`{text}`"
