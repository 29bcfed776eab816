"""The numbers of a scored test set: each scale set by itself, image scores of the method's own, the curve, and why a number is missing."""

import dataclasses

import numpy as np
import pytest
from helpers import config, made_up_scores

from rdlib import evaluate, metrics

CFG = config(image_score="sum")


def details(scores, cfg=CFG):
    return evaluate.details(scores, cfg, evaluate.evaluate(scores, cfg))


def test_every_metric_is_that_of_rdlib_metrics():
    scores = made_up_scores()
    pixels, sums = {"masks": scores.masks, "maps": scores.maps((1, 2, 3))}, scores.maps((1, 2, 3)).astype(float).sum((1, 2))
    images = {"labels": scores.labels, "scores": sums}
    expected = {name: getattr(metrics, name)(**images) for name in ("image_auroc", "image_ap")}
    expected |= {f"image_{name}": value for name, (value, _) in metrics.operating_points(**images).items()}
    expected |= metrics.pixel_metrics(**pixels) | {"au_pro_per_image": metrics.au_pro_per_image(**pixels)}
    assert evaluate.evaluate(scores, CFG) == expected and tuple(expected) == evaluate.METRICS


def test_beside_the_metrics_is_each_scale_set_by_itself():
    scores, cfg = made_up_scores(), config(image_score="sum", scales=(3,))
    alone = [evaluate.evaluate(scores, cfg, scales=ks) for ks in evaluate.SCALE_SETS]
    found = details(scores, cfg)["by_scales"]
    assert list(found) == ["M1", "M2", "M3", "M2+M3", "M1+M2+M3"] and list(found.values()) == alone
    assert len({v["au_pro"] for v in alone}) == 5 and found["M3"] == evaluate.evaluate(scores, cfg)


def test_scale_sets_that_a_method_has_not_are_left_out():
    scores = made_up_scores()
    one = dataclasses.replace(scores, scale_maps=scores.scale_maps[:1])
    assert list(details(one, config(scales=(1,)))["by_scales"]) == ["M1"]


def test_a_methods_own_image_scores_count_for_every_scale_set():
    scores = dataclasses.replace(made_up_scores(), image_scores=np.arange(6.0))
    found, beside = evaluate.evaluate(scores, CFG), details(scores)
    assert [i["score"] for i in beside["images"]] == list(range(6))
    expected = metrics.image_auroc(labels=scores.labels, scores=scores.image_scores)
    assert {v["image_auroc"] for v in (found, *beside["by_scales"].values())} == {expected}
    largest = scores.maps((1, 2, 3)).max((1, 2))
    assert beside["by_image_score"]["max"]["image_auroc"] == metrics.image_auroc(labels=scores.labels, scores=largest)


@pytest.mark.parametrize("masks", [True, False])
def test_a_threshold_reaches_the_metric_of_its_name(masks):
    scores = made_up_scores(masks)
    found, told = evaluate.evaluate(scores, CFG), details(scores)["thresholds"]
    maps = scores.maps((1, 2, 3))
    truth = {"image": (scores.labels > 0, maps.astype(float).sum((1, 2)))} | ({"pixel": (scores.masks, maps)} if masks else {})
    assert set(told) == {f"{kind}_{name}" for kind in truth for name in ("f1_max", "tpr_fpr01")}
    for kind, (labels, values) in truth.items():
        said = values >= told[f"{kind}_f1_max"]
        assert 2 * said[labels].sum() / (said.sum() + labels.sum()) == pytest.approx(found[f"{kind}_f1_max"], abs=1e-12)
        said = values >= told[f"{kind}_tpr_fpr01"]
        assert said[labels].mean() == pytest.approx(found[f"{kind}_tpr_fpr01"], abs=1e-12) and said[~labels].mean() <= 0.01


def test_a_vanished_defect_is_no_normal_image():
    """The image with the highest map, of label 1, without its mask: the others' AUPIMO is what it is without that image."""
    scores = made_up_scores()
    scores.scale_maps[:, 1] += 9
    scores.masks[1] = False
    there = np.arange(6) != 1
    alone = dataclasses.replace(scores, scale_maps=scores.scale_maps[:, there], labels=scores.labels[there], masks=scores.masks[there])
    assert evaluate.evaluate(scores, CFG)["aupimo"] == evaluate.evaluate(alone, CFG)["aupimo"] > 0


def test_without_a_normal_image_aupimo_is_undefined_for_that_reason():
    scores = made_up_scores()
    one = dataclasses.replace(scores, scale_maps=scores.scale_maps[:, 1::2], labels=scores.labels[1::2], masks=scores.masks[1::2])
    told = details(one)["undefined"]
    assert "0 normal and 3 anomalous images" in told["aupimo"] and "pixel_auroc" not in told


def test_the_pro_curve_is_the_whole_one_at_61_rates():
    scores = made_up_scores()
    found = details(scores)["pro_curve"]
    fpr, pro = metrics.pro_curve(masks=scores.masks, maps=scores.maps(CFG.scales))
    assert found["fpr"] == pytest.approx(np.arange(61) * 0.005) and found["pro"] == pytest.approx(
        np.interp(found["fpr"], fpr, pro), abs=1e-5
    )
