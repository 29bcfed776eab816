"""Metrics against golden numbers, scikit-learn, brute force and cases one can do by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, recall_score, roc_auc_score, roc_curve

from rdlib import metrics
from rdlib.errors import InputError

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden():
    """masks, maps and the numbers of metrics_case.json."""
    with np.load(GOLDEN / "metrics_case.npz") as file:
        case = dict(file)
    return case["masks"].astype(bool), case["maps"], json.loads((GOLDEN / "metrics_case.json").read_text())


def random_case(seed, count=4, size=12, levels=15):
    """Masks of a few blobs each (the last one empty) and maps of few distinct values, so that many scores tie."""
    rng = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(rng.normal(size=(count, size, size)), (0, 1.5, 1.5)) > 0.15
    masks[-1] = False
    maps = np.round(levels * rng.uniform(size=masks.shape) + 3 * masks) / levels
    return masks, maps


# --- Golden -------------------------------------------------------------------------------------------------------


def test_golden_pixel_metrics(golden):
    masks, maps, expected = golden
    found = metrics.pixel_metrics(masks=masks, maps=maps)
    assert found["pixel_auroc"] == pytest.approx(expected["pixel_auroc"], abs=1e-9)
    assert found["pixel_ap"] == pytest.approx(expected["pixel_ap"], abs=1e-9)
    assert found["au_pro"] == pytest.approx(expected["au_pro_mvtec_exact"], abs=1e-9)
    assert found["au_pro"] == pytest.approx(expected["au_pro_anomalib_2_7_0"], abs=1e-7)
    assert found["au_pro_05"] == pytest.approx(brute_au_pro(masks, maps, 0.05), abs=1e-12)
    assert found["aupimo"] == pytest.approx(naive_aupimo(masks, maps), abs=1e-12) and 0 < found["aupimo"] < 1
    assert (found["pixel_f1_max"], found["pixel_tpr_fpr01"]) == pytest.approx(scikit_learns(masks.ravel(), maps.ravel()), abs=1e-12)


def test_golden_image_metrics_at_a_threshold(golden):
    masks, maps, _ = golden
    labels, scores = masks.any((1, 2)), metrics.image_score(maps, "max")
    found = metrics.operating_points(labels=labels, scores=scores)
    assert [value for value, _ in found.values()] == pytest.approx(scikit_learns(labels, scores), abs=1e-12)


@pytest.mark.parametrize("rule", ["max", "sum"])
def test_golden_image_auroc(golden, rule):
    masks, maps, expected = golden
    found = metrics.image_auroc(labels=masks.any((1, 2)), scores=metrics.image_score(maps, rule))
    assert found == pytest.approx(expected[f"image_auroc_{rule}"], abs=1e-9)


def test_golden_pro_per_image(golden):
    masks, maps, expected = golden
    each = [metrics.image_pro(mask=mask, map=m) for mask, m in zip(masks, maps) if mask.any()]
    assert each == pytest.approx(expected["pro_per_image_official"], abs=1e-6)
    assert metrics.au_pro_per_image(masks=masks, maps=maps) == pytest.approx(expected["pro_per_image_official_mean"], abs=1e-6)


def test_golden_regions(golden):
    masks, _, expected = golden
    assert sum(metrics.count_regions(mask) for mask in masks) == expected["regions"]


# --- Independent references ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_pixel_metrics_are_scikit_learns(seed):
    masks, maps = random_case(seed)
    assert len(np.unique(maps)) < maps.size / 10
    assert metrics.pixel_auroc(masks=masks, maps=maps) == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert metrics.pixel_ap(masks=masks, maps=maps) == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)


def pairs_won(labels, scores):
    """AUROC as a probability: a random anomalous image scores higher than a random normal one; ties count half."""
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    return np.mean([(a > n) + 0.5 * (a == n) for a in anomalous for n in normal])


@pytest.mark.parametrize("seed", range(5))
def test_image_metrics_with_ties(seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.permutation([0, 1] * 10), rng.integers(0, 6, 20).astype(float)
    assert metrics.image_auroc(labels=labels, scores=scores) == pytest.approx(pairs_won(labels, scores), abs=1e-12)
    assert metrics.image_ap(labels=labels, scores=scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def regions_of(masks):
    """Pixel coordinates of every 8-connected region, found by flood fill."""
    todo = {tuple(p) for p in np.argwhere(masks)}
    regions = []
    while todo:
        region, front = set(), {min(todo)}
        while front:
            region |= front
            todo -= front
            near = {(n, y + dy, x + dx) for n, y, x in front for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
            front = near & todo
        regions.append(tuple(np.array(sorted(region)).T))
    return regions


def brute_au_pro(masks, maps, max_fpr=0.3):
    """A loop over every distinct threshold, then the area of each trapezoid, the last one cut at `max_fpr`."""
    regions = regions_of(masks)
    points = [(0.0, 0.0)]
    for cut in sorted(np.unique(maps), reverse=True):
        above = maps >= cut
        points.append((above[~masks].mean(), np.mean([above[r].mean() for r in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x0 < max_fpr and x1 > x0:
            x = min(x1, max_fpr)
            area += (x - x0) * (y0 + y0 + (y1 - y0) * (x - x0) / (x1 - x0)) / 2
    return area / max_fpr


@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_au_pro_is_the_brute_force_one(seed, max_fpr):
    masks, maps = random_case(seed)
    found = metrics.au_pro(masks=masks, maps=maps, max_fpr=max_fpr)
    assert found == pytest.approx(brute_au_pro(masks, maps, max_fpr), abs=1e-12)


def scikit_learns(labels, scores):
    """Greatest F1 and greatest true positive rate at 1 % false positives, from scikit-learn's curves."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)), tpr[fpr <= 0.01].max()


