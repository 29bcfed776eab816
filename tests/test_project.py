"""The files around the code agree with each other: dependencies and lock, notebooks and configuration."""

import ast
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import nbformat
import nbstripout
import papermill
import pytest
import yaml
from helpers import PATIENCE, REPO
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import rdlib
from rdlib.config import Config
from rdlib.run import plan
from rdlib.run.parameters import Where, from_notebook

PYPROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))
RUN = REPO / "notebooks" / "02_run.ipynb"


# --- Dependencies -------------------------------------------------------------------------------------------------


def pins():
    """Name -> versions in the lock (more than one where the Python version decides)."""
    found = {}
    for line in (REPO / "requirements.txt").read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line.rstrip("\\ "))
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            found.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    return found


DEPENDENCIES = [*PYPROJECT["dependencies"], *(d for extra in PYPROJECT["optional-dependencies"].values() for d in extra)]


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_the_lock_satisfies_every_dependency(dependency):
    requirement = Requirement(dependency)
    versions = pins().get(canonicalize_name(requirement.name), [])
    assert versions and all(requirement.specifier.contains(v) for v in versions), versions


@pytest.mark.parametrize("name", ["torch", "torchvision"])
def test_torch_is_pinned_alike(name):
    (dependency,) = [d for d in PYPROJECT["dependencies"] if Requirement(d).name == name]
    assert dependency == f"{name}=={pins()[name][0]}" and len(pins()[name]) == 1


def test_everything_in_the_lock_has_a_hash():
    blocks = re.split(r"\n(?=\S)", (REPO / "requirements.txt").read_text())
    unhashed = [b.splitlines()[0] for b in blocks if not b.startswith("#") and "--hash=sha256:" not in b]
    assert unhashed == []


def test_conda_installs_the_same_lock():
    environment = yaml.safe_load((REPO / "environment.yml").read_text())
    assert set(environment) == {"name", "channels", "dependencies"} and environment["name"] and environment["channels"]
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    (python,) = [d.removeprefix("python=") for d in plain if d.startswith("python=")]
    assert SpecifierSet(PYPROJECT["requires-python"]).contains(python) and "pip" in plain
    assert len(plain) == 2 and pip[0] == "-r requirements.txt"


TEMPLATE = [f"report/template/{path.name}" for path in (REPO / "rdlib/report/template").iterdir()]


@pytest.mark.parametrize("file", ["run/result.schema.json", "own/detector.schema.json", "paper/published.csv", *TEMPLATE])
def test_data_files_of_the_package_are_installed(file):
    patterns = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["rdlib"]
    assert (REPO / "rdlib" / file).is_file() and any(Path(file).match(p) for p in patterns)


def test_there_is_one_version_and_one_date_of_it():
    changes = re.search(r"^## (\S+) \((\S+)\)$", (REPO / "CHANGELOG.md").read_text(), re.M)
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert changes[1] == PYPROJECT["version"] == rdlib.__version__ == citation["version"]
    assert changes[2] == str(citation["date-released"])


# --- The Makefile -------------------------------------------------------------------------------------------------

STUB = """#!/bin/sh
# In place of every program: notes its words, one per line; as `-m venv` it makes a .venv of programs like itself.
for word in "${0##*/}" "$@"; do printf '%s\\n' "$word" >> "$NOTES"; done
if [ "$2" = venv ]; then
  mkdir -p .venv/bin
  for name in pip python snakemake jupyter; do cp "$0" ".venv/bin/$name"; done
fi
"""


@pytest.fixture
def clone(tmp_path):
    """make(words) in a clone whose path holds a space; returns the words of the programs that were called."""
    root = tmp_path / "my clone"
    (root / "other place").mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(REPO / name, root)
    python = root / "other place" / "python"
    python.write_text(STUB)
    python.chmod(0o755)
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "DATA")  # make itself may run the tests

    def make(*words):
        environment = {k: v for k, v in os.environ.items() if k not in outer} | {"NOTES": str(root / "notes")}
        (root / "notes").write_text("")
        subprocess.run(["make", "--silent", f"PYTHON={python}", *words], cwd=root, env=environment, check=True, timeout=PATIENCE)
        return (root / "notes").read_text().splitlines()

    return make


def test_setup_works_in_a_folder_with_a_space(clone):
    words = clone("setup")
    assert words[:4] == ["python", "-m", "venv", ".venv"] and words.count("pip") == 2
    assert clone("setup") == [], "ready: nothing is done again"


@pytest.mark.parametrize(
    "target, given, passed",
    [
        ("data", ["SOURCE=my archive.tar", "TARGET=my data"], ["rdlib.batch.acquire", "my archive.tar", "my data"]),
        ("reproduce", ["DATA=my data", "CACHE=/my cache"], ["--config", "profile=demo", "gpus=", "cache_dir=/my cache"]),
        ("progress", ["DATA=my data"], ["rdlib.run.progress", "demo", "my data"]),
        ("report", ["DATA=my data", "PROFILE=cpu"], ["rdlib.report.page", "results/cpu", "--data", "my data"]),
        ("bench", ["DATA=my data"], ["tests/tools/bench.py", "demo", "--data", "my data"]),
    ],
)
def test_what_is_given_to_make_arrives_whole(clone, target, given, passed):
    words = clone(target, *given)
    at = words.index(passed[0])
    assert words[at : at + len(passed)] == passed


