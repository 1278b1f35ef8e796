"""The DAGs in a real Airflow: on a good table, on a broken one, killed, late."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from make_tabular_example import write_table

from spark_embed.search.index import Index

from support.airflow import DAGS, VENV, Airflow, Inbox

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(900)]

TASKS = ["validate_input", "run_predictions", "generate_report", "archive", "cleanup"]
INTERVAL = "2026-03-09T0200"  # of a run on the date below: the last that is over by then
DATE = "2026-03-10T03:00:00+00:00"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    if not (VENV / "bin" / "airflow").exists():
        pytest.fail("no Airflow: make airflow-venv")
    with Inbox() as inbox:
        airflow = Airflow(tmp_path_factory.mktemp("airflow"), inbox)
        write_table(airflow.project / "demo/table.csv", 2000)
        yield airflow


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of each file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def published(folder: Path) -> dict[str, tuple[int, int]]:
    return {path: seen for path, seen in snapshot(folder).items() if "_spark_embed" not in path}


def test_the_dags_are_imported_without_errors_or_deprecations():
    program = """
import json, sys, warnings
warnings.simplefilter("error")
sys.path.insert(0, sys.argv[1])
import batch_embedding, batch_inference
heavy = {"torch", "pandas", "numpy", "pyspark", "spark_embed"} & set(sys.modules)
found = {}
for dag in (batch_embedding.dag, batch_inference.dag):
    task = dag.tasks[0]
    found[dag.dag_id] = {
        "tasks": [task.task_id for task in dag.topological_sort()],
        "cron": str(dag.timetable.expression),
        "catchup": dag.catchup,
        "params": {name: dag.params.get_param(name).schema for name in dag.params},
        "retries": [task.retries, task.retry_delay.total_seconds(), bool(task.retry_exponential_backoff)],
        "max_retry_delay_s": task.max_retry_delay.total_seconds(),
        "deadline_s": [alert.interval.total_seconds() for alert in dag.deadline],
    }
