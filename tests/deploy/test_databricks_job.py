"""The bundle's job, created, run and followed by Databricks' own SDK, in a process that looks like theirs.

support/databricks_cluster.py says what is Databricks about it; the API is support/databricks_jobs_api.py.
"""

import json
import shutil
import time
from types import SimpleNamespace

import pandas as pd
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service import jobs
from databricks.sdk.service.jobs import JobSettings, RunLifeCycleState, RunResultState

from support.databricks_bundle import read_bundle
from support.databricks_jobs_api import TOKEN, Cluster, JobsApi, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def volume(tmp_path_factory, shards, tiny_clip):
    """A folder of a volume, with what people would have there."""
    folder = tmp_path_factory.mktemp("databricks") / "Volumes" / "main" / "default"
    shutil.copytree(shards, folder / "in" / "50% of [a] b+c")
    shutil.copytree(tiny_clip, folder / "models" / "clip")
    return folder


@pytest.fixture(scope="module")
def api(volume):
    cluster = Cluster(volume.parents[1])
    yield JobsApi(cluster)
    cluster.stop()


@pytest.fixture
def workspace(api, monkeypatch, tmp_path):
    """The SDK's client; it finds no other credentials, and waits for a run's end instead of some seconds."""
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(jobs, "time", SimpleNamespace(time=time.time, sleep=api.ended.wait))
    with serving(api) as host:
        yield WorkspaceClient(host=host, token=TOKEN, auth_type="pat")


def run_job(workspace, name: str, **parameters: object):
    """Create a job of the bundle and run it to its end; returns the run and its task's output."""
    given = JobSettings.from_dict(read_bundle("dev")["resources"]["jobs"][name])
    job = workspace.jobs.create(**{field: value for field, value in vars(given).items() if value is not None})
    started = workspace.jobs.run_now(
        job.job_id, job_parameters={key: str(value) for key, value in parameters.items()}
    )
    run = started.result()
    return run, workspace.jobs.get_run_output(run.tasks[0].run_id)


def test_a_job_embeds_what_is_in_a_volume_and_the_next_one_has_nothing_to_do(api, workspace, volume):
    api.in_thread = True  # where the session is not the active one, and no signals are to be had
    given = {
        "input_dir": volume / "in",
        "output_dir": volume / "out",
        "model_directory": volume / "models/clip",
    }
    run, output = run_job(workspace, "embed_cpu", **given)
    assert output.error is None, output.logs
    assert (run.state.life_cycle_state, run.state.result_state) == (
        RunLifeCycleState.TERMINATED,
        RunResultState.SUCCESS,
    )
    assert "27 rows: 24 embedded, 3 errors (3 null_bytes)" in output.logs
    assert "Traceback" not in output.logs
    # What Spark calls dbfs:/... the workers have read themselves.
    metadata = json.loads((volume / "out/metadata.json").read_text())
    assert metadata["input"]["transport"] == "reference"
    embeddings = pd.read_parquet(volume / "out/embeddings.parquet")
    assert set(embeddings["shard"]) == {f"50% of [a] b+c/{shard:05d}.parquet" for shard in range(3)}
    assert len(set(embeddings["image_id"])) == 24
    # Eleven settings that this platform keeps are one line.
    assert output.logs.count("this platform keeps its own settings where a run would have spark.sql.") == 1

    api.in_thread = False
    run, output = run_job(workspace, "embed_cpu", **given)
    assert run.state.result_state is RunResultState.SUCCESS, output.logs
    assert "nothing to do: all 3 shards are complete" in output.logs


@pytest.mark.parametrize("in_thread", [False, True])
def test_the_error_of_a_job_that_fails_is_the_line_that_says_why(api, workspace, volume, in_thread):
    api.in_thread = in_thread
    run, output = run_job(workspace, "embed", input_dir=f"dbfs:{volume}/in", output_dir=volume / "other")
    assert (run.state.life_cycle_state, run.state.result_state) == (
        RunLifeCycleState.TERMINATED,
        RunResultState.FAILED,
    )
    said = (
        f"--input_dir dbfs:{volume}/in: give the path by which Databricks shows it as a folder, {volume}/in"
    )
    assert output.error == f"TaskError: {said}"
    assert said in output.logs
    assert not (volume / "other").exists()
