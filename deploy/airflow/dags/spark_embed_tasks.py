"""What the DAGs share: the project's commands as tasks, a run's folders, alerts; imports nothing of it.

Airflow and the project have an environment each, for their packages do not go together. A task runs a command
of the project's, in the folder that the Airflow Variable `spark_embed_home` names, with `.venv` in it.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import (
    BaseOperator,
    Context,
    CronDataIntervalTimetable,
    DeadlineAlert,
    DeadlineReference,
    Param,
    SyncCallback,
    Variable,
)
from airflow.sdk.exceptions import AirflowException, AirflowFailException

HOME = "spark_embed_home"
SUBMIT = "spark_embed_submit"
ALERT_URL = "spark_embed_alert_url"

_PATIENCE_S = 30
_UNUSABLE = 2
_FINAL_CODES = {
    _UNUSABLE: "an option or the input cannot be used",
    3: "the model cannot be used",
    5: "too many rows failed",
    7: "what was checked is not as it should be",
}
"""Exit codes that a retry would meet again (docs/options.md).

Not 6: it also says that another run holds the output folder, such as one that outlives its lost worker.
"""

logger = logging.getLogger(__name__)


def alert(text: str) -> None:
    """Log a line, and post it as {"text": ...} to the URL in the Variable `spark_embed_alert_url`, if any."""
    logger.error(text)
    url = Variable.get(ALERT_URL, default=None)
    if url:
        body = json.dumps({"text": text}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=_PATIENCE_S):  # noqa: S310  the owner has set it
            pass


def alert_failure(context: Context) -> None:
    """Say that a task has failed for good: after its last retry, or at once where none would help."""
    task = context["task_instance"]
    alert(f"{task.dag_id}.{task.task_id} has failed in run {task.run_id}: {context.get('exception')}")


def alert_deadline(context: Mapping[str, Any], **_: object) -> None:
    """Say that a run is not done by its deadline; it goes on."""
    run = context["dag_run"]
    alert(f"{run['dag_id']} is late: run {run['dag_run_id']} has missed its deadline, and goes on")


DEFAULT_ARGS = {
    "retries": 3,
    "retry_delay": timedelta(seconds=float(os.environ.get("BATCH_RETRY_DELAY_S", 600))),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(hours=1),
    "execution_timeout": timedelta(seconds=float(os.environ.get("BATCH_TASK_TIMEOUT_S", 6 * 3600))),
    "on_failure_callback": alert_failure,
}


def deadline() -> DeadlineAlert | None:
    """Return the alert two hours after a run was queued; its callback runs on the executor, as tasks do.

    None in `airflow dags test`, which has no scheduler and fails over one in the end (apache/airflow#73428).
    """
    if sys.argv[1:3] == ["dags", "test"]:
        return None
    seconds = float(os.environ.get("BATCH_DEADLINE_S", 7200))
    return DeadlineAlert(
        DeadlineReference.DAGRUN_QUEUED_AT, timedelta(seconds=seconds), SyncCallback(alert_deadline)
    )


def nightly() -> dict[str, Any]:
    """Return what the DAGs have in common: daily at 2, one run at a time, with retries and a deadline."""
    return {
        "schedule": CronDataIntervalTimetable("0 2 * * *", timezone="UTC"),
        "start_date": datetime(2026, 1, 1, tzinfo=UTC),
        "catchup": False,
        "max_active_runs": 1,
        "default_args": DEFAULT_ARGS,
        "deadline": deadline(),
        "tags": ["spark_embed"],
    }


def text_param(default: str | None, description: str) -> Param:
    """Return a param that is a text, or nothing where that is its default; a flag's dash may not begin it."""
    types = ["string", "null"] if default is None else "string"
    return Param(default, type=types, pattern="^[^-]", description=description)


class RunFolders:
    """Where a run reads and writes: named by its data interval, so that whoever runs again goes on there.

    Attributes:
        input: `{ds}` in the param stands for the day on which the interval begins.
        output: below the param output_path.
        archive: below the param archive_dir.
        scratch: how the folders begin, one of each try, for what is thrown away.
    """

    def __init__(self, context: Context) -> None:
        params, home = context["params"], Variable.get(HOME)
        start = context.get("data_interval_start")
        run_id = context["dag_run"].run_id
        interval = f"{start:%Y-%m-%dT%H%M}" if start else _folder_name(run_id)  # there is no logical date
        day = f"{start or context['dag_run'].run_after:%Y-%m-%d}"
        self.home = home
        self.input = _below(home, params["input_path"].replace("{ds}", day))
        self.output = _below(home, params["output_path"], interval)
        self.archive = _below(home, params["archive_dir"], interval)
        self.scratch = f"{context['dag'].dag_id}-{_hash(f'{home} {run_id}')}-"


def _folder_name(run_id: str) -> str:
    """Return a name that no other run has; whoever triggers a run chooses its id."""
    name = re.sub(r"[^\w.-]+", "_", run_id)[:200]
    name = name if name[0].isalnum() else f"run{name}"
    return name if name == run_id else f"{name}-{_hash(run_id)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _below(home: str, folder: str, *names: str) -> str:
    return os.path.join("" if "://" in folder else home, folder, *names)


class ProjectCommand(BaseOperator):
    """Run commands of the project, one after the other; XComs are values that the last has printed as JSON.

    A command that is interrupted loses nothing: what is complete stays, and the retry goes on from there.
    """

    _process: subprocess.Popen[str] | None = None

    def commands(self, context: Context, run: RunFolders) -> Sequence[Sequence[str]]:
        """Return the commands, the first word of each a program of the project's environment."""
        # Each task's own to say; `abc` cannot ask for it, as BaseOperator's metaclass is not ABCMeta.
        raise NotImplementedError(f"{type(self).__name__} says no commands")

    def results(self, context: Context, run: RunFolders, printed: Mapping[str, Any]) -> dict[str, Any]:
        """Return what goes into XComs, given the object that the last command has printed, {} if none."""
        return {}

    def execute(self, context: Context) -> None:
        """Run them.

        Raises:
            AirflowFailException: one has failed such that a retry would, too.
            AirflowException: one has failed.
        """
        run = RunFolders(context)
        printed: dict[str, Any] = {}
        with tempfile.TemporaryDirectory(prefix=run.scratch, ignore_cleanup_errors=True) as scratch:
            for command in self.commands(context, run):
                printed = self._run(list(command), run, scratch)
        for key, value in self.results(context, run, printed).items():
            context["task_instance"].xcom_push(key, value)

    def on_kill(self) -> None:
        """End the command with its children, gently first: it says what is complete."""
        if (process := self._process) is None:
            return
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(_PATIENCE_S)
        with suppress(ProcessLookupError):  # children that outlive it, too
            os.killpg(process.pid, signal.SIGKILL)

    def _run(self, command: list[str], run: RunFolders, scratch: str) -> dict[str, Any]:
        binaries = os.path.join(run.home, ".venv", "bin")
        self.log.info("%s", command)
        # stderr is the task's own: its lines are in the log while the command runs.
        self._process = subprocess.Popen(
            [os.path.join(binaries, command[0]), *command[1:]],
            stdout=subprocess.PIPE,
            text=True,
            cwd=run.home,
            env=_environment(binaries, scratch),
            start_new_session=True,
        )
        last = ""
        try:
            with self._process.stdout as lines:  # spark-submit's has what its job says on stderr, too
                for line in lines:
                    self.log.info("%s", line.rstrip())
                    last = line
            code = self._process.wait()
        finally:
            self.on_kill()
        printed = _json_of(last)
        for line in printed.get("broken", []):
            self.log.error("%s", line)
        if code == _UNUSABLE and _may_come(run.input):
            raise AirflowException(
                f"{command[0]}: exit code {code}: see the log; {run.input} may not be there yet"
            )
        if code in _FINAL_CODES:
            raise AirflowFailException(f"{command[0]}: exit code {code}: {_FINAL_CODES[code]}: see the log")
        if code:
            raise AirflowException(f"{command[0]}: exit code {code}")
        return printed


def submit(run: RunFolders, job: str, flags: Mapping[str, Any]) -> list[str]:
    """Return the spark-submit of one of the project's jobs; flags that are None are left out.

    The Variable `spark_embed_submit`, a JSON list, says how to; without it the job runs on this machine.
    """
    how = Variable.get(SUBMIT, default=["--properties-file", "conf/local.conf"], deserialize_json=True)
    given = [word for flag, value in flags.items() if value is not None for word in (f"--{flag}", str(value))]
    return ["spark-submit", *how, f"jobs/{job}.py", *given]


def _may_come(path: str) -> bool:
    """Say whether an input is not there, which of one in a store is not known here."""
    if "://" in path or not os.path.exists(path):
        return True
    return os.path.isdir(path) and not any(names for _, _, names in os.walk(path))


def _environment(binaries: str, scratch: str) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": os.path.dirname(binaries),
        "PYSPARK_PYTHON": os.path.join(binaries, "python"),
        "SPARK_LOCAL_DIRS": scratch,
    }


