"""What table and figure notebooks do with a results folder: show, write if asked, say what failed."""

import json

import made_up_runs
import pandas as pd
import pytest
from matplotlib.figure import Figure

from rdlib import report, results, tables
from rdlib.config import Config
from rdlib.errors import InputError

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
    results.write_atomically(path, json.dumps(RUN))
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


def test_what_failed_is_shown_first_with_its_reason(folder, shown):
    cfg = Config.create(dataset="mvtec", category="tile", seed=0)
    path = folder / "runs" / cfg.run_id / "result.json"
    results.write_failure(path, cfg, status="failed", reason="data_root is <empty>", attempts=1)
    report.Report(str(folder))
    assert "1 run(s) did not finish" in shown[0].data and "&lt;empty&gt;" in shown[0].data and cfg.run_id in shown[0].data
