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


def differences(ours: list[dict[str, Any]], reference: list[dict[str, Any]]) -> pd.DataFrame:
    """Ours minus the reference's, per cent: a row per run that both have, a column per metric; NaN where one of them is undefined."""
    mine, theirs = (pd.DataFrame({r["run_id"]: r["metrics"] for r in runs}, dtype=float).T for runs in (ours, reference))
    return 100 * (mine - theirs).dropna(how="all")


def summary(ours: list[dict[str, Any]], reference: list[dict[str, Any]]) -> str:
    """A text: are our runs the reference's, to the bit, or within what another machine may change?

    Stated spread: another processor sums in another order, and training amplifies that to about what another seed does;
    so the mean difference in image AUROC should stay below 3 standard deviations over the reference's seeds, or 3 points.
    """
    apart = differences(ours, reference)
    if apart.empty:
        return "No run of the committed reference was repeated: nothing to compare."
    same = (apart.fillna(0) == 0).all(axis=1)
    text = f"{same.sum()} of {len(same)} runs are identical to the committed reference in every metric."
    if same.all():
        return text
    metric = apart.abs().max().idxmax()
    run_id = apart[metric].abs().idxmax()
    allowed, mean = max(3.0, 3 * seed_spread(reference)), apart["image_auroc"].mean()
    return (
        f"{text} Largest difference: {apart.loc[run_id, metric]:+.2f} points, {metric} of {run_id}. Mean image AUROC "
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
