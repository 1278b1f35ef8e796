"""README and CONTRIBUTING say what the code does, and the README's commands work as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import write_tables

from support.checkout import REPOSITORY
from support.workflows import Runner

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", write_tables.DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_are_those_of_the_code(document):
    assert write_tables.render(document) == document.read_text(), "run `make tables`"


def test_the_error_codes_are_all_explained():
    from spark_embed.errors import ERROR_CODES

    text = (REPOSITORY / "docs/output.md").read_text()
    assert [code for code in ERROR_CODES if f"| `{code}` |" not in text] == []


def test_the_fields_of_the_record_are_all_explained():
    from dataclasses import fields

    from spark_embed.output.summary import RunSummary

    text = (REPOSITORY / "docs/output.md").read_text()
    assert [field.name for field in fields(RunSummary) if f"`{field.name}`" not in text] == []


def test_links_lead_somewhere():
    documents = [
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        *(REPOSITORY / "docs").glob("*.md"),
    ]
    for document in documents:
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A folder that looks like a checkout in which `make run-local` has made the demo photos."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("jobs", "conf"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / ".venv").symlink_to(sys.prefix)
    made = subprocess.run(
        [sys.executable, REPOSITORY / "tools/make_demo.py", folder / "demo/photos"], check=False
    )
    assert made.returncode == 0
    return folder


@pytest.mark.slow
def test_the_commands_for_the_shell_work_as_they_stand(checkout, tmp_path):
    (commands,) = blocks("bash")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYSPARK_PYTHON", "SPARK_LOCAL_IP")}
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "97 rows: 96 embedded, 1 errors (1 null_bytes)" in done.stdout
    assert "20 rows: " in done.stdout
    assert not re.search(r" INFO [A-Z]\w+: ", done.stderr), "Spark's own log is not down to warnings"
    assert "97 would be embedded" in done.stdout
    assert (checkout / "demo/vectors/metadata.json").exists()
    assert not (checkout / "demo/other").exists()
    assert_the_page_of_a_workflow_shows_it(checkout / "demo/vectors", tmp_path)


def assert_the_page_of_a_workflow_shows_it(folder: Path, tmp_path: Path) -> None:
    """Look at what run.yml says of a run."""
    runner = Runner(tmp_path / "runner", REPOSITORY, {"inputs.output_dir": str(folder)})
    assert runner.run("run/run/summary").returncode == 0
    assert "### complete" in runner.summary
    assert "97 rows: 96 embedded, 1 errors (1 null_bytes)" in runner.summary
    results = {path.name: path.read_text() for path in (runner.temp / "results").iterdir()}
    assert sorted(results) == ["errors.jsonl", "metadata.json", "status.json"]
    assert results["metadata.json"] == (folder / "metadata.json").read_text()


@pytest.mark.slow
def test_the_python_code_works_as_it_stands(checkout, tmp_path):
    """In a process of its own: a relative path means the folder in which Spark was started.

    After the script of the batch service, whose session was stopped: that keeps no other from starting. The
    environment is not activated: the PATH's python3 is another one, here one that does nothing.
    """
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k != "PYSPARK_PYTHON"}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    (batch_service,) = blocks("python", (REPOSITORY / "docs/batch-service.md").read_text())
    batch_service += """
import os

from pyspark import SparkContext

assert SparkContext._active_spark_context is None
assert summary["counts"]["rows"] == len(captions) == 97
assert orchestrator.process_dataset(loader, writer) == summary
os.environ.pop("PYSPARK_PYTHON")  # of the session that was stopped
"""
    run_and_column, read_output = blocks("python")
    checks = """
import numpy as np

assert df.where("embedding is null").count() == 1
assert (len(table), len(errors)) == (96, 1)
similarity = np.stack(table["embedding"].to_list()) @ np.stack(table["embedding"].to_list()).T
np.fill_diagonal(similarity, -1)
nearest = table["caption"].to_numpy()[similarity.argmax(axis=1)]
assert (nearest == table["caption"]).mean() >= 0.95, "a crop's nearest neighbour is of the same photo"
"""
    code = batch_service + run_and_column + read_output.replace("demo/vectors", "demo/from_python") + checks
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "97 rows" in done.stdout
    assert (checkout / "demo/batch/captioned.parquet").exists()
    assert (checkout / "demo/batch/summary.json").exists()
    assert_neighbours_are_of_the_same_photo(checkout / "demo/from_python")


def assert_neighbours_are_of_the_same_photo(folder: Path) -> None:
    """Look at what `make run-local` prints after its run."""
    shown = subprocess.run(
        [sys.executable, REPOSITORY / "tools/show_neighbours.py", folder],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split(maxsplit=1) for line in shown.stdout.splitlines()[1:]]
    assert len(lines) == 3
    for caption, neighbours in lines:
        assert all(one.split()[0] == caption for one in neighbours.split(", ")), shown.stdout
