"""`make test` compares the notebooks' committed outputs with fresh ones: an edited number there does not pass."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import nbformat
import pytest
from helpers import REPO

SOURCE = REPO / "notebooks" / "03_metrics.ipynb"


EDITS = [("stream", "text", "0.75\n", "0.76\n"), ("execute_result", "text/plain", "0.759", "0.758")]


def edit(notebook, kind, name, old, new):
    """Replace the first `old` in an output of this kind; returns the number of that code cell."""
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        for output in cell.outputs:
            texts = output if kind == "stream" else output.get("data", {})
            if output.output_type == kind and old in texts.get(name, ""):
                texts[name] = texts[name].replace(old, new, 1)
                return number
    raise AssertionError(f"{old!r} is in no output")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Exit code of one nbval call in a copy of the project, its results (notebook, cell) -> passed, and the edited cells."""
    root = tmp_path_factory.mktemp("project")
    (root / "notebooks").mkdir()
    (root / "pyproject.toml").write_text((REPO / "pyproject.toml").read_text())
    for name in ("tests", "rdlib"):
        (root / name).symlink_to(REPO / name)
    notebook = nbformat.read(SOURCE, as_version=4)
    nbformat.write(notebook, root / "notebooks" / "committed.ipynb")
    numbers = [edit(notebook, *change) for change in EDITS]
    nbformat.write(notebook, root / "notebooks" / "edited.ipynb")
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval", "notebooks", "--junitxml=report.xml"]
    done = subprocess.run(words, cwd=root, env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True)
    cases = ET.parse(root / "report.xml").iter("testcase")
    results = {(c.get("classname").split(".")[1], c.get("name").split("::")[-1]): c.find("failure") is None for c in cases}
    return done.returncode, results, [f"Cell {number}" for number in numbers]


def test_committed_outputs_pass(outcome):
    _, results, _ = outcome
    committed = [passed for (notebook, _), passed in results.items() if notebook == "committed"]
    assert len(committed) > 10 and all(committed)


def test_an_edited_number_fails_in_its_cell_and_only_there(outcome):
    """One printed, one in a table."""
    code, results, expected = outcome
    assert code == 1 and len(set(expected)) == len(EDITS)
    assert [cell for (notebook, cell), passed in results.items() if notebook == "edited" and not passed] == expected
