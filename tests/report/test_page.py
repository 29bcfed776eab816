"""The report page: what it says of a batch made up for the purpose, that it is safe, self-contained and readable by everybody."""

import base64
import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from filelock import FileLock
from helpers import REPO
from made_up_runs import failed, put, put_with_maps, run

from rdlib.errors import InputError
from rdlib.report import figures, page, plots, runs, tables
from rdlib.run import plan, record

REFERENCE = REPO / "results" / "reference"


def text(element):
    return " ".join(element.get_text().split())


def texts(found, selector):
    return [text(element) for element in found.select(selector)]


def failure(category="brick", **more):
    reason = {"status": "diverged", "reason": "loss is nan in epoch 3"}
    return failed(**reason, dataset="demo", category=category, epochs=12) | more


def picture(folder, name, **words):
    figures.save_figure(plots.nothing(), folder / "figures" / name, **words)


CELLS = pd.DataFrame({"row": ["carpet", "grid"], "column": "", "paper": [98.9, 100.0], "evidence": "published", "ours": [91.0, np.nan]})
CELLS = CELLS.assign(std=[1.4, np.nan], n=[2, 0], half_width=[20.0, np.nan], difference=[-7.9, np.nan], verdict=["lower", "not run"])


def write_table(folder, name, ids=(), caption="A table", **changed):
    """A table of two rows as a notebook writes it; ids: of the runs of its first row."""
    cells = CELLS.assign(runs=[" ".join(ids), ""], failed="", missing="not run", **changed)
    tables.write(folder, name, *tables.comparison(cells), caption)


def parsed(folder, **more):
    return BeautifulSoup(page.page(folder, **more), "html.parser")


def demo_run(category="brick", seed=0, **more):
    return run(dataset="demo", category=category, seed=seed, epochs=12, **more)


PAPER = {"teacher": "wide_resnet50_2", "image_size": 256}


@pytest.fixture
def full(tmp_path):
    """Two seeds of carpet at the paper's setting, with tables and a figure as the notebooks write them."""
    made = [run(value, category="carpet", seed=seed, **PAPER) for seed, value in enumerate((0.90, 0.92))]
    folder = put(tmp_path / "paper", *made)
    write_table(folder, "table1_256", [r["run_id"] for r in made], "Table 1: image AUROC, %")
    write_table(folder, "table1_128", evidence="unverified", caption="Table 1 at 128 px")
    effects = pd.DataFrame({"factor": ["a", "b"], "mean": ["+0.50", "-1.25"]}).set_index("factor")
    tables.write(folder, "deviations", effects.reset_index(), effects, "Change")
    picture(folder, "failures", caption="Failures", alt="Rows of images with the lowest scores")
    return folder


@pytest.fixture(scope="module")
def demo():
    return parsed(REFERENCE / "demo")


# --- Content ------------------------------------------------------------------------------------------------------


def rows_of(found, table):
    """Row name -> text of its cells, of the table with this id."""
    return {text(row.th): texts(row, "td") for row in found.select(f"#{table} tbody tr")}


def test_tables_are_those_that_the_notebooks_wrote(full):
    found = parsed(full)
    rows = rows_of(found, "table-table1-256")
    assert rows == {"carpet": ["98.9", "91.0 ± 1.4 (2)", "-7.9", "lower", "s0 s1"]}
    assert rows_of(found, "table-deviations") == {"a": ["+0.50"], "b": ["-1.25"]}
    assert "Not run here, 1 of 2 rows: grid." in texts(found, "p.note")
    assert {"Table 1: image AUROC, %", "Table 1 at 128 px", "Change"} <= set(texts(found, "caption"))


def test_a_link_leads_to_its_run_on_the_page_and_is_text_if_that_is_gone(full):
    links = lambda found: {a.text: a["href"] for a in found.select("#table-table1-256 a")}  # noqa: E731
    ids = [run(category="carpet", seed=seed, **PAPER)["run_id"] for seed in (0, 1)]
    assert links(parsed(full)) == {f"s{seed}": f"#run-{ids[seed]}" for seed in (0, 1)}
    shutil.rmtree(full / "runs" / ids[1])
    found = parsed(full)
    assert rows_of(found, "table-table1-256")["carpet"][-1] == "s0 s1" and list(links(found)) == ["s0"]


