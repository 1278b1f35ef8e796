"""Whole runs that ask a provider: tables, account, and what a kill -9 makes be asked again."""

import json
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from spark_embed.config import Config
from spark_embed.errors import ModelError, ResumeError, StoppedError
from spark_embed.models.registry import REMOTE
from spark_embed.output.folder import Output
from spark_embed.output.verify import verify
from spark_embed.pipeline import run

from support.checkout import REPOSITORY
from support.commands import BIN
from support.crashes import Run, await_
from support.provider_server import CHAT, KEY, make_image

N_SHARDS, N_ROWS = 4, 30
CONCURRENCY, N_TASKS = 4, 2


@pytest.fixture
def start(provider, tmp_path):
    """Write shards and the file that describes the provider; returns the options of a run."""
    (tmp_path / "in").mkdir()
    for shard in range(N_SHARDS):
        images = [make_image("fine", N_ROWS * shard + row) for row in range(N_ROWS)]
        pq.write_table(pa.table({"png": images}), tmp_path / f"in/{shard}.parquet")

    def start(**values):
        path = tmp_path / "api.yaml"
        described = {**CHAT, "base_url": provider.base_url, "concurrency": CONCURRENCY, **values}
        path.write_text(yaml.safe_dump(described))
        return {
            "input_dir": str(tmp_path / "in"),
            "output_dir": str(tmp_path / "out"),
            "model_directory": str(path),
        }

    return start


def no_spark():
    raise RuntimeError("Spark is started")


@pytest.mark.slow
def test_a_run_that_stops_for_its_cost_goes_on_and_documents_become_a_table(spark, start, provider, tmp_path):
    columns = {"html": "content.html", "kinds": "elements[*].category as array<string>"}
    described = {"provider": "document_parse", "model": "document-parse", "key": None, "prompt": ""}
    described |= {"fields": {"output_formats": ["html"]}, "prices": {"page": 0.01}}
    options = start(columns={"text": "content.text"}, **described)
    provider.latency_s = 0.02
    images = [make_image("never", 1000), None, make_image("other", 1001)]
    pq.write_table(pa.table({"png": images}), tmp_path / "in/more.parquet")
    options |= {"max_cost": 1}
    for n_runs in (1, 2):  # each spends anew
        said = r"^stopped at --max_cost 1 \(answers for 1\.\d+ USD, which are kept\): \d+ of 123 rows are "
        with pytest.raises(StoppedError, match=said):
            run(spark, Config(**options))
        assert (
            50 * n_runs <= provider.marks.total() <= (50 + CONCURRENCY * N_TASKS) * n_runs
        )  # in flight: paid
    run(spark, Config(**start(columns=columns, **described), overwrite=True))

    table = pd.read_parquet(tmp_path / "out/predictions.parquet").set_index(["shard", "shard_row"])
    for shard in range(N_SHARDS):
        for row in range(N_ROWS):
            found = table.loc[f"{shard}.parquet", row]
            mark = f"fine-{N_ROWS * shard + row}"
            assert found["html"] == f"<p>{mark}</p>"
            assert list(found["kinds"]) == ["paragraph", "table"]
            assert found["raw"] == provider.texts[mark]
    assert table.loc["more.parquet", 2]["parsed_error"] == "bad_answer"
    errors = pd.read_parquet(tmp_path / "out/errors.parquet")
    assert errors["error"].to_list() == ["refused", "null_bytes"]
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())
    assert metadata["model"]["provider"] == "document_parse"
    n_rows = N_SHARDS * N_ROWS
    usage = metadata["usage"]
    n_again = provider.marks.total() - provider.marks["never-1000"] - n_rows - 1
    assert n_again == usage.pop("requests_maybe_paid_twice") <= CONCURRENCY  # of the task that Spark ended
    assert usage == {
        "requests": provider.marks.total(),
        "answers": n_rows + 1,
        "pages": 2 * n_rows,
        "cost_usd": 2.4,
        "answered_by": {"document-parse-260930": n_rows, "unknown": 1},
    }
    assert not (tmp_path / "out/_spark_embed/answers").exists()
    assert verify(Output(str(tmp_path / "out"))).n_findings == 0

    n_asked = provider.marks.total()
    run(no_spark, Config(**start(columns=columns, **described, concurrency=2, attempts=1)))
    assert provider.marks.total() == n_asked
    # Also where nothing is left to ask.
    with pytest.raises(ResumeError, match=r"answer_columns: html: content\.html -> content\.text"):
        run(spark, Config(**start(columns={**columns, "html": "content.text"}, **described)))


@pytest.mark.slow
def test_a_provider_that_refuses_is_told_before_the_first_wave(spark, start, provider, tmp_path):
    provider.status = 402
    with pytest.raises(ModelError, match=r"chat/completions: HTTP 402: .*: 3 requests in a row") as caught:
        run(spark, Config(**start(key=None)))
    assert "\n" not in str(caught.value)
    assert provider.marks.total() == 3
    assert not (tmp_path / "out").exists()


def _start_run(options, folder, hold=None):
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    program = [BIN / "python", REPOSITORY / "jobs/label.py", *words, "--num_workers", N_TASKS]
    return Run(folder, program, kind=REMOTE, hold=hold)


def _kill_and_go_on(options, provider, tmp_path, until, hold=None):
    """Kill a run with all its processes, start it again; assert that little is asked again."""
    provider.latency_s = 0.05
    first = _start_run(options, tmp_path / "1", hold)
    second = None
    try:
        if hold:
            first.await_hold()
        else:
            first.await_(lambda: provider.marks.total() >= until, f"{until} requests")
        n_answered = sum(provider.answered.values())
        first.end()
        await_(lambda: not first.processes(), "the end of all processes")
        known = {
            json.loads(line).get("key")
            for path in (tmp_path / "out/_spark_embed/answers").glob("*")
            for line in path.read_text().splitlines()
        } - {None}
        assert len(known) >= n_answered - CONCURRENCY * N_TASKS
        second = _start_run(options, tmp_path / "2")
        assert second.wait() == 0, second.said
    finally:
        for one in filter(None, (first, second)):
            one.end()
    n_again = provider.marks.total() - N_SHARDS * N_ROWS
    assert n_again <= CONCURRENCY * N_TASKS
    table = pd.read_parquet(tmp_path / "out/predictions.parquet")
    assert sorted(table["label"]) == sorted(f"fine-{number}" for number in range(N_SHARDS * N_ROWS))
    usage = json.loads((tmp_path / "out/metadata.json").read_text())["usage"]
    n_unsent = usage["requests"] - provider.marks.total()  # noted, and killed before they went
    assert 0 <= n_unsent <= CONCURRENCY * N_TASKS
    assert usage["requests_maybe_paid_twice"] == n_again + n_unsent
    assert verify(Output(str(tmp_path / "out"))).n_findings == 0
    said = first.said + second.said
    for folder, _, names in os.walk(tmp_path / "out"):
        said += "".join((tmp_path / folder / name).read_text(errors="replace") for name in names)
    assert KEY not in said


@pytest.mark.crash
@pytest.mark.parametrize("until", [1, 4, 20, 50, 80, 118])
def test_after_a_kill_at_any_moment(start, provider, tmp_path, until):
    _kill_and_go_on(start(), provider, tmp_path, until)


@pytest.mark.crash
def test_after_a_kill_before_a_wave_is_marked(start, provider, tmp_path):
    hold = "spark_embed.storage.local sync markers/ 1"
    _kill_and_go_on(start(), provider, tmp_path, until=None, hold=hold)
