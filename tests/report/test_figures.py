"""Which images figures show, by rules one can do in the head, what runs kept of them, and figures as files."""

import numpy as np
import pandas as pd
import pytest
from made_up_runs import put_with_maps, run
from PIL import Image

from rdlib.report import figures, plots


def images(**areas):
    """A row per image: category -> areas of its defects; the name of an image is its number, its score the area's tenth."""
    return pd.DataFrame(
        {"category": c, "path": f"test/hole/{n}.png", "label": 1, "score": a / 10, "anomalous_pixels": a}
        for c, found in areas.items()
        for n, a in enumerate(found)
    )


def chosen(table):
    return [f"{c}{p[10]}" for c, p in zip(table["category"], table["path"])]


def test_categories_take_turns():
    table = images(a=[5, 1, 3], b=[2, 9], c=[4])
    assert chosen(figures.in_turn(table, "anomalous_pixels")) == ["a1", "b0", "c0", "a2", "b1", "a0"]
    assert chosen(figures.in_turn(table, "score", ascending=False)) == ["a0", "b1", "c0", "a2", "b0", "a1"]
    assert len(figures.in_turn(images(a=range(9), b=range(9)), "score")) == figures.ROWS == 6
    assert chosen(figures.in_turn(images(a=[2, 2, 2]), "score")) == ["a0", "a1", "a2"], "equals in the order of their names"


def test_the_typical_defect_is_the_median_of_its_category():
    assert chosen(figures.typical(images(a=[5, 1, 3], b=[2, 9], c=[4]))) == ["a2", "b1", "c0"]
    one = images(a=[8, 0, 5, 3, 7, 1, 6, 4])
    assert chosen(figures.typical(one)) == ["a1", "a5", "a3", "a2", "a6", "a0"], "of one category, from small to large"
    assert figures.typical(one.iloc[:0]).empty and figures.in_turn(one.iloc[:0], "score").empty


def test_telling_images_are_misses_finds_and_false_alarms():
    labels, scores = [1, 0, 1, 0, 1, 0, 1], [0.9, 0.1, 0.2, 0.8, 0.5, 0.3, 0.7]
    rows = [{"path": str(i), "label": y, "score": s} for i, (y, s) in enumerate(zip(labels, scores))]
    assert figures.telling_images({"images": rows}, each=2) == [2, 4, 0, 6, 3, 5]


# --- What runs kept -----------------------------------------------------------------------------------------------


@pytest.fixture
def result(tmp_path):
    """A run of two images that kept its maps: M1 is 0.1 and 0.2 everywhere, M2 and M3 twice and three times that."""
    made = run(0.9, dataset="demo", category="brick", images=[("test/hole/0.png", 1, 0.6, 4), ("test/hole/1.png", 1, 1.2, 4)])
    maps = np.array([[[[0.1]], [[0.2]]]]) * np.array([1, 2, 3]).reshape(3, 1, 1, 1) * np.ones((4, 4))
    return put_with_maps(tmp_path, made, maps, np.ones((2, 4, 4), bool))


def test_a_kept_map_is_the_sum_over_the_scales_of_the_run(tmp_path, result):
    kept = figures.Kept.of(tmp_path, result)
    assert kept.maps[:, 0, 0] == pytest.approx([0.6, 1.2], abs=2e-3) and kept.paths == ("test/hole/0.png", "test/hole/1.png")
    two = figures.Kept.of(tmp_path, result | {"config": result["config"] | {"scales": [1, 3]}})
    assert two.maps[:, 0, 0] == pytest.approx([0.4, 0.8], abs=2e-3)
    assert figures.Kept.of(tmp_path, run(0.9)) is None


def test_a_row_of_a_grid_has_the_scale_of_its_category_whatever_is_chosen(tmp_path, result):
    kept = figures.Kept.of(tmp_path, result)
    one = pd.DataFrame({"category": ["brick"], "path": ["test/hole/0.png"]})
    axes = figures.grid(one, {"map": {"brick": kept}}).axes
    assert axes[2].images[0].get_clim() == (kept.maps.min(), kept.maps.max()), "no map is scaled to itself"
    assert axes[0].get_ylabel() == "brick\nhole" and float(axes[2].images[0].get_array()[0, 0]) == pytest.approx(0.6, abs=2e-3)
    assert figures.grid(one.iloc[:0], {"map": {}}).texts, "a word where there is nothing to show"


# --- Files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_equal_figures_are_equal_files(tmp_path, suffix):
    for name, last in (("one", 1.0), ("two", 1.0), ("three", 1.5)):
        figures.save_figure(plots.loss_curve([3.0, 2.0, last]), tmp_path / "figures" / name, (suffix,), "Loss", "A line")
    one, two, three = ((tmp_path / "figures" / f"{name}.{suffix}").read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_a_file_holds_its_heading_and_its_words(tmp_path):
    figures.save_figure(plots.nothing(), tmp_path / "told", caption="Fig. 1: Größe 部", alt="Bars of <AUROC>")
    figures.save_figure(plots.nothing(), tmp_path / "bare")
    with Image.open(tmp_path / "told.png") as told, Image.open(tmp_path / "bare.png") as bare:
        assert told.text == {"Title": "Fig. 1: Größe 部", "Description": "Bars of <AUROC>"} and bare.text == {}
