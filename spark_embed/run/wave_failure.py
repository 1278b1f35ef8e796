"""What a failed wave means, read from the failure of its Spark job; runs nothing.

All that is left of an error on an executor is its text, in the words of whoever raised it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from py4j.protocol import Py4JError

from spark_embed.datasets import BadShard, ParquetSource
from spark_embed.datasets.units import Unit
from spark_embed.errors import ModelError, StoppedError, StorageError
from spark_embed.run.binding import Binding
from spark_embed.storage import free_bytes, no_space_error, root_cause, store_failure

_ROW_BYTES = 300  # of a row's other columns, about
# In a worker's traceback.
_MODEL_ERROR = re.compile(rf"{ModelError.__module__}\.ModelError: (.*)")
_STOPPED = re.compile(rf"{StoppedError.__module__}\.StoppedError: (.*)")


# A worker that says so has read what the store has whole; a file that is gone is gone.
_ABOUT_CONTENT = re.compile(
    rf"^(?:Caused by: )?(?:{StorageError.__module__}\.StorageError|org\.apache\.parquet\.[\w.$]+Exception"
    r"|org\.apache\.hadoop\.fs\.ChecksumException|java\.io\.FileNotFoundException)\b",
    re.MULTILINE,
)
_BAD_CHECKSUM = "org.apache.hadoop.fs.ChecksumException: "


class PassingStorageError(StorageError):
    """S3 failed in a way that another attempt may not meet."""


class UnreadableShardsError(Exception):
    """Some shards made a wave fail.

    `is_certain`: by what they hold, so that to read them once more is no use.
    """

    def __init__(self, bad: Sequence[BadShard], *, is_certain: bool) -> None:
        super().__init__(f"{len(bad)} shards cannot be read")
        self.bad = bad
        self.is_certain = is_certain


def explain_failure(
    exc: Exception, binding: Binding, root: str, units: Iterable[Unit], n_rows: int
) -> Exception:
    """Return what a failed Spark job means: a limit, no model, a full disk, no store, bad shards, or itself.

    Args:
        exc: Spark's error.
        binding: of the run.
        root: the output folder.
        units: that the wave embedded.
        n_rows: of the wave.
    """
    text = _text_of(exc)
    if told := _STOPPED.search(text):
        return StoppedError(told[1].strip())
    if told := _MODEL_ERROR.search(text):  # first: what a disk or a store said to it is in the text, too
        return ModelError(f"{told[1].strip()} (on a worker; what is complete stays so)")
    if "No space left on device" in text or "Disk quota exceeded" in text:
        model = binding.preflight.model
        n_values = sum(one.get("embedding_dim", 0) for one in (model, *model.get("models", {}).values()))
        return _full_disk(root, n_rows * (n_values * 4 + _ROW_BYTES))
    failure = store_failure(text)
    if (failure is None or failure.is_of_a_file) and (bad := _shards_in(text, binding.source, units)):
        return UnreadableShardsError(bad, is_certain=_ABOUT_CONTENT.search(text) is not None)
    return explain_store_failure(exc) or exc  # of a file: one that the wave was writing


def explain_store_failure(exc: Exception) -> StorageError | None:
    """Return what a failed Spark job means if S3 made it fail: no file is wrong; None if it did not."""
    if failure := store_failure(_text_of(exc)):
        kind = PassingStorageError if failure.is_passing else StorageError
        return kind(
            f"S3 failed: {failure.line}; what is complete stays so: once that is put right, start the same "
            "command again, and it goes on"
        )
    return None


def _text_of(exc: Exception) -> str:
    """Return a failure with all its causes: those of Java are not in its message."""
    try:
        trace = getattr(exc, "getStackTrace", str)()  # Spark Connect's; a server may keep it out of the text
        return f"{exc}\n{trace}" if trace else str(exc)
    except (Py4JError, OSError):  # the JVM, which is asked for them, has ended
        return type(exc).__name__


def _full_disk(root: str, need: int) -> StorageError:
    """Return which disk is full, where a wave needs so many bytes of the output's."""
    if free_bytes(root) < need:
        return no_space_error(root, need)
    return StorageError(
        "no space left on the disk of Spark's scratch files (spark.local.dir, TMPDIR); free some, then start "
        "the same command again: it goes on"
    )


def _shards_in(text: str, source: ParquetSource, units: Iterable[Unit]) -> list[BadShard]:
    """Return the shards that a failure names, each with what it says of them."""
    texts = (text, unquote(text))  # Java escapes in a path what a URI cannot hold, and not as Python does
    bad = {
        shard.name: BadShard(shard.name, _reason(text, path, line))
        for shard in dict.fromkeys(unit.shard for unit in units)
        for path in (os.path.join(source.folder, shard.path), os.path.join(source.root, shard.name))
        if (line := _line_with(texts, path))
    }
    return list(bad.values())


def _line_with(texts: Iterable[str], path: str) -> str | None:
    """Return the line of a failure that names a file."""
    for text in texts:
        # Not the beginning of another's name; nor, if it is a folder, that of a file in it.
        if (start := text.find(path)) >= 0 and not re.match(r"[\w/]", text[start + len(path) :]):
            begin = text.rfind("\n", 0, start) + 1
            return text[begin:].partition("\n")[0].strip(" :")[:500]
    return None


def _reason(text: str, path: str, line: str) -> str:
    """Return what is wrong with a file, where Spark's own words for it are that it could not be read."""
    if _BAD_CHECKSUM in text:
        folder, name = os.path.split(path)
        return (
            f"{path}: its bytes are not those of which {folder}/.{name}.crc has the checksums; if the shard "
            "was written anew since, delete that .crc file, else the shard is broken"
        )
    if "[FAILED_READ_FILE" in line and (cause := root_cause(text)):
        return f"{path}: cannot be read: {cause}"
    return line
