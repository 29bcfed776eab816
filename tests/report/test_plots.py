"""What figures show, read from the Figure itself."""

import numpy as np
import pytest

from rdlib.report import plots, plots_data


def test_bars_of_the_paper_stand_beside_ours_only_where_it_published_some():
    alone = plots.method_bars([("brick", None, 90.0, 1.0), ("coin", None, None, np.nan)]).axes[0]
    both = plots.method_bars([("carpet", 98.9, 97.0, np.nan), ("tile", None, 95.0, np.nan)]).axes[0]
    assert [text.get_text() for text in both.figure.legends[0].get_texts()] == ["paper", "ours"]
    assert [bar.get_height() for bar in both.patches] == pytest.approx([98.9, np.nan, 97.0, 95.0], nan_ok=True)
    assert len(alone.patches) == 2 and alone.figure.legends[0].get_texts()[0].get_text() == "ours (error bar: std over seeds)"


def test_without_images_a_word_stands_for_the_figure():
    (text,) = plots.map_grid(images=[], masks=[], maps={"anomaly map": []}, titles=[]).texts
    assert text.get_text() == "no finished run to show (not run, or failed)"


def test_a_shorter_line_of_a_gallery_ends_with_empty_places():
    image = np.zeros((3, 8, 8), np.uint8)
    axes = plots_data.gallery({"a": [("1", image, None), ("2", image, None)], "b": [("3", image, None)]}).axes
    assert [len(ax.images) for ax in axes] == [1, 1, 1, 0] and not axes[3].axison
