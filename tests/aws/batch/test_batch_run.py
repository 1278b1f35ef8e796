"""The very command that Batch would run, run: the test is the instance, which may be taken away."""

import json
import signal

import pytest

from spark_embed.output.folder import Output
from spark_embed.output.verify import verify

from support.commands import BIN
from support.crashes import Run, write_shards
from support.s3_runs import assert_tidy, keys_below, read_parquet, upload_tree

N_SHARDS, N_ROWS = 4, 12  # of each shard two have no image

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def job(s3_server, bucket, photos, tiny_clip, tmp_path) -> list[str]:
    """The flags of a job whose input and model are in S3."""
    write_shards(tmp_path / "shards", photos, N_SHARDS, N_ROWS)
    source = upload_tree(s3_server, tmp_path / "shards", bucket, "in")
    model = upload_tree(s3_server, tiny_clip, bucket, "clip")
    flags = ["--input_dir", source, "--output_dir", f"s3://{bucket}/out", "--model_directory", model]
    return [*flags, "--batch_size", "4", "--parity_samples", "0"]


@pytest.fixture
def start_attempt(batch, tmp_path, monkeypatch):
    """Start the container of a job: entry point, command and environment, as Batch puts them together."""
    runs: list[Run] = []

    def start_attempt(job_id: str, *, row_s: float = 0.0) -> Run:
        container = batch.describe(job_id)["container"]
        for variable in container["environment"]:
            monkeypatch.setenv(variable["name"], variable["value"])
        argv = [BIN / "spark-embed", *container["command"]]
        runs.append(Run(tmp_path / f"attempt-{len(runs)}", argv, row_s=row_s, wave_rows=N_ROWS))
        return runs[-1]

    yield start_attempt
    for run in runs:
        run.end()


@pytest.mark.parametrize(
    "is_taken_away",
    [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.crash)],
)
def test_what_is_submitted_embeds_the_images_also_where_its_instance_is_taken_away(
    batch, s3_server, bucket, job, batch_command, start_attempt, is_taken_away
):
    code, out, err = batch_command("submit", "--", *job)
    assert code == 0, err
    job_id = json.loads(out)["job_id"]
    if is_taken_away:
        batch.jobs[job_id] = [{"status": "RUNNING"}]
        run = start_attempt(job_id, row_s=0.3)
        run.await_(
            lambda: [key for key in keys_below(s3_server, bucket, "out/") if "/markers/" in key], "a wave"
        )
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 130  # which the job definition tries again: test_batch_template.py
        assert 0 < len(run.images()) < N_SHARDS * (N_ROWS - 2)
    run = start_attempt(job_id)
    assert run.wait() == 0, run.said
    batch.end(job_id, 0, run.said + run.printed)

    n_errors = N_SHARDS * 2
    embeddings = read_parquet(s3_server, bucket, "out/embeddings.parquet")
    keys = {f"{shard}-{row}" for shard in range(N_SHARDS) for row in range(N_ROWS) if row not in (3, 5)}
    assert sorted(embeddings["key"]) == sorted(keys)
    assert len(read_parquet(s3_server, bucket, "out/errors.parquet")) == n_errors
    verify(Output(f"s3a://{bucket}/out")).check()
    assert_tidy(s3_server, bucket, "out")

    n_rows = N_SHARDS * N_ROWS
    code, out, err = batch_command("status", "--job_id", job_id, "--wait")
    assert code == 0, err
    assert f"job {job_id} SUCCEEDED: complete, {n_rows} of {n_rows} complete (100.0 %), " in out
    code, out, err = batch_command("logs", "--job_id", job_id)
    assert code == 0, err
    assert f"{n_rows} rows: {n_rows - n_errors} embedded, {n_errors} errors" in out
    assert out.splitlines()[-1].startswith(f"job {job_id} SUCCEEDED, /spark_embed/spark-embed job/default/")
