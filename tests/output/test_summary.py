import json

import pytest

from spark_embed.output.cost import cost_of
from spark_embed.output.summary import ErrorExample, RunSummary

from support.summaries import TRAFFIC, WRITTEN


@pytest.mark.parametrize("others", [{}, {"traffic": TRAFFIC}, {"skew": {}, "executors": {}, "cost": {}}])
def test_what_is_read_is_written_again_as_it_was(others):
    values = WRITTEN | others
    assert json.loads(json.dumps(RunSummary.from_dict(values).to_dict())) == values


def test_a_summary_of_before_is_read():
    since = {"traffic": {}, "n_executors": 0, "executors": {}, "n_rows_again": 0, "skew": {}, "cost": {}}
    values = {name: value for name, value in WRITTEN.items() if name not in since}
    values["pending"] = {name: value for name, value in WRITTEN["pending"].items() if name != "n_rows_left"}
    since["pending"] = values["pending"] | {"n_rows_left": 0}
    summary = RunSummary.from_dict(values)
    assert summary.error_examples["not_found"] == [ErrorExample("a.parquet#2", None)]
    assert summary.to_dict() == WRITTEN | since


def test_people_are_told_in_so_many_lines():
    assert RunSummary.from_dict(WRITTEN | {"traffic": TRAFFIC}).text().splitlines() == [
        "3 rows: 1 embedded, 2 errors (1 corrupt, 1 not_found)",
        "        corrupt: a.parquet#1: cut off",
        "        not_found: a.parquet#2: ",
        "of these 2 by this run: 1 embedded, 1 errors",
        "PENDING 5 rows: the same command goes on",
        "PENDING shard b.parquet: not parquet",
        "model   tiny, 24 values, float32 on cpu",
        "parity  not measured",
        "speed   1.5 images/s while embedding; embed 2.0 s, total 5.0 s",
        "s3      12 requests by the workers, 4.00 an image, 3.0 MB at 1.5 MB/s; "
        "5 to look ahead, index and publish, 7 by the driver",
        "where   2 executors, a model each; 1 rows embedded again, because a task or its executor failed; "
        "longest task 1.5 s, median 0.5 s",
        "cost    1.2 instance-hours at $0.90: $1.08, $1.67 per million images, this run alone",
        "verdict Decoding took long",
        "output  /out",
    ]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        # 150 images/s at $0.90 an hour are 1,000,000 / 150 / 3600 * 0.90 = $1.67 a million.
        ((1, 4800, 0.9, 720_000), "1.3 instance-hours at $0.90: $1.20, $1.67 per million images"),
        ((4, 900, 1.006, 1_000_000), "1.0 instance-hours at $1.01: $1.01, $1.01 per million images"),
        ((1, 36, 0.8048, 1000), "0.01 instance-hours at $0.8048: $0.008, $8.05 per million images"),
        ((2, 36_000, 0.25, 0), "20.0 instance-hours at $0.25: $5.00"),
    ],
)
def test_what_a_run_has_cost(given, text):
    assert cost_of(*given).text() == text


@pytest.mark.parametrize("name", ["this_run", "output", "verdict", "error_examples", "traffic"])
def test_what_is_no_summary_is_refused(name):
    with pytest.raises((TypeError, AttributeError)):
        RunSummary.from_dict(WRITTEN | {name: ["else"]})
