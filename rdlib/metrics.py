"""The field's metrics, as pure functions on NumPy arrays. Nothing is rounded; what is undefined is NaN.

Two different numbers are called PRO. `au_pro` is the data set's definition (MVTec AD, Bergmann et al. 2021): all
test images pooled, the exact area to FPR 0.3 divided by 0.3. `au_pro_per_image` is what the official RD4AD code
computes and the paper reports. Scores are higher for more anomalous; arguments are keyword-only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def image_auroc(*, labels: NDArray, scores: NDArray) -> float:
    """Area under the ROC curve over images (Sec. 4.1).

    labels: (N,) 0 or 1; scores: (N,)
    returns: [0, 1]; NaN if only one class is present
    """
    _check_scores(scores)
    return float(roc_auc_score(labels, scores)) if len(np.unique(labels)) == 2 else float("nan")


def image_ap(*, labels: NDArray, scores: NDArray) -> float:
    """Average precision over images (not in the paper). labels, scores: (N,); NaN if only one class is present."""
    _check_scores(scores)
    return float(average_precision_score(labels, scores)) if len(np.unique(labels)) == 2 else float("nan")


def image_score(maps: NDArray, rule: str) -> NDArray:
    """S_AD per image: the map's maximum (MVTec), sum (novelty) or mean. maps: (..., H, W) -> (...)"""
    return {"max": np.max, "sum": np.sum, "mean": np.mean}[rule](maps.astype(np.float64), axis=(-2, -1))


def pixel_metrics(*, masks: NDArray, maps: NDArray, max_fpr: float = 0.3) -> dict[str, float]:
    """pixel_auroc, pixel_ap and au_pro of a category, exact, from one sort of all its pixels.

    masks: (N, H, W) bool; maps: (N, H, W)
    returns: three values in [0, 1]; NaN where no pixel, or every pixel, is anomalous
    """
    curve = _Curve(masks, maps)
    return {"pixel_auroc": curve.auroc(), "pixel_ap": curve.ap(), "au_pro": curve.au_pro(max_fpr)}


def pixel_auroc(*, masks: NDArray, maps: NDArray) -> float:
    """Area under the ROC curve over all pixels of a category. masks: (N, H, W) bool; maps: (N, H, W); [0, 1]"""
    return _Curve(masks, maps).auroc()


def pixel_ap(*, masks: NDArray, maps: NDArray) -> float:
    """Average precision over all pixels of a category. masks: (N, H, W) bool; maps: (N, H, W); [0, 1]"""
    return _Curve(masks, maps).ap()


def pro_curve(*, masks: NDArray, maps: NDArray) -> tuple[NDArray, NDArray]:
    """False positive rate and per-region overlap at every distinct threshold, from the strictest down.

    masks: (N, H, W) bool; maps: (N, H, W). Regions are 8-connected.
    returns: fpr, pro: (T,) each, both rising from 0 to 1
    """
    curve = _Curve(masks, maps)
    return curve.fpr, curve.pro


def au_pro(*, masks: NDArray, maps: NDArray, max_fpr: float = 0.3) -> float:
    """Area under the per-region overlap to `max_fpr`, divided by it: MVTec's definition, whole category, exact.

    masks: (N, H, W) bool; maps: (N, H, W)
    returns: [0, 1]; NaN if there is no region or no normal pixel
    """
    return _Curve(masks, maps).au_pro(max_fpr)


def au_pro_per_image(*, masks: NDArray, maps: NDArray, max_fpr: float = 0.3, thresholds: int = 200) -> float:
    """PRO as in the official RD4AD code: for each anomalous image by itself, then the mean over images.

    masks: (N, H, W) bool; maps: (N, H, W)
    returns: [0, 1]; the mean over the anomalous images whose PRO is defined (see `image_pro`), NaN if there is none
    """
    _check_maps(masks, maps)
    values = [image_pro(mask=mask, map=m, max_fpr=max_fpr, thresholds=thresholds) for mask, m in zip(masks, maps) if mask.any()]
    defined = [v for v in values if not np.isnan(v)]
    return float(np.mean(defined)) if defined else float("nan")


