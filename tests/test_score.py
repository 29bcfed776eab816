"""Anomaly maps against PyTorch, SciPy and a case done by hand; scoring in chunks against image by image."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import TinyTeacher, config, image_set, made_up_scores
from scipy.ndimage import gaussian_filter

from rdlib import distance, fit, model, score
from rdlib.metrics import image_score

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
    found = score.upsample([torch.tensor([[[0.0, 2.0], [4.0, 6.0]]])], (3, 3))
    assert found[0].tolist() == [[[0, 1, 2], [2, 3, 4], [4, 5, 6]]]


def test_upsampling_is_linear_between_the_corners():
    """By interpolation of NumPy along each axis, no call of PyTorch's."""
    values = torch.rand(1, 3, 4)
    found = score.upsample([values], (9, 7))[0][0].numpy()
    rows = np.stack([np.interp(np.linspace(0, 2, 9), range(3), values[0, :, j].numpy()) for j in range(4)], axis=1)
    expected = np.stack([np.interp(np.linspace(0, 3, 7), range(4), row) for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_map_of_one_position_fills_the_image():
    assert score.upsample([torch.full((1, 1, 1), 0.7)], (4, 4))[0].eq(0.7).all()


def test_smoothing_is_scipys_gaussian_on_each_image_by_itself():
    maps = np.random.default_rng(0).uniform(size=(2, 3, 20, 24)).astype(np.float32)
    found = score.smooth(maps, 2.0)
    for k, n in np.ndindex(2, 3):
        np.testing.assert_allclose(found[k, n], gaussian_filter(maps[k, n], sigma=2.0), rtol=1e-5)
    assert score.smooth(maps, 0) is maps


def test_sigma_four_is_the_papers_gaussian():
    """A single bright pixel becomes the normalised Gaussian of standard deviation 4."""
    spot = np.zeros((1, 65, 65), np.float64)
    spot[0, 32, 32] = 1
    found = score.smooth(spot, 4.0)[0]
    assert found.sum() == pytest.approx(1)
    assert found[32, 32 + 4] / found[32, 32] == pytest.approx(np.exp(-0.5)) and found[32 - 8, 32] / found[32, 32] == pytest.approx(
        np.exp(-2)
    )


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
def test_no_image_influences_another(count):
    """Chunks of 32 give what images one by one give: BatchNorm and the Gaussian do not mix them."""
    cfg = config()
    net, test = trained(cfg), image_set(count, seed=3)
    together = score.score(net, test, cfg).scale_maps
    for i in range(0, count, 8):
        alone = score.score(net, dataclasses.replace(test, images=test.images[i : i + 1]), cfg).scale_maps
        np.testing.assert_allclose(together[:, i], alone[:, 0], atol=1e-5)


def test_scoring_puts_the_model_into_eval_mode_and_leaves_it_unchanged():
    cfg = config()
    net = trained(cfg)
    before = {k: v.clone() for k, v in net.train().state_dict().items()}
    first = score.score(net, image_set(4, seed=3), cfg)
    assert not any(m.training for m in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert np.array_equal(first.scale_maps, score.score(net, image_set(4, seed=3), cfg).scale_maps)


def test_a_data_set_without_masks():
    cfg = config()
    scores = score.score(trained(cfg), image_set(4), cfg)
    assert scores.masks is None and scores.maps((1, 2, 3)).shape == (4, 32, 32)


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


def test_model_maps_are_distance_maps():
    cfg = config()
    net = trained(cfg).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for found, expected in zip(net.maps(images), distance.distance_maps(*net(images)), strict=True):
            assert torch.equal(found, expected)
