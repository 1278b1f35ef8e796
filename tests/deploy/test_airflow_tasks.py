"""What the DAGs' tasks do about names, failures and what is left over, without a run of Airflow's."""

import json
import subprocess
from pathlib import Path

import psutil
import pytest

from support.airflow import DAGS, VENV
from support.checkout import REPOSITORY

pytestmark = pytest.mark.airflow


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    program = REPOSITORY / "tests/support/airflow_tasks.py"
    done = subprocess.run(
        [VENV / "bin/python", "-P", program, DAGS, home], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "home": home}


def test_no_two_runs_share_a_folder_and_none_leaves_the_output_path(found):
    names = found["folders"]
    assert len(set(names)) == len(names)
    for name in names:
        assert Path(name).parent == Path("out")
        assert Path(name).name[0].isalnum()
    assert "out/a_b" in names


def test_what_a_retry_may_mend_is_retried(found):
    retried, final = "AirflowException", "AirflowFailException"
    expected = [("0", "done"), *((code, retried) for code in "146"), *((code, final) for code in "2357")]
    assert found["codes"] == dict(sorted(expected))
    assert found["not_there"] == [retried] * 3
    assert found["timeout_s"] == [6 * 3600] * 5


def test_a_try_has_a_scratch_folder_of_its_own_and_leaves_neither_it_nor_a_process(found):
    assert found["scratch"] == "done"
    assert Path((found["home"] / "scratch").read_text().strip()).parent == found["home"] / "tmp"
    assert found["left"] == []
    child = int((found["home"] / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_an_archive_outlives_a_crash_between_its_renames(found):
    archives = found["archives"]
    assert archives["no_run"].startswith("AirflowFailException")
    assert "has no metadata.json" in archives["no_run"]
    assert archives["failed"].startswith("ZeroDivisionError")
    assert archives["after_failure"] == ["kept"]
    assert archives["done"] == "done"
    assert archives["after"] == [["crash"], ["metadata.json"]]


def test_params_that_would_be_flags_are_refused_and_drift_gets_its_own(found):
    assert found["refused"] == [True, True]
    assert found["allowed"] == [False, False]
    assert found["drift"][-4:] == ["--on_drift", "fail", "--threshold", "0.1"]