def image_pro(*, mask: NDArray, map: NDArray, max_fpr: float = 0.3, thresholds: int = 200) -> float:
    """The official code's PRO of one image: linear thresholds between the image's own minimum and maximum, FPR below
    `max_fpr` kept and divided by the largest kept one, trapezoids between.

    mask: (H, W) bool with at least one region; map: (H, W)
    returns: [0, 1]; NaN if the map is constant, no pixel is normal, or fewer than two thresholds (or none with a false
        positive) stay below `max_fpr`
    """
    if map.min() == map.max() or mask.all():
        return float("nan")
    step = (map.max() - map.min()) / thresholds
    cuts = np.arange(map.min(), map.max(), step)
    regions, count = ndimage.label(mask, EIGHT_NEIGHBOURS)
    pro = np.mean([_share_above(map[regions == r], cuts) for r in range(1, count + 1)], axis=0)
    fpr = _share_above(map[~mask], cuts)
    kept = fpr < max_fpr
    fpr, pro = fpr[kept], pro[kept]
    if len(fpr) < 2 or fpr.max() == 0:
        return float("nan")
    return float(-np.trapezoid(pro, fpr / fpr.max()))  # thresholds rise, so fpr falls


def count_regions(mask: NDArray) -> int:
    """Number of 8-connected regions of a mask (H, W)."""
    return ndimage.label(mask, EIGHT_NEIGHBOURS)[1]


class _Curve:
    """All pixels of a category, sorted once from the highest score down, cumulated at each distinct score.

    Counts are integers and overlaps float64: float32 running sums are wrong past 16.7 million pixels.
    """

    def __init__(self, masks: NDArray, maps: NDArray) -> None:
        _check_maps(masks, maps)
        scores = np.ascontiguousarray(maps).ravel()
        order = np.argsort(-scores, kind="stable")
        scores = scores[order]
        last_of_ties = np.append(np.flatnonzero(np.diff(scores)), scores.size - 1)
        positive = masks.ravel()[order]
        true = np.cumsum(positive)[last_of_ties]
        self.true, self.false = true, last_of_ties + 1 - true
        weights, self.regions = _overlap_weights(masks)
        overlap = np.cumsum(weights.ravel()[order])[last_of_ties]
        total = self.false[-1]
        self.fpr = np.concatenate([[0.0], self.false / total if total else np.full(len(true), np.nan)])
        # The last sum of the overlaps is 1 up to rounding; dividing by it makes it exactly 1.
        self.pro = np.concatenate([[0.0], overlap / overlap[-1] if self.regions else np.full(len(true), np.nan)])

    @property
    def undefined(self) -> bool:
        return self.true[-1] == 0 or self.false[-1] == 0

    def auroc(self) -> float:
        if self.undefined:
            return float("nan")
        tpr = np.concatenate([[0.0], self.true / self.true[-1]])
        return float(np.trapezoid(tpr, self.fpr))

    def ap(self) -> float:
        if self.undefined:
            return float("nan")
        precision = self.true / (self.true + self.false)
        return float(np.sum(np.diff(self.true / self.true[-1], prepend=0.0) * precision))

    def au_pro(self, max_fpr: float) -> float:
        if self.undefined:
            return float("nan")
        end = np.searchsorted(self.fpr, max_fpr, side="right")
        fpr = np.append(self.fpr[:end], max_fpr)
        pro = np.append(self.pro[:end], np.interp(max_fpr, self.fpr, self.pro))
        return float(np.trapezoid(pro, fpr) / max_fpr)


def _overlap_weights(masks: NDArray) -> tuple[NDArray, int]:
    """What each pixel adds to the mean per-region overlap when it is detected: 1 / (its region's size), else 0.

    returns: (N, H, W) float64, number of regions
    """
    weights = np.zeros(masks.shape)
    total = 0
    for i in np.flatnonzero(masks.any(axis=(1, 2))):
        regions, count = ndimage.label(masks[i], EIGHT_NEIGHBOURS)
        sizes = np.bincount(regions.ravel())
        per_region = np.concatenate([[0.0], 1 / sizes[1:]])
        weights[i] = per_region[regions]
        total += count
    return weights, total


def _share_above(values: NDArray, cuts: NDArray) -> NDArray:
    """Share of `values` greater than each cut."""
    return 1 - np.searchsorted(np.sort(values), cuts, side="right") / len(values)


def _check_maps(masks: NDArray, maps: NDArray) -> None:
    if masks.shape != maps.shape or masks.ndim != 3:
        raise ValueError(f"masks {masks.shape} and maps {maps.shape} must have one shape (N, H, W)")
    _check_scores(maps)


def _check_scores(scores: NDArray) -> None:
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.size(scores) - np.isfinite(scores).sum()} scores are not finite; metrics would be meaningless")
