"""From the scores of a test set to the numbers of a run: every metric, scale set and image-score rule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rdlib import metrics
from rdlib.config import Config
from rdlib.metrics import image_score

if TYPE_CHECKING:  # not at run time: reading results must not load torch
    from rdlib.score import Scores

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "au_pro", "au_pro_per_image")
SCALE_SETS = ((1,), (2,), (3,), (2, 3), (1, 2, 3))  # Table 6


def image_scores(scores: Scores, maps: NDArray, rule: str) -> NDArray:
    """(N,) the method's own image scores if it has any, else the rule's on the maps (N, H, W)."""
    return image_score(maps, rule) if scores.image_scores is None else scores.image_scores


def evaluate(scores: Scores, cfg: Config, scales: tuple[int, ...] | None = None, rule: str | None = None) -> dict[str, float]:
    """All metrics of one scored test set; the pixel metrics where there are masks.

    scales, rule: instead of the configuration's scales and image score
    returns: name -> [0, 1], NaN where undefined (see `why_undefined`)
    """
    maps = scores.maps(scales or cfg.scales)
    images = {"labels": scores.labels, "scores": image_scores(scores, maps, rule or cfg.image_score)}
    values = {"image_auroc": metrics.image_auroc(**images), "image_ap": metrics.image_ap(**images)}
    if scores.masks is not None:
        pixels = {"masks": scores.masks, "maps": maps}
        values |= metrics.pixel_metrics(**pixels)
        values["au_pro_per_image"] = metrics.au_pro_per_image(**pixels)
    return values


def evaluate_image_rules(scores: Scores, cfg: Config) -> dict[str, dict[str, float]]:
    """Image metrics for every rule that turns a map into a score (max, sum, mean), from the same maps."""
    maps = scores.maps(cfg.scales)
    result = {}
    for rule in ("max", "sum", "mean"):
        images = {"labels": scores.labels, "scores": image_score(maps, rule)}
        result[rule] = {"image_auroc": metrics.image_auroc(**images), "image_ap": metrics.image_ap(**images)}
    return result


def evaluate_scales(scores: Scores, cfg: Config) -> dict[str, dict[str, float]]:
    """All metrics for every scale set of Table 6, from the same trained model. Keys as in the table: "M2+M3"."""
    there = len(scores.scale_maps)
    return {"+".join(f"M{k}" for k in ks): evaluate(scores, cfg, scales=ks) for ks in SCALE_SETS if max(ks) <= there}


def thin_pro_curve(scores: Scores, cfg: Config, points: int = 61) -> dict[str, list[float]]:
    """The PRO curve to FPR 0.3 at evenly spaced false positive rates, for drawing; {} without regions."""
    if scores.masks is None or not scores.masks.any():
        return {}
    fpr, pro = metrics.pro_curve(masks=scores.masks, maps=scores.maps(cfg.scales))
    grid = np.linspace(0, 0.3, points)
    return {"fpr": grid.round(4).tolist(), "pro": np.interp(grid, fpr, pro).round(5).tolist()}


def why_undefined(values: dict[str, float], scores: Scores) -> dict[str, str]:
    """A sentence for every metric that is NaN."""
    normal, anomalous = int((scores.labels == 0).sum()), int((scores.labels == 1).sum())
    reason = f"test set has {normal} normal and {anomalous} anomalous images; both kinds are needed"
    if normal and anomalous:
        reason = "no anomalous image has a map with false positives below the FPR limit"
    return {name: reason for name, value in values.items() if math.isnan(value)}
