"""The field's metrics, as pure functions on NumPy arrays. Nothing is rounded; what is undefined is NaN.

Two different numbers are called PRO. `au_pro` is the data set's definition (MVTec AD, Bergmann et al. 2021): all
test images pooled, the exact area to FPR 0.3 divided by 0.3. `au_pro_per_image` is what the official RD4AD code
computes and the paper reports. Scores are higher for more anomalous; arguments are keyword-only.

Memory: `pixel_metrics`, `pixel_metrics_and_pro`, `pixel_auroc`, `pixel_ap`, `au_pro` and `au_pro_per_image` read the maps in
chunks of images, so masks and maps may be `np.memmap`s larger than memory. Beside the inputs they take about 8 bytes per pixel
where one pixel in twenty is anomalous (165 where all are), and never more than about 60 per pixel of `budget` (or 165 per pixel
of one image, if that is more); `au_pro_per_image` takes one image at a time. `pro_curve` returns every threshold and needs
memory for all of them; `sizes`, where given, takes 4 bytes per anomalous pixel.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)
PIXELS = 2**25  # read at once: 512 maps of 256 x 256; larger test sets are read chunk by chunk, with the same result


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
    """S_AD per image: the map's maximum (MVTec), sum (novelty) or mean, in float64. maps: (..., H, W) -> (...)"""
    reduce = {"max": np.max, "sum": np.sum, "mean": np.mean}[rule]
    images = maps.reshape(-1, *maps.shape[-2:])
    scores = [reduce(images[chunk].astype(np.float64), axis=(-2, -1)) for chunk in _chunks(images.shape, 2**18)]
    return np.concatenate([np.empty(0), *scores]).reshape(maps.shape[:-2])[()]


def pixel_metrics(
    *, masks: NDArray, maps: NDArray, max_fpr: float = 0.3, sizes: NDArray | None = None, budget: int = PIXELS
) -> dict[str, float]:
    """pixel_auroc, pixel_ap and au_pro of a category, exact, from one sort of all its pixels.

    masks: (N, H, W) bool; maps: (N, H, W), either may be larger than memory
    sizes: of `region_sizes`, to share it between several maps of one test set
    budget: pixels read at once, see the head of this module
    returns: three values in [0, 1]; NaN where no pixel, or every pixel, is anomalous
    """
    return pixel_metrics_and_pro(masks=masks, maps=maps, fprs=(), max_fpr=max_fpr, sizes=sizes, budget=budget)[0]


def pixel_metrics_and_pro(
    *, masks: NDArray, maps: NDArray, fprs: ArrayLike, max_fpr: float = 0.3, sizes: NDArray | None = None, budget: int = PIXELS
) -> tuple[dict[str, float], NDArray]:
    """`pixel_metrics`, and the per-region overlap at some false positive rates, from the same sort.

    fprs: (F,) in [0, 1]; the rest as in `pixel_metrics`
    returns: the metrics; (F,) overlap, where `pro_curve` jumps its upper value, NaN where the metrics are
    """
    _check_maps(masks, maps)
    fprs, anomalous = np.asarray(fprs, dtype=np.float64), np.count_nonzero(masks)
    normal, pro = masks.size - anomalous, np.full(fprs.shape, np.nan)
    if not normal or not anomalous:
        return dict.fromkeys(("pixel_auroc", "pixel_ap", "au_pro"), float("nan")), pro
    auroc = ap = area = 0.0
    for false, true, overlap in _pieces(masks, maps, sizes, budget):
        fpr, found = false / normal, true[2::2]
        auroc += np.trapezoid(true / anomalous, fpr)
        ap += np.sum(np.diff(true[::2]) / anomalous * (found / (found + false[2::2])))
        area += _area_to(max_fpr, fpr, overlap)
        inside = (fpr[0] <= fprs) & (fprs <= fpr[-1])
        pro[inside] = np.interp(fprs[inside], fpr, overlap)
    # The last overlap is the number of regions up to rounding; dividing by it makes the last overlap exactly 1.
    return {"pixel_auroc": float(auroc), "pixel_ap": float(ap), "au_pro": float(area / max_fpr / overlap[-1])}, pro / overlap[-1]


