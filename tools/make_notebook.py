"""Make notebooks/walkthrough.ipynb of walkthrough.py beside it: the same cells, without outputs.

Usage: make_notebook.py
"""

from pathlib import Path

import jupytext
import nbformat

SOURCE = Path(__file__).parent.parent / "notebooks" / "walkthrough.py"
NOTEBOOK = SOURCE.with_suffix(".ipynb")


def make_notebook() -> str:
    """Return the notebook as it is in its file: the same text for the same source."""
    notebook = jupytext.read(SOURCE, fmt="py:percent")
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", {}
    return str(nbformat.writes(notebook)) + "\n"  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    NOTEBOOK.write_text(make_notebook())
