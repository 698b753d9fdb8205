"""The documentation's notebook runs from the first cell to the last."""

import os
import pathlib

import nbclient
import nbformat

NOTEBOOK = pathlib.Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def test_the_notebook_runs_and_shows_pictures(tmp_path, monkeypatch):
    # A link gives the export of a checkout its installed name.
    (tmp_path / "cigan_export").symlink_to(NOTEBOOK.parents[1] / "export")
    path = [str(tmp_path), str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300).execute(cwd=tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
    texts = [output.get("data", {}).get("text/plain") for output in outputs]
    assert "True" in texts, "pixels outside the mask changed"
