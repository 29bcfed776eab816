"""What figures show, read from the Figure itself, and that nothing but our own settings decides how they look."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from helpers import REPO
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from rdlib.report import plots

IMAGE, MASK = np.zeros((3, 8, 8), np.uint8), np.eye(8, dtype=bool)
MAPS = np.stack([np.full((8, 8), 0.25), np.full((8, 8), 0.75)])
DRAW = {
    "loss": lambda: plots.loss_curve([3.0, 2.0, 1.0]),
    "grid": lambda: plots.map_grid([IMAGE] * 2, [MASK, None], {"a": MAPS}, ["x_1", "$y"], note="a_b"),
    "gallery": lambda: plots.gallery({"row": [("title_1", IMAGE, MASK)]}),
    "heat map": lambda: plots.heat_map(Image.new("RGB", (12, 8)), MAPS[0].astype(np.float32), 0.2, "name_1.png"),
    "nothing": plots.nothing,
}
# What a matplotlibrc may hold.
STRANGE = {"text.usetex": True, "font.family": ["No Such Font"], "font.size": 30, "savefig.dpi": 20, "savefig.bbox": "tight"}
STRANGE |= {"axes.facecolor": "red", "figure.facecolor": "black", "image.origin": "lower"}


@pytest.mark.parametrize("name", DRAW)
def test_the_users_settings_change_no_figure(name):
    with matplotlib.rc_context(STRANGE):
        figure = DRAW[name]()
        strange = plots.png(figure, 50), figure._repr_png_()
    figure = DRAW[name]()
    assert strange == (plots.png(figure, 50), figure._repr_png_())


def test_settings_are_what_they_were_after_drawing():
    before = dict(matplotlib.rcParams)
    for draw in DRAW.values():
        draw()._repr_png_()
    assert dict(matplotlib.rcParams) == before


def test_importing_changes_no_setting():
    code = """import matplotlib, seaborn
before = dict(matplotlib.rcParams)
from rdlib.report import figures, page, plots
assert dict(matplotlib.rcParams) == before"""
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


def test_jupyter_shows_a_figure_as_png():
    shown, _ = DisplayFormatter().format(plots.nothing())
    assert shown["image/png"].startswith(b"\x89PNG")


def test_letters_that_no_font_has_are_no_error(monkeypatch):
    monkeypatch.setattr(plots, "FALLBACK", ())
    heat_map = plots.heat_map(Image.new("RGB", (8, 8)), np.ones((8, 8), np.float32), 0.5, "部品_缺陷_결함.png")
    assert plots.png(heat_map, 50) and heat_map.get_suptitle() == "部品_缺陷_결함.png"


def test_letters_come_from_a_font_that_is_installed(monkeypatch):
    """DejaVu Sans stays first, so that other letters look the same everywhere."""
    monkeypatch.setattr(plots, "FALLBACK", ("No Such Font", "STIXGeneral"))
    with plots.style():
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "STIXGeneral"]


def test_the_rows_of_a_grid_have_one_scale_and_a_bar_each():
    figure = plots.map_grid([IMAGE] * 2, [MASK] * 2, {"a": MAPS, "b": MAPS + 1}, ["x", "y"])
    drawn = [ax.images[0] for ax in figure.axes if ax.images and ax.images[0].get_cmap().name == plots.MAP_COLOURS]
    assert [image.get_clim() for image in drawn] == [(0.25, 1.75)] * 4
    assert len(figure.axes) == 2 * 4 + 2, "a colour bar for each row"
    chosen = plots.map_grid([IMAGE] * 2, [MASK] * 2, {"a": MAPS}, ["x", "y"], limits=[(0, 1), (0, 2)])
    assert [ax.images[0].get_clim() for ax in (chosen.axes[2], chosen.axes[5])] == [(0, 1), (0, 2)]
    assert plots.map_grid(images=[], masks=[], maps={"anomaly map": []}, titles=[]).texts, "a word where there is nothing to show"


def test_a_shorter_line_of_a_gallery_ends_with_empty_places():
    axes = plots.gallery({"a": [("1", IMAGE, None), ("2", IMAGE, None)], "b": [("3", IMAGE, None)]}).axes
    assert [len(ax.images) for ax in axes] == [1, 1, 1, 0] and not axes[3].axison