def test_every_recipe_is_sound_shell_in_a_folder_with_a_space(tmp_path):
    """As make would hand it to sh; what a program does with it is another matter."""
    targets = re.findall(r"^([a-z]+):.*##", (REPO / "Makefile").read_text(), re.M)
    assert {"setup", "test", "lab", "audit"} <= set(targets)
    (tmp_path / "my clone").mkdir()
    shutil.copy(REPO / "Makefile", tmp_path / "my clone")
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / "my clone" / name).touch()
    for target in targets:
        words = ["make", "-n", target, "DATA=a b", f"PYTHON={tmp_path}/my clone/python"]
        said = subprocess.run(words, cwd=tmp_path / "my clone", capture_output=True, text=True, check=True)
        subprocess.run(["sh", "-n"], input=said.stdout, text=True, check=True)
        whole = [w for line in said.stdout.splitlines() if "my clone" in line for w in shlex.split(line) if "my" in w or "clone" in w]
        assert all("my clone" in w for w in whole), (target, whole)


# --- All tracked files --------------------------------------------------------------------------------------------


def texts():
    """Path -> content of every text file that is, or is about to be, tracked."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for path in (REPO / name for name in listed.splitlines()):
        try:
            yield path, path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue


def hits(pattern):
    return [f"{path.relative_to(REPO)}: {m.group()}" for path, text in texts() for m in re.finditer(pattern, text)]


def test_the_check_below_finds_what_it_looks_for():
    assert any(hit.startswith("pyproject.toml") for hit in hits("requires-python"))


def test_no_registry_is_named():
    """Where packages come from is the user's setting. (Patterns are written so that they do not match themselves.)"""
    assert hits(r"pypi\.(org|python)|pythonhosted\.org|anaconda\.(org|com)|index[-]url|trusted[-]host|find[-]links") == []


def test_no_path_of_a_machine_is_named():
    assert hits(r"""(?<![\w.~}*-])/(?:home|root|Users|work|mnt|private|tmp)/[\w.]|[A-Z]:\\\\?Users""") == []


# --- Notebooks ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def parameter_cells(notebook):
    return [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]


def test_a_notebook_is_valid_and_starts_with_its_title(notebook):
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


def test_a_notebook_has_one_parameters_cell_of_annotated_literals(notebook):
    """papermill cannot change what is derived from another parameter."""
    (cell,) = parameter_cells(notebook)
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.AnnAssign), ast.unparse(statement)
        ast.literal_eval(statement.value)


def test_papermill_knows_every_parameter_and_its_type(path, notebook):
    (cell,) = parameter_cells(notebook)
    assigned = [s.target.id for s in ast.parse(cell.source).body]
    found = papermill.inspect_notebook(path)
    assert list(found) == assigned and all(p["inferred_type_name"] != "None" for p in found.values())


def test_a_notebook_was_run_from_top_to_bottom(notebook):
    counts = [c.execution_count for c in notebook.cells if c.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_a_notebook_shows_no_error_and_no_warning(notebook):
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert [o.ename for o in outputs if o.output_type == "error"] == []
    assert [o.text for o in outputs if o.output_type == "stream" and "Warning" in o.text] == []


EXTRA_KEYS = ["metadata.papermill", "cell.metadata.papermill", "cell.metadata.execution", "metadata.language_info"]


def test_a_notebook_is_stripped_of_what_changes_with_each_run(path):
    """As nbstripout --keep-output --keep-count --extra-keys "..." leaves it."""
    before = json.loads(path.read_text())
    keys = [k for k in before["metadata"] if k in ("papermill", "language_info")]
    keys += [k for c in before["cells"] for k in c["metadata"] if k in ("papermill", "execution", "collapsed", "scrolled")]
    assert keys == []
    notebook = nbformat.read(path, as_version=4)
    stripped = nbstripout.strip_output(
        nbformat.read(path, as_version=4), keep_output=True, keep_count=True, keep_id=True, extra_keys=EXTRA_KEYS
    )
    assert stripped == notebook


FORBIDDEN = r"^\s*[!%]|get_ipython\(\)|os\.chdir|urlretrieve|pip install|sys\.path"


def test_a_notebook_runs_anywhere(notebook):
    found = [line for c in notebook.cells if c.cell_type == "code" for line in c.source.splitlines() if re.search(FORBIDDEN, line)]
    assert found == []


def test_parameters_of_a_run_are_the_configuration():
    names = {f.name for kind in (Config, Where) for f in dataclasses.fields(kind)} - {"weights_id"}  # follows from weights
    assert set(papermill.inspect_notebook(RUN)) == names


def test_the_defaults_of_a_run_are_a_run_of_the_demo():
    defaults = {name: ast.literal_eval(p["default"]) for name, p in papermill.inspect_notebook(RUN).items()}
    cfg, where = from_notebook(defaults)
    assert cfg.run_id in plan.runs("demo") and where == Where()
