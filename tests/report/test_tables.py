"""Cells beside the paper as text, and every table in four formats: escaped, linked, folded, with its footnotes."""

import re
from math import nan

import pandas as pd
import pytest
from made_up_runs import failed, run

from rdlib.report import runs, tables

CARPET = {"row": "carpet", "column": "PRO", "ours": 98.26, "std": 0.34, "n": 2, "half_width": 0.4, "paper": 97.0, "evidence": "published"}
CARPET |= {"difference": 1.26, "verdict": "higher", "runs": "main-mvtec-carpet-x-s0 main-mvtec-carpet-x-s1", "failed": ""}
NOTHING = {"ours": nan, "std": nan, "n": 0, "half_width": nan, "difference": nan, "runs": ""}
GRID = CARPET | NOTHING | {"row": "grid", "paper": 91.25, "evidence": "unverified", "verdict": "failed"}
WOOD = CARPET | {"row": "wood", "ours": 90.04, "std": nan, "n": 1, "half_width": nan, "paper": nan, "evidence": "", "difference": nan}
WOOD |= {"verdict": "not published", "runs": "main-mvtec-wood-x-s0"}
TILE = GRID | {"row": "tile", "verdict": "not run", "evidence": "published"}


def comparison(*cells):
    return tables.comparison(pd.DataFrame(cells))


def written(folder, *cells, caption="Table 1, %"):
    tables.write(folder, "t", *comparison(*cells), caption)
    return {p.suffix[1:]: p.read_text(encoding="utf-8") for p in (folder / "tables").iterdir()}


# --- Text ---------------------------------------------------------------------------------------------------------


def test_a_table_for_reading():
    _, shown = comparison(CARPET, GRID, WOOD)
    assert shown.to_dict("index") == {
        "carpet": {"paper": "97.0", "ours": "98.3 ± 0.3 (2)", "difference": "+1.3", "verdict": "higher"},
        "grid": {"paper": "91.2†", "ours": "failed", "difference": "", "verdict": "failed"},
        "wood": {"paper": "not published", "ours": "90.0 (1)", "difference": "", "verdict": "not published"},
    }
    ours_alone = {"wood": {"ours": "90.0 (1)"}}  # nothing published, or only in rows without a run
    assert comparison(WOOD)[1].to_dict("index") == comparison(WOOD, TILE)[1].to_dict("index") == ours_alone


def test_several_columns_stand_side_by_side():
    _, shown = comparison(CARPET, GRID | {"row": "carpet", "column": "pixel_AUROC"})
    assert list(shown) == [f"{column} {what}" for column in ("PRO", "pixel_AUROC") for what in ("paper", "ours", "verdict")]
    assert shown.loc["carpet", ["PRO ours", "pixel_AUROC ours"]].tolist() == ["98.3 ± 0.3 (2)", "failed"]


def test_rows_without_a_run_are_numbers_and_one_line(tmp_path):
    numbers, shown = comparison(CARPET, TILE, TILE | {"row": "zipper"})
    assert numbers["row"].tolist() == ["carpet", "tile", "zipper"] and list(shown.index) == ["carpet"]
    files = written(tmp_path, CARPET, TILE, TILE | {"row": "zipper"})
    assert all("Not run here, 2 of 3 rows: tile, zipper." in files[s] for s in ("md", "tex", "html")) and "tile" in files["csv"]


def test_a_table_without_any_run_is_one_line(tmp_path):
    files = written(tmp_path, TILE)
    assert files["md"] == "Table 1, %\n\nNot run here: none of its 1 rows.\n" and "<caption>Table 1, %</caption>" in files["html"]


def test_a_value_over_fewer_seeds_than_planned_is_marked(tmp_path):
    files = written(tmp_path, CARPET | {"failed": "main-mvtec-carpet-x-s2"}, WOOD)
    assert all("98.3 ± 0.3 (2)‡" in files[s] and "over fewer seeds than planned" in files[s] for s in ("md", "tex", "html"))
    assert pd.read_csv(tmp_path / "tables/t.csv", keep_default_na=False)["failed"].tolist() == ["main-mvtec-carpet-x-s2", ""]
    assert "failed" not in comparison(CARPET)[0] and "‡" not in comparison(CARPET)[1].to_string()


# --- Files --------------------------------------------------------------------------------------------------------


def test_a_table_is_written_in_four_formats_or_only_shown(tmp_path):
    files = written(tmp_path, CARPET, GRID, WOOD)
    assert set(files) == {"csv", "md", "tex", "html"} and r"\caption{Table 1, \%}" in files["tex"]
    assert all("98.3 ± 0.3 (2)" in files[suffix] and "Table 1, " in files[suffix] for suffix in ("md", "tex", "html"))
    shown = tables.write(None, "t", *comparison(CARPET), "Table 1, %").data
    assert shown.startswith("**Table 1, %**\n\n|") and "98.3 ± 0.3 (2)" in shown and len(list(tmp_path.rglob("*"))) == 5


