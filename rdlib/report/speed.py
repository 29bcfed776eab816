"""What `make bench` measured, as tables: seconds with quartiles, and how many times the plain loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

Bench = dict[str, Any]


def read_bench(folder: Path) -> Bench | None:
    """`folder/bench.json`; None if the benchmark has not been run for this profile."""
    path = folder / "bench.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def training_table(bench: Bench) -> pd.DataFrame:
    """One row per teacher and loop: images/s, times the plain loop, share of the machine's convolution peak.

    "with large files": against the plain loop that decodes photographs of MVTec AD's size in every epoch
    "if only convolutions": times the plain loop if our step were nothing but its convolutions, the limit for any loop
    """
    rows = []
    for row in bench["training"]:
        setting = f"{row['teacher']}, {row['image_size']} px, batch {row['batch_size']}"
        for name, seconds in row["step"].items():
            ours = name in row["times_plain"]
            rows.append(
                {
                    "training": setting,
                    "loop": f"ours, {name}" if ours else f"{name}, fp32",
                    "images/s": f"{row['images_per_s'][name]:.1f}",
                    "s per step (quartiles)": _with_quartiles(seconds),
                    "times plain": f"{row['times_plain'][name]:.2f}" if ours else "",
                    "with large files": f"{row['times_plain_large'][name]:.2f}" if ours else "",
                    "if only convolutions": f"{row['times_plain_if_only_convolutions'][name]:.2f}" if ours else "",
                    "features once, s": f"{row['features_once_s'][name]:.1f}" if ours else "every step",
                    "share of peak": f"{row['share_of_peak'][name]:.0%}" if ours else "",
                }
            )
    return pd.DataFrame(rows)


def drift_table(bench: Bench) -> pd.DataFrame:
    """How far losses are from the plain loop's after some steps, in parts of the loss; one row per teacher and loop."""
    return pd.DataFrame(
        {
            "training": f"{row['teacher']}, {row['image_size']} px, batch {row['batch_size']}",
            "loop": name,
            **{f"step {step}": f"{value:.1e}" for step, value in zip(row["drift"]["steps"], apart)},
        }
        for row in bench["training"]
        if row.get("drift")
        for name, apart in row["drift"].items()
        if name != "steps"
    )


def scoring_table(bench: Bench) -> pd.DataFrame:
    """One row per teacher and way: seconds for a category from the files to the metrics."""
    return pd.DataFrame(
        {
            "scoring": f"{row['teacher']}, {row['image_size']} px, {row['images']} images",
            "way": name,
            "s (quartiles)": _with_quartiles(seconds),
            "times plain": f"{row['times_plain'][name]:.2f}" if name in row["times_plain"] else "1",
        }
        for row in bench["scoring"]
        for name, seconds in row["seconds"].items()
    )


def metrics_table(bench: Bench) -> pd.DataFrame:
    """Seconds of the metrics on 167 maps of 256 x 256, ours and others'."""
    found = bench["metrics"]
    rows = [{f"metrics of {found['maps']} maps": name, "s (quartiles)": _with_quartiles(s)} for name, s in found["seconds"].items()]
    return pd.DataFrame(rows)


def whole_runs_table(bench: Bench) -> pd.DataFrame:
    """Wall seconds of complete runs, and as times one seed."""
    wall = bench["whole_runs_s"]
    one = next(iter(wall.values()))
    return pd.DataFrame([{"complete runs": name, "s": s, "times one seed": f"{s / one:.2f}"} for name, s in wall.items()])


def _with_quartiles(seconds: dict[str, float]) -> str:
    return f"{seconds['median_s']:.3g} ({seconds['q1_s']:.3g} - {seconds['q3_s']:.3g})"