print(json.dumps([sorted(heavy), found]))
"""
    done = subprocess.run(
        [VENV / "bin/python", "-c", program, str(DAGS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    heavy, found = json.loads(done.stdout.splitlines()[-1])
    assert heavy == []
    assert set(found) == {"batch_inference", "batch_embedding"}
    assert found["batch_inference"]["tasks"] == TASKS
    for dag in found.values():
        assert (dag["cron"], dag["catchup"], dag["deadline_s"]) == ("0 2 * * *", False, [7200])
        assert (dag["retries"], dag["max_retry_delay_s"]) == ([3, 600, True], 3600)
        assert {"input_path", "output_path", "model_path", "batch_size", "id_column", "archive_dir"} <= set(
            dag["params"]
        )
    assert found["batch_inference"]["params"]["batch_size"]["type"] == "integer"
    assert found["batch_inference"]["params"]["input_path"]["type"] == "string"


def test_all_five_tasks_run_and_a_second_time_they_change_nothing(airflow):
    airflow.test_dag("batch_inference", DATE)
    assert airflow.states("batch_inference") == dict.fromkeys(TASKS, "success")
    output = airflow.project / "demo/predictions" / INTERVAL
    archive = airflow.project / "demo/archive" / INTERVAL
    assert airflow.xcoms("batch_inference") == {
        ("validate_input", "row_count"): 2000,
        ("run_predictions", "output_path"): str(output),
        ("generate_report", "report_path"): str(output / "report.txt"),
        ("generate_report", "n_errors"): 0,
        ("archive", "archive_path"): str(archive),
    }
    for folder in (output, archive):
        assert len(pd.read_parquet(folder / "predictions.parquet")) == 2000
        assert "BATCH INFERENCE REPORT" in (folder / "report.txt").read_text()
    assert not (archive / "_spark_embed").exists()
    before = published(airflow.project / "demo")
    airflow.test_dag("batch_inference", DATE)
    assert published(airflow.project / "demo") == before
    assert airflow.inbox.texts == []


def test_each_task_runs_by_itself(airflow):
    params = json.dumps({"output_path": "demo/by_task", "archive_dir": "demo/by_task_archive"})
    for task in TASKS:
        airflow.run("tasks", "test", "batch_inference", task, DATE, "-t", params)
    archive = airflow.project / "demo/by_task_archive" / INTERVAL
    assert len(pd.read_parquet(archive / "predictions.parquet")) == 2000


def test_a_broken_table_is_stopped_by_its_validation(airflow):
    path = airflow.project / "demo/broken.csv"
    table = pd.read_csv(airflow.project / "demo/table.csv").drop(columns="region")
    table.loc[1, "user_id"] = table.user_id[0]
    table.to_csv(path, index=False)
    before = snapshot(airflow.project / "demo")
    said = airflow.test_dag("batch_inference", DATE, 1, input_path=str(path))
    states = airflow.states("batch_inference")
    assert states == {"validate_input": "failed", **dict.fromkeys(TASKS[1:], "upstream_failed")}
    assert "lacks region" in said
    assert "1 rows repeat the value of an earlier one" in said
    assert snapshot(airflow.project / "demo") == before
    (text,) = airflow.inbox.texts
    airflow.inbox.texts.clear()
    assert text.startswith("batch_inference.validate_input has failed in run")
    assert "what was checked is not as it should be" in text


def test_a_wrong_param_is_refused(airflow):
    said = airflow.test_dag("batch_inference", DATE, 1, batch_size="many")
    assert "Invalid input for param batch_size" in said


def kill_at_first_marker(output: Path, killed_at: list[float]) -> None:
    """End the processes of the first predict without a word, once some of its rows are complete."""
    while not killed_at:
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if any("predict.py" in word for word in words) and str(output) in " ".join(words):
                if list((output / "_spark_embed/markers").glob("*")):
                    os.killpg(os.getpgid(process.pid), signal.SIGKILL)
                    killed_at.append(time.time())
                break
        time.sleep(0.01)


def test_a_killed_predict_goes_on_at_the_retry(airflow):
    table = airflow.project / "demo/large.parquet"
    write_table(table, 800_000)
    output = airflow.project / "demo/killed" / INTERVAL
    killed_at: list[float] = []
    killer = threading.Thread(target=kill_at_first_marker, args=(output, killed_at), daemon=True)
    killer.start()
    said = airflow.test_dag(
        "batch_inference",
        DATE,
        environ={"SPARK_EMBED_WAVE_S": "0.2"},
        input_path=str(table),
        output_path="demo/killed",
        archive_dir="demo/killed_archive",
    )
    assert airflow.states("batch_inference") == dict.fromkeys(TASKS, "success")
    assert "spark-submit: exit code -9" in said
    rows = pd.read_parquet(output / "predictions.parquet", columns=["user_id", "timestamp"])
    assert sorted(rows.user_id) == list(range(1, 800_001))
    predicted_at = pd.to_datetime(rows.timestamp, utc=True)
    killed = pd.Timestamp(killed_at[0], unit="s", tz="UTC")
    assert predicted_at.min() < killed < predicted_at.max()  # what was complete was not done again
    assert airflow.inbox.texts == []


def test_images_are_embedded_verified_and_archived(airflow, photos):
    folder = airflow.project / "demo/photos"
    folder.mkdir()
    for number, photo in enumerate(photos):
        photo.save(folder / f"{number}.jpg")
    airflow.test_dag("batch_embedding", DATE, make_index=True)
    assert set(airflow.states("batch_embedding").values()) == {"success"}
    archive = airflow.project / "demo/archive_embeddings" / INTERVAL
    assert len(pd.read_parquet(archive / "embeddings.parquet")) == len(photos)
    output = airflow.project / "demo/embeddings" / INTERVAL
    assert Index.open(str(output)).manifest.n_vectors == len(photos)
    assert airflow.xcoms("batch_embedding")["index", "recall"] == 1.0


def test_a_scheduled_run_is_done_and_where_it_is_late_that_is_told(airflow, tmp_path):
    log = tmp_path / "standalone.log"
    airflow.run("dags", "reserialize", BATCH_DEADLINE_S="2")
    with airflow.standalone(log, BATCH_DEADLINE_S="2") as process:
        airflow.run("dags", "unpause", "batch_inference")
        states: list[tuple] = []
        for _ in range(400):
            states = airflow.query("select run_id, state from dag_run where run_type = 'scheduled'")
            if states and states[0][1] in ("success", "failed") and airflow.inbox.texts:
                break
            assert process.poll() is None, log.read_text()[-5000:]
            time.sleep(1)
    assert [state for _, state in states] == ["success"], (states, log.read_text()[-5000:])
    run_id = states[0][0]
    assert airflow.inbox.texts == [
        f"batch_inference is late: run {run_id} has missed its deadline, and goes on"
    ]
