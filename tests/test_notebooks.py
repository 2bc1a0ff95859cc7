"""The notebooks: kept without outputs, true to the library, and run top to bottom."""

import ast
import importlib
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = 'CLIPS, VOICES, EPOCHS, FOLDER = 40, 9, 3, "made"'


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_both_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["focal_loss", "quickstart"]


def test_a_notebook_is_valid_and_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in code_of(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_its_first_code_is_the_parameters_that_the_tests_replace(notebook):
    first, *others = code_of(notebook)
    assert first.metadata.tags == ["parameters"]
    assert not any("parameters" in cell.metadata.get("tags", ()) for cell in others)
    set_there = {
        node.id for node in ast.walk(ast.parse(first.source)) if isinstance(node, ast.Name)
    }
    assert {"CLIPS", "VOICES", "EPOCHS", "FOLDER"} <= set_there


def test_everything_it_imports_of_ours_exists(notebook):
    found = 0
    for cell in code_of(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("wakeword_keras"):
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f"{node.module}.{name.name}"
                    found += 1
    assert found > 8


@pytest.mark.slow
def test_it_runs_top_to_bottom(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place = notebook.cells.index(code_of(notebook)[0])
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(SMALL))
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1800, resources=resources).execute()
    shown = [
        kind for cell in code_of(notebook) for out in cell.outputs for kind in out.get("data", ())
    ]
    assert shown.count("image/png") >= 2
    nbformat.write(notebook, tmp_path / "run.ipynb")