def pixel_auroc(*, masks: NDArray, maps: NDArray) -> float:
    """Area under the ROC curve over all pixels of a category. masks: (N, H, W) bool; maps: (N, H, W); [0, 1]"""
    return pixel_metrics(masks=masks, maps=maps)["pixel_auroc"]


def pixel_ap(*, masks: NDArray, maps: NDArray) -> float:
    """Average precision over all pixels of a category. masks: (N, H, W) bool; maps: (N, H, W); [0, 1]"""
    return pixel_metrics(masks=masks, maps=maps)["pixel_ap"]


def pro_curve(*, masks: NDArray, maps: NDArray) -> tuple[NDArray, NDArray]:
    """False positive rate and per-region overlap at every distinct threshold, from the strictest down.

    masks: (N, H, W) bool; maps: (N, H, W). Regions are 8-connected.
    returns: fpr, pro: (T,) each, both rising from 0 to 1
    """
    _check_maps(masks, maps)
    anomalous, pixels, overlaps = _highest_anomalous(masks, maps, None, maps.size, np.inf)
    scores = np.sort(np.asarray(maps), axis=None)
    first = np.flatnonzero(_differs_from_last(scores))
    rank = np.searchsorted(anomalous, scores[first])  # of the lowest anomalous score that reaches the threshold
    true, overlap = _sums_from_the_top(pixels), _sums_from_the_top(overlaps)
    false, normal = scores.size - first - true[rank], scores.size - true[0]
    fpr = false / normal if normal else np.full(len(first), np.nan)
    pro = overlap[rank] / overlap[0] if true[0] else np.full(len(first), np.nan)
    return np.append(0.0, fpr[::-1]), np.append(0.0, pro[::-1])


def au_pro(*, masks: NDArray, maps: NDArray, max_fpr: float = 0.3) -> float:
    """Area under the per-region overlap to `max_fpr`, divided by it: MVTec's definition, whole category, exact.

    masks: (N, H, W) bool; maps: (N, H, W)
    returns: [0, 1]; NaN if there is no region or no normal pixel
    """
    return pixel_metrics(masks=masks, maps=maps, max_fpr=max_fpr)["au_pro"]


def au_pro_per_image(*, masks: NDArray, maps: NDArray, max_fpr: float = 0.3, thresholds: int = 200, sizes: NDArray | None = None) -> float:
    """PRO as in the official RD4AD code: for each anomalous image by itself, then the mean over images.

    masks: (N, H, W) bool; maps: (N, H, W); sizes: of `region_sizes`, to share it
    returns: [0, 1]; the mean over the anomalous images whose PRO is defined (see `image_pro`), NaN if there is none
    """
    return mean_of_defined(image_pros(masks=masks, maps=maps, max_fpr=max_fpr, thresholds=thresholds, sizes=sizes))


def mean_of_defined(values: list[float]) -> float:
    """Mean of what is not NaN; NaN if nothing is."""
    defined = [v for v in values if not np.isnan(v)]
    return float(np.mean(defined)) if defined else float("nan")


def image_pros(*, masks: NDArray, maps: NDArray, max_fpr: float = 0.3, thresholds: int = 200, sizes: NDArray | None = None) -> list[float]:
    """`image_pro` of every image with an anomalous pixel, NaN where it is undefined; arguments as in `au_pro_per_image`."""
    _check_maps(masks, maps)
    values, end = [], 0
    for mask, scores in zip(masks, maps):
        start, end = end, end + np.count_nonzero(mask)
        if end > start:
            own = None if sizes is None else sizes[start:end]
            values.append(image_pro(mask=mask, map=scores, max_fpr=max_fpr, thresholds=thresholds, sizes=own))
    return values


