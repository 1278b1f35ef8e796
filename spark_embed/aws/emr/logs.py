"""The logs that EMR puts into S3: where a step's driver or a bootstrap action wrote, and what was wrong."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spark_embed.aws.job_flags import flag_value
from spark_embed.aws.log_lines import find_error, last_line
from spark_embed.errors import StorageError
from spark_embed.storage import folder_path, list_folder, list_names, open_binary

SHIPPED_EVERY = "EMR puts logs into S3 every 5 minutes, and once more when a step ends"

_APPLICATION = re.compile(r"\bapplication_\d+_\d+\b")
_INSTANCE = re.compile(r"\bi-[0-9a-f]{6,}\b")


@dataclass(frozen=True)
class Log:
    """What a program on the cluster has written.

    Attributes:
        folder: in S3, where it is.
        stderr: where the job's own log goes.
        stdout: where its summary goes.
        written_s: when EMR put the newest of it there; epoch.
    """

    folder: str
    stderr: str
    stdout: str
    written_s: float

    def error(self) -> str | None:
        """Return the line that says what was wrong, None if there is none."""
        return find_error(self.stderr) or find_error(self.stdout)

    def last_line(self) -> str:
        """Return the last line that says anything."""
        return last_line(f"{self.stdout}\n{self.stderr}")


def driver_log(log_uri: str, cluster_id: str, step: Mapping[str, Any]) -> Log | None:
    """Return the log of a step's driver, as far as it is in S3; None if nothing is there yet.

    In client mode that is the step's own. In cluster mode this names the application, whose first container,
    of the last attempt, is the driver.

    Raises:
        StorageError: the logs cannot be read.
    """
    log = step_log(log_uri, cluster_id, step)
    if log is None or flag_value(step["Config"]["Args"], "--deploy-mode") != "cluster":
        return log
    for application in dict.fromkeys(reversed(_APPLICATION.findall(log.stderr))):
        folder = f"{_home(log_uri, cluster_id)}/containers/{application}"
        drivers = [name for name in list_names(folder) if name.endswith("_000001")]
        if drivers and (found := _read_log(f"{folder}/{drivers[-1]}")):
            return found
    return None


def step_log(log_uri: str, cluster_id: str, step: Mapping[str, Any]) -> Log | None:
    """Return the log of spark-submit itself, as far as it is in S3."""
    return _read_log(f"{_home(log_uri, cluster_id)}/steps/{step['Id']}")


def bootstrap_log(log_uri: str, cluster_id: str, reason: str) -> Log | None:
    """Return the log of the bootstrap action that failed, as far as it is in S3.

    Args:
        log_uri: of the cluster.
        cluster_id: of the cluster.
        reason: what EMR says of it, in which it names the instance.
    """
    home = f"{_home(log_uri, cluster_id)}/node"
    named = _INSTANCE.findall(reason)
    logs = [
        log
        for node in [*named, *list_names(home)]
        for number in list_names(f"{home}/{node}/bootstrap-actions")
        if (log := _read_log(f"{home}/{node}/bootstrap-actions/{number}"))
    ]
    return next((log for log in logs if log.error()), logs[0] if logs else None)


def _home(log_uri: str, cluster_id: str) -> str:
    return f"{folder_path(log_uri, 'LogUri')}/{cluster_id}"


def _read_log(folder: str) -> Log | None:
    files = [file for file in list_folder(folder) if file.path.startswith(("stderr", "stdout"))]
    if not files:
        return None
    names = [file.path for file in files]
    texts = {
        kind: "".join(_read(f"{folder}/{name}") for name in _parts(names, kind))
        for kind in ("stderr", "stdout")
    }
    return Log(folder, **texts, written_s=max(file.modified_ns for file in files) / 1e9)


def _parts(names: list[str], kind: str) -> Iterator[str]:
    """Yield the files of a log in order: what was rotated away has its time in its name."""
    yield from sorted(name for name in names if name.startswith(kind))


def _read(path: str) -> str:
    try:
        with open_binary(path) as file:
            data = file.read()
        return (gzip.decompress(data) if path.endswith(".gz") else data).decode(errors="replace")
    except (OSError, EOFError, zlib.error) as exc:
        raise StorageError(f"{path}: cannot be read: {exc}") from exc
