"""The field's metrics, as pure functions on NumPy arrays. Nothing is rounded; what is undefined is NaN.

Two different numbers are called PRO. `au_pro` is the data set's definition (MVTec AD, Bergmann et al. 2021): all
test images pooled, the exact area to FPR 0.3 divided by 0.3. `au_pro_per_image` is what the official RD4AD code
computes and the paper reports. Scores are higher for more anomalous; arguments are keyword-only.

At a threshold, and at low false-positive rates, where AUROC and AU-PRO of good detectors are all near 1: the greatest F1, the true
positive rate at 1 % false positives, AU-PRO to FPR 0.05, and AUPIMO (Bertoldo et al., BMVC 2024, arXiv:2401.01984).

Labels and masks are 0 and 1 (bool, or numbers), scores and maps finite numbers; lists will do. All raise InputError
for anything else, for shapes that differ and for a number out of its range.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from rdlib.errors import InputError

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)
LOW_FPR = 0.01  # of the true positive rate at few false positives
STRICT_FPR = 0.05  # limit of au_pro_05
PIMO_FPR = (1e-5, 1e-4)  # AUPIMO's bounds L and U, of pixels of normal images


def image_auroc(*, labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve over images (Sec. 4.1). labels, scores: (N,); [0, 1], NaN if only one class is present."""
    labels, scores = _checked(labels=labels, scores=scores)
    return float(roc_auc_score(labels, scores)) if len(np.unique(labels)) == 2 else float("nan")