def image_pro(*, mask: NDArray, map: NDArray, max_fpr: float = 0.3, thresholds: int = 200, sizes: NDArray | None = None) -> float:
    """The official code's PRO of one image: linear thresholds between the image's own minimum and maximum, FPR below
    `max_fpr` kept and divided by the largest kept one, trapezoids between.

    mask: (H, W) bool with at least one region; map: (H, W); sizes: of `region_sizes`, if known
    returns: [0, 1]; NaN if the map is constant, no pixel is normal, or fewer than two thresholds (or none with a false
        positive) stay below `max_fpr`
    """
    low, high, mask = map.min(), map.max(), mask.astype(bool, copy=False)
    if low == high or mask.all():
        return float("nan")
    cuts = np.arange(low, high, (high - low) / thresholds)
    normal = np.sort(map[~mask])
    fpr = 1 - np.searchsorted(normal, cuts, side="right") / len(normal)
    cuts_below = np.searchsorted(cuts, map[mask])  # per anomalous pixel: it is above that many cuts
    overlap = np.bincount(cuts_below, 1 / (region_sizes(mask[None]) if sizes is None else sizes), minlength=len(cuts) + 1)
    overlap = _sums_from_the_top(overlap)
    pro = overlap[1:-1] / overlap[0]
    kept = fpr < max_fpr
    fpr, pro = fpr[kept], pro[kept]
    if len(fpr) < 2 or fpr.max() == 0:
        return float("nan")
    return float(-np.trapezoid(pro, fpr / fpr.max()))  # thresholds rise, so fpr falls


def region_sizes(masks: NDArray) -> NDArray:
    """For every anomalous pixel the size of its 8-connected region: 1 / size is what it adds to the region's overlap.

    masks: (N, H, W) bool
    returns: (P,) int32 pixels, in the order of `masks[masks]`
    """
    return np.concatenate([np.empty(0, np.int32), *(_region_sizes(mask) for mask in masks if mask.any())])


def _region_sizes(mask: NDArray) -> NDArray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(bool, copy=False)
    regions = ndimage.label(box, EIGHT_NEIGHBOURS)[0][box]
    return np.bincount(regions)[regions].astype(np.int32)


def count_regions(mask: NDArray) -> int:
    """Number of 8-connected regions of a mask (H, W)."""
    return ndimage.label(mask, EIGHT_NEIGHBOURS)[1]


# --- One walk down the scores -------------------------------------------------------------------------------------


