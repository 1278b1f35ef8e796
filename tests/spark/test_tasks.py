"""Workers that run another Python than the one that has what they need."""

import subprocess
import sys

import pytest
from pyspark.errors import PySparkRuntimeError

from spark_embed.errors import ConfigError
from spark_embed.load_config import conf_folder
from spark_embed.spark.context import use_own_python
from spark_embed.spark.tasks import explain_python, run_tasks


@pytest.fixture
def bare_python(tmp_path) -> str:
    """A Python without any package."""
    path = tmp_path / "python3"
    path.write_text(f'#!/bin/sh\nexec {sys._base_executable} -S "$@"\n')
    path.chmod(0o755)
    assert subprocess.run([path, "-c", "import pydantic"], capture_output=True, check=False).returncode
    return str(path)


def test_a_package_that_workers_lack_is_one_line(spark, bare_python, monkeypatch):
    monkeypatch.setattr(spark.sparkContext, "pythonExec", bare_python)
    with pytest.raises(ConfigError) as caught:
        run_tasks(spark, str, [1])
    said = str(caught.value)
    assert said.startswith(f"the workers' Python ({bare_python} on ")
    assert ") has no " in said
    assert said.endswith(f"PYSPARK_PYTHON to one that has it (this program's is {sys.executable})")


@pytest.mark.parametrize("colon", [":", ""])  # as pyspark 4.1 writes it, and 3.5
def test_workers_of_another_version_are_one_line(colon):
    told = PySparkRuntimeError(
        errorClass="PYTHON_VERSION_MISMATCH",
        messageParameters={"worker_version": "3.10", "driver_version": "3.11"},
    )
    failure = f"Lost task 1.3 in stage 0.0 (TID 6) (10.0.0.1 executor 0): {str(told).replace(':', colon)}"
    said = explain_python("python3", failure)
    assert said.startswith("the workers' Python (python3 on 10.0.0.1) is 3.10, the driver's is 3.11, and ")


def test_a_package_that_does_not_load_is_one_line():
    failure = """Lost task 0.0 in stage 0.0 (TID 0) (10.0.0.1 executor 0): Traceback (most recent call last):
ImportError: libarrow.so.2600: cannot open shared object file: No such file or directory
"""
    said = explain_python("python3", failure)
    assert said.startswith(
        "the workers' Python (python3 on 10.0.0.1) cannot import a package that it has: liba"
    )


def test_workers_without_their_python_are_one_line(spark, monkeypatch):
    monkeypatch.setattr(spark.sparkContext, "pythonExec", "/no/such/python")
    with pytest.raises(ConfigError, match=r"^the workers' Python \(/no/such/python on \S+\) is not there"):
        run_tasks(spark, str, [1])


def test_workers_here_run_the_python_that_runs_here_unless_one_is_named(spark, monkeypatch):
    monkeypatch.setattr(spark.sparkContext, "pythonExec", "python3")
    use_own_python()  # the tests name one: PYSPARK_PYTHON
    assert spark.sparkContext.pythonExec == "python3"
    monkeypatch.delenv("PYSPARK_PYTHON")
    monkeypatch.setattr(spark.sparkContext, "master", "yarn")  # where this path may lead nowhere
    use_own_python()
    assert spark.sparkContext.pythonExec == "python3"
    monkeypatch.undo()
    monkeypatch.delenv("PYSPARK_PYTHON")
    monkeypatch.setattr(spark.sparkContext, "pythonExec", "python3")
    use_own_python()
    assert spark.sparkContext.pythonExec == sys.executable


def test_an_error_of_ours_is_one_line_of_sparks_log(spark):
    log4j = spark._jvm.org.apache.logging.log4j
    lines = (conf_folder() / "log4j2.properties").read_text().splitlines()
    (pattern,) = (
        line.partition(" = ")[2] for line in lines if line.startswith("appender.stderr.layout.pattern")
    )
    pattern = pattern.replace("\\\\", "\\")  # as Java reads it
    layout = log4j.core.layout.PatternLayout.newBuilder().withPattern(pattern).build()

    def line(raised: str) -> str:
        traceback = "Traceback (most recent call last):\n  File 'a', line 1\n    x()\n"
        said = f"Lost task 0.0: {traceback}{raised}\n\n\tat org.X"
        message = log4j.message.SimpleMessage(said)
        event = (
            log4j.core.impl.Log4jLogEvent.newBuilder().setMessage(message).setLoggerName("a.Tasks").build()
        )
        return layout.toSerializable(event).strip()

    assert line("spark_embed.errors.ModelError: no").endswith("Tasks: Lost task 0.0: ModelError: no")
    assert "File 'a'" in line("ValueError: no")