def test_cells_are_sorted_by_their_number_and_those_without_one_come_last(full):
    table = page.read_table(full / "tables" / "table1_256.html")
    ((name, cells),) = table["rows"]
    assert [heading for heading, number in table["heads"] if number] == ["paper", "ours", "difference"]
    assert [cell["sort"] for cell in cells] == ["98.9", "91.0", "-7.9", "lower", "s0 s1"]
    numbers = {"1,234.5 s": "1234.5", "+0.50": "0.50", "-7.9": "-7.9", "98.9†": "98.9", ".5": ".5", "1e-3": "1e-3", "not run": "", "–": ""}
    assert [page._number(text) for text in numbers] == list(numbers.values())


def lede(*args):
    return texts(parsed(*args), "p.lede")


def test_the_headline_is_the_mean_of_what_was_run(full, tmp_path):
    assert lede(full) == ["MVTec AD, carpet: image AUROC 91.0 % (2 seeds)."]
    two = put(tmp_path / "demo", demo_run(value=0.5), demo_run("coin", value=0.7), demo_run("coin", value=0.9, seed=1))
    assert lede(two) == ["Demo set, mean of 2 categories: image AUROC 65.0 % (2 seeds)."]


def test_the_setting_is_that_of_the_runs_the_headline_is_about(full, tmp_path):
    """A batch of novelty runs only is neither WRN50-2 nor 256 px; one without its own setting has none."""
    assert "teacher wide_resnet50_2 at 256 px" in text(parsed(full))
    lite = {"dataset": "fashion_mnist", "teacher": "efficientnet_lite0", "image_size": 32, "epochs": 2}
    novelty = put(tmp_path / "scratch", *(run(0.8 + k / 100, normal_class=k, **lite) for k in range(9)))
    assert lede(novelty) == ["fashion_mnist, mean of 9 classes: image AUROC 84.0 % (1 seed)."]
    assert "Last epoch, teacher efficientnet_lite0 at 32 px, 2 epochs. Only numbers of the same" in text(parsed(novelty))
    other = text(parsed(put(tmp_path / "other", demo_run(loss="pixel"))))
    assert "No run of a headline number is done yet." in other and "Last epoch, teacher" not in other and "WRN50-2" not in other


def test_verdicts_are_counted_over_all_tables(full):
    write_table(full, "table4", verdict=["agrees", "not run"])
    assert "In all tables: 1 × agrees 2 × lower" in text(parsed(full))


def test_tables_stand_in_the_order_of_the_notebooks_and_ones_own_at_the_end(full):
    write_table(full, "mine")
    found = [s["heading"] for s in page.table_sections(full, {}, runs.load(full)) if s["tables"]]
    assert found == [plan.REPORTS["04_mvtec"].heading, plan.REPORTS["09_deviations"].heading, "Other tables"]
    assert [t["id"] for t in parsed(full).select("table[id^=table-]")] == [
        "table-table1-256",
        "table-table1-128",
        "table-deviations",
        "table-mine",
    ]


def test_a_run_shows_parameters_metrics_and_provenance(tmp_path):
    result = demo_run(loss="pixel", metrics={"pixel_auroc": None}) | {"undefined": {"pixel_auroc": "no normal pixel"}}
    result |= {"thresholds": {"pixel_f1_max": 0.12345, "image_f1_max": None}}
    result["provenance"] |= {"cpu": "A processor", "packages": {"torch": "9.9"}}
    found = parsed(put(tmp_path / "demo", result))
    assert texts(found, "mark") == ["marked", "pixel", "12"], "only what departs from the data set's defaults is marked"
    assert {"undefined no normal pixel", "90.0 at score 0.1235"} <= set(texts(found, "td.num"))
    assert {"A processor", "torch 9.9"} <= set(texts(found, "td")) and found.find(id=f"run-{result['run_id']}")