def reached(labels, scores, threshold):
    """F1, true and false positive rate of what scores at least the threshold, from scikit-learn."""
    said = scores >= threshold
    return f1_score(labels, said), recall_score(labels, said), said[~labels].mean()


@pytest.mark.parametrize("seed", range(4))
def test_metrics_at_a_threshold_are_the_best_of_all_thresholds(seed):
    """With 1,000 pixels false positives are allowed; each value is reached at its threshold."""
    masks, maps = random_case(seed, count=6, size=16, levels=300)
    labels, scores = masks.ravel(), maps.ravel()
    found = metrics.operating_points(labels=labels, scores=scores)
    (f1, at_f1), (tpr, at_tpr) = found["f1_max"], found["tpr_fpr01"]
    every = [reached(labels, scores, cut) for cut in np.unique(scores)]
    assert f1 == pytest.approx(max(e[0] for e in every), abs=1e-12) == reached(labels, scores, at_f1)[0]
    assert tpr == pytest.approx(max(e[1] for e in every if e[2] <= 0.01), abs=1e-12) == reached(labels, scores, at_tpr)[1] > 0
    assert 0 < reached(labels, scores, at_tpr)[2] <= 0.01
    pooled = metrics.pixel_metrics(masks=masks, maps=maps)
    assert (pooled["pixel_f1_max"], pooled["pixel_tpr_fpr01"]) == (f1, tpr)


def naive_aupimo(masks, maps, normal=None):
    """From the definition. Between two multiples of 1 / (normal pixels) no false positive rate is possible, so there F^-1(z) is one
    threshold: the lowest score (or above all) of which the mean false positive rate of the normal images is at most z."""
    lower, upper = metrics.PIMO_FPR
    normal = ~masks.any((1, 2)) if normal is None else normal
    cuts = np.append(np.unique(maps), np.inf)
    shared = np.mean([[(image >= cut).mean() for cut in cuts] for image in maps[normal]], axis=0)
    steps = np.arange(maps[normal].size + 1) / maps[normal].size
    bounds = np.unique(np.concatenate([[lower, upper], steps[(steps > lower) & (steps < upper)]]))
    areas = []
    for mask, image in zip(masks, maps):
        if mask.any():
            found = [(image[mask] >= cuts[np.argmax(shared <= np.sqrt(low * high))]).mean() for low, high in zip(bounds, bounds[1:])]
            areas.append(np.sum(found * np.diff(np.log(bounds))) / np.log(upper / lower))
    return np.mean(areas)