def image_ap(*, labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision over images (not in the paper). labels, scores: (N,); [0, 1], NaN if only one class is present."""
    labels, scores = _checked(labels=labels, scores=scores)
    return float(average_precision_score(labels, scores)) if len(np.unique(labels)) == 2 else float("nan")


def operating_points(*, labels: ArrayLike, scores: ArrayLike) -> dict[str, tuple[float, float]]:
    """Metrics at one threshold each, and that threshold: what scores as much or more counts as anomalous.

    labels, scores: (N,) of images, or of all pixels of a category (masks and maps, raveled)
    returns: f1_max: the greatest F1 = 2 TP / (2 TP + FP + FN) over all thresholds, the strictest of equals
        tpr_fpr01: the greatest true positive rate with at most 1 % false positives (no point between two thresholds is assumed);
        each (value in [0, 1], threshold); NaN if only one class is present, threshold NaN if no threshold keeps within 1 %
    """
    labels, scores = _checked(labels=labels, scores=scores)
    if labels.all() or not labels.any():
        return dict.fromkeys(("f1_max", "tpr_fpr01"), (float("nan"), float("nan")))
    thresholds, false, true, _ = _curves(labels, scores, np.ones(np.count_nonzero(labels)))
    return _operating_points(thresholds, false, true, labels.size)


def _operating_points(thresholds: NDArray, false: NDArray, true: NDArray, size: int) -> dict[str, tuple[float, float]]:
    """From the curves of `_curves`: only anomalous scores can be best, any other threshold finds no more and errs more often."""
    false, true, anomalous = false[2::2], true[2::2], true[-1]
    f1, kept = 2 * true / (true + false + anomalous), np.count_nonzero(false / (size - anomalous) <= LOW_FPR)
    best, tpr = np.argmax(f1), true[kept - 1] / anomalous
    low = (float(tpr), float(thresholds[kept - 1])) if kept else (0.0, float("nan"))
    return {"f1_max": (float(f1[best]), float(thresholds[best])), "tpr_fpr01": low}


def image_score(maps: NDArray, rule: str) -> NDArray:
    """S_AD per image: the map's maximum (MVTec), sum (novelty) or mean, in float64. maps: (..., H, W) -> (...)"""
    reduce = {"max": np.max, "sum": np.sum, "mean": np.mean}[rule]
    return reduce(maps.astype(np.float64), axis=(-2, -1))


PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_tpr_fpr01", "au_pro", "au_pro_05", "aupimo")


def pixel_metrics(*, masks: ArrayLike, maps: ArrayLike, max_fpr: float = 0.3, labels: ArrayLike | None = None) -> dict[str, float]:
    """PIXEL_METRICS of a category, exact, from one sort of all its pixels.

    masks, maps: (N, H, W); max_fpr: of au_pro, in (0, 1]; labels: (N,), of images. An image of label 1 whose mask is empty (its
        defect vanished) is not one of AUPIMO's normal images; without labels every image with an empty mask is
    returns: values in [0, 1]; NaN where no pixel, or every pixel, is anomalous, and aupimo without a normal image
    """
    masks, maps = _checked(masks=masks, maps=maps, max_fpr=max_fpr)
    sizes = np.count_nonzero(masks, axis=(1, 2))
    clean = (sizes == 0) & ~_checked(labels=np.zeros(len(masks)) if labels is None else labels, images=sizes)[0]
    anomalous = sizes.sum()
    normal = masks.size - anomalous
    if not normal or not anomalous:
        return dict.fromkeys(PIXEL_METRICS, float("nan"))
    thresholds, false, true, overlap = _curves(masks, maps, 1 / region_sizes(masks))
    fpr, found = false / normal, true[2::2]
    auroc = np.trapezoid(true / anomalous, fpr) + (1 - fpr[-1])
    ap = np.sum(np.diff(true[::2]) / anomalous * (found / (found + false[2::2])))
    points = _operating_points(thresholds, false, true, masks.size)
    # The last overlap is the number of regions up to rounding; dividing by it makes the last overlap exactly 1.
    pros = [_area_to(limit, fpr, overlap) / limit / overlap[-1] for limit in (max_fpr, STRICT_FPR)]
    values = (auroc, ap, *(value for value, _ in points.values()), *pros, _aupimo(maps[masks], sizes, maps[clean]))
    return dict(zip(PIXEL_METRICS, map(float, values), strict=True))


def _aupimo(scores: NDArray, sizes: NDArray, normal: NDArray) -> float:
    """Mean over anomalous images of the area under T(F) to F in [L, U] of log F, divided by log(U / L).

    F(t) is the mean over normal images of their share of pixels >= t, and T(t) the found share of one image's anomalous pixels, at the
    lowest threshold that keeps F. T is a sum over pixels, each found from F = F(its score) on, so the area is the mean over an image's
    anomalous pixels of log(U / F(score)) / log(U / L), held within 0 and 1. Only the U-th part of the normal pixels is ever sorted.

    scores: (P,) of anomalous pixels, image after image; sizes: (N,), how many each image has; normal: maps of normal images, reordered
    """
    if not normal.size:
        return float("nan")
    (lower, upper), normal, sizes = PIMO_FPR, normal.ravel(), sizes[sizes > 0]
    count = int(np.ceil(upper * normal.size))
    normal.partition(normal.size - count)
    false = np.arange(count + 1) / normal.size
    worth = np.clip(np.log(upper / np.maximum(false, lower)) / np.log(upper / lower), 0, 1)
    found = worth[count - np.searchsorted(np.sort(normal[-count:]), scores)]
    return float(np.mean(np.add.reduceat(found, np.cumsum(sizes) - sizes) / sizes))


def pixel_auroc(*, masks: ArrayLike, maps: ArrayLike) -> float:
    """Area under the ROC curve over all pixels of a category. masks, maps: (N, H, W); [0, 1], NaN as in `pixel_metrics`"""
    return pixel_metrics(masks=masks, maps=maps)["pixel_auroc"]


def pixel_ap(*, masks: ArrayLike, maps: ArrayLike) -> float:
    """Average precision over all pixels of a category. masks, maps: (N, H, W); [0, 1], NaN as in `pixel_metrics`"""
    return pixel_metrics(masks=masks, maps=maps)["pixel_ap"]


def pro_curve(*, masks: ArrayLike, maps: ArrayLike) -> tuple[NDArray, NDArray]:
    """False positive rate and per-region overlap at every distinct threshold, from the strictest down.

    masks, maps: (N, H, W). Regions are 8-connected.
    returns: fpr, pro: (T,) each, both rising from 0 to 1; NaN where there is no normal pixel, or no region
    """
    masks, maps = _checked(masks=masks, maps=maps)
    anomalous, pixels, overlaps = _anomalous_scores(masks, maps, 1 / region_sizes(masks))
    scores = np.sort(maps, axis=None)
    first = _starts(scores)
    rank = np.searchsorted(anomalous, scores[first])  # of the lowest anomalous score that reaches the threshold
    true, overlap = _sums_from_the_top(pixels), _sums_from_the_top(overlaps)
    false, normal = scores.size - first - true[rank], scores.size - true[0]
    fpr = false / normal if normal else np.full(len(first), np.nan)
    pro = overlap[rank] / overlap[0] if true[0] else np.full(len(first), np.nan)
    return np.append(0.0, fpr[::-1]), np.append(0.0, pro[::-1])


def au_pro(*, masks: ArrayLike, maps: ArrayLike, max_fpr: float = 0.3) -> float:
    """Area under the per-region overlap to `max_fpr`, divided by it: MVTec's definition, whole category, exact.

    masks, maps: (N, H, W); max_fpr: in (0, 1]
    returns: [0, 1]; NaN if there is no region or no normal pixel
    """
    return pixel_metrics(masks=masks, maps=maps, max_fpr=max_fpr)["au_pro"]


def au_pro_per_image(*, masks: ArrayLike, maps: ArrayLike, max_fpr: float = 0.3, thresholds: int = 200) -> float:
    """PRO as in the official RD4AD code: for each anomalous image by itself, then the mean over images.

    masks, maps: (N, H, W); max_fpr: in (0, 1]; thresholds: at least 2
    returns: [0, 1]; the mean over the anomalous images whose PRO is defined (see `image_pro`), NaN if there is none
    """
    return mean_of_defined(image_pros(masks=masks, maps=maps, max_fpr=max_fpr, thresholds=thresholds))


def mean_of_defined(values: list[float]) -> float:
    """Mean of what is not NaN; NaN if nothing is."""
    defined = [v for v in values if not np.isnan(v)]
    return float(np.mean(defined)) if defined else float("nan")


def image_pros(*, masks: ArrayLike, maps: ArrayLike, max_fpr: float = 0.3, thresholds: int = 200) -> list[float]:
    """`image_pro` of every image with an anomalous pixel, NaN where it is undefined; arguments as in `au_pro_per_image`."""
    masks, maps = _checked(masks=masks, maps=maps, max_fpr=max_fpr, thresholds=thresholds)
    return [_image_pro(mask, map, max_fpr, thresholds) for mask, map in zip(masks, maps) if mask.any()]


def image_pro(*, mask: ArrayLike, map: ArrayLike, max_fpr: float = 0.3, thresholds: int = 200) -> float:
    """The official code's PRO of one image: linear thresholds between the image's own minimum and maximum, FPR below
    `max_fpr` kept and divided by the largest kept one, trapezoids between.

    mask, map: (H, W); max_fpr: in (0, 1]; thresholds: at least 2
    returns: [0, 1]; NaN if the map is constant, no pixel is normal or none anomalous, or fewer than two thresholds (or
        none with a false positive) stay below `max_fpr`
    """
    image = {"masks": np.asarray(mask)[None], "maps": np.asarray(map)[None]}
    return au_pro_per_image(**image, max_fpr=max_fpr, thresholds=thresholds)


def _image_pro(mask: NDArray, map: NDArray, max_fpr: float, thresholds: int) -> float:
    low, high = map.min(), map.max()
    if low == high or mask.all():
        return float("nan")
    cuts = np.arange(low, high, (high - low) / thresholds)
    normal = np.sort(map[~mask])
    fpr = 1 - np.searchsorted(normal, cuts, side="right") / len(normal)
    cuts_below = np.searchsorted(cuts, map[mask])  # per anomalous pixel: it is above that many cuts
    overlap = _sums_from_the_top(np.bincount(cuts_below, 1 / region_sizes(mask[None]), minlength=len(cuts) + 1))
    pro = overlap[1:-1] / overlap[0]
    kept = fpr < max_fpr
    fpr, pro = fpr[kept], pro[kept]
    if len(fpr) < 2 or fpr.max() == 0:
        return float("nan")
    return float(-np.trapezoid(pro, fpr / fpr.max()))  # thresholds rise, so fpr falls


def region_sizes(masks: ArrayLike) -> NDArray:
    """For every anomalous pixel the size of its 8-connected region: 1 / size is what it adds to the region's overlap.

    masks: (N, H, W) -> (P,) int32 pixels, in the order of `masks[masks]`
    """
    sizes = [np.empty(0, np.int32)]
    for mask in _zero_or_one(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            regions = ndimage.label(box, EIGHT_NEIGHBOURS)[0][box]
            sizes.append(np.bincount(regions)[regions].astype(np.int32))
    return np.concatenate(sizes)


def count_regions(mask: ArrayLike) -> int:
    """Number of 8-connected regions of a mask (H, W)."""
    return ndimage.label(_zero_or_one(mask), EIGHT_NEIGHBOURS)[1]


# --- One sort of the scores ---------------------------------------------------------------------------------------


def _curves(truth: NDArray, scores: NDArray, shares: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """False positives, true positives (numbers of pixels) and overlap (summed over regions), from the strictest threshold down.

    Only anomalous scores are thresholds: between two of them no more than the number of false positives changes, so the
    points just above and at each of them are the corners of the curve, and few. Normal pixels are only counted.
    Counts are integers and overlaps float64: float32 running sums are wrong past 16.7 million pixels.

    shares: (P,), what each anomalous pixel adds to the overlap
    returns: the thresholds (U,), falling; the others (2 U + 1,): even points are those at a threshold, the first one is above them all
    """
    thresholds, pixels, overlaps = _anomalous_scores(truth, scores, shares)
    normal = scores[~truth]
    normal.sort()  # in place: no second copy
    above, reaching = (len(normal) - np.searchsorted(normal, thresholds, side=side) for side in ("right", "left"))
    true, overlap = (np.repeat(_sums_from_the_top(v)[::-1], 2)[:-1] for v in (pixels, overlaps))
    return thresholds[::-1], np.append(0, np.stack([above, reaching], axis=1)[::-1].ravel()), true, overlap


def _anomalous_scores(truth: NDArray, scores: NDArray, shares: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """(U,) each: the distinct scores of anomalous pixels, rising; number of pixels with it; overlap they add, summed over regions."""
    anomalous = scores[truth]
    order = np.argsort(anomalous)
    anomalous = anomalous[order]
    first = _starts(anomalous)
    return anomalous[first], np.diff(first, append=len(anomalous)), np.add.reduceat(shares[order], first)


def _starts(values: NDArray) -> NDArray:
    """Where each run of equal values begins. (U,) sorted"""
    return np.flatnonzero(np.append(len(values) > 0, values[1:] != values[:-1]))


def _sums_from_the_top(values: NDArray) -> NDArray:
    """(U,) -> (U + 1,): the sum of each value and all after it, then 0."""
    return np.append(values[::-1].cumsum()[::-1], values.dtype.type(0))


def _area_to(limit: float, x: NDArray, y: NDArray) -> float:
    """Area under y(x) as far as `limit`; x rises, and behind its end y stays what it is."""
    end = np.searchsorted(x, limit, side="right")
    if end == len(x):
        return np.trapezoid(y, x) + y[-1] * (limit - x[-1])
    return np.trapezoid(np.append(y[:end], np.interp(limit, x, y)), np.append(x[:end], limit))


# --- Arguments ----------------------------------------------------------------------------------------------------


def _checked(max_fpr: float = 1, thresholds: int = 2, **pair: ArrayLike) -> tuple[NDArray, NDArray]:
    """pair: labels and scores (N,), or masks and maps (N, H, W); returns: the truth as bool, the scores as an array"""
    if not 0 < max_fpr <= 1:
        raise InputError(f"max_fpr={max_fpr}: must be above 0 and at most 1 (0.3 is 30 %)")
    if thresholds < 2:
        raise InputError(f"thresholds={thresholds}: at least 2 are needed")
    (kind, truth), (name, scores) = ((name, np.asarray(values)) for name, values in pair.items())
    dimensions, form = (1, "(N,)") if kind == "labels" else (3, "(N, H, W)")
    if truth.shape != scores.shape or truth.ndim != dimensions:
        raise InputError(f"{kind} {truth.shape} and {name} {scores.shape} must have one shape {form}")
    bad = scores.size - np.count_nonzero(np.isfinite(scores))
    if bad:
        raise InputError(f"{bad} scores are not finite; metrics would be meaningless")
    return _zero_or_one(truth), scores


def _zero_or_one(values: ArrayLike) -> NDArray:
    values = np.asarray(values)
    truth = values.astype(bool, copy=False)
    if truth is not values and (truth != values).any():
        raise InputError("labels and masks hold 0 and 1 only; a grey image becomes a mask by `image > 127`")
    return truth
