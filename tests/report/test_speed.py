"""Tables and the figure of the benchmark, from a made-up bench.json; the metrics of the plain loop in it are ours."""

import json

import bench
import numpy as np
import pytest

from rdlib import metrics
from rdlib.report import plots, speed

SECONDS = {"median_s": 2.0, "q1_s": 1.5, "q3_s": 3.0, "n": 5}
FOUND = {
    "training": [
        {
            "teacher": "resnet18",
            "image_size": 128,
            "batch_size": 16,
            "step": {"plain": SECONDS, "plain, large": SECONDS, "fp32": SECONDS | {"median_s": 0.5}},
            "images_per_s": {"plain": 8.0, "plain, large": 8.0, "fp32": 32.0},
            "times_plain": {"fp32": 4.0},
            "times_plain_large": {"fp32": 6.0},
            "times_plain_if_only_convolutions": {"fp32": 4.5},
            "features_once_s": {"fp32": 7.0},
            "share_of_peak": {"fp32": 0.4},
            "drift": {"steps": [1, 20], "ours": [1.2e-7, 0.02], "plain, nudged": [1e-7, 0.03]},
        },
        {"teacher": "wide", "image_size": 256, "batch_size": 8, "step": {}, "times_plain": {}, "drift": None},
    ],
    "scoring": [
        {
            "teacher": "resnet18",
            "image_size": 128,
            "images": 40,
            "seconds": {"plain": SECONDS, "ours": SECONDS},
            "times_plain": {"ours": 1.0},
        }
    ],
    "metrics": {"maps": 167, "seconds": {"ours": SECONDS}},
    "whole_runs_s": {"one seed": 20.0, "three seeds": 30.0},
    "growth": {"images": {"16": SECONDS, "32": SECONDS | {"median_s": 4.0, "q3_s": 5.0}}, "resolution": {"64": SECONDS, "128": SECONDS}},
}


def test_tables_say_what_was_measured(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps(FOUND))
    found = speed.read_bench(tmp_path)
    plain, large, ours = speed.training_table(found).to_dict("records")
    assert (plain["loop"], plain["times plain"], plain["share of peak"]) == ("plain, fp32", "", "")
    assert (large["loop"], large["times plain"]) == ("plain, large, fp32", "")
    assert (ours["with large files"], ours["if only convolutions"]) == ("6.00", "4.50")
    assert (ours["loop"], ours["times plain"], ours["images/s"], ours["share of peak"]) == ("ours, fp32", "4.00", "32.0", "40%")
    assert ours["s per step (quartiles)"] == "0.5 (1.5 - 3)"
    assert speed.scoring_table(found)["times plain"].tolist() == ["1", "1.00"]
    assert speed.whole_runs_table(found)["times one seed"].tolist() == ["1.00", "1.50"]
    drift = speed.drift_table(found)
    assert drift["loop"].tolist() == ["ours", "plain, nudged"] and drift["step 20"].tolist() == ["2.0e-02", "3.0e-02"]
    assert speed.metrics_table(found)["metrics of 167 maps"].tolist() == ["ours"]


def test_without_a_benchmark_there_is_nothing():
    from helpers import REPO

    assert speed.read_bench(REPO / "tests") is None


def test_growth_is_drawn_against_pixels_and_images():
    figure = plots.growth(FOUND["growth"])
    images, resolution = figure.axes
    assert images.lines[0].get_xdata().tolist() == [16, 32] and resolution.lines[0].get_xdata().tolist() == [64**2, 128**2]


def test_the_plain_loops_metrics_are_ours():
    """The benchmark compares speeds of the same thing: its loop over 200 thresholds gives our number."""
    masks, maps = bench.made_up_maps(6)
    pros = [bench.plain_pro(mask[None].astype(int), m[None]) for mask, m in zip(masks, maps) if mask.any()]
    assert metrics.au_pro_per_image(masks=masks, maps=maps) == pytest.approx(np.mean(pros), abs=1e-6)


def test_interleaving_runs_every_job_in_every_round_and_drops_the_first():
    order = []
    found = bench.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3 and found["a"]["n"] == 2