@pytest.mark.parametrize("bounds", [(1e-5, 1e-4), (0.005, 0.05), (0.013, 0.3), (0.1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_aupimo_is_that_of_its_definition(seed, bounds, monkeypatch):
    monkeypatch.setattr(metrics, "PIMO_FPR", bounds)
    masks, maps = random_case(seed, levels=60)
    masks[0] = False
    assert metrics.pixel_metrics(masks=masks, maps=maps)["aupimo"] == pytest.approx(naive_aupimo(masks, maps), abs=1e-12)


def official_image_pro(mask, amap, thresholds=200):
    """The official code's loop, one image: binary map above each threshold, overlap per region, FPR below 0.3 rescaled."""
    regions = regions_of(mask[None])
    low, high = amap.min(), amap.max()
    pros, fprs = [], []
    for cut in np.arange(low, high, (high - low) / thresholds):
        above = amap > cut
        pros.append(np.mean([above[None][r].mean() for r in regions]))
        fprs.append((above & ~mask).sum() / (~mask).sum())
    kept = [(f, p) for f, p in zip(fprs, pros) if f < 0.3]
    top = max(f for f, _ in kept)
    kept = sorted((f / top, p) for f, p in kept)
    return sum((f1 - f0) * (p0 + p1) / 2 for (f0, p0), (f1, p1) in zip(kept, kept[1:]))


@pytest.mark.parametrize("levels", [15, 10**6])
@pytest.mark.parametrize("seed", range(4))
def test_image_pro_is_the_brute_force_one(seed, levels):
    masks, maps = random_case(seed, levels=levels)
    for mask, amap in zip(masks[:-1], maps):
        assert metrics.image_pro(mask=mask, map=amap) == pytest.approx(official_image_pro(mask, amap), abs=1e-12)


def test_pro_per_image_is_the_mean_over_anomalous_images():
    masks, maps = random_case(0)
    expected = np.mean([official_image_pro(m, a) for m, a in zip(masks[:-1], maps)])
    assert metrics.au_pro_per_image(masks=masks, maps=maps) == pytest.approx(expected, abs=1e-12)


# --- By hand ------------------------------------------------------------------------------------------------------


def row(*values, dtype=float):
    """(1, 1, W): one image of one row."""
    return np.array([[values]], dtype=dtype)


def test_image_auroc_by_hand():
    """Of the 2 x 2 pairs, 3 are in the right order."""
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    assert metrics.image_auroc(labels=labels, scores=scores) == 0.75
    assert metrics.image_ap(labels=labels, scores=scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_perfect_inverted_and_constant_maps():
    masks = row(1, 1, 0, 0, dtype=bool)
    perfect, constant = row(9, 8, 2, 1), row(5, 5, 5, 5)
    found = metrics.pixel_metrics(masks=masks, maps=perfect)
    assert np.isnan(found.pop("aupimo")) and found == dict.fromkeys(found, 1), "no normal image"
    assert metrics.pixel_auroc(masks=masks, maps=-perfect) == 0
    assert metrics.au_pro(masks=masks, maps=-perfect) == 0
    assert metrics.pixel_auroc(masks=masks, maps=constant) == 0.5
    assert metrics.pixel_ap(masks=masks, maps=constant) == 0.5
    assert metrics.au_pro(masks=masks, maps=constant) == pytest.approx(0.15)  # the diagonal to 0.3, over 0.3


def test_f1_max_and_its_threshold_by_hand():
    """At 0.8 one of two is found: F1 2/3. At 0.4, beside the false one: 1/2. At 0.35 both, one false: 2 * 2 / (2 * 2 + 1) = 4/5."""
    found = metrics.operating_points(labels=[0, 0, 1, 1], scores=[0.1, 0.4, 0.35, 0.8])
    assert found == {"f1_max": (0.8, 0.35), "tpr_fpr01": (0.5, 0.8)}


def test_of_equal_f1_the_strictest_threshold_is_given():
    """At 5: 2 / (2 + 1 missed); at 1: 2 * 2 / (2 * 2 + 2 false). Both 2/3."""
    assert metrics.operating_points(labels=[1, 0, 0, 1], scores=[5, 4, 3, 1])["f1_max"] == (pytest.approx(2 / 3), 5)


def test_the_true_positive_rate_at_one_per_cent_by_hand():
    """300 normal scores allow 3 false positives, 299 only 2; the tie of a normal and an anomalous score counts as both."""
    normal, anomalous = np.arange(300.0), [300, 297.5, 297, 296]
    for start, expected in ((0, (3 / 4, 297)), (1, (2 / 4, 297.5))):
        scores = np.append(normal[start:], anomalous)
        found = metrics.operating_points(labels=np.arange(len(scores)) >= len(normal) - start, scores=scores)
        assert found["tpr_fpr01"] == expected
    value, threshold = metrics.operating_points(labels=[0, 1], scores=[1, 1])["tpr_fpr01"]
    assert value == 0 and np.isnan(threshold), "no threshold finds anything without a false positive"


def test_au_pro_05_by_hand():
    """100 normal pixels, one region of two: half found at FPR 0.02, all at 0.1. Area to 0.05: 0.03 x 1/2, over 0.05: 3/10."""
    masks = row(*[0] * 100, 1, 1, dtype=bool)
    found = metrics.pixel_metrics(masks=masks, maps=row(*range(100), 97.5, 89.5))
    assert found["au_pro_05"] == pytest.approx(3 / 10, abs=1e-14)


def test_aupimo_by_hand():
    """A normal image of 100,000 pixels, so that k of them above a score are a shared FPR of k L, and 10 are U.

    A pixel below none or one of them is found over all of the decade from L to U; below two, from 2 L on, which is log10(5) of it;
    below ten, never. One image has three such pixels, another a single one below five: log10(2).
    """
    masks, maps = np.zeros((3, 100, 1000), bool), np.zeros((3, 100, 1000))
    masks[1, 0, :4], masks[2, 5, 5] = True, True
    maps[0] = np.arange(100_000).reshape(100, 1000)
    maps[1, 0, :4], maps[2, 5, 5] = (100_000, 99_998.5, 99_997.5, 99_989.5), 99_994.5
    maps[1:, 50:] = 200_000  # false positives in anomalous images do not count
    expected = ((1 + 1 + np.log10(5) + 0) / 4 + np.log10(2)) / 2
    assert metrics.pixel_metrics(masks=masks, maps=maps)["aupimo"] == pytest.approx(expected, abs=1e-14)
    maps[2, 5, 5] = 99_994  # a tie counts as a false positive: below six
    expected = ((1 + 1 + np.log10(5) + 0) / 4 + np.log10(10 / 6)) / 2
    assert metrics.pixel_metrics(masks=masks, maps=maps)["aupimo"] == pytest.approx(expected, abs=1e-14)


def test_an_anomalous_image_whose_mask_vanished_is_no_normal_one():
    """It scores highest of all. By its label it is left out, and the other is found; by its empty mask it spoils every threshold."""
    masks = np.concatenate([row(0, 0), row(0, 0), row(1, 0)]) > 0
    maps = np.concatenate([row(1, 2), row(9, 9), row(5, 0)])
    assert metrics.pixel_metrics(masks=masks, maps=maps, labels=[0, 1, 1])["aupimo"] == 1
    assert metrics.pixel_metrics(masks=masks, maps=maps)["aupimo"] == 0
    assert np.isnan(metrics.pixel_metrics(masks=masks, maps=maps, labels=[1, 1, 1])["aupimo"]), "no normal image"


def test_au_pro_is_one_sixth():
    """Ten normal pixels and one region of two. Two normal ones score highest, then half of the region, then a normal one:
    the overlap is 0 up to FPR 0.2 and 1/2 from there to 0.3, an area of 0.05, and 0.05 / 0.3 = 1/6.
    """
    masks = row(1, 1, *[0] * 10, dtype=bool)
    maps = row(7, 0, 9, 8, 6, 5, 4, 3, 2, 1, 1, 1)
    assert metrics.au_pro(masks=masks, maps=maps) == pytest.approx(1 / 6, abs=1e-15)


def test_pixel_auroc_weighs_pixels_and_au_pro_regions():
    """A region of 3 pixels found first, one of 1 pixel last: overlap 1/2, true positive rate 3/4."""
    masks = row(1, 1, 1, 0, 0, 0, 0, 1, dtype=bool)
    maps = row(9, 9, 9, 4, 3, 2, 1, 0)
    assert metrics.au_pro(masks=masks, maps=maps) == pytest.approx(1 / 2)
    assert metrics.pixel_auroc(masks=masks, maps=maps) == pytest.approx(3 / 4)


def test_au_pro_pools_images_and_the_official_one_does_not():
    """Either image by itself is perfect. Pooled, all of image two scores higher than the region of image one: the overlap is
    1/2 until FPR 1/2, so 1/2 up to 0.3.
    """
    masks = np.repeat(row(*[0] * 10, 1, dtype=bool), 2, axis=0)
    maps = np.concatenate([row(*range(10), 9.5), row(*range(20, 30), 29.5)])
    assert metrics.au_pro(masks=masks, maps=maps) == pytest.approx(1 / 2)
    assert metrics.au_pro_per_image(masks=masks, maps=maps) == pytest.approx(1)


def test_pro_curve_by_hand():
    masks, maps = row(1, 1, 0, 0, dtype=bool), row(3, 1, 2, 1)
    fpr, pro = metrics.pro_curve(masks=masks, maps=maps)
    assert fpr.tolist() == [0, 0, 0.5, 1]
    assert pro.tolist() == [0, 0.5, 0.5, 1]


def test_image_pro_by_hand():
    """Ten normal pixels 0..9 and one anomalous of 7.5: FPR below 0.3 are 0, 0.1 and 0.2, rescaled to 0, 1/2 and 1.

    The region appears at thresholds below 7.5, between FPR 0.2 (7 <= t < 8) and 0.2: overlap is 0 at FPR 0 and 0.1, and at
    0.2 it rises from 0 to 1. A rise at one FPR has no width, so the area is 0.
    """
    mask = row(*[0] * 10, 1, dtype=bool)[0]
    assert metrics.image_pro(mask=mask, map=row(*range(10), 7.5)[0]) == pytest.approx(0)
    # Found at 8.5, in the middle of FPR 0.1: 0 to FPR 0.1 (1/2), 1 from there on.
    assert metrics.image_pro(mask=mask, map=row(*range(10), 8.5)[0]) == pytest.approx(1 / 2)
    assert metrics.image_pro(mask=mask, map=row(*range(10), 9.5)[0]) == pytest.approx(1)


def test_image_pro_takes_what_is_greater_than_200_thresholds_from_the_minimum():
    """Maps from 0 to 200 have the thresholds 0, 1, .. 199."""
    mask = row(*[0] * 10, 1, 1, dtype=bool)[0]
    # At 199 only the region's 200 is greater, so FPR 0 has overlap 1, as have 0.1 and 0.2 (not greater-or-equal, not 198).
    assert metrics.image_pro(mask=mask, map=row(199, 150, *[100] * 7, 0, 200, 200)[0]) == pytest.approx(1)
    # At 0 the FPR is 0.2 and all of the region is found; from 1 on 0.1 and half, from 100 on 0 and half.
    assert metrics.image_pro(mask=mask, map=row(100, 0.25, *[0] * 8, 200, 0.5)[0]) == pytest.approx((1 / 2 + (1 / 2 + 1) / 2) / 2)


def test_regions_touch_at_corners():
    diagonal = np.eye(3, dtype=bool)
    assert metrics.count_regions(diagonal) == 1
    assert metrics.count_regions(np.array([[1, 0, 1]], bool)) == 2


def test_diagonal_neighbours_are_one_region_for_both_pros():
    """One region of 3 (a diagonal) and one of 1: had corners not counted, there would be four and overlap 1/4."""
    mask = np.zeros((6, 6), bool)
    mask[[0, 1, 2, 5], [0, 1, 2, 5]] = True
    amap = np.where(mask, 0.0, np.linspace(0.1, 0.5, 36).reshape(6, 6))
    amap[5, 5] = 1
    assert metrics.au_pro(masks=mask[None], maps=amap[None]) == pytest.approx(1 / 2)
    assert metrics.image_pro(mask=mask, map=amap) == pytest.approx(1 / 2)


@pytest.mark.parametrize("rule, expected", [("max", [4, 8]), ("sum", [10, 20]), ("mean", [2.5, 5])])
def test_image_score_rules(rule, expected):
    maps = np.array([[[1, 2], [3, 4]], [[2, 4], [6, 8]]], dtype=np.float32)
    assert metrics.image_score(maps, rule).tolist() == expected


def test_image_score_sums_in_float64():
    maps = np.full((1, 1, 2), 16_777_216, dtype=np.float32)  # float32 has no 33,554,433
    maps[0, 0, 0] += 2
    assert metrics.image_score(maps, "sum").tolist() == [33_554_434]
    many = np.full((1, 1000, 1000), 0.1, dtype=np.float32)
    assert metrics.image_score(many, "sum")[0] == pytest.approx(np.float64(np.float32(0.1)) * 1e6, rel=1e-12)


# --- Invariants ---------------------------------------------------------------------------------------------------

small_maps = arrays(np.int64, (3, 4, 4), elements=st.integers(0, 8))
small_masks = arrays(bool, (3, 4, 4)).filter(lambda m: m.any() and not m.all())


@given(masks=small_masks, maps=small_maps)
def test_a_monotone_transform_of_scores_changes_nothing(masks, maps):
    before = metrics.pixel_metrics(masks=masks, maps=maps.astype(float))
    after = metrics.pixel_metrics(masks=masks, maps=np.exp(maps / 3.0) - 5)
    assert after == pytest.approx(before, abs=1e-12, nan_ok=True)
    assert all(np.isnan(v) or -1e-12 <= v <= 1 + 1e-12 for v in before.values())
    assert np.isnan(before["aupimo"]) == masks.any((1, 2)).all()


@given(masks=small_masks, maps=small_maps, order=st.permutations(range(3)))
def test_the_order_of_images_does_not_matter(masks, maps, order):
    maps = maps.astype(float)
    found = metrics.pixel_metrics(masks=masks[order], maps=maps[order]), metrics.au_pro_per_image(masks=masks[order], maps=maps[order])
    expected = metrics.pixel_metrics(masks=masks, maps=maps), metrics.au_pro_per_image(masks=masks, maps=maps)
    assert found[0] == pytest.approx(expected[0], abs=1e-12, nan_ok=True)
    assert found[1] == pytest.approx(expected[1], abs=1e-12, nan_ok=True)


@given(masks=small_masks, maps=small_maps)
def test_references_hold_on_any_small_case(masks, maps):
    maps = maps.astype(float)
    assert metrics.au_pro(masks=masks, maps=maps) == pytest.approx(brute_au_pro(masks, maps), abs=1e-12)
    assert metrics.pixel_auroc(masks=masks, maps=maps) == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    if not masks.any((1, 2)).all():
        assert metrics.pixel_metrics(masks=masks, maps=maps)["aupimo"] == pytest.approx(naive_aupimo(masks, maps), abs=1e-12)


@given(masks=small_masks, maps=small_maps)
def test_a_threshold_reaches_its_value_and_a_monotone_transform_moves_it_along(masks, maps):
    labels, scores = masks.ravel(), maps.ravel()
    found = metrics.operating_points(labels=labels, scores=scores)
    (f1, at_f1), (tpr, at_tpr) = found["f1_max"], found["tpr_fpr01"]
    assert f1 == pytest.approx(reached(labels, scores, at_f1)[0], abs=1e-12) and f1 > 0
    assert (
        np.isnan(at_tpr)
        if tpr == 0
        else (tpr, 0) == (pytest.approx(reached(labels, scores, at_tpr)[1]), reached(labels, scores, at_tpr)[2])
    )
    after = metrics.operating_points(labels=labels, scores=2.0 * scores - 5)
    np.testing.assert_equal(after, {name: (value, 2 * threshold - 5) for name, (value, threshold) in found.items()})


@given(masks=small_masks, maps=small_maps)
def test_the_pro_curve_rises_from_0_to_1(masks, maps):
    for values in metrics.pro_curve(masks=masks, maps=maps.astype(float)):
        assert values[0] == 0 and values[-1] == pytest.approx(1) and (np.diff(values) >= -1e-12).all()


@given(labels=arrays(np.int64, 8, elements=st.integers(0, 1)), scores=arrays(np.int64, 8, elements=st.integers(0, 5)))
def test_image_metrics_are_invariant_and_bounded(labels, scores):
    before = [f(labels=labels, scores=scores) for f in (metrics.image_auroc, metrics.image_ap)]
    after = [f(labels=labels, scores=np.exp(scores / 2.0)) for f in (metrics.image_auroc, metrics.image_ap)]
    assert after == pytest.approx(before, abs=1e-12, nan_ok=True)
    assert all(np.isnan(v) or 0 <= v <= 1 for v in before) and np.isnan(before).all() == (len(set(labels)) == 1)


# --- Ties, number types, and many ----------------------------------------------------------------------------------

# Few values: ties within and across images, constant maps, both zeros, negatives, neighbours in the last bit, extremes.
scores_of_all_kinds = st.sampled_from(
    [-0.0, 0.0, 1.0, float(np.nextafter(np.float32(1), np.float32(2))), -1.0, 1e-45, -1e-45, 1e38, -1e38, 0.5]
)


def all_references_agree(masks, maps, max_fpr=0.3):
    """The metrics against scikit-learn and the brute force; the area under the whole curve is that of its corners."""
    found = metrics.pixel_metrics(masks=masks, maps=maps, max_fpr=max_fpr)
    fpr, pro = metrics.pro_curve(masks=masks, maps=maps)
    assert np.trapezoid(pro, fpr) == pytest.approx(metrics.au_pro(masks=masks, maps=maps, max_fpr=1), abs=1e-12)
    flat = masks.ravel(), maps.ravel()
    expected = [roc_auc_score(*flat), average_precision_score(*flat), *scikit_learns(*flat)]
    expected += [brute_au_pro(masks, maps, limit) for limit in (max_fpr, 0.05)]
    assert [found[k] for k in metrics.PIXEL_METRICS if k != "aupimo"] == pytest.approx(expected, abs=1e-12)


@given(masks=small_masks, maps=arrays(np.float32, (3, 4, 4), elements=scores_of_all_kinds))
def test_ties_and_extremes_on_any_small_case(masks, maps):
    all_references_agree(masks, maps)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("levels", [15, 10**6])
def test_references_hold_on_larger_cases_of_any_number_type(levels, dtype):
    masks, maps = random_case(1, count=6, size=16, levels=levels)
    all_references_agree(masks, (maps - 1).astype(dtype), max_fpr=0.2)


@given(masks=small_masks, maps=arrays(np.float32, (3, 4, 4), elements=scores_of_all_kinds))
def test_number_types_do_not_matter(masks, maps):
    double = maps.astype(np.float64)
    assert metrics.pixel_metrics(masks=masks, maps=maps) == pytest.approx(
        metrics.pixel_metrics(masks=masks, maps=double), abs=1e-12, nan_ok=True
    )
    for found, expected in zip(metrics.pro_curve(masks=masks, maps=maps), metrics.pro_curve(masks=masks, maps=double)):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_doubles_that_singles_cannot_tell_apart_are_told_apart():
    """A region above the only normal pixel, one below it: as singles all three tie."""
    masks, maps = row(1, 0, 1, dtype=bool), row(1 + 2e-12, 1 + 1e-12, 1)
    assert metrics.pixel_ap(masks=masks, maps=maps) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.au_pro(masks=row(1, 0, 0, dtype=bool), maps=maps) == 1
    assert metrics.pixel_ap(masks=masks, maps=maps.astype(np.float32)) == pytest.approx(2 / 3)


def test_counts_are_exact_past_what_float32_can_count():
    """The same image 21 times has the metrics of one image; 22 million pixels (2^24 are 17 million), nearly all normal, share 20 scores."""
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 20, (1, 1024, 1024)).astype(np.float32)
    masks = rng.uniform(size=maps.shape) < 0.001 * (1 + maps)
    many = [np.broadcast_to(a, (21, 1024, 1024)) for a in (masks, maps)]
    found = metrics.pixel_metrics(masks=many[0], maps=many[1])
    assert found == pytest.approx(metrics.pixel_metrics(masks=masks, maps=maps), abs=1e-12, nan_ok=True)
    values = maps.ravel()[masks.ravel()]  # AUROC from 20 x 20 counts, in Python's integers
    true, false = ([21 * int(n) for n in np.bincount(v.astype(int), minlength=20)] for v in (values, maps[~masks]))
    won = sum(t * (2 * sum(false[:i]) + false[i]) for i, t in enumerate(true))
    assert found["pixel_auroc"] == pytest.approx(won / (2 * sum(true) * sum(false)), abs=1e-14)


@given(masks=arrays(bool, (3, 5, 6)))
def test_region_sizes_are_those_of_the_flood_fill(masks):
    expected = np.zeros(masks.shape, int)
    for region in regions_of(masks):
        expected[region] = len(region[0])
    assert metrics.region_sizes(masks).tolist() == expected[masks].tolist()


@pytest.mark.parametrize("shape", [(5, 6), (0, 5, 6), (2, 3, 5, 6)])
@pytest.mark.parametrize("rule", ["max", "sum", "mean"])
def test_image_score_has_one_value_per_map(rule, shape):
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found, expected = metrics.image_score(maps, rule), getattr(np, rule)(maps.astype(np.float64), axis=(-2, -1))
    np.testing.assert_array_equal(found, expected)
    assert found.shape == expected.shape and found.dtype == np.float64


# --- Undefined and refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [False, True])
def test_pixel_metrics_are_undefined_without_both_kinds_of_pixels(fill):
    masks, maps = np.full((2, 3, 3), fill), np.arange(18.0).reshape(2, 3, 3)
    assert all(np.isnan(v) for v in metrics.pixel_metrics(masks=masks, maps=maps).values())


def test_metrics_at_a_threshold_are_undefined_with_one_class():
    for label in (0, 1):
        assert np.isnan(list(metrics.operating_points(labels=[label] * 3, scores=[1, 2, 3]).values())).all()


def test_pro_per_image_is_undefined_without_a_region():
    maps = np.arange(18.0).reshape(2, 3, 3)
    assert np.isnan(metrics.au_pro_per_image(masks=np.zeros((2, 3, 3), bool), maps=maps))


def test_image_pro_is_undefined_for_a_constant_map_and_without_false_positives():
    mask = row(1, 0, 0, dtype=bool)[0]
    assert np.isnan(metrics.image_pro(mask=mask, map=row(1, 1, 1)[0]))
    assert np.isnan(metrics.image_pro(mask=mask, map=row(5, 0, 0)[0]))  # FPR is 0 at every threshold


def test_pro_per_image_is_the_mean_over_images_where_it_is_defined():
    masks = np.repeat(row(*[0] * 10, 1, dtype=bool), 2, axis=0)
    maps = np.concatenate([row(*range(10), 8.5), row(*[4] * 11)])  # 1/2 by hand (see above), and constant
    assert metrics.au_pro_per_image(masks=masks, maps=maps) == pytest.approx(1 / 2)
    assert np.isnan(metrics.au_pro_per_image(masks=masks[1:], maps=maps[1:]))


def test_image_pro_is_undefined_without_a_normal_or_an_anomalous_pixel():
    for fill in (True, False):
        assert np.isnan(metrics.image_pro(mask=np.full((2, 2), fill), map=np.arange(4.0).reshape(2, 2)))


# --- Arguments: what each function takes and refuses; the sentences are in test_bad_inputs ---------------------------

IMAGES = {"labels": np.array([0, 1, 1, 0]), "scores": np.array([0.1, 0.9, 0.3, 0.4])}
MAPS = {"masks": np.array([[[0, 1], [1, 0]]]), "maps": np.array([[[0.1, 0.9], [0.3, 0.4]]])}
ONE_MAP = {"mask": MAPS["masks"][0], "map": MAPS["maps"][0]}
FUNCTIONS = {
    **dict.fromkeys(("image_auroc", "image_ap", "operating_points"), IMAGES),
    **dict.fromkeys(("pixel_metrics", "pixel_auroc", "pixel_ap", "pro_curve", "au_pro", "au_pro_per_image", "image_pros"), MAPS),
    "image_pro": ONE_MAP,
}
functions = pytest.mark.parametrize("name", FUNCTIONS)


@functions
@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, float, list])
def test_zeros_and_ones_of_any_type_and_lists_will_do(name, kind):
    truth, scores = FUNCTIONS[name]
    case = FUNCTIONS[name] | {truth: FUNCTIONS[name][truth].astype(bool)}
    other = {n: np.asarray(v).tolist() for n, v in FUNCTIONS[name].items()} if kind is list else case | {truth: case[truth].astype(kind)}
    np.testing.assert_equal(getattr(metrics, name)(**other), getattr(metrics, name)(**case))


@functions
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(name, bad):
    _, scores = FUNCTIONS[name]
    case = FUNCTIONS[name] | {scores: np.where(FUNCTIONS[name][scores] == 0.9, bad, FUNCTIONS[name][scores])}
    with pytest.raises(InputError, match="1 scores are not finite"):
        getattr(metrics, name)(**case)


@functions
@pytest.mark.parametrize("factor", [255, 2, -1, 0.5, np.nan])
def test_truth_beside_0_and_1_is_refused(name, factor):
    truth, _ = FUNCTIONS[name]
    with pytest.raises(InputError, match="0 and 1 only"):
        getattr(metrics, name)(**FUNCTIONS[name] | {truth: FUNCTIONS[name][truth] * factor})


def test_grey_masks_have_no_regions():
    for function in (metrics.region_sizes, lambda masks: metrics.count_regions(masks[0])):
        with pytest.raises(InputError, match="0 and 1 only"):
            function(255 * MAPS["masks"])


@functions
def test_shapes_that_differ_are_refused(name):
    truth, _ = FUNCTIONS[name]
    shorter = FUNCTIONS[name] | {truth: FUNCTIONS[name][truth][..., :-1]}
    deeper = {n: np.asarray(v)[None] for n, v in FUNCTIONS[name].items()}  # one shape, but not the right one
    for case in (shorter, deeper):
        with pytest.raises(InputError, match=r"\(.*\) and .*\(.*\) must have one shape \("):
            getattr(metrics, name)(**case)


def test_labels_of_another_shape_than_images_are_refused():
    for labels in (0, [0, 1], [[1]]):
        with pytest.raises(InputError, match=r"labels \(.*\) and images \(1,\) must have one shape"):
            metrics.pixel_metrics(**MAPS, labels=labels)


@pytest.mark.parametrize("name", ["pixel_metrics", "au_pro", "au_pro_per_image", "image_pros", "image_pro"])
def test_rates_out_of_their_range_are_refused(name):
    function, case = getattr(metrics, name), FUNCTIONS[name]
    function(**case, max_fpr=1)
    for rate in (30, 0, -0.3, 1.001, np.nan):
        with pytest.raises(InputError, match="max_fpr=.* above 0 and at most 1"):
            function(**case, max_fpr=rate)


@pytest.mark.parametrize("name", ["au_pro_per_image", "image_pros", "image_pro"])
def test_fewer_than_two_thresholds_are_refused(name):
    getattr(metrics, name)(**FUNCTIONS[name], thresholds=2)
    for thresholds in (1, 0, -200):
        with pytest.raises(InputError, match="thresholds=.*at least 2"):
            getattr(metrics, name)(**FUNCTIONS[name], thresholds=thresholds)


@functions
def test_arguments_are_keyword_only(name):
    with pytest.raises(TypeError, match="positional"):
        getattr(metrics, name)(*FUNCTIONS[name].values())