def test_the_csv_holds_the_numbers_unrounded(tmp_path):
    written(tmp_path, CARPET, GRID, WOOD)
    found = pd.read_csv(tmp_path / "tables/t.csv", index_col="row")
    assert found.loc["carpet", ["paper", "ours", "std", "n", "half_width", "difference"]].tolist() == [97, 98.26, 0.34, 2, 0.4, 1.26]
    assert found.loc["grid", "paper"] == 91.25 and found.loc["grid", ["ours", "std", "half_width", "difference", "runs"]].isna().all()
    assert found["verdict"].tolist() == ["higher", "failed", "not published"] and found["n"].tolist() == [2, 0, 1]
    assert found.loc["carpet", "runs"] == CARPET["runs"] and found.loc["grid", "evidence"] == "unverified"


def test_the_page_links_every_run_file(tmp_path):
    page = written(tmp_path, CARPET, TILE, GRID, WOOD)["html"]
    assert re.findall(r'href="([^"]*)"', page) == [f"../runs/{r}/result.json" for r in f"{CARPET['runs']} {WOOD['runs']}".split()]
    assert re.findall(r">([\w ]*)</a>", page) == ["s0", "s1", "s0"]
    both = written(tmp_path / "both", CARPET | {"runs": f"{CARPET['runs']} {WOOD['runs']}"})["html"]
    assert re.findall(r">([\w ]*)</a>", both) == ["carpet s0", "carpet s1", "wood s0"]


def test_the_page_names_the_verdicts(tmp_path):
    page = written(tmp_path, CARPET, GRID, WOOD)["html"]
    assert page.startswith('<table class="dataframe comparison">') and page.count("<caption>") == 1
    assert re.findall(r'<span class="verdict-([\w-]+)">', page) == ["higher", "failed", "failed", "not-published", "not-published"]


@pytest.mark.parametrize("suffix", ["md", "html", "tex"])
def test_a_dagger_is_explained_where_there_is_one(tmp_path, suffix):
    with_one, without = written(tmp_path / "a", CARPET, GRID), written(tmp_path / "b", CARPET, WOOD)
    assert "91.2†" in with_one[suffix] and "recalled, not seen in print" in with_one[suffix]
    assert "†" not in without[suffix] and "recalled" not in without[suffix]


# --- Markup: a row is named after a category, and that after a folder -------------------------------------------------


def test_markup_is_escaped_in_every_place_and_links_are_not(tmp_path):
    cells = [CARPET | {"row": "<script>alert(1)</script>", "column": f"<b>{x}</b>"} for x in "xy"] + [TILE | {"row": "<i>tile</i>"}]
    for shown in (written(tmp_path, *cells, caption="<u>caption</u>"), tables.write(None, "t", *comparison(*cells), "<u>caption</u>").data):
        texts = [shown[s] for s in ("html", "md")] if isinstance(shown, dict) else [shown]
        for text in texts:
            assert all(f"&lt;{tag}&gt;" in text for tag in ("script", "b", "i", "u")) and not re.search(r"<(script|b|i|u)>", text)
    assert '<a href="../runs/' in (tmp_path / "tables/t.html").read_text()


def test_a_pipe_or_a_new_line_does_not_break_a_table():
    shown = pd.DataFrame({"reason": ["a | b\nc"]}, index=["x"])
    assert tables.write(None, "t", shown, shown, "c").data.splitlines()[-1] == "| x  | a &#124; b c |"


# --- Runs that failed -----------------------------------------------------------------------------------------------


def test_failures_are_a_table_until_there_are_none(tmp_path):
    table = runs.frame([run(), failure := failed(category="tile", reason="data_root is <empty>")])
    shown = tables.failures(tmp_path, table).data
    assert "1 run(s) did not finish" in shown and "&lt;empty&gt;" in shown and failure["run_id"] in shown
    (row,) = pd.read_csv(tmp_path / "tables/failures.csv").to_dict("records")
    assert row == {"run": failure["run_id"], "status": "failed", "attempts": 1, "reason": "data_root is <empty>"}
    (tmp_path / "tables/failures.txt").write_text("the user's own")
    assert tables.failures(tmp_path, runs.frame([run()])) is None and tables.failures(None, table).data == shown
    assert [p.name for p in (tmp_path / "tables").iterdir()] == ["failures.txt"]
