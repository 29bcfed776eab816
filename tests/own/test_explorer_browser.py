"""The explorer in JupyterLab, as a person uses it: JupyterLab is started, all cells are run, and the controls change the picture."""

import re

import pytest
from helpers import PATIENCE, REPO
from lab import jupyterlab
from playwright.sync_api import expect


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address and token of a JupyterLab on a free port of this machine only, on a copy of the project with this one notebook."""
    root, own = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("jupyter")
    (root / "notebooks").mkdir()
    for name in ("pyproject.toml", "notebooks/10_explorer.ipynb"):
        (root / name).write_bytes((REPO / name).read_bytes())
    for name in ("rdlib", "results"):
        (root / name).symlink_to(REPO / name)
    settings = own / "CONFIG" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # asks nobody outside
    with jupyterlab("--ip=127.0.0.1", root=root, own=own, environment={"PYTHONPATH": str(REPO)}) as server:
        yield f"http://127.0.0.1:{server['port']}/lab/tree/notebooks/10_explorer.ipynb?token={server['token']}&reset"


@pytest.fixture(scope="module")
def opened(browser, lab):
    """The notebook with all cells run, and what the console complained of so far."""
    context = browser.new_context(viewport={"width": 1366, "height": 900})
    context.set_default_timeout(1000 * PATIENCE)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(f"{message.text} {message.location}") if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(lab)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    run_all(page)
    page.locator(".rd-explorer img").wait_for()
    yield page, complaints
    context.close()


def run_all(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()


class Controls:
    """What a person sees and touches."""

    def __init__(self, page):
        self.page = page
        self.box = page.locator(".rd-explorer")
        self.picture = self.box.locator("img")

    def slider(self, name):
        return self.box.locator(".widget-slider", has=self.page.get_by_text(name, exact=True)).get_by_role("slider")

    def numbers(self):
        """(precision, recall) of the image and of the category, as shown."""
        rows = self.box.locator("table tbody tr")
        return [tuple(rows.nth(i).locator("td").all_inner_texts()[:2]) for i in range(rows.count())]

    def image(self):
        return self.box.get_by_label("image", exact=True)

    def changes(self, act):
        """Do it, wait until there is another picture, and return what was and what is."""
        self.picture.scroll_into_view_if_needed()
        before, source = self.picture.screenshot(), self.picture.get_attribute("src")
        act()
        expect(self.picture).not_to_have_attribute("src", source)
        self.page.wait_for_timeout(1000)  # a slider sends several values
        return before, self.picture.screenshot()


@pytest.fixture
def controls(opened):
    """The explorer; at the end no error may stand on the console, JupyterLab's own included."""
    page, complaints = opened
    yield Controls(page)
    assert complaints == []


def test_it_shows_itself_when_all_cells_are_run(controls, keep):
    controls.picture.scroll_into_view_if_needed()
    assert controls.picture.evaluate("i => i.complete && i.naturalWidth") > 1000
    assert all(re.fullmatch(r"\d+\.\d %", value) for pair in controls.numbers() for value in pair) and len(controls.numbers()) == 2
    controls.box.evaluate("e => e.scrollIntoView()")
    keep(controls.page, "explorer-page")


def test_the_threshold_changes_picture_precision_and_recall(controls, keep):
    numbers = controls.numbers()
    handle = controls.slider("threshold")

    def move():
        handle.focus()
        for _ in range(12):
            controls.page.keyboard.press("ArrowRight")

    before, after = controls.changes(move)
    assert before != after
    assert all(new[i] != old[i] for new, old in zip(controls.numbers(), numbers) for i in range(2))
    keep(controls.page, "explorer-threshold")


def test_a_click_chooses_the_pixel(controls, keep):
    box = controls.picture.bounding_box()
    place = {"x": 0.36 * box["width"], "y": 0.5 * box["height"]}
    before, after = controls.changes(lambda: controls.picture.click(position=place))
    assert before != after
    row, column = (int(controls.slider(name).get_attribute("aria-valuenow").split(".")[0]) for name in ("row", "column"))
    assert abs(row - 61) < 12 and abs(column - 68) < 12, "the middle of the second picture"
    keep(controls.page, "explorer-click")


def test_all_cells_run_again_without_a_restart(controls):
    """There is one explorer, a fresh one, and it works."""
    controls.box.evaluate("e => e.classList.add('old')")
    run_all(controls.page)
    controls.page.locator(".rd-explorer:not(.old) img").wait_for()
    expect(controls.box).to_have_count(1)
    expect(controls.slider("row")).to_be_visible()
    expect(controls.box.get_by_label("M1")).to_be_checked()
    before, after = controls.changes(lambda: controls.slider("threshold").press("ArrowRight"))
    assert before != after


@pytest.mark.parametrize("width", [900, 1366])
def test_it_fits_the_window(controls, keep, width):
    """Nothing is cut off at the right, of its row or of the cell's output."""
    controls.page.set_viewport_size({"width": width, "height": 900})
    controls.page.wait_for_timeout(500)
    controls.picture.scroll_into_view_if_needed()
    area = controls.page.locator(".jp-OutputArea-output", has=controls.box).bounding_box()
    for control in controls.box.locator("select, button, img, .widget-slider, .widget-checkbox, .widget-label, table").all():
        if box := control.bounding_box():  # None: not shown
            row = control.evaluate("e => e.closest('.widget-hbox, .rd-explorer').getBoundingClientRect().right")  # hides what sticks out
            edge = min(area["x"] + area["width"], row)
            assert box["x"] + box["width"] <= edge + 0.5, control.evaluate("e => e.outerHTML")[:200]
    keep(controls.page, f"explorer-{width}")