def test_a_figure_brings_its_heading_and_alternative_text(full):
    found = parsed(full)
    assert "Failures" in texts(found, "h3")
    assert found.img["alt"] == "Rows of images with the lowest scores" in texts(found, "figcaption")[0]
    picture(full, "new_one")  # that nobody described
    found = parsed(full)
    assert "new one" in texts(found, "h3") and found.select("img")[-1]["alt"].startswith("Figure new one")


def test_the_same_batch_gives_the_same_page(full):
    assert page.page(full) == page.page(full)


def test_the_reference_is_all_there_and_small(demo):
    assert len(str(demo).encode()) < 8e6
    made = {path.stem.replace("_", "-") for path in (REFERENCE / "demo" / "tables").glob("*.html")}
    shown = {t["id"].removeprefix("table-") for t in demo.select("table[id^=table-]")}
    assert shown <= made and {"demo-image-auroc", "table4", "table7"} <= shown
    drawn = {f"figure-{p.stem.replace('_', '-')}" for p in (REFERENCE / "demo" / "figures").glob("*.png")}
    assert {figure["id"] for figure in demo.select("figure[id]")} == drawn
    ids = {f"run-{p.parent.name}" for p in (REFERENCE / "demo" / "runs").glob("*/result.json")}
    assert {div["id"] for div in demo.select("div.run")} == ids and len(ids) > 40


# --- The batch ----------------------------------------------------------------------------------------------------


def test_runs_done_failed_left_and_outside_the_plan_are_counted(tmp_path):
    folder = put(tmp_path / "demo", demo_run("brick"), failure("coin"), demo_run("brick", seed=7))
    whole, found = page.status(page._planned("demo", ""), runs.load(folder)), text(parsed(folder))
    count = len(plan.runs("demo"))
    assert (whole["planned"], whole["done"], whole["failed"], whole["left"], whole["other"]) == (count, 1, 1, count - 2, 1)
    assert dict(whole["experiments"])["mvtec"] == {"planned": 10, "done": 1, "failed": 1, "left": 8}
    assert f"1 of {count} runs done, 0 running, {count - 2} left, 1 failed, when this page was made." in found
    assert "1 more belong to no plan" in found


def tiles(found):
    return dict(zip(texts(found, ".tiles dt"), texts(found, ".tiles dd")))


def test_what_runs_now_and_the_time_left_are_tiles(tmp_path):
    """One run in two minutes: what is left takes as many times two. Another run is claimed by a process."""
    result = demo_run("brick")
    folder = put(tmp_path / "demo", result | {"timing": result["timing"] | {"fit_s": 120}})
    (folder / "locks").mkdir()
    count = len(plan.runs("demo"))
    with FileLock(folder / "locks" / demo_run("coin")["run_id"]):
        shown = tiles(parsed(folder))
    assert shown["of these running"] == "1" and shown["left"] == str(count - 1)
    assert shown["time left, about"] == f"{(count - 1) / 30:.1f} h"
    assert tiles(parsed(folder))["time left, about"] == "unknown"


@pytest.mark.parametrize("name", ["scratch", "cpu"])
def test_without_a_plan_what_is_left_is_unknown(tmp_path, name):
    assert "How many are left is unknown" in text(parsed(put(tmp_path / name, demo_run())))


def test_the_plan_of_cpu_follows_its_data(tmp_path):
    (tmp_path / "data" / "bottle" / "train" / "good").mkdir(parents=True)
    found = text(parsed(put(tmp_path / "cpu", demo_run()), data=str(tmp_path / "data")))
    assert "0 of" in found and "runs done, 0 running" in found


def test_failed_runs_are_shown_once_with_their_reason(tmp_path):
    folder = put(tmp_path / "demo", demo_run("coin"), failure(attempts=3))
    tables.failures(folder, runs.load(folder))  # whose table is not shown besides
    found = parsed(folder)
    assert rows_of(found, "failed") == {failure()["run_id"]: ["diverged", "3", "loss is nan in epoch 3"]}
    assert text(found).count("loss is nan in epoch 3") == 1
    alone = text(parsed(put(tmp_path / "alone", failure())))
    assert "loss is nan in epoch 3" in alone and "No run of a headline number is done yet." in alone


