"""From the scores of a test set to the numbers of a run: every metric, and beside it other scale sets and image scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rdlib import metrics
from rdlib.config import CHOICES, Config

if TYPE_CHECKING:  # not at run time: reading results must not load torch
    from rdlib.score import Scores

METRICS = ("image_auroc", "image_ap", "image_f1_max", "image_tpr_fpr01", *metrics.PIXEL_METRICS, "au_pro_per_image")
SCALE_SETS = ((1,), (2,), (3,), (2, 3), (1, 2, 3))  # Table 6
CURVE = np.linspace(0, 0.3, 61)  # false positive rates at which a run file keeps the PRO curve, for drawing


def image_scores(scores: Scores, maps: NDArray, rule: str) -> NDArray:
    """S_AD (N,): the rule on the maps (N, H, W), unless the method has image scores of its own (SPADE)."""
    return metrics.image_score(maps, rule) if scores.image_scores is None else scores.image_scores


def evaluate(scores: Scores, cfg: Config, scales: tuple[int, ...] | None = None) -> dict[str, float]:
    """All metrics of one scored test set; the pixel metrics where there are masks.

    scales: instead of the configuration's
    returns: name -> [0, 1], NaN where undefined (see `why_undefined`)
    """
    maps = scores.maps(scales or cfg.scales)
    found = image_metrics(scores.labels, image_scores(scores, maps, cfg.image_score))
    if scores.masks is None:
        return found
    pixels = {"masks": scores.masks, "maps": maps}
    return found | metrics.pixel_metrics(**pixels, labels=scores.labels) | {"au_pro_per_image": metrics.au_pro_per_image(**pixels)}


def image_metrics(labels: NDArray, scores: NDArray) -> dict[str, float]:
    """The metrics of images. labels, scores: (N,)"""
    images = {"labels": labels, "scores": scores}
    points = {f"image_{name}": value for name, (value, _) in metrics.operating_points(**images).items()}
    return {"image_auroc": metrics.image_auroc(**images), "image_ap": metrics.image_ap(**images)} | points


def thresholds(scores: Scores, maps: NDArray, rule: str) -> dict[str, float]:
    """Scores at which the metrics at a threshold are reached, under these metrics' names; NaN where there is none."""
    pairs = {"image": (scores.labels, image_scores(scores, maps, rule))}
    if scores.masks is not None:
        pairs["pixel"] = (scores.masks.ravel(), maps.ravel())
    points = {kind: metrics.operating_points(labels=truth, scores=values) for kind, (truth, values) in pairs.items()}
    return {f"{kind}_{name}": threshold for kind, found in points.items() for name, (_, threshold) in found.items()}


def details(scores: Scores, cfg: Config, found: dict[str, float]) -> dict[str, Any]:
    """What a run file says beside its metrics.

    found: the metrics, of `evaluate`
    returns: by_scales: all metrics for every scale set of Table 6, from the same trained model; keys as in the table, "M2+M3".
        by_image_score: image metrics for every rule that turns a map into a score.
        thresholds: see there. images: path, label, score and size of the anomaly of each. pro_curve, where it is defined.
        undefined: see `why_undefined`
    """
    maps, there = scores.maps(cfg.scales), len(scores.scale_maps)
    by_scales = {ks: found if ks == cfg.scales else evaluate(scores, cfg, ks) for ks in SCALE_SETS if max(ks) <= there}
    rules = {rule: metrics.image_score(maps, rule) for rule in CHOICES["image_score"]}
    rows = zip(scores.paths, scores.labels, image_scores(scores, maps, cfg.image_score))
    images = [{"path": path, "label": int(label), "score": float(score)} for path, label, score in rows]
    told = {
        "by_scales": {"+".join(f"M{k}" for k in ks): values for ks, values in by_scales.items()},
        "by_image_score": {rule: image_metrics(scores.labels, values) for rule, values in rules.items()},
        "thresholds": thresholds(scores, maps, cfg.image_score),
        "images": images,
        "undefined": why_undefined(scores, found, maps),
    }
    if scores.masks is not None:
        for row, mask in zip(images, scores.masks):
            row["anomalous_pixels"] = int(mask.sum())
        if not math.isnan(found["au_pro"]):
            pro = np.interp(CURVE, *metrics.pro_curve(masks=scores.masks, maps=maps))
            told["pro_curve"] = {"fpr": CURVE.round(4).tolist(), "pro": pro.round(5).tolist()}
    return told


def why_undefined(scores: Scores, found: dict[str, float], maps: NDArray) -> dict[str, str]:
    """A sentence, with counts, for every metric that is NaN, and for `au_pro_per_image` where it leaves images out, since the
    official code's PRO is undefined there."""
    normal, anomalous = int((scores.labels == 0).sum()), int((scores.labels == 1).sum())
    images = f"test set has {normal} normal and {anomalous} anomalous images; both kinds are needed"
    undefined = [name for name, value in found.items() if math.isnan(value)]
    if scores.masks is None:
        return dict.fromkeys(undefined, images)
    count, pros = int(scores.masks.sum()), metrics.image_pros(masks=scores.masks, maps=maps)
    pixels = f"masks have {scores.masks.size - count} normal and {count} anomalous pixels; both kinds are needed"
    if anomalous and not count:
        pixels += f" (the defects of all {anomalous} anomalous images vanished, or their masks are empty)"
    told = {name: images if name.startswith("image") or (name == "aupimo" and not normal) else pixels for name in undefined}
    if without := int(np.isnan(pros).sum()):
        told["au_pro_per_image"] = (
            f"{without} of {len(pros)} images with anomalous pixels left out, because no threshold below the FPR limit gives a curve there"
        )
    return told
