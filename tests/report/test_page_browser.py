"""The report in a real browser: it sorts, filters, opens a run, fits a phone, and no accessibility rule is broken."""

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import PATIENCE, REPO
from made_up_runs import failed, put, run
from playwright.sync_api import expect

from rdlib.report import page as report
from rdlib.report import tables
from rdlib.run.record import read_runs

DESKTOP = {"width": 1366, "height": 900}
RUN = "main-demo-coin-lite0.128px.12ep-s0"
BARS = "#table-demo-image-auroc"
DEMO = REPO / "results/reference/demo"
ALL = len(list(DEMO.glob("runs/*/result.json")))


def rising(table="demo_image_auroc", column=None):
    """Rows of a table of the reference by our value as shown (of one column if it has several), lowest first, and these values."""
    found = pd.read_csv(DEMO / "tables" / f"{table}.csv")
    chosen = found[found["column"] == column] if column else found
    shown = chosen.set_index("row")["ours"].round(1).dropna()
    return shown.sort_values(kind="stable").index.tolist(), shown


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The report of the committed demo reference, as a file."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report.page(DEMO))
    return path.as_uri()


VERDICTS = ("agrees", "higher", "lower", "undecided", "different setting", "diverged")


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """A report with every verdict and a failed run."""
    folder = tmp_path_factory.mktemp("all") / "paper"
    runs = [run(value, category="carpet", seed=seed, teacher="wide_resnet50_2", image_size=256) for seed, value in enumerate((0.98, 1.0))]
    put(folder, *runs, failed("diverged", "loss is nan in epoch 3", category="wood"))
    cells = pd.DataFrame({"row": [f"row {v}" for v in VERDICTS], "verdict": VERDICTS, "runs": " ".join(r["run_id"] for r in runs)})
    cells = cells.assign(column="", paper=98.9, evidence="published", ours=97.0, std=1.0, n=2, half_width=0.5, difference=-1.9, failed="")
    cells.loc[cells["verdict"] == "diverged", ["ours", "runs"]] = [None, ""]
    tables.write(folder, "table1_256", *tables.comparison(cells), "Table 1")
    (folder / "report.html").write_text(report.page(folder))
    return (folder / "report.html").as_uri()


@pytest.fixture
def show(browser):
    """show(address, viewport, ...): the page; at the end nothing may have been complained of on the console."""
    contexts, complaints = [], []

    def opened(address, viewport=DESKTOP, **more):
        contexts.append(browser.new_context(viewport=viewport, **more))
        contexts[-1].set_default_timeout(1000 * PATIENCE)
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else complaints.append(request.url))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def names(page, table=BARS):
    """The first column of a table, shown rows only, from top to bottom."""
    return page.locator(f"{table} tbody tr:not([hidden]) th").all_inner_texts()


def test_a_click_sorts_and_another_turns_it_round(show, address, keep):
    page = show(address)
    button = page.locator(f"{BARS} thead button", has_text="ours")
    heading = page.locator(f"{BARS} thead th", has_text="ours")
    expected, shown = rising()
    button.click()
    expect(page.locator(f"{BARS} tbody th").first).to_have_text(expected[0])
    assert names(page) == expected and heading.get_attribute("aria-sort") == "ascending"
    keep(page, "report-sorted")
    button.click()
    expect(page.locator(f"{BARS} tbody th").first).to_have_text(expected[-1])
    assert shown[names(page)].is_monotonic_decreasing and heading.get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("key", ["Enter", " "])
def test_the_keyboard_sorts_too(show, address, key):
    page = show(address)
    page.locator(f"{BARS} thead button", has_text="row").focus()
    page.keyboard.press("Tab")
    page.keyboard.press(key)
    expect(page.locator(f"{BARS} tbody th").first).to_have_text(rising()[0][0])
    assert page.evaluate("document.activeElement.textContent") == "ours", "the focus stays where it was"


def test_in_a_table_of_several_metrics_each_column_sorts_by_itself(show, address):
    page = show(address)
    heading = page.locator("#table-table7 thead th", has_text="pixel AUROC ours")
    heading.locator("button").click()
    expect(heading).to_have_attribute("aria-sort", "ascending")
    expected, _ = rising("table7", "pixel_AUROC")  # what was not run is folded into a line
    expect(page.locator("#table-table7 tbody th").first).to_have_text(expected[0])
    assert names(page, "#table-table7") == expected


def test_typing_filters_the_rows_and_says_how_many(show, address):
    page = show(address)
    field = page.get_by_label("Filter runs")
    field.fill("coin PADIM")
    assert page.locator("#all-runs tbody tr:visible").count() == 1 == page.locator("#drill-down > details:visible").count()
    assert page.locator("#runs output").inner_text() == f"1 of {ALL} shown", "a run in table and list is one run"
    field.fill("nothing like it")
    assert page.locator("#all-runs tbody tr:visible").count() == 0
    field.fill("")
    assert page.locator("#all-runs tbody tr:visible").count() == ALL


