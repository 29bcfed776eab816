"""Which images go into the paper's figures: chosen by rule, never by hand. Drawing itself is in `plots`."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rdlib import metrics, plots
from rdlib.report import Report

Kept = dict[str, dict[str, NDArray]]  # category -> images (N, C, H, W), masks (N, H, W), maps (N, H, W), scale_maps, paths
ROWS = 6  # rows of a figure at the most


def kept_maps(report: Report, runs: list[dict[str, Any]]) -> Kept:
    """Maps that the runs kept, by category; runs that kept none are left out."""
    found = {}
    for run in runs:
        maps = report.maps(run)
        if maps is not None:
            chosen = [k - 1 for k in run["config"]["scales"]]
            found[run["config"]["category"]] = maps | {"maps": maps["scale_maps"][chosen].sum(axis=0)}
    return found


def against_conventional(kept: Kept, conventional: Kept) -> Figure:
    """Fig. 1: image | ground truth | conventional | reverse, the defect of median size of each category."""
    chosen = [(c, _ranked_by_area(kept[c])[len(_ranked_by_area(kept[c])) // 2]) for c in kept if c in conventional]
    return _grid(kept, _spread(chosen, kept), {"conventional": conventional, "reverse (ours)": kept})


def by_area(kept: Kept, smallest: bool) -> Figure:
    """Figs. 5 and 6: the smallest, or the largest, defects by ground-truth area."""
    ranked = {c: _ranked_by_area(k)[:: 1 if smallest else -1] for c, k in kept.items()}
    return _grid(kept, _round_robin(ranked), {"reverse (ours)": kept})


def failures(kept: Kept, runs: list[dict[str, Any]]) -> Figure:
    """The anomalous images with the lowest scores of their category."""
    scores = {r["config"]["category"]: np.array([i["score"] for i in r["images"]]) for r in runs}
    paths = {r["config"]["category"]: [i["path"] for i in r["images"]] for r in runs}
    ranked = {}
    for category, k in kept.items():
        by_path = dict(zip(paths[category], scores[category]))
        own = np.array([by_path[p] for p in k["paths"]])
        ranked[category] = [i for i in np.argsort(own, kind="stable") if k["masks"][i].any()]
    return _grid(kept, _round_robin(ranked), {"reverse (ours)": kept})


def per_scale(kept: Kept) -> Figure:
    """Image | ground truth | M1 | M2 | M3 | sum, the defect of median size of each category."""
    chosen = _spread([(c, _ranked_by_area(k)[len(_ranked_by_area(k)) // 2]) for c, k in kept.items()], kept)
    count = len(next(iter(kept.values()))["scale_maps"])
    scales = {f"M{n + 1}": {c: {"maps": k["scale_maps"][n]} for c, k in kept.items()} for n in range(count)}
    return _grid(kept, chosen, scales | {"sum": kept})


def histograms(runs: list[dict[str, Any]]) -> Figure:
    """Fig. 7, one panel per category."""
    panels = [
        (r["config"]["category"], np.array([i["label"] for i in r["images"]]), np.array([i["score"] for i in r["images"]])) for r in runs
    ]
    return plots.histogram_grid(panels)


def pro_curves(kept: Kept) -> Figure:
    """PRO against false positive rate to 0.3, one line per category."""
    lines = {}
    for category, k in kept.items():
        fpr, pro = metrics.pro_curve(masks=k["masks"], maps=k["maps"])
        inside = fpr <= 0.3
        thin = np.unique(np.linspace(0, inside.sum() - 1, 500).astype(int))  # enough for a line
        lines[f"{category} ({metrics.au_pro(masks=k['masks'], maps=k['maps']):.3f})"] = (fpr[inside][thin], pro[inside][thin])
    return plots.curves(lines, "false positive rate", "per-region overlap", (0, 0.3))


def _ranked_by_area(kept: dict[str, NDArray]) -> list[int]:
    """Anomalous images, smallest defect first."""
    area = kept["masks"].sum(axis=(1, 2))
    return [int(i) for i in np.argsort(area, kind="stable") if area[i]]


def _round_robin(ranked: dict[str, list[int]]) -> list[tuple[str, int]]:
    """The first of every category, then the second of every category ..., up to ROWS."""
    longest = max(map(len, ranked.values()), default=0)
    return [(c, items[n]) for n in range(longest) for c, items in ranked.items() if n < len(items)][:ROWS]


def _spread(chosen: list[tuple[str, int]], kept: Kept) -> list[tuple[str, int]]:
    """As they are if there are several categories; a single one gives its defects from small to large instead."""
    if len(chosen) != 1:
        return chosen[:ROWS]
    category = chosen[0][0]
    ranked = _ranked_by_area(kept[category])
    return [(category, ranked[i]) for i in np.linspace(0, len(ranked) - 1, min(ROWS, len(ranked))).astype(int)]


def _grid(kept: Kept, chosen: list[tuple[str, int]], columns: dict[str, Kept]) -> Figure:
    return plots.map_grid(
        images=[kept[c]["images"][i] for c, i in chosen],
        masks=[kept[c]["masks"][i] for c, i in chosen],
        maps={name: np.stack([source[c]["maps"][i] for c, i in chosen]) for name, source in columns.items()},
        titles=[f"{c}\n{str(kept[c]['paths'][i]).split('/')[1]}" for c, i in chosen],
    )
