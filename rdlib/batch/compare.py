"""Ours against the committed reference: `python -m rdlib.batch.compare OURS REFERENCE`, the last word of `make reproduce`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdlib.errors import exit_in_words
from rdlib.run.record import read_runs


def compare_runs(ours: list[dict[str, Any]], reference: list[dict[str, Any]]) -> pd.DataFrame:
    """Every metric of every run that both have.

    returns: run_id, metric, ours, reference, difference (per cent)
    """
    known = {r["run_id"]: r for r in reference}
    rows = [
        {"run_id": r["run_id"], "metric": m, "ours": 100 * v, "reference": 100 * w, "difference": 100 * (v - w)}
        for r in ours
        if r["run_id"] in known
        for m, v in r["metrics"].items()
        if v is not None and (w := known[r["run_id"]]["metrics"].get(m)) is not None
    ]
    return pd.DataFrame(rows, columns=["run_id", "metric", "ours", "reference", "difference"])


def summary(ours: list[dict[str, Any]], reference: list[dict[str, Any]]) -> str:
    """Two sentences: are our runs the reference's, to the bit, or within what another machine may change?

    Stated spread: another processor sums in another order, and training amplifies that to about what another seed does;
    so the mean difference in image AUROC should stay below 3 standard deviations over the reference's seeds, or 3 points.
    """
    both = compare_runs(ours, reference)
    if both.empty:
        return "No run of the committed reference was repeated: nothing to compare."
    same = both.groupby("run_id")["difference"].apply(lambda d: bool((d == 0).all()))
    text = f"{same.sum()} of {len(same)} runs are identical to the committed reference in every metric."
    if same.all():
        return text
    worst = both.loc[both["difference"].abs().idxmax()]
    allowed = max(3.0, 3 * seed_spread(reference))
    mean = both.query("metric == 'image_auroc'")["difference"].mean()
    return (
        f"{text} Largest difference: {worst['difference']:+.2f} points, {worst['metric']} of {worst['run_id']}. Mean image AUROC "
        f"differs by {mean:+.2f} points, {'within' if abs(mean) <= allowed else 'OUTSIDE'} the stated spread of {allowed:.1f} "
        "(3 standard deviations over seeds, at least 3)."
    )


def seed_spread(runs: list[dict[str, Any]]) -> float:
    """Mean standard deviation (per cent) of image AUROC over the seeds of one configuration; 0 if no two seeds."""
    defined = [r for r in runs if r["metrics"]["image_auroc"] is not None]
    group = [json.dumps({k: v for k, v in r["config"].items() if k != "seed"}, sort_keys=True) for r in defined]
    values = pd.DataFrame({"group": group, "value": [100 * r["metrics"]["image_auroc"] for r in defined]})
    return float(np.nan_to_num(values.groupby("group")["value"].std().mean()))


if __name__ == "__main__":
    with exit_in_words():
        print(summary(*(read_runs(Path(folder)) for folder in sys.argv[1:3])))
