"""The notebook is what its text says, holds no outputs, and runs from end to end."""

import json
import os
import sys

import make_notebook
import nbclient
import nbformat
import pytest
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

LIMIT_S = 110  # of a cell; all of them take half a minute


def test_it_is_made_of_its_text_and_holds_no_outputs():
    text = make_notebook.NOTEBOOK.read_text()
    assert text == make_notebook.make_notebook(), "make notebook"
    code = [cell for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.notebook
def test_it_leads_from_photos_to_their_neighbours(tmp_path, monkeypatch):
    monkeypatch.setenv("WALKTHROUGH_FOLDER", str(tmp_path))
    monkeypatch.setenv("WALKTHROUGH_INPUT", "/no/such/folder")
    assert os.environ["PYSPARK_PYTHON"] == sys.executable  # before the kernel starts
    notebook = nbformat.read(make_notebook.NOTEBOOK, 4)
    folder = {"metadata": {"path": str(make_notebook.NOTEBOOK.parent)}}
    try:
        nbclient.NotebookClient(notebook, timeout=LIMIT_S, resources=folder).execute()
    except (TimeoutError, CellExecutionError, CellTimeoutError, DeadKernelError) as exc:
        pytest.fail(f"{type(exc).__name__}: {exc}")
    said = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))
    assert "/no/such/folder cannot be used, so the demo photos are: " in said
    assert json.loads((tmp_path / "vectors/metadata.json").read_text())["counts"]["embedded"] == 59
    assert "nothing is wrong" in said
    assert (tmp_path / "vectors/run_report.html").exists()
    n_same, n_all = (int(word) for word in said.split("neighbours are of")[0].split()[-3::2])
    assert n_all == 12
    assert n_same >= 9
