"""Tables and the figure of the benchmark in 05_complexity, from a made-up bench.json; the metrics of the plain loop in it are ours."""

import json

import bench
import numpy as np
import pandas as pd
import pytest
from made_up_runs import COST, execute, put, run

from rdlib import metrics

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
    "metrics": {"maps": 167, "seconds": {"ours": SECONDS}, "peak_mb": {"167": 1, "1000": 2}},
    "whole_runs_s": {"one seed": 20.0, "three seeds": 30.0},
    "machine": {"cpu": "a", "threads": 1, "torch": "2"},
    "data": "b",
    "growth": {"images": {"16": SECONDS, "32": SECONDS | {"median_s": 4.0, "q3_s": 5.0}}, "resolution": {"64": SECONDS, "128": SECONDS}},
}


def test_tables_say_what_was_measured(tmp_path, monkeypatch):
    put(tmp_path, run(experiment="cost") | {"complexity": dict.fromkeys(COST, 1.0)})
    (tmp_path / "bench.json").write_text(json.dumps(FOUND))
    space = execute("05_complexity", tmp_path, tmp_path / "out", monkeypatch)
    made = {p.stem: pd.read_csv(p) for p in (tmp_path / "out/tables").glob("speed_*.csv")}
    plain, large, ours = made["speed_training"].to_dict("records")
    assert [row["loop"] for row in (plain, large, ours)] == ["plain, fp32", "plain, large, fp32", "ours, fp32"]
    assert np.isnan([plain["times plain"], large["times plain"], plain["share of peak"]]).all()
    numbers = [
        ours[name] for name in ("times plain", "with large files", "if only convolutions", "images/s", "share of peak", "features once, s")
    ]
    assert numbers == [4, 6, 4.5, 32, 0.4, 7] and ours["s per step (quartiles)"] == "0.5 (1.5 - 3)"
    assert made["speed_scoring"]["times plain"].tolist() == [1, 1] and made["speed_whole_runs"]["times one seed"].tolist() == [1, 1.5]
    assert made["speed_drift"]["loop"].tolist() == ["ours", "plain, nudged"] and made["speed_drift"]["step 20"].tolist() == [0.02, 0.03]
    assert made["speed_metrics"]["metrics of 167 maps"].tolist() == ["ours"]

    images, resolution = space["figure"].axes
    assert images.lines[1].get_xdata().tolist() == [16, 32] and resolution.lines[1].get_xdata().tolist() == [64**2, 128**2]


def test_without_a_benchmark_there_is_nothing(tmp_path, monkeypatch):
    put(tmp_path, run(experiment="cost") | {"complexity": dict.fromkeys(COST, 1.0)})
    assert execute("05_complexity", tmp_path, tmp_path / "out", monkeypatch)["figure"] is None
    assert not list((tmp_path / "out/tables").glob("speed_*"))


def test_the_plain_loops_metrics_are_ours():
    """The benchmark compares speeds of the same thing: its loop over 200 thresholds gives our number."""
    masks, maps = bench.made_up_maps(6)
    pros = [bench.plain_pro(mask[None].astype(int), m[None]) for mask, m in zip(masks, maps) if mask.any()]
    assert metrics.au_pro_per_image(masks=masks, maps=maps) == pytest.approx(np.mean(pros), abs=1e-6)


def test_interleaving_runs_every_job_in_every_round_and_drops_the_first():
    order = []
    found = bench.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3 and found["a"]["n"] == 2
