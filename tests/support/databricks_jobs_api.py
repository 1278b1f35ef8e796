"""A fake of Databricks' Jobs API 2.2 on the loopback: what the SDK needs to create, run and follow a job.

A run is real: its task is executed by the cluster (databricks_cluster.py) with the parameters put in, and the
run's state and output are what came of it.
"""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from support.databricks_bundle import local_file
from support.databricks_cluster import environment

TOKEN = "dapi-of-nobody"


class Cluster:
    """The process that has the session; tasks run one after the other."""

    def __init__(self, volumes: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.databricks_cluster"],
            env=environment(volumes),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = threading.Lock()

    def execute(self, task: dict) -> dict:
        with self._lock:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        return json.loads(answer) if answer else {"error": "the driver has died", "logs": ""}

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)


class JobsApi:
    """What the workspace knows."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.in_thread = False  # whether tasks run beside the main thread
        self.ended = threading.Event()
        self._jobs: dict[int, dict] = {}
        self._runs: dict[int, dict] = {}

    def create(self, body: dict) -> dict:
        self._jobs[len(self._jobs) + 1] = body
        return {"job_id": len(self._jobs)}

    def run_now(self, body: dict) -> dict:
        job = self._jobs[int(body["job_id"])]
        run_id = 100 * (len(self._runs) + 1)
        self._runs[run_id] = {"job": job, "output": None}
        given = {parameter["name"]: parameter["default"] for parameter in job.get("parameters", [])}
        if unknown := body.get("job_parameters", {}).keys() - given.keys():
            raise ValueError(f"no such job parameters: {sorted(unknown)}")
        self.ended.clear()
        threading.Thread(target=self._run, args=(run_id, {**given, **body["job_parameters"]})).start()
        return {"run_id": run_id}

    def get(self, query: dict) -> dict:
        run_id = int(query["run_id"])
        run = self._runs[run_id]
        state = {"life_cycle_state": "RUNNING"}
        if output := run["output"]:
            result = "FAILED" if output["error"] else "SUCCESS"
            state = {"life_cycle_state": "TERMINATED", "result_state": result, "state_message": ""}
        tasks = [
            {"task_key": task["task_key"], "run_id": run_id + 1, "state": state}
            for task in run["job"]["tasks"]
        ]
        return {"run_id": run_id, "state": state, "tasks": tasks}

    def get_output(self, query: dict) -> dict:
        output = self._runs[int(query["run_id"]) - 1]["output"]
        return {name: value for name, value in output.items() if value is not None}

    def _run(self, run_id: int, given: dict[str, str]) -> None:
        (task,) = self._runs[run_id]["job"]["tasks"]
        python = task["spark_python_task"]
        words = [
            re.sub(r"\{\{job\.parameters\.(\w+)\}\}", lambda name: given[name[1]], word)
            for word in python["parameters"]
        ]
        file = str(local_file(python["python_file"]))
        self._runs[run_id]["output"] = self._cluster.execute(
            {"python_file": file, "parameters": words, "in_thread": self.in_thread}
        )
        self.ended.set()

    def routes(self) -> dict[tuple[str, str], Callable[[dict], dict]]:
        return {
            ("POST", "/api/2.2/jobs/create"): self.create,
            ("POST", "/api/2.2/jobs/run-now"): self.run_now,
            ("GET", "/api/2.2/jobs/runs/get"): self.get,
            ("GET", "/api/2.2/jobs/runs/get-output"): self.get_output,
        }


@contextmanager
def serving(api: JobsApi) -> Iterator[str]:
    """Give the address at which the API answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, given: dict) -> None:
            path = urlsplit(self.path).path
            route = api.routes().get((self.command, path))
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                status, body = 403, {"error_code": "PERMISSION_DENIED", "message": "no such token"}
            elif route is None:
                status, body = 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path}
            else:
                try:
                    status, body = 200, route(given)
                except (KeyError, ValueError) as exc:
                    status, body = 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": str(exc)}
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
