"""What table and figure notebooks do with a results folder: show, write if asked, say what failed."""

import ast
import json
import re

import made_up_runs
import pandas as pd
import pytest
from helpers import REPO
from made_up_runs import failed
from matplotlib.figure import Figure

from rdlib.config import Config
from rdlib.errors import InputError
from rdlib.report import figures, report, tables
from rdlib.run import files, plan, record

RUN = made_up_runs.run(0.9)


@pytest.fixture
def shown(monkeypatch):
    """What would be displayed."""
    found = []
    monkeypatch.setattr(report, "display", found.append)
    return found


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "batch" / "runs" / RUN["run_id"] / "result.json"
    files.write_atomically(path, json.dumps(RUN))
    return tmp_path / "batch"


def test_no_runs_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"no run files \(runs/\*/result.json\); run `make reproduce` first"):
        report.Report(str(tmp_path))


def test_without_an_output_folder_nothing_is_written(folder, shown):
    before = sorted(folder.parent.rglob("*"))
    found = report.Report(str(folder))
    found.table("t", tables.methods_table(found.runs), "Methods")
    found.frame("f", pd.DataFrame({"a": [1]}), pd.DataFrame({"a": ["1"]}), "Frame")
    found.figure("g", Figure())
    assert found.maps(RUN) is None and sorted(folder.parent.rglob("*")) == before
    assert [type(s).__name__ for s in shown] == ["Markdown", "Markdown", "Figure"] and "**Methods**" in shown[0].data


def test_tables_and_figures_are_written_in_every_format(folder, shown):
    found = report.Report(str(folder), str(folder))
    found.table("t", tables.methods_table(found.runs), "Methods")
    found.frame("f", pd.DataFrame({"a": [0.5]}), pd.DataFrame({"a": ["50 %"]}), "Frame")
    found.figure("g", Figure())
    there = {p.name for p in (folder / "tables").iterdir()} | {p.name for p in (folder / "figures").iterdir()}
    assert there == {f"{name}.{suffix}" for name in "tf" for suffix in ("csv", "md", "tex", "html")} | {"g.png", "g.pdf"}
    assert (folder / "tables/f.csv").read_text() == "a\n0.5000\n" and "50 %" in (folder / "tables/f.md").read_text()


def test_a_table_without_cells_says_not_run(folder, shown):
    report.Report(str(folder), str(folder)).table("t", [], "Table 9")
    assert shown[0].data == "**Table 9**: not run" and not (folder / "tables").exists()


def put(folder, *runs):
    for made in runs:
        files.write_atomically(folder / "runs" / made["run_id"] / "result.json", json.dumps(made))
    return folder


def test_what_failed_is_shown_first_with_its_reason(folder, shown):
    put(folder, failure := failed(category="tile", reason="data_root is <empty>"))
    found = report.Report(str(folder))
    assert "1 run(s) did not finish" in shown[0].data and "&lt;empty&gt;" in shown[0].data and failure["run_id"] in shown[0].data
    assert (found.runs, found.all_runs) == ([RUN], [RUN, failure])


def test_a_batch_of_changed_data_is_refused(folder, shown):
    other = made_up_runs.run(0.9, seed=1)
    put(folder, other | {"provenance": other["provenance"] | {"data_manifest": "changed"}})
    with pytest.raises(InputError, match="different data"):
        report.Report(str(folder))


def test_failures_are_a_table_beside_the_others_until_there_are_none(folder, shown):
    put(folder, failure := failed(category="tile"))
    report.Report(str(folder), str(folder))
    table = pd.read_csv(folder / "tables" / "failures.csv")
    assert table.to_dict("records") == [{"run": failure["run_id"], "status": "failed", "attempts": 1, "reason": "no memory"}]
    assert {p.name for p in (folder / "tables").iterdir()} == {f"failures.{s}" for s in ("csv", "md", "tex", "html")}
    put(folder, RUN | {"run_id": failure["run_id"], "config": failure["config"]})
    report.Report(str(folder), str(folder))
    assert list((folder / "tables").iterdir()) == []


# --- Notebooks ------------------------------------------------------------------------------------------------------

TABLES = REPO / "results" / "reference"
MADE = {"04_mvtec", "05_complexity", "06_novelty", "07_ablations", "08_figures", "09_deviations"}


def execute(name, results_dir, out_dir, monkeypatch):
    """Run a report notebook's code here, on these results."""
    monkeypatch.chdir(REPO)
    cells = json.loads((REPO / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    space = {}
    for cell in (c for c in cells if c["cell_type"] == "code"):
        exec("".join(cell["source"]), space)  # noqa: S102
        if "parameters" in cell["metadata"].get("tags", ()):
            space |= {"results_dir": str(results_dir), "out_dir": str(out_dir)}


def promised():
    """Notebook -> files that the Snakefile expects of it."""
    text = (REPO / "Snakefile").read_text()
    block = text.split("REPORTS = {", 1)[1].split("\n}", 1)[0]
    return {name: ast.literal_eval(written) for name, written in re.findall(r'"(\w+)": \(\[.*?\], (\[.*?\])\),', block)}


@pytest.mark.parametrize("profile", ["demo", "cpu"])
def test_without_failures_the_tables_are_those_of_the_reference_to_the_byte(profile, tmp_path, monkeypatch, shown):
    monkeypatch.setattr(figures, "save_figure", lambda *_: None)
    for name in sorted(MADE - {"08_figures"}):
        execute(name, TABLES / profile, tmp_path, monkeypatch)
    made, expected = ({p.name: p.read_bytes() for p in (f / "tables").iterdir()} for f in (tmp_path, TABLES / profile))
    made = {name: content for name, content in made.items() if not name.startswith("speed_")}  # from bench.json, not from runs
    assert made == expected


@pytest.mark.parametrize("left", ["the usual seed of one category", "one variant"])
def test_however_many_runs_failed_every_notebook_makes_its_files(left, tmp_path, monkeypatch, shown):
    """All that fails is told in the tables; a figure without any run says so."""
    keep = {
        "the usual seed of one category": "main-demo-brick-lite0.128px.15ep-s0",
        "one variant": "main-demo-coin-lite0.128px.15ep.loss_pixel-s0",
    }
    kept = record.read_run(TABLES / "demo" / "runs" / keep[left] / "result.json")
    everything = {i: plan.runs("demo")[i] for i in plan.runs("demo") if i != kept["run_id"]}
    fields = Config.__dataclass_fields__
    put(tmp_path, kept, *(failed(**{k: v for k, v in p.items() if k in fields}) for p in everything.values()))
    assert set(promised()) == MADE
    for name, needed in promised().items():
        execute(name, tmp_path, tmp_path, monkeypatch)
        assert all((tmp_path / f).is_file() for f in needed), name
    tables_made = {p.stem: pd.read_csv(p) for p in (tmp_path / "tables").glob("*.csv")}
    for name in ("demo_image_auroc", "same_teacher", "table5", "table6"):
        found = tables_made[name]
        assert found.loc[found["ours"].isna(), "verdict"].eq("failed").all() and found["ours"].isna().any(), name
    assert len(tables_made["failures"]) == len(everything)
