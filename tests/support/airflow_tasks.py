"""Run by Airflow's own Python: does things with the tasks that the DAGs share, and prints what came of it.

Its arguments are the folder of the DAGs and one to work in.
"""

import json
import os
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, sys.argv[1])
HOME = Path(sys.argv[2])
os.environ["AIRFLOW_VAR_SPARK_EMBED_HOME"] = str(HOME)
tempfile.tempdir = str(HOME / "tmp")

import batch_inference  # noqa: E402
import spark_embed_tasks as tasks  # noqa: E402


def context(run_id="manual__1", **params):
    known = {"input_path": "table.csv", "output_path": "out", "archive_dir": "archive", **params}
    return {
        "params": known,
        "dag_run": SimpleNamespace(run_id=run_id, run_after=datetime(2026, 1, 1, tzinfo=UTC)),
        "dag": SimpleNamespace(dag_id="a_dag"),
        "task_instance": SimpleNamespace(xcom_push=lambda *_, **__: None),
    }


def outcome(do, *args):
    try:
        do(*args)
    except Exception as exc:  # noqa: BLE001  its type is what is asked
        return f"{type(exc).__name__}: {exc}"
    return "done"


def folders(run_id):
    return tasks.RunFolders(context(run_id)).output


class Shell(tasks.ProjectCommand):
    def commands(self, context, run):
        return [["sh", "-c", context["params"]["script"]]]


def run(script, **params):
    # `execute` itself: Airflow warns about one that is called outside a task.
    return outcome(Shell.execute.__wrapped__, Shell(task_id="shell"), context(script=script, **params))


def archive(run_id, copies=True):
    copytree = shutil.copytree
    if not copies:
        shutil.copytree = lambda *args, **kwargs: 1 / 0
    try:
        return outcome(tasks.Archive.execute.__wrapped__, tasks.Archive(task_id="archive"), context(run_id))
    finally:
        shutil.copytree = copytree


def archives():
    """Begin where a crash between the two renames leaves off, and fail again; then do it."""
    (HOME / "out/crash").mkdir(parents=True)
    (HOME / "archive/crash.old").mkdir(parents=True)
    (HOME / "archive/crash.old/kept").write_text("")
    found = {"no_run": archive("crash"), "old_is_there": (HOME / "archive/crash.old/kept").exists()}
    (HOME / "out/crash/metadata.json").write_text("{}")
    found["failed"] = archive("crash", copies=False)
    found["after_failure"] = [path.name for path in (HOME / "archive/crash").glob("*")]
    found["done"] = archive("crash")
    found["after"] = os.listdir(HOME / "archive"), os.listdir(HOME / "archive/crash")
    return found


def refused(dag, name, value):
    param = dag.params.get_param(name)
    return outcome(lambda: param.resolve(value)) != "done"


(HOME / "tmp").mkdir()
(HOME / ".venv/bin").mkdir(parents=True)
(HOME / ".venv/bin/sh").symlink_to("/bin/sh")
(HOME / "empty").mkdir()
(HOME / "there.csv").write_text("a\n1\n")
dag = batch_inference.dag
drift = {"reference": "ref.csv", "id_column": "id", "on_drift": "fail", "drift_threshold": 0.1}
report = dag.get_task("generate_report").commands(context(**drift), tasks.RunFolders(context()))
found = {
    "folders": [os.path.relpath(folders(run_id), HOME) for run_id in (".", "..", "a/b", "a:b", "a_b", "-a")],
    "codes": {
        code: run(f"exit {code}", input_path="there.csv").split(":")[0] for code in (0, 1, 2, 3, 4, 5, 6, 7)
    },
    "not_there": [run("exit 2", input_path=path).split(":")[0] for path in ("none.csv", "empty", "s3://b/k")],
    "scratch": run(f'test -d "$SPARK_LOCAL_DIRS" && echo "$SPARK_LOCAL_DIRS" > {HOME}/scratch'),
    "child": run(f"sleep 600 >/dev/null 2>&1 & echo $! > {HOME}/child"),
    "archives": archives(),
    "refused": [refused(dag, *given) for given in (("model_path", "-x"), ("on_drift", "stop"))],
    "allowed": [refused(dag, *given) for given in (("model_path", "m"), ("rules", None))],
    "drift": report[0],
    "timeout_s": [task.execution_timeout.total_seconds() for task in dag.tasks],
}
found["left"] = os.listdir(HOME / "tmp")
sys.stdout.write(f"{json.dumps(found)}\n")
