"""What each executor did: added up over waves, bounded, and told where there is something to say."""

import json

import pytest

from spark_embed.output.executors import (
    MAX_NAMED,
    Executor,
    Skew,
    add_executors,
    describe_executors,
    named,
    worst,
)
from spark_embed.output.records import Counted


def executor(n_rows=10, n_loads=1, devices=("cuda:0",), n_tasks=1, busy_s=1.0):
    return Executor(n_tasks, n_rows, n_loads, devices, busy_s)


def test_waves_add_up():
    waves = [("b:1", executor(5)), ("a:1", executor(7, 1, ("cuda:1",))), ("b:1", executor(6, 0, ("cpu",), 2))]
    assert list(add_executors(waves).items()) == [
        ("b:1", Executor(3, 11, 1, ("cpu", "cuda:0"), 2.0)),
        ("a:1", executor(7, 1, ("cuda:1",))),
    ]


def test_a_thousand_executors_do_not_fill_the_record():
    shown = named(add_executors((f"host-{number}:7", executor(number + 1)) for number in range(1000)))
    assert len(shown) == MAX_NAMED + 1
    assert sum(one.n_rows for one in shown.values()) == sum(range(1, 1001))
    assert shown["others"].n_tasks == 1000 - MAX_NAMED
    assert named(shown_few := dict(list(shown.items())[:3])) == shown_few


def test_the_worst_wave_is_that_of_which_the_cluster_waited_longest():
    tiny, long = Skew("1", 0.3, 0.01), Skew("2", 40.0, 20.0)
    assert worst([tiny, long]) == long
    assert worst([]) is None


SKEW = Skew("00001-ab", 12.13, 10.0)
THREE = {f"{name}:7": executor() for name in "abc"}
MIXED = {**THREE, "d:7": executor(devices=("cpu",), n_loads=2)}


@pytest.mark.parametrize(
    ("executors", "n_rows_again", "skew", "expected"),
    [
        ({"a:7": executor()}, 0, SKEW, None),
        ({}, 0, None, None),
        ({"a:7": executor()}, 3, None, "3 rows embedded again, because a task or its executor failed"),
        (THREE, 0, None, "3 executors, a model each"),
        (
            THREE,
            1040,
            SKEW,
            "3 executors, a model each; 1,040 rows embedded again, because a task or its executor failed; "
            "longest task 12.1 s, median 10.0 s",
        ),
        (MIXED, 0, None, "4 executors (on the CPU: d:7), 5 models loaded"),
    ],
)
def test_one_line_where_there_is_something_to_say(executors, n_rows_again, skew, expected):
    assert describe_executors(len(executors), executors, n_rows_again, skew) == expected


def test_a_marker_of_before_is_read():
    """Without executors, rows again and task seconds."""
    before = {"n_rows": 2, "n_errors_by_code": {}, "n_tasks": 1, "n_model_loads": 1, "stage_s": {}}
    counted = Counted.model_validate_json(json.dumps({**before, "batch_limit": None}))
    assert (counted.executors, counted.n_rows_again, counted.longest_task_s) == ({}, 0, 0.0)
    now = counted.model_copy(update={"executors": THREE, "n_rows_again": 2})
    assert Counted.model_validate_json(now.model_dump_json()) == now
