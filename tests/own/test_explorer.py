"""The explorer: its numbers against hand counts and scikit-learn, its pictures pixel by pixel, its widgets without a browser."""

import numpy as np
import pytest
from helpers import REPO
from made_up_runs import put, put_with_maps, run
from nbconvert import HTMLExporter
from sklearn.metrics import f1_score

from rdlib.own import explorer
from rdlib.own.explorer import Kept, View
from rdlib.report import plots


def kept(masks, maps, scales=(1,), images=None):
    """What a run kept; maps: (N, H, W), the only scale unless they have a dimension more."""
    masks, maps = np.asarray(masks, bool), np.asarray(maps, np.float32)
    maps = maps if maps.ndim == 4 else maps[None]
    images = np.full((len(masks), 3, *masks.shape[1:]), 100, np.uint8) if images is None else images
    return Kept(images, masks, maps, tuple(f"test/hole/{i}.png" for i in range(len(masks))), scales)


def view(image=0, threshold=0.5, strength=1.0, row=0, column=0):
    return View(image, threshold, strength, row, column)


def random_case(seed=0):
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 8, 10)) < 0.2
    return masks, (rng.random((3, 8, 10)) + 0.4 * masks).astype(np.float32)


# --- Numbers ------------------------------------------------------------------------------------------------------


def test_the_table_has_the_image_and_the_category():
    case = kept([[[1, 1, 0, 0]], [[1, 1, 0, 0]]], [[[0.9, 0.1, 0.9, 0.1]], [[0.9, 0.9, 0.5, 0.1]]])
    shown = explorer.table(case, view(image=1))
    assert shown.loc["this image"].tolist() == ["100.0 %", "100.0 %", "2", "0", "0"], "the threshold itself is not above it"
    assert shown.loc["all 2 kept images"].tolist() == ["75.0 %", "75.0 %", "3", "1", "1"]
    nothing = kept(np.zeros((1, 2, 4)), np.zeros((1, 2, 4)))
    assert explorer.table(nothing, view()).loc["this image"].tolist() == ["–", "–", "0", "0", "0"], "a share of nothing is none"


@pytest.mark.parametrize("seed", range(3))
def test_the_best_threshold_is_the_best_of_all_tried_one_by_one(seed):
    masks, maps = random_case(seed)
    top = kept(masks, maps).top
    thresholds = np.arange(0, top, explorer.STEP)
    tried = [f1_score(masks.ravel(), (maps > t).ravel(), zero_division=0) for t in thresholds]
    assert explorer.best_threshold(masks, maps, top) == pytest.approx(thresholds[np.argmax(tried)])


def test_the_best_threshold_leaves_out_what_equals_it():
    """At 0.5 the normal pixel is not above; below it is."""
    assert explorer.best_threshold(np.array([True, False]), np.array([1.0, 0.5]), 1.0) == 0.5


def test_no_pixel_exceeds_the_end_of_the_range():
    for value in (0.0, 0.005, 0.0051, 1.2345):
        case = kept(np.zeros((1, 1, 1)), np.full((1, 1, 1), value))
        assert case.maps.max() <= case.top + 1e-6 < value + 2 * explorer.STEP and case.top > 0