def test_a_partial_batch_says_what_is_missing(tmp_path):
    found = text(parsed(put(tmp_path / "demo", demo_run())))
    for made, done in ((plan.REPORTS["04_mvtec"], 1), (plan.REPORTS["06_novelty"], 0)):
        needed = {plan.identity(p) for name in made.needs for p in plan.tables("demo").get(name, [])}
        names = ", ".join(name.replace("_", " ") for name in made.tables if name not in made.sometimes)
        assert f"Not made yet ({done} of the {len(needed)} runs are done): {names}." in found
    assert "No figure was made yet." in found


NOT_OURS = {
    "nothing": "",
    "cut off": "<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1",
    "a handler": "<table onclick='alert(1)'><thead><tr><th>a</th></tr></thead></table>",
    "a script link": "<table><thead><tr><th><a href='javascript:alert(1)'>a</a></th></tr></thead></table>",
    "a way out": "<table><thead><tr><th><a href='../runs/../../x/result.json'>a</a></th></tr></thead></table>",
    "an entity": "<!DOCTYPE x [<!ENTITY a 'b'>]><table><thead><tr><th>&a;</th></tr></thead></table>",
    "uneven rows": "<table><thead><tr><th>a</th></tr></thead><tbody><tr><th>1</th><td>2</td></tr></tbody></table>",
}


@pytest.mark.parametrize("what", NOT_OURS)
def test_a_table_that_no_notebook_writes_is_refused_by_name(full, what):
    (full / "tables" / "table5.html").write_text(NOT_OURS[what])
    with pytest.raises(InputError, match=r"table5.html: not a table that the notebooks write .* remove it and run `make reproduce` again"):
        page.page(full)


def test_the_command_writes_the_page_beside_the_runs(full, tmp_path, capsys):
    page.main([str(full)])
    assert (full / "report.html").read_text() == page.page(full) and "MB" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no run files"):
        page.main([str(tmp_path / "nothing")])


# --- Safe and self-contained --------------------------------------------------------------------------------------

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


def test_nothing_that_comes_from_a_file_becomes_markup(tmp_path, monkeypatch):
    """The schema refuses most of this; the page does not rely on it."""
    monkeypatch.setattr(record, "validate", lambda result: None)
    result = demo_run(experiment="mine", images=[(EVIL, 1, 0.5, 1), ("good", 0, 0.1, 0)])
    result["config"] |= {"category": EVIL, "method": EVIL, "label": EVIL}
    result["undefined"] = {"image_ap": EVIL}
    result["provenance"] |= {"cpu": EVIL, "os": EVIL, "packages": {EVIL: EVIL}}
    folder = put(tmp_path / "demo", result)
    (folder / "runs/x").mkdir()
    (folder / "runs/x/result.json").write_text(json.dumps(failure(run_id=EVIL, reason=EVIL, status=EVIL)))
    monkeypatch.setattr(runs, "_variant", lambda *_: "")
    write_table(folder, "table5", caption=EVIL, column=[EVIL, "b"])
    tables.write(folder, "mine", pd.DataFrame({EVIL: [EVIL]}), pd.DataFrame({EVIL: [EVIL]}, index=[EVIL]), EVIL)
    picture(folder, "<img onerror=alert(1)>", caption=EVIL, alt=EVIL)
    found = parsed(folder)
    assert len(found.select("script")) == 1 == page.page(folder).count("<script")
    assert all(img["src"].startswith("data:") for img in found.select("img"))
    assert [name for element in found.find_all() for name in element.attrs if name.startswith("on")] == []
    assert EVIL in text(found), "it is still to be read"


def test_the_page_needs_nothing_but_itself(demo):
    for name in ("src", "href", "srcset", "poster", "action", "data"):
        for element in demo.select(f"[{name}]"):
            own = element[name].startswith(("data:", "#"))
            assert own or (element.name == "a" and element[name].startswith("https://arxiv.org/")), element[name][:80]
    assert "url(" not in demo.style.string and "@import" not in demo.style.string


