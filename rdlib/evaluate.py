"""From the scores of a test set to the numbers of a run: every metric, scale set and image-score rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rdlib import metrics
from rdlib.config import CHOICES, Config
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
    per_image = image_scores(scores, maps, rule or cfg.image_score)
    return image_metrics(scores, per_image) | _pixel_metrics(scores, maps, _region_sizes(scores))[0]


@dataclass(frozen=True)
class Evaluation:
    """What a run file says of a scored test set.

    metrics: of the configuration's scales and image score, name -> [0, 1], NaN where undefined
    by_scales: the same for every scale set of Table 6, from the same trained model; keys as in the table: "M2+M3"
    by_image_score: image metrics for every rule that turns a map into a score (max, sum, mean), from the same maps
    pro_curve: fpr, pro at evenly spaced false positive rates up to 0.3, for drawing; {} where undefined
    per_image: (N,) image scores
    without_pro: images with anomalous pixels that `au_pro_per_image` leaves out, since the official code's PRO is undefined there
    """

    metrics: dict[str, float]
    by_scales: dict[str, dict[str, float]]
    by_image_score: dict[str, dict[str, float]]
    pro_curve: dict[str, list[float]]
    per_image: NDArray
    without_pro: int


def evaluate_run(scores: Scores, cfg: Config, points: int = 61) -> Evaluation:
    """Everything a run file says, with regions found once and every set of maps sorted once.

    points: of the PRO curve
    """
    maps, sizes = scores.maps(cfg.scales), _region_sizes(scores)
    by_rule = {rule: image_score(maps, rule) for rule in CHOICES["image_score"]}
    per_image = by_rule[cfg.image_score] if scores.image_scores is None else scores.image_scores
    pixels, pro_curve, without_pro = _pixel_metrics(scores, maps, sizes, points)
    values = image_metrics(scores, per_image) | pixels
    del maps  # the other scale sets need the room

    def of(scales: tuple[int, ...]) -> dict[str, float]:
        if scales == cfg.scales:
            return values
        maps = scores.maps(scales)
        return image_metrics(scores, image_scores(scores, maps, cfg.image_score)) | _pixel_metrics(scores, maps, sizes)[0]

    there = len(scores.scale_maps)
    by_scales = {"+".join(f"M{k}" for k in ks): of(ks) for ks in SCALE_SETS if max(ks) <= there}
    by_image_score = {rule: image_metrics(scores, s) for rule, s in by_rule.items()}
    return Evaluation(values, by_scales, by_image_score, pro_curve, per_image, without_pro)


def image_metrics(scores: Scores, per_image: NDArray) -> dict[str, float]:
    """image_auroc and image_ap of image scores (N,)."""
    images = {"labels": scores.labels, "scores": per_image}
    return {"image_auroc": metrics.image_auroc(**images), "image_ap": metrics.image_ap(**images)}


def _region_sizes(scores: Scores) -> NDArray | None:
    return None if scores.masks is None else metrics.region_sizes(scores.masks)


def _pixel_metrics(
    scores: Scores, maps: NDArray, sizes: NDArray | None, points: int = 0
) -> tuple[dict[str, float], dict[str, list[float]], int]:
    """The pixel metrics of maps (N, H, W), the PRO curve in `points` points, images without a PRO; {}, {} and 0 without masks."""
    if scores.masks is None:
        return {}, {}, 0
    pixels = {"masks": scores.masks, "maps": maps, "sizes": sizes}
    fpr = np.linspace(0, 0.3, points)
    values, pro = metrics.pixel_metrics_and_pro(**pixels, fprs=fpr)
    curve = {} if np.isnan(pro).any() else {"fpr": fpr.round(4).tolist(), "pro": pro.round(5).tolist()}
    pros = metrics.image_pros(**pixels)
    return values | {"au_pro_per_image": metrics.mean_of_defined(pros)}, curve, int(np.isnan(pros).sum())


def why_undefined(values: dict[str, float], scores: Scores, without_pro: int = 0) -> dict[str, str]:
    """A sentence, with counts, for every metric that is NaN, and for `au_pro_per_image` where it leaves images out."""
    normal, anomalous = int((scores.labels == 0).sum()), int((scores.labels == 1).sum())
    images = f"test set has {normal} normal and {anomalous} anomalous images; both kinds are needed"
    if scores.masks is None:
        return {name: images for name, value in values.items() if math.isnan(value)}
    count, seen = int(scores.masks.sum()), int(scores.masks.any((1, 2)).sum())
    pixels = f"masks have {scores.masks.size - count} normal and {count} anomalous pixels; both kinds are needed"
    if anomalous and not count:
        pixels += f" (the defects of all {anomalous} anomalous images vanished, or their masks are empty)"
    left_out = (
        f"{without_pro} of {seen} images with anomalous pixels left out, because no threshold below the FPR limit gives a curve there"
    )
    reasons = {"image_auroc": images, "image_ap": images, "au_pro_per_image": left_out if seen else pixels}
    told = {name: reasons.get(name, pixels) for name, value in values.items() if math.isnan(value)}
    return told | ({"au_pro_per_image": left_out} if without_pro else {})
