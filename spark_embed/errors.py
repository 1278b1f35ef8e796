"""The two kinds of failure: a job that must stop, and a row that becomes an error row.

This room knows nothing of Spark, of images or of models: it only names what can go wrong.
"""

from __future__ import annotations

from typing import Literal, get_args

ErrorCode = Literal[
    "null_bytes",  # the row has no image: null bytes, or no uri
    "not_found",  # the uri names nothing
    "forbidden",  # the uri may not be read: outside the allowed folders, a private address, or access denied
    "fetch_failed",  # reading the bytes failed in any other way
    "timeout",  # fetching or decoding took longer than its limit
    "too_many_bytes",  # the encoded image is larger than the limit
    "too_many_pixels",  # the header announces more pixels than the limit
    "not_an_image",  # the bytes are in no format that is read here
    "corrupt",  # an image format, but the pixels cannot be decoded
    "out_of_memory",  # the image does not fit in memory, on the host or on the device
    "bad_vector",  # the model returned NaN, an infinity or only zeros
]
ERROR_CODES: frozenset[str] = frozenset(get_args(ErrorCode))

ERROR_DETAIL_CHARS = 200
_LINE_CHARS = 300


class RowError(Exception):
    """A row has no result, or lacks one of several; it says so in the output, and the job goes on.

    Args:
        code: one of a closed set, so that counting by code stays bounded: `ERROR_CODES`, or a model's own.
        detail: what a person needs to know; cut at 200 characters when the row is made.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail[:ERROR_DETAIL_CHARS]

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str]]:
        return type(self), (self.code, self.detail)

    def without_traceback(self) -> RowError:
        """Return the same without what it was raised from, which may hold an image's bytes and pixels."""
        return type(self)(self.code, self.detail)


class ImageError(RowError):
    """One image cannot be used; `code` is one of `ERROR_CODES`."""

    def __init__(self, code: ErrorCode, detail: str = "") -> None:
        super().__init__(code, detail)


class SparkEmbedError(Exception):
    """The job cannot go on. Its text is one line that says what to do; nothing was lost.

    Attributes:
        is_final: nothing that is under way is worth waiting for.
        summary: of the run, for a person; empty where it has published nothing.
    """

    exit_code = 1
    is_final = False
    summary = ""


class ConfigError(SparkEmbedError):
    """An option, or the input that it points at, cannot be used."""

    exit_code = 2


class ModelError(SparkEmbedError):
    """The model cannot be loaded, is not a vision model, or does not give the vectors it should."""

    exit_code = 3


class StorageError(SparkEmbedError):
    """Reading the input or writing the output failed."""

    exit_code = 4


class NoSpaceError(StorageError):
    """The disk, or a quota, is full."""


class ErrorBudgetExceeded(SparkEmbedError):  # noqa: N818  says what happened
    """More images failed than --max_error_fraction allows."""

    exit_code = 5
    is_final = True


class ResumeError(SparkEmbedError):
    """What stands in --output_dir does not go together with this run."""

    exit_code = 6
    is_final = True


class VerifyError(SparkEmbedError):
    """A table, or what is published in an output folder, is not what it should be."""

    exit_code = 7


class BadShardsError(SparkEmbedError):
    """Shards of the input could not be read; all others are done."""

    exit_code = 8

    def __init__(self, message: str, summary: str = "") -> None:
        super().__init__(message)
        self.summary = summary


class SparkLostError(SparkEmbedError):
    """Spark has ended in the middle of the run: its JVM, or its application on a cluster."""

    exit_code = 9


class StoppedError(SparkEmbedError):
    """The run has come to --max_hours or --max_cost; what is complete stays."""

    exit_code = 10

    def __init__(self, message: str, summary: str = "") -> None:
        super().__init__(message)
        self.summary = summary


class CloudError(SparkEmbedError):
    """A cloud refuses what it is asked for, or what runs there has failed."""

    exit_code = 11


EXIT_CODES: dict[int, str] = {
    0: "done; every input row is in embeddings.parquet or in errors.parquet",
    1: "the Spark job failed, or a bug: the lines above say which",
    ConfigError.exit_code: "an option or the input cannot be used; nothing was written",
    ModelError.exit_code: "the model cannot be used; what was complete before stays so",
    StorageError.exit_code: "reading the input or writing the output failed; once it is possible, the same "
    "command goes on",
    ErrorBudgetExceeded.exit_code: "more images failed than --max_error_fraction allows",
    ResumeError.exit_code: "--output_dir is in use, or holds something that this run must not mix with; "
    "nothing was changed",
    VerifyError.exit_code: "spark-embed verify or validate found something wrong, or drift too much of it",
    BadShardsError.exit_code: "shards of the input cannot be read and are left out; all other rows are done",
    SparkLostError.exit_code: "Spark's JVM or application has ended, killed or out of memory; the same "
    "command goes on",
    StoppedError.exit_code: "stopped at --max_hours or --max_cost; the same command goes on",
    CloudError.exit_code: "spark-embed emr, batch: AWS refuses a call, or the step, its cluster or the job "
    "failed",
    130: "interrupted (Ctrl-C or SIGTERM); the same command goes on",
}


def one_line(said: object, max_chars: int | None = _LINE_CHARS) -> str:
    """Return what a library or a data set says, often many lines, as one that a terminal can bear.

    Of an exception that says nothing, its type.
    """
    text = "".join(character if character.isprintable() else " " for character in str(said))
    line = " ".join(text.split())
    if not line and isinstance(said, BaseException):
        line = type(said).__name__
    return line[:max_chars]


def fatal_error_named(name: str) -> type[SparkEmbedError]:
    """Return the fatal error class called `name`: errors cross from executor to driver by name."""
    known = (
        ConfigError,
        ModelError,
        StorageError,
        NoSpaceError,
        ErrorBudgetExceeded,
        ResumeError,
        StoppedError,
    )
    classes = {cls.__name__: cls for cls in known}
    return classes.get(name, SparkEmbedError)