def test_the_policy_forbids_all_but_our_own_script(demo):
    policy = demo.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    expected = base64.b64encode(hashlib.sha256(demo.script.string.encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{expected}'" in policy


def test_the_borrowed_script_is_unchanged_and_has_its_licence():
    """sortable-tablesort 4.1.7, dist/sortable.min.js, as published."""
    digest = hashlib.sha256((page.TEMPLATE / "sortable.min.js").read_bytes()).hexdigest()
    assert digest == "a887cf42ad5b69673364c529afe8500b31dfbe3e78c2e623bee6430fc69b990f"
    assert "public domain" in (page.TEMPLATE / "sortable.LICENSE").read_text()


# --- For everybody ------------------------------------------------------------------------------------------------


def test_pictures_have_words_and_tables_have_names(demo):
    """Beside what axe looks at in test_page_browser."""
    assert len(demo.select("img")) > 20 and all(len(img["alt"]) > 20 for img in demo.select("img"))
    assert len(demo.select("caption")) == len(demo.select("table")) and all(texts(demo, "caption"))


def test_every_link_inside_the_page_leads_somewhere(demo):
    ids = [element["id"] for element in demo.select("[id]")]
    assert len(ids) == len(set(ids))
    assert {"main"} < {a["href"][1:] for a in demo.select("a[href^='#']")} <= set(ids)
    assert demo.a["href"] == "#main", "the skip link comes first"


# --- Parts --------------------------------------------------------------------------------------------------------


def test_the_loss_curve_fills_its_box_from_zero():
    curve = page.loss_curve([2.0, 1.0, 0.0], width=100, height=50)
    assert curve["points"] == [(0, 0), (50, 25), (100, 50)] and (curve["first"], curve["last"], curve["top"]) == (2.0, 0.0, 2.0)
    assert page.loss_curve([3.0])["points"] == [(0, 0)] and page.loss_curve([0.0, 0.0])["points"] == [(0, 110), (300, 110)]
    assert page.loss_curve([]) is None


def with_maps(folder, masks=True):
    """A run that kept the maps of two of its three test images; its second map is twice the first."""
    result = demo_run(images=[("test/a", 1, 0.2, 4), ("test/b", 0, 0.1, 0), ("test/gone", 1, 0.9, 1)])
    if not masks:
        for row in result["images"]:
            del row["anomalous_pixels"]
    maps = np.linspace(0, 1, 16).reshape(4, 4)
    pictures = np.full((2, 1, 4, 4), 7, np.uint8)
    return put_with_maps(folder, result, [[maps, 2 * maps]] * 3, np.ones((2, 4, 4), bool) if masks else None, pictures)


def test_strips_are_chosen_among_the_images_that_were_kept(tmp_path):
    result = with_maps(tmp_path)
    found = page.worst_images(result, tmp_path)
    assert [r["path"] for r in found["rows"]] == ["test/a", "test/b"] and not found["all"]
    assert (found["low"], found["high"]) == (0, 6), "one scale: sum of three maps, the greatest of both images"
    assert (found["rows"][0]["width"], found["rows"][0]["height"]) == (3 * 4 + 2 * 4, 4), "image, ground truth, map, and gaps of 4"
    bare = page.worst_images(with_maps(tmp_path, masks=False), tmp_path)
    assert bare["rows"][0]["width"] == 2 * 4 + 4, "without masks there is no ground truth to show"


def test_without_maps_only_names_and_scores(tmp_path):
    result = demo_run()
    found = page.worst_images(result, tmp_path)
    assert not found["kept"] and [r["strip"] for r in found["rows"]] == [""] * 4
    assert [r["path"] for r in found["rows"]] == ["test/hole/0.png", "test/hole/1.png", "test/good/1.png", "test/good/0.png"]


def test_a_strip_is_coloured_from_low_to_high():
    strip = np.asarray(page._strip(np.zeros((3, 2, 2), np.uint8), None, np.array([[0.0, 1.0], [2.0, 4.0]]), 0.0, 4.0))
    dark, bright = strip[0, -2], strip[1, -1]
    assert strip.shape == (2, 8, 3) and dark.max() < 10 and bright.min() > 150 and (strip[:, :2] == 0).all()
