"""A process that looks like the driver of a Databricks cluster, and runs Python files as its tasks.

`python -m support.databricks_cluster`, in the environment that `environment` gives, reads a task a line, as
JSON, from stdin and answers each with one. What is Databricks about it:

- a session is there already, and outlives every task; few settings may be changed: those that serverless
  lists (docs.databricks.com, "Configure Spark properties for serverless notebooks and jobs");
- dbfs: is the file system of a path without a scheme, a real one (Hadoop's ViewFileSystemOverloadScheme over
  the disk), so that Spark tells files as dbfs:/...; volumes have what databricks_hooks leaves them;
- a file is executed inside this process, maybe not on its main thread, without a __file__, and what it prints
  goes to an object that is no terminal and no file; whatever it raises, SystemExit too, is its failure.
"""

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql.conf import RuntimeConfig

from support.checkout import REPOSITORY, TESTS

HOOKS = Path(__file__).parent / "databricks_hooks"

ALLOWED = {
    "spark.sql.ansi.enabled",
    "spark.sql.files.maxPartitionBytes",
    "spark.sql.legacy.timeParserPolicy",
    "spark.sql.session.timeZone",
    "spark.sql.shuffle.partitions",
}

_FILE_SYSTEM = "org.apache.hadoop.fs.LocalFileSystem"
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.hadoop.fs.defaultFS": "dbfs:///",
    "spark.hadoop.fs.dbfs.impl": "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme",
    "spark.hadoop.fs.viewfs.overload.scheme.target.dbfs.impl": _FILE_SYSTEM,
    "spark.hadoop.fs.viewfs.overload.scheme.target.file.impl": _FILE_SYSTEM,
    "spark.hadoop.fs.viewfs.mounttable.default.linkFallback": "file:///",
    "spark.hadoop.fs.viewfs.mounttable.default.link./nowhere": "file:///",
}


def environment(volumes: Path) -> dict[str, str]:
    """Return what to start the process with, for volumes in a folder that is the test's own."""
    return {
        **os.environ,
        "DATABRICKS_RUNTIME_VERSION": "18.2",
        "VOLUMES": f"{volumes}/",
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(map(str, (HOOKS, TESTS, REPOSITORY))),
    }


def refuse(name: str, function):
    """Return a method of RuntimeConfig that knows the few settings alone."""

    def call(conf, key, *args):
        is_free = key.startswith(("spark.sql.", "spark.python.")) if name == "get" else key in ALLOWED
        if not is_free:
            raise AnalysisException(f"[CONFIG_NOT_AVAILABLE] Configuration {key} is not available.")
        return function(conf, key, *args)

    return call


class Output:
    """What a task prints."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def execute(task: dict) -> dict:
    output, handlers = Output(), [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    error = trace = None

    def run() -> None:
        nonlocal error, trace
        sys.argv = [task["python_file"], *task["parameters"]]
        code = compile(Path(task["python_file"]).read_text(), task["python_file"], "exec")
        try:
            exec(code, {"__name__": "__main__"})
        except BaseException as exc:  # noqa: BLE001 # SystemExit, KeyboardInterrupt: all fail the task alike
            error, trace = f"{type(exc).__name__}: {exc}", traceback.format_exc()

    streams = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = output
    try:
        if task.get("in_thread"):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        else:
            run()
    finally:
        sys.stdout, sys.stderr = streams
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert SparkSession.getActiveSession().range(3).count() == 3, "the task has stopped the session"
    return {"error": error, "error_trace": trace, "logs": output.text}


def main() -> None:
    builder = SparkSession.builder.master("local[1,4]")
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    builder.getOrCreate()
    for name in ("set", "get", "unset"):
        setattr(RuntimeConfig, name, refuse(name, getattr(RuntimeConfig, name)))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(execute(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