def _pieces(masks: NDArray, maps: NDArray, sizes: NDArray | None, budget: int) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
    """The curves of false positives, true positives and overlap, from the strictest threshold down, piece by piece.

    Only anomalous scores are thresholds: between two of them no more than the number of false positives changes, so the
    points just above and at each of them are the corners of the curve, and few. Normal pixels are only counted.
    Counts are integers and overlaps float64: float32 running sums are wrong past 16.7 million pixels.

    yields: false, true (numbers of pixels), overlap (summed over regions): (2 U + 1,) each for U thresholds. A piece begins
        where the one before ended; even points are those at a threshold. A last piece of two points leads to all pixels.
    """
    anomalous = np.count_nonzero(masks)
    last, below = (np.int64(0), np.int64(0), np.float64(0)), np.inf
    while last[1] < anomalous:
        scores, pixels, overlaps = _highest_anomalous(masks, maps, sizes, max(1, budget // 8), below)  # an eighth: they take more memory
        false = np.stack(_normal_above(masks, maps, budget, scores), axis=1)[::-1].ravel()
        true, overlap = (last[i] + _sums_from_the_top(v)[::-1] for i, v in ((1, pixels), (2, overlaps)))
        piece = np.append(last[0], false), np.repeat(true, 2)[:-1], np.repeat(overlap, 2)[:-1]
        yield piece
        last, below = tuple(values[-1] for values in piece), scores[0]
    yield tuple(np.array([v, end]) for v, end in zip(last, (masks.size - anomalous, *last[1:])))


def _highest_anomalous(masks: NDArray, maps: NDArray, sizes: NDArray | None, budget: int, below: float) -> tuple[NDArray, NDArray, NDArray]:
    """The highest distinct scores of anomalous pixels below `below`, at most `budget` of them.

    returns: (U,) each: scores, rising; number of pixels with it; overlap they add, summed over regions
    """
    parts, held, end = [], 0, 0
    for chunk in _chunks(masks.shape, budget):
        mask = masks[chunk].astype(bool, copy=False)
        scores = maps[chunk][mask]
        start, end = end, end + len(scores)
        own = region_sizes(mask) if sizes is None else sizes[start:end]
        inside = scores < below
        parts.append((scores[inside], np.ones(np.count_nonzero(inside), np.int64), 1 / own[inside]))
        held += len(parts[-1][0])
        if held > 2 * budget:
            parts = [_merged(parts, budget)]
            held = len(parts[0][0])
    return _merged(parts, budget)


def _merged(parts: list[tuple[NDArray, NDArray, NDArray]], budget: int) -> tuple[NDArray, NDArray, NDArray]:
    """Scores, pixels and overlaps of all parts, equal scores made one; the `budget` highest, rising."""
    scores, pixels, overlaps = (np.concatenate(values) for values in zip(*parts))
    order = np.argsort(scores)
    scores = scores[order]
    first = np.flatnonzero(_differs_from_last(scores))
    pixels, overlaps = (np.add.reduceat(values[order], first) for values in (pixels, overlaps))
    return scores[first][-budget:], pixels[-budget:], overlaps[-budget:]


def _normal_above(masks: NDArray, maps: NDArray, budget: int, scores: NDArray) -> tuple[NDArray, NDArray]:
    """Numbers of normal pixels higher than each score, and at least as high. scores: (U,) rising; returns: (U,) each"""
    above, reaching = np.zeros((2, len(scores)), np.int64)
    for chunk in _chunks(masks.shape, budget):
        normal = maps[chunk][~masks[chunk].astype(bool, copy=False)]
        normal.sort()
        above += len(normal) - np.searchsorted(normal, scores, side="right")
        reaching += len(normal) - np.searchsorted(normal, scores, side="left")
    return above, reaching


def _sums_from_the_top(values: NDArray) -> NDArray:
    """(U,) -> (U + 1,): the sum of each value and all after it, then 0."""
    return np.append(values[::-1].cumsum()[::-1], values.dtype.type(0))


def _differs_from_last(values: NDArray) -> NDArray:
    """(U,) bool: the first of each run of equal values."""
    differs = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=differs[1:])
    return differs


def _area_to(limit: float, x: NDArray, y: NDArray) -> float:
    """Area under y(x), x rising, as far as `limit`."""
    end = np.searchsorted(x, limit, side="right")
    if end == len(x):
        return np.trapezoid(y, x)
    return np.trapezoid(np.append(y[:end], np.interp(limit, x, y)), np.append(x[:end], limit))


def _chunks(shape: tuple[int, ...], budget: int) -> list[slice]:
    """Slices of images (N, H, W) with at most `budget` pixels each, but at least one image."""
    step = max(1, budget // max(1, shape[1] * shape[2]))
    return [slice(i, i + step) for i in range(0, shape[0], step)]


def _check_maps(masks: NDArray, maps: NDArray) -> None:
    if masks.shape != maps.shape or masks.ndim != 3:
        raise ValueError(f"masks {masks.shape} and maps {maps.shape} must have one shape (N, H, W)")
    _check_scores(*(maps[chunk] for chunk in _chunks(maps.shape, PIXELS)))


def _check_scores(*parts: NDArray) -> None:
    bad = sum(np.size(scores) - np.count_nonzero(np.isfinite(scores)) for scores in parts)
    if bad:
        raise ValueError(f"{bad} scores are not finite; metrics would be meaningless")