REGIONS = np.array([[1, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
ALARMS = np.array([[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [1, 0, 1, 0, 0, 0]], bool)


def test_regions_are_counted_as_by_hand():
    """Two defects, one of them touched; the two pixels that meet at a corner are one false alarm, the third is another."""
    assert explorer.regions(REGIONS, ALARMS) == (2, 1, 2)
    assert explorer.regions(np.zeros_like(REGIONS), ALARMS) == (0, 0, 3)
    assert explorer.regions(REGIONS, np.zeros_like(REGIONS)) == (2, 2, 0)


def test_the_next_failure_is_found_and_after_the_last_comes_the_first():
    fine, miss, false = ([[1, 0, 0]], [[0.9, 0.1, 0.1]]), ([[1, 0, 0]], [[0.1, 0.1, 0.1]]), ([[1, 0, 0]], [[0.9, 0.1, 0.9]])
    good = ([[0, 0, 0]], [[0.9, 0.0, 0.0]])
    case = kept(*zip(miss, fine, false, good))
    assert [explorer.next_image(case, view(i), "miss") for i in range(4)] == [None, 0, 0, 0], "this image itself is no other one"
    assert [explorer.next_image(case, view(i), "false alarm") for i in range(4)] == [2, 2, 3, 2]
    assert explorer.next_image(case, view(0, threshold=0.95), "miss") == 1, "the threshold decides"


def test_the_whole_test_set_is_counted_from_the_run_file_only_where_its_scores_are_those_of_the_map():
    """Scores 0, 0.1 of the normal and 1, 1.1 of the anomalous images."""
    made = run(epochs=1)
    assert "1 of 2 anomalous and 0 of 2 normal" in explorer.alarms(made, (1, 2, 3), 1.0)
    assert "2 of 2 anomalous and 1 of 2 normal" in explorer.alarms(made, (1, 2, 3), 0.05)
    assert explorer.alarms(made, (1, 2), 1.0) == "" == explorer.alarms(run(epochs=1, image_score="sum"), (1, 2, 3), 1.0)


def test_usual_is_the_median_similarity_of_normal_pixels():
    assert kept([[[1, 0, 0, 0]]], [[[1.0, 0.1, 0.2, 0.6]]]).usual == pytest.approx([0.8])


# --- Pictures -----------------------------------------------------------------------------------------------------


def test_each_region_has_its_colour():
    found, false, missed = explorer.LEGEND.values()
    image = np.full((3, 1, 4), 100, np.uint8)
    mask, above = np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 1, 0]], bool)
    assert explorer.marked(image, mask, above, 1).tolist() == [[list(found), list(missed), list(false), [114] * 3]]
    assert explorer.marked(image, mask, above, 0).tolist() == [[[114] * 3] * 4]
    half = explorer.marked(image, mask, above, 0.5)[0, 1]
    assert np.abs(half - (np.array(missed) + 114) / 2).max() <= 0.5


@pytest.mark.parametrize("channels, shape", [(3, (8, 8)), (1, (12, 5)), (3, (5, 12))])
def test_a_click_finds_its_pixel_in_each_picture_and_none_beside_them(channels, shape):
    """The cross of another pixel is drawn there, so picture and click agree."""
    case = kept(np.zeros((1, *shape)), np.random.default_rng(0).random((1, *shape)), images=np.zeros((1, channels, *shape), np.uint8))
    again = explorer.draw(case, view())
    for row, column in ((0, 0), (shape[0] - 1, 1), (2, shape[1] - 1)):
        figure = explorer.draw(case, view(row=row, column=column))
        plots.png(figure, explorer.DPI)
        for ax in figure.axes[:3]:
            (cross, *_) = [line.get_xydata()[0] for line in ax.lines if line.get_marker() == "+"]
            x, y = figure.transFigure.inverted().transform(ax.transData.transform(cross))
            assert explorer.pixel_at(again, x, 1 - y) == (row, column)
    assert explorer.pixel_at(again, 0.1, 0.99) is None and explorer.pixel_at(again, 0.9, 0.5) is None


def test_the_bars_are_the_similarity_at_the_pixel():
    maps = np.stack([np.full((1, 4, 4), 0.5), np.full((1, 4, 4), 0.25), np.full((1, 4, 4), 1.25)])
    maps[1, 0, 3, 2] = 0.0
    figure = explorer.draw(kept(np.zeros((1, 4, 4)), maps, (1, 2)), view(row=3, column=2))
    bars = next(ax for ax in figure.axes if "row 3, column 2" in ax.get_title())
    assert [p.get_width() for p in bars.patches] == [0.5, 1.0, -0.25] and bars.get_xlim()[0] <= -0.25
    assert len({p.get_facecolor() for p in bars.patches[:2]}) == 1 and bars.patches[2].get_facecolor() != bars.patches[0].get_facecolor()


# --- Widgets ------------------------------------------------------------------------------------------------------


def put_kept(folder, made, seed=0, size=16):
    """The run with kept maps of four images: two good, two with a hole."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((4, size, size), bool)
    masks[2:, 3:7, 8:13] = True
    put_with_maps(
        folder, made, rng.random((3, 4, size, size)) / 3 + 0.12 * masks, masks, rng.integers(0, 256, (4, 3, size, size), dtype=np.uint8)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two categories of one setting, one of them also by conventional distillation, larger images there; a run without maps."""
    folder = tmp_path_factory.mktemp("batch")
    for seed, category in enumerate(("carpet", "grid")):
        put_kept(folder, run(epochs=1, category=category), seed)
    put_kept(folder, run(epochs=1, category="grid", method="conventional"), 2, size=24)
    return put(folder, run(epochs=1, category="grid", seed=5))


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Small pictures: most of a test's time is drawing."""
    monkeypatch.setattr(explorer, "DPI", 40)


@pytest.fixture
def app(folder):
    return explorer.explore(str(folder))


def test_runs_with_maps_are_offered_by_setting_and_category(app):
    assert app.run.options == ("main-mvtec-wrn50.256px.1ep-s0", "main-mvtec-wrn50.256px.1ep.method_conventional-s0")
    assert [name for name, _ in app.category.options] == ["carpet", "grid"]
    app.run.index = 1
    assert [name for name, _ in app.category.options] == ["grid"] and app.row.max == app.column.max == 23
    assert [name for name, _ in app.image.options] == ["good/0.png", "good/1.png", "hole/0.png", "hole/1.png"]


CHANGES = {
    "run": lambda a: setattr(a.run, "index", 1),
    "category": lambda a: setattr(a.category, "value", "grid"),
    "image": lambda a: setattr(a.image, "index", 3),
    "threshold": lambda a: setattr(a.threshold, "value", 0.1),
    "strength": lambda a: setattr(a.strength, "value", 0.1),
    "scale": lambda a: setattr(a.scales[0], "value", False),
    "row": lambda a: setattr(a.row, "value", 1),
    "column": lambda a: setattr(a.column, "value", 1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_widget_changes_the_picture_and_every_choice_the_numbers(app, name):
    app.image.index = 2
    picture, numbers = app.picture.value, app.numbers.value
    CHANGES[name](app)
    assert app.picture.value != picture and app.picture.value == plots.png(app.figure(), explorer.DPI)
    assert (app.numbers.value == numbers) == (name in ("strength", "row", "column"))


def test_another_run_shows_the_same_image_and_pixel(app):
    app.category.value, app.image.index, app.row.value = "grid", 3, 7
    app.run.index = 1
    assert (app.category.value, app.image.value, app.row.value) == ("grid", "test/hole/1.png", 7)
    app.run.index = 0
    assert app.category.value == "grid", "although carpet comes first"


def test_one_change_is_drawn_once(app, monkeypatch):
    drawn, png = [], plots.png
    monkeypatch.setattr(plots, "png", lambda *given: drawn.append(given) or png(*given))
    app.run.index = 1
    app.image.index = 3
    assert len(drawn) == 2


def test_the_threshold_starts_at_the_best_f1_and_returns_there(app):
    start = app.threshold.value
    assert start == explorer.best_threshold(app.kept().masks, app.kept().maps, app.kept().top)
    app.threshold.value = 0.1
    app.best.click()
    assert app.threshold.value == start
    app.scales[1].value = False
    assert app.threshold.value == explorer.best_threshold(app.kept().masks, app.kept().maps, app.kept().top) != start
    for toggle in app.scales:
        toggle.value = False
    assert "No scale is chosen" in app.text()


def test_the_buttons_go_to_failures_and_say_when_there_is_none(app):
    app.threshold.value = app.threshold.max
    app.next_false.click()
    assert app.image.index == 0 and "No other kept image has a false alarm" in app.message.value
    app.next_miss.click()
    assert app.image.value == "test/hole/0.png" and app.message.value == ""
    app.threshold.value = 0.75
    app.next_false.click()
    assert app.image.value == "test/hole/1.png"


def test_a_click_chooses_the_pixel(app):
    app.clicks._dom_handlers({"relativeX": 0.0, "relativeY": 0.0, "boundingRectWidth": 600, "boundingRectHeight": 190})
    before = app.row.value, app.column.value
    figure = app.figure()
    x, y = figure.transFigure.inverted().transform(figure.axes[1].transData.transform((5, 9)))
    app.clicks._dom_handlers({"relativeX": 600 * x, "relativeY": 190 * (1 - y), "boundingRectWidth": 600, "boundingRectHeight": 190})
    assert (app.row.value, app.column.value) == (9, 5) != before


def test_a_damaged_file_is_named_and_no_old_picture_stays(folder, tmp_path):
    for path in folder.glob("runs/*/*"):
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"damaged" if "grid" in str(path) and path.suffix == ".npz" else path.read_bytes())
    app = explorer.explore(str(tmp_path))
    app.category.value = "grid"
    assert "maps.npz: damaged" in app.numbers.value and app.picture.value == b""
    app.category.value = "carpet"
    assert app.picture.value and "precision" in app.numbers.value


def test_the_notebook_is_worth_reading_where_widgets_do_not_run():
    """As GitHub and nbviewer show it: the figure and the table of the first choice."""
    html, _ = HTMLExporter().from_filename(REPO / "notebooks" / "10_explorer.ipynb")
    assert html.count('<img alt="No description has been provided for this image"') == 1
    assert "<th>precision</th>" in html and "Loading widget" not in html