def _json_of(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Archive(BaseOperator):
    """Copy what a run has written, without its state and what is of use with that only, to the archive.

    What is equal there is left alone.
    """

    def execute(self, context: Context) -> None:
        """Copy beside it, and put that in its place at the end: the archive is the whole new one or the old.

        Raises:
            AirflowFailException: a folder is in a store, or the output is not that of a run.
        """
        run = RunFolders(context)
        if "://" in run.output + run.archive:
            raise AirflowFailException(
                f"{run.output}, {run.archive}: only folders of this machine are copied"
            )
        if not os.path.isfile(os.path.join(run.output, "metadata.json")):
            raise AirflowFailException(f"{run.output}: has no metadata.json, so no run has written it")
        part, old = f"{run.archive}.part", f"{run.archive}.old"
        if os.path.isdir(old) and not os.path.isdir(run.archive):  # it ended between the two renames
            os.rename(old, run.archive)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
        if _files(run.archive) != _files(run.output):
            shutil.copytree(run.output, part, ignore=_ignored)
            if os.path.isdir(run.archive):
                os.rename(run.archive, old)
            os.rename(part, run.archive)
            shutil.rmtree(old, ignore_errors=True)
        context["task_instance"].xcom_push("archive_path", run.archive)


def _ignored(folder: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in ("_spark_embed", "index")]


def _files(root: str) -> dict[str, tuple[int, int]]:
    """Return size and time of each file below a folder that is archived."""
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _ignored(folder, folders)]
        for name in names:
            path = os.path.join(folder, name)
            known = os.stat(path)
            found[os.path.relpath(path, root)] = (known.st_size, known.st_mtime_ns)
    return found


class Cleanup(BaseOperator):
    """Delete what tries of this run that were killed have left; a try that ends deletes its own."""

    def execute(self, context: Context) -> None:
        """Delete the scratch folders."""
        for folder in glob.glob(f"{RunFolders(context).scratch}*", root_dir=tempfile.gettempdir()):
            shutil.rmtree(os.path.join(tempfile.gettempdir(), folder), ignore_errors=True)