def test_sorted_and_filtered_at_once(show, address):
    page = show(address)
    page.get_by_label("Filter runs").fill("digits")
    page.locator("#all-runs thead button", has_text="image").click()
    runs = [r for r in read_runs(DEMO) if r["config"]["dataset"] == "digits"]
    hardest = min(runs, key=lambda r: r["metrics"]["image_auroc"])["run_id"]
    expect(page.locator("#all-runs tbody tr:visible a").first).to_have_attribute("href", f"#run-{hardest}")
    values = [float(v) for v in page.locator("#all-runs tbody tr:visible td:nth-child(3)").all_inner_texts()]
    assert len(values) == len(runs) and values == sorted(values)


def test_a_link_opens_its_run(show, address, keep):
    page = show(address)
    assert page.locator("#drill-down > details[open]").count() == 0
    page.locator(f"{BARS} tbody tr", has_text="coin").get_by_role("link", name="s0").click()
    opened = page.locator(f"[id='run-{RUN}']")
    opened.wait_for(state="visible")
    assert opened.locator("svg[aria-label^='Training loss']").is_visible() and opened.locator("img").count() == 6
    assert opened.locator("img").first.evaluate("i => i.complete && i.naturalWidth") == 3 * 128 + 2 * 4
    keep(page, "report-run")


@pytest.mark.parametrize("again", [False, True])
def test_a_link_to_a_run_that_the_filter_hides_shows_it(show, address, again):
    """Also if it was the last link that was followed: the address does not change then."""
    page = show(address + f"#run-{RUN}" if again else address)
    page.get_by_label("Filter runs").fill("digits")
    opened = page.locator(f"[id='run-{RUN}']")
    expect(opened).not_to_be_visible()
    page.locator(f"{BARS} tbody tr", has_text="coin").get_by_role("link", name="s0").click()
    expect(opened).to_be_in_viewport()
    assert page.get_by_label("Filter runs").input_value() == "" and page.locator("#runs output").inner_text() == ""


def test_a_run_opens_by_keyboard(show, address):
    page = show(address)
    page.locator("#drill-down summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#drill-down > details").first.get_attribute("open") is not None


def test_the_first_tab_offers_to_skip_to_the_results(show, address):
    page = show(address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("width", [320, 390, 768, 1366])
def test_the_page_itself_never_scrolls_sideways(show, address, width):
    page = show(address, {"width": width, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_contents_stay_in_view_on_a_wide_screen(show, address):
    page = show(address)
    page.locator("#figures").scroll_into_view_if_needed()
    assert page.locator("nav").bounding_box()["y"] >= 0


def test_nothing_is_lost_without_scripts(show, address):
    page = show(address, java_script_enabled=False)
    assert page.locator("#all-runs tbody tr").count() == ALL and not page.get_by_label("Filter runs").is_visible()
    page.locator("#drill-down summary").first.click()
    assert page.locator("#drill-down .run").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["address", "verdicts"])
def test_no_rule_of_accessibility_is_broken(show, request, which, scheme):
    """Names, contrast, landmarks, headings and the rest of axe-core's rules, with everything opened."""
    page = show(request.getfixturevalue(which), color_scheme=scheme, bypass_csp=True)  # the rules come as a script
    page.evaluate("document.querySelectorAll('main details:not(#drill-down > details)').forEach(d => d.open = true)")
    runs = "const all = [...document.querySelectorAll('#drill-down > details')]"  # the first, and one with pictures if there is any
    page.evaluate(f"() => {{ {runs}; for (const d of [all[0], all.find(d => d.querySelector('img')) ?? all[1]]) d.open = true }}")
    assert page.locator(".run:visible").count() == 2
    broken = Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in broken] == []


def test_every_verdict_has_its_colour(show, verdicts, keep):
    page = show(verdicts)
    found = {}
    for name in VERDICTS:
        pill = page.locator("#table-table1-256 tbody .pill", has_text=name).last
        found[pill.inner_text()] = pill.evaluate("e => getComputedStyle(e).backgroundColor")
    assert set(found) == set(VERDICTS) and len(set(found.values())) == 5 and found["undecided"] == found["different setting"]
    assert "rgba(0, 0, 0, 0)" not in found.values()
    page.locator("#table-table1-256").scroll_into_view_if_needed()
    keep(page, "report-verdicts")


def test_the_policy_stops_foreign_scripts(browser, address):
    """The page's policy is in force: a script put into it does not run."""
    page = browser.new_page()
    page.goto(address)
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    assert page.evaluate("window.ran") is None
    page.close()


def test_it_prints_on_paper(show, address, keep):
    page = show(address)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and page.locator("h1").is_visible()
    share = page.evaluate("document.querySelector('main').offsetWidth / document.body.offsetWidth")
    assert share > 0.9, "the contents leave no empty column behind"
    for landscape in (False, True):
        pages = page.pdf(format="A4", landscape=landscape).count(b"/Type /Page\n")
        assert 5 < pages < 45
    keep(page, "report-print")
