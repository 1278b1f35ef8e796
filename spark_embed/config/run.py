"""The options of a run: where it reads and writes, and what it may take; with those of its model."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, ByteSize, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from spark_embed.config.model import ModelOptions, is_api_file
from spark_embed.config.option import (
    GROUPS,
    Names,
    default_text,
    describe_option,
    group_of,
    option,
    split_names,
)

Environment = Literal["dev", "prod"]
ENVIRONMENTS = get_args(Environment)

Layouts = Literal["auto", "parquet", "webdataset", "img2dataset_files", "image_folder", "url_list"]

S3Jars = Literal["slim", "full", "none"]


def _as_number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.strip() == "1" else value


OneFile = Annotated[Literal[1], BeforeValidator(_as_number)]  # flags and the environment are texts

_ANONYMOUS = re.compile(r"s3[an]?://anonymous@([^/@]+)")


class Config(ModelOptions):
    """All options of a run. Immutable; written as it is into metadata.json (secrets are only named)."""

    # An unset shell variable gives an empty text, which would else name the working folder.
    input_dir: str = option(
        ...,
        "Input",
        "folder with the images, in any layout; searched through its subfolders; predict: a table's file, or "
        "a folder of them",
        min_length=1,
    )
    layout: Layouts = option("auto", "Input", "what --input_dir holds; auto: what its files say")
    image_column: str | None = option(
        None,
        "Input",
        "column with the encoded images; default: jpg, jpeg, png, webp, image, or Hugging Face's",
        min_length=1,
    )
    url_column: str = option(
        "url", "Input", "text column with the urls or paths of a url table or list", min_length=1
    )
    list_quoting: Literal["standard", "none"] = option(
        "standard",
        "Input",
        "quotes in CSV and TSV lists; standard: they may enclose a field, which may then have delimiters and "
        "line breaks; none: they are characters like others",
    )
    id_column: str | None = option(
        None,
        "Input",
        "column that becomes image_id; default: key, else id, else shard#row; the path in an image folder. "
        "predict: the first column of the output; default: id, of shard#row",
        min_length=1,
    )
    include_features: bool = option(
        False, "Tables", "predict: the features, as the model got them, go to the output, too"
    )
    columns: Names | None = option(
        None, "Input", "own columns to carry to the output, comma-separated; default: all"
    )
    drop_columns: Names = option((), "Input", "own columns to leave out, comma-separated")
    allowed_roots: Names = option(
        (), "Input", "folders outside --input_dir, and s3://buckets, that a url column may point into"
    )
    max_image_bytes: ByteSize = option(
        "256MiB", "Images", "a larger encoded image is an error row", ge=1, validate_default=True
    )
    fetch_timeout_s: float = option(
        60,
        "Urls",
        "a url whose image is not there after so long is an error row, all attempts together",
        gt=0,
    )
    fetch_connect_timeout_s: float = option(
        10, "Urls", "seconds for one attempt to find a url's host and connect to it", gt=0
    )
    fetch_read_timeout_s: float = option(
        20, "Urls", "seconds without a byte after which an attempt is given up", gt=0
    )
    fetch_redirects: int = option(5, "Urls", "redirects that are followed", ge=0)
    fetch_attempts: int = option(
        3, "Urls", "attempts at a url in all, where an error may pass (429, 5xx, connections)", ge=1
    )
    fetch_concurrency: int = option(32, "Urls", "downloads at once in each task", ge=1, le=1024)
    fetch_concurrency_per_host: int = option(
        16, "Urls", "downloads at once in each task from one host", ge=1, le=1024
    )
    allow_private_addresses: bool = option(
        False, "Urls", "fetch urls also from private, loopback and link-local addresses"
    )
    image_transport: Literal["auto", "reference", "bytes"] = option(
        "auto", "Input", "the worker reads the image column itself, or gets it from Spark; auto: what works"
    )
    verify_shards: bool = option(
        False, "Input", "know a replaced shard by its content, not by size and modification time"
    )
    fail_on_bad_shard: bool = option(
        True,
        "Input",
        "end with exit code 8 if a shard could not be read, once the others are done; false: with 0",
    )
    max_error_fraction: float | None = option(
        None, "Input", "stop when more of the rows than this (0 to 1) are errors; default: never", ge=0, le=1
    )
    min_error_count: int = option(
        100, "Input", "errors that there must be before --max_error_fraction counts", ge=1
    )
    max_samples: int | None = option(None, "Input", "embed only the first N rows, in shard order", ge=1)
    parity_samples: int = option(
        16, "Parity", "images of the run to compare with plain transformers first; 0: none", ge=0
    )
    parity_min_cosine: float = option(
        0.999, "Parity", "smallest cosine with plain transformers that counts as equal", ge=-1, le=1
    )
    parity_action: Literal["warn", "fail"] = option("warn", "Parity", "what to do below --parity_min_cosine")

    jpeg_scaling: Literal["auto", "off"] = option(
        "auto",
        "Images",
        "decode JPEGs much larger than the model needs at 1/2, 1/4 or 1/8; auto: if the sample keeps parity",
    )

    output_dir: str = option(
        ..., "Output", "folder for embeddings.parquet, errors.parquet, metadata.json", min_length=1
    )
    overwrite: bool = option(
        False, "Output", "start anew, instead of going on with what is already in --output_dir"
    )
    prune: bool = option(False, "Output", "delete the rows of shards that are no longer in --input_dir")
    retry_errors: bool = option(False, "Output", "embed the rows of errors.parquet once more")
    output_file_bytes: ByteSize = option(
        "128MiB", "Output", "size to which output files are coalesced", ge=1_000, validate_default=True
    )
    output_files: OneFile | None = option(
        None,
        "Output",
        "1: embeddings.parquet and errors.parquet are one file each, to which no later run can add; "
        "default: folders of files",
    )

    output_format: Literal["parquet", "csv"] = option(
        "parquet",
        "Tables",
        "predict; csv: predictions.csv as well, one file with a row for each row of the input, in its order",
    )

    wave_s: float = option(
        300, "Run", "seconds of work between two checkpoints: what an interruption costs at most twice", gt=0
    )
    num_workers: int | None = option(
        None,
        "Run",
        "tasks at once on this machine; default: one per core; a cluster's settings decide there",
        ge=1,
    )
    hourly_price: float | None = option(
        None, "Run", "USD per hour of one machine: the summary then says what the run has cost", gt=0
    )
    max_hours: float | None = option(
        None,
        "Run",
        "stop so many hours after the start: what is complete is published, and the same command goes on",
        gt=0,
    )
    max_cost: float | None = option(
        None,
        "Run",
        "the same where the run's machines have cost so many USD, by --hourly_price, or a remote API's "
        "answers, by the prices in its file",
        gt=0,
    )
    config: str | None = option(
        None, "Run", "YAML file (local or s3://) with any of these options", min_length=1
    )
    env: Environment = option(
        "dev", "Run", "reads conf/<env>.yaml; dev logs DEBUG for people, prod JSON lines"
    )
    aws_region: str | None = option(
        None,
        "AWS",
        "region of the S3 buckets; default: AWS_REGION, AWS_DEFAULT_REGION, else what S3 itself says",
        min_length=1,
    )
    anonymous: bool = option(False, "AWS", "use S3 without credentials, as public buckets allow")
    anonymous_buckets: Names = option(
        (), "AWS", "S3 buckets to use without credentials, comma-separated; all others with them"
    )
    s3_jars: S3Jars = option(
        "slim",
        "AWS",
        "jars for Spark's S3 paths, fetched once from Maven; slim: 13 MB, full: with the whole AWS SDK, "
        "none: Spark has its own",
    )
    profile_dir: str | None = option(
        None,
        "Run",
        "folder on the workers for a profile of each task (needs spark-embed[profile])",
        min_length=1,
    )
    dry_run: bool = option(False, "Run", "print what was found and what would run, then stop")

    @model_validator(mode="before")
    @classmethod
    def _reads_anonymous(cls, values: Any) -> Any:
        """Take s3://anonymous@bucket/path, as pyarrow has it, for that bucket without credentials."""
        found = _ANONYMOUS.match(str(values.get("input_dir", ""))) if isinstance(values, dict) else None
        if found is None:
            return values
        buckets = split_names(values.get("anonymous_buckets") or ())
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
    return {title: {name: field for name, field in fields if group_of(field) == title} for title in GROUPS}
