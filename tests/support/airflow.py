"""A real Airflow in its own environment (make airflow-venv), with a project and a database of its own."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from support.checkout import REPOSITORY

VENV = REPOSITORY / ".venvs" / "airflow"
DAGS = REPOSITORY / "deploy" / "airflow" / "dags"


class Inbox:
    """An HTTP server that takes the alerts: what `spark_embed_alert_url` names."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.texts.append(json.loads(body)["text"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Inbox":
        Thread(target=self._server.serve_forever, name="inbox", daemon=True).start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._server.shutdown()
        self._server.server_close()


class Airflow:
    """The `airflow` command with a database and a project folder of its own.

    Attributes:
        project: the folder that `spark_embed_home` names: links into this checkout, and its own demo/.
    """

    def __init__(self, folder: Path, inbox: Inbox) -> None:
        self.project = folder / "project"
        self.inbox = inbox
        self._home = folder / "airflow"
        (self.project / "demo").mkdir(parents=True)
        for name in (".venv", "conf", "jobs", "models"):
            (self.project / name).symlink_to(REPOSITORY / name)
        port, *log_ports = _free_ports(3)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SPARK_EMBED_", "PYSPARK_"))}
        self.environ = {
            **inherited,
            "PATH": f"{VENV / 'bin'}{os.pathsep}{inherited['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "AIRFLOW_HOME": str(self._home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(log_ports[0]),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(log_ports[1]),
            "AIRFLOW_VAR_SPARK_EMBED_HOME": str(self.project),
            "AIRFLOW_VAR_SPARK_EMBED_ALERT_URL": inbox.url,
            "BATCH_RETRY_DELAY_S": "1",
        }
        self.run("db", "migrate")

    def run(self, *argv: str, code: int = 0, **environ: str) -> str:
        """Run a command and return what it says, all of it."""
        done = subprocess.run(
            [VENV / "bin" / "airflow", *argv],
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout[-8000:]
        return done.stdout

    def test_dag(self, dag: str, date: str, code: int = 0, environ=None, **params) -> str:
        """Give it to `airflow dags test`."""
        return self.run("dags", "test", dag, date, "-c", json.dumps(params), code=code, **(environ or {}))

    def query(self, sql: str, *values: str) -> list[tuple]:
        """Ask the database."""
        with closing(sqlite3.connect(self._home / "airflow.db", timeout=30)) as database:
            return database.execute(sql, values).fetchall()

    def xcoms(self, dag: str) -> dict[tuple[str, str], object]:
        """Return (task id, key) -> value of the last run of a DAG."""
        rows = self.query("select task_id, key, value from xcom where dag_id = ? order by dag_run_id", dag)
        # SQLite takes a number for one, whatever its column is declared to be.
        return {
            (task, key): json.loads(value) if isinstance(value, str) else value for task, key, value in rows
        }

    def states(self, dag: str) -> dict[str, str]:
        """Return task id -> state in the last run of a DAG."""
        (run_id,) = self.query("select run_id from dag_run where dag_id = ? order by id desc limit 1", dag)[0]
        return dict(self.query("select task_id, state from task_instance where run_id = ?", run_id))

    @contextmanager
    def standalone(self, log: Path, **environ: str):
        """All of Airflow's processes, until the end."""
        with log.open("w") as said:
            process = subprocess.Popen(
                [VENV / "bin" / "airflow", "standalone"],
                env={**self.environ, **environ},
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):  # its children may be at their own ends still
                os.killpg(process.pid, signal.SIGKILL)


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]
