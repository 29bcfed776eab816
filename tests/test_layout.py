"""The import rule: top <- run <- report <- {batch, own}. Files at the top of rdlib are the paper and know nothing of the folders."""

import ast

import pytest
from helpers import REPO

MAY = {"": {""}, "run": {"", "run"}, "report": {"", "run", "report"}, **{k: {"", "run", "report", k} for k in ("batch", "own")}}
FILES = sorted((REPO / "rdlib").rglob("*.py"))


def folder(module):
    """ "" for rdlib.fit or rdlib itself, "run" for rdlib.run.cache."""
    first = module.removeprefix("rdlib").removeprefix(".").split(".")[0]
    return first if first in MAY else ""


def imported(source):
    """Modules of rdlib that a source text imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "rdlib")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            if node.module.split(".")[0] == "rdlib":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden(path, source):
    return [module for module in imported(source) if folder(module) not in MAY[folder(".".join(path.relative_to(REPO).parts[:-1]))]]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(REPO).as_posix())
def test_imports_go_one_way(path):
    assert forbidden(path, path.read_text()) == []


@pytest.mark.parametrize(
    "line", ["from rdlib.run import cache", "from rdlib.run.cache import Store", "import rdlib.report.page", "from rdlib import run"]
)
def test_the_rule_sees_an_import_of_a_folder_by_the_paper(line):
    assert forbidden(REPO / "rdlib/fit.py", f"def f():\n    {line}") and not forbidden(REPO / "rdlib/batch/compare.py", line)
