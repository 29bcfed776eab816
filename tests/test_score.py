"""Anomaly maps against PyTorch, SciPy and a case done by hand; scoring in chunks against image by image."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import TinyTeacher, config, image_set, made_up_scores
from scipy.ndimage import gaussian_filter

from rdlib import baselines, fit, inference, model, score, teachers
from rdlib.metrics import image_score
from rdlib.run.cache import Store

SHAPES = [(2, 4, 8, 8), (2, 6, 4, 4), (2, 8, 2, 2)]


def random_feats(seed):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=rng) for shape in SHAPES]


def trained(cfg, train=None):
    fit.seed_everything(cfg)
    net = model.build(cfg, TinyTeacher())
    fit.fit(net, train or image_set(8), cfg)
    return net


# --- Maps ---------------------------------------------------------------------------------------------------------


def test_identical_features_have_a_map_of_zeros():
    feats = random_feats(0)
    found = score.anomaly_map(feats, [3 * f for f in feats], (16, 16))
    assert found.shape == (2, 16, 16) and np.abs(found).max() < 1e-6


def test_opposite_features_have_a_map_of_2k():
    feats = random_feats(0)
    np.testing.assert_allclose(score.anomaly_map(feats, [-f for f in feats], (16, 16)), 6, rtol=1e-6)


def test_upsampling_two_to_three_by_hand():
    """align_corners: the corners stay the corners, what is new is halfway between."""
    found = score.enlarge([torch.tensor([[[0.0, 2.0], [4.0, 6.0]]])], (3, 3), 0)
    assert found[0].tolist() == [[[0, 1, 2], [2, 3, 4], [4, 5, 6]]]


def test_a_map_of_one_position_fills_the_image():
    np.testing.assert_allclose(score.enlarge([torch.full((1, 1, 1), 0.7)], (4, 4), 2.0), 0.7, rtol=1e-6)


@pytest.mark.parametrize("small, size, sigma", [((8, 8), (32, 32), 4.0), ((5, 7), (20, 28), 0.7), ((1, 2), (64, 48), 4.0)])
def test_enlarging_is_pytorchs_bilinear_then_scipys_gaussian_on_each_image_by_itself(small, size, sigma):
    maps = torch.rand(3, *small, generator=torch.Generator().manual_seed(0))
    found = score.enlarge([maps, 2 * maps], size, sigma).numpy()
    up = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=True)[:, 0].numpy()
    for n in range(3):
        np.testing.assert_allclose(found[0, n], gaussian_filter(up[n], sigma), atol=2e-6)
        np.testing.assert_allclose(found[1, n], 2 * gaussian_filter(up[n], sigma), atol=4e-6)


def test_sigma_four_is_the_papers_gaussian():
    """A single bright pixel becomes the normalised Gaussian of standard deviation 4."""
    spot = torch.zeros(1, 65, 65)
    spot[0, 32, 32] = 1
    found = score.enlarge([spot], (65, 65), 4.0)[0, 0].double().numpy()
    assert found.sum() == pytest.approx(1, rel=1e-6)
    ratios = found[32, 32 + 4] / found[32, 32], found[32 - 8, 32] / found[32, 32]
    assert ratios == pytest.approx((np.exp(-0.5), np.exp(-2)), rel=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_anomaly_map_step_by_step(sigma):
    teacher, student = random_feats(0), random_feats(1)
    total = np.zeros((2, 16, 16))
    for t, s in zip(teacher, student):
        cosine = (t * s).sum(1) / t.norm(dim=1) / s.norm(dim=1)
        total += F.interpolate((1 - cosine)[:, None], (16, 16), mode="bilinear", align_corners=True)[:, 0].numpy()
    expected = np.stack([gaussian_filter(m, sigma) for m in total]) if sigma else total
    np.testing.assert_allclose(score.anomaly_map(teacher, student, (16, 16), sigma), expected, rtol=1e-5)


# --- Scores -------------------------------------------------------------------------------------------------------


def test_maps_sum_the_chosen_scales():
    scores = made_up_scores()
    first, second, third = scores.scale_maps
    np.testing.assert_array_equal(scores.maps((2,)), second)
    np.testing.assert_allclose(scores.maps((1, 3)), first + third)
    np.testing.assert_allclose(scores.maps((1, 2, 3)), first + second + third, rtol=1e-6)


def test_scores_are_the_anomaly_maps_of_the_models_features():
    cfg = config(sigma=1.5)
    net, test = trained(cfg), image_set(5, masks=True, seed=3)
    scores = score.score(net, test, cfg)
    with torch.no_grad():
        feats = net.eval()(torch.from_numpy(test.images).float() / 255)
    np.testing.assert_allclose(scores.maps(cfg.scales), score.anomaly_map(*feats, (32, 32), 1.5), atol=1e-5)
    assert scores.scale_maps.shape == (3, 5, 32, 32) and scores.scale_maps.dtype == np.float32
    assert scores.labels is test.labels and scores.masks is test.masks and scores.paths == test.paths and scores.image_scores is None
    assert scores.scale_maps.min() >= -1e-6 and scores.scale_maps.max() <= 2 + 1e-6


@pytest.mark.parametrize("count", [1, 5, 33])
def test_no_image_influences_another(monkeypatch, count):
    """Chunks give what images one by one give: BatchNorm and the Gaussian do not mix them."""
    monkeypatch.setattr(inference, "CHUNK", 16 * 32 * 32)
    cfg = config()
    net, test = trained(cfg), image_set(count, seed=3)
    together = score.score(net, test, cfg).scale_maps
    for i in range(0, count, 8):
        alone = score.score(net, dataclasses.replace(test, images=test.images[i : i + 1]), cfg).scale_maps
        np.testing.assert_allclose(together[:, i], alone[:, 0], atol=1e-5)


def test_scoring_leaves_the_model_unchanged():
    cfg = config()
    net = trained(cfg).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    first = score.score(net, image_set(4, seed=3), cfg)
    assert net.student.training and list(net.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert np.array_equal(first.scale_maps, score.score(net, image_set(4, seed=3), cfg).scale_maps)


def test_what_was_trained_on_scores_lower_than_what_was_not():
    cfg = config(epochs=40, batch_size=8)
    train = image_set(8)
    net = trained(cfg, train)
    other = dataclasses.replace(train, images=np.random.default_rng(0).integers(0, 256, train.images.shape, dtype=np.uint8))
    seen, unseen = (image_score(score.score(net, s, cfg).maps((1, 2, 3)), "mean") for s in (train, other))
    assert np.median(seen) < unseen.min()


def test_bfloat16_scores_are_float32_and_near():
    cfg = config()
    net, test = trained(cfg), image_set(4, seed=3)
    exact, rough = score.score(net, test, cfg), score.score(net, test, config(precision="bf16"))
    assert rough.scale_maps.dtype == np.float32
    assert 0 < np.abs(rough.scale_maps - exact.scale_maps).max() < 0.05


@pytest.mark.parametrize("method", ["reverse", "conventional", "padim", "spade"])
def test_scoring_with_and_without_the_store_is_the_same_to_the_bit(tmp_path, method):
    cfg = config(method=method, **({"epochs": 0} if method in ("padim", "spade") else {}))
    fit.seed_everything(cfg)
    net = baselines.build(cfg, TinyTeacher() if method != "conventional" else tiny_resnet())
    store = Store(tmp_path)
    fit.fit(net, image_set(8), cfg, store=store)
    test = image_set(5, seed=3)
    found = [score.score(net, test, cfg, s).scale_maps for s in (None, store, store)]
    assert store.log == {"train features": "computed and kept", "test features": "read"}
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def tiny_resnet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return teachers.resnet_teacher("resnet18")


def test_what_is_ready_for_scoring_has_no_batchnorm_left_and_gives_the_same_maps():
    fit.seed_everything(config())
    net = model.build(config(), tiny_resnet())
    fit.fit(net, image_set(4, size=64), config(image_size=64))
    net.eval()
    fast = score.ready(net, image_set(4, size=64).images)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fast.modules())
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        for found, expected in zip(fast.maps(fast.teacher(images), None), net.maps(net.teacher(images), None), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
