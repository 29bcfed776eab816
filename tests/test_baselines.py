"""The baselines on a tiny teacher: against SciPy, scikit-learn and brute force; and the cost of inference by hand."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import config, image_set
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.neighbors import NearestNeighbors
from torch import nn

from rdlib import baselines, complexity, fit, model, teachers
from rdlib.score import score

CHANNELS = (4, 6, 8)
SIDE, DIMENSIONS = 16, sum(CHANNELS)  # of the shallowest map of a 32 px image; of all maps together


def tiny_teacher():
    with torch.random.fork_rng():
        torch.manual_seed(42)
        stages = [nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.ReLU()) for i, o in zip((3, *CHANNELS), CHANNELS)]
        tail = nn.Conv2d(CHANNELS[-1], CHANNELS[-1], 3, 2, 1)
    arch = teachers.Architecture(CHANNELS, embedding=8, block=teachers.BasicBlock)
    return teachers.Teacher(nn.Identity(), stages, tail, arch, *teachers.IDENTITY)


def images(count=12, seed=0):
    return torch.from_numpy(image_set(count, seed=seed).images).float() / 255


def cfg_of(method, **params):
    return config(method=method, **{"padim": {"epochs": 0}, "spade": {"epochs": 0}}.get(method, {}) | params)


def fitted(method, count=12, **params):
    cfg = cfg_of(method, **params)
    fit.seed_everything(cfg)
    net = baselines.build(cfg, tiny_teacher())
    fit.fit(net, image_set(count), cfg)
    return net


def features(net, batch):
    """(B, 256, 18) features per position in NumPy: deeper maps enlarged by repeating each value."""
    maps = [f.numpy().astype(float) for f in net.teacher(batch)]
    large = [np.kron(f, np.ones((1, 1, SIDE // f.shape[-1], SIDE // f.shape[-1]))) for f in maps]
    return np.concatenate(large, axis=1).reshape(len(batch), DIMENSIONS, -1).transpose(0, 2, 1)


METHODS = {
    "reverse": model.ReverseDistillation,
    "conventional": baselines.ConventionalDistillation,
    "padim": baselines.PaDiM,
    "spade": baselines.SPADE,
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_built_fitted_and_scored_alike(method):
    net, test = fitted(method), image_set(5, seed=9, masks=True)
    found = score(net, test, cfg_of(method))
    scales = 3 if method in ("reverse", "conventional") else 1
    assert type(net) is METHODS[method] and found.scale_maps.shape == (scales, 5, 32, 32)
    assert np.isfinite(found.scale_maps).all() and (found.scale_maps >= -1e-6).all() and found.scale_maps.std() > 0
    assert (found.image_scores is not None) == (method == "spade")
    assert found.maps(cfg_of(method).scales).shape == (5, 32, 32)


# --- PaDiM --------------------------------------------------------------------------------------------------------


def test_padim_is_the_mahalanobis_distance():
    net, batch = fitted("padim"), images(3, seed=5)
    train, test = features(net, images()), features(net, batch)
    (maps,) = net.maps(net.teacher(batch))
    assert maps.shape == (3, SIDE, SIDE)
    for image, position in ((0, 0), (1, 17), (2, 100), (0, 255)):
        known = train[:, position]
        inverse = np.linalg.inv(np.cov(known.T) + 0.01 * np.eye(DIMENSIONS))
        expected = mahalanobis(test[image, position], known.mean(0), inverse)
        assert maps[image].flatten()[position].item() == pytest.approx(expected, rel=1e-3)


def test_padim_keeps_random_channels_the_same_ones_for_a_seed():
    def kept(seed):
        net = baselines.PaDiM(tiny_teacher(), 7, seed)
        net.memorise([net.teacher(images())])
        return net.mean

    assert kept(0).shape == (7, SIDE**2) and torch.equal(kept(0), kept(0)) and not torch.equal(kept(0), kept(1))
    everything = features(fitted("padim"), images()).mean(0).T
    assert all(np.isclose(everything, row, atol=1e-5).all(1).sum() >= 1 for row in kept(3).numpy())


def test_padim_does_not_depend_on_the_batches():
    one, many = (baselines.PaDiM(tiny_teacher(), 100, 0) for _ in range(2))
    one.memorise([one.teacher(images())])
    many.memorise(many.teacher(part) for part in images().split(5))
    torch.testing.assert_close(*(net.maps(net.teacher(images(2, seed=1))) for net in (one, many)), rtol=1e-3, atol=1e-3)


# --- SPADE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [4, 12])
def test_spade_is_the_nearest_of_all_positions_of_the_nearest_images(count):
    """With up to five images these are all of them."""
    net, batch = fitted("spade", count), images(3, seed=5)
    train, test = features(net, images(count)), features(net, batch)
    pooled, ours = (net.teacher(b)[-1].mean((2, 3)).numpy() for b in (images(count), batch))
    (maps,) = net.maps(net.teacher(batch))
    for i in range(3):
        nearest = np.argsort(np.linalg.norm(pooled - ours[i], axis=1))[:5]
        expected = cdist(test[i], train[nearest].reshape(-1, DIMENSIONS)).min(1)
        np.testing.assert_allclose(maps[i].flatten().numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("count, neighbours", [(12, 12), (60, 50)])
def test_spades_image_score_is_the_mean_distance_of_the_neighbours(count, neighbours):
    net, batch = fitted("spade", count), images(4, seed=5)
    pooled, ours = (net.teacher(b)[-1].mean((2, 3)).numpy() for b in (images(count), batch))
    distances, _ = NearestNeighbors(n_neighbors=neighbours).fit(pooled).kneighbors(ours)
    np.testing.assert_allclose(net.image_scores(net.teacher(batch)).numpy(), distances.mean(1), rtol=1e-3)


# --- Conventional distillation ------------------------------------------------------------------------------------


def test_the_conventional_student_is_an_untrained_copy_of_the_teacher():
    teacher = tiny_teacher()
    net = baselines.ConventionalDistillation(teacher)
    there, own = dict(teacher.named_parameters()), dict(net.student.named_parameters())
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in there.items()}
    assert not any(torch.equal(own[k], there[k]) for k in there) and all(p.requires_grad for p in own.values())
    teacher_feats, student_feats = net(images(2))
    assert [f.shape for f in student_feats] == [f.shape for f in teacher_feats]


def test_the_conventional_student_sees_the_image():
    net = baselines.ConventionalDistillation(tiny_teacher())
    feats = [torch.zeros_like(f) for f in net.teacher(images(2))]
    first, second = (net.student_feats(feats, images(2, seed=s)) for s in (0, 1))
    assert not any(torch.equal(a, b) for a, b in zip(first, second))


def test_the_conventional_student_learns_and_the_teacher_does_not():
    cfg = config(method="conventional", epochs=12)
    net = baselines.build(cfg, tiny_teacher())
    teacher = {k: v.clone() for k, v in net.teacher.state_dict().items()}
    student = {k: v.clone() for k, v in net.student.state_dict().items()}
    losses = fit.fit(net, image_set(8), cfg)
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(v, teacher[k]) for k, v in net.teacher.state_dict().items())
    assert not any(torch.equal(v, student[k]) for k, v in net.student.state_dict().items())


def test_batch_norm_statistics_of_the_copy_are_fresh():
    teacher = tiny_teacher()
    teacher.stages[0].append(nn.BatchNorm2d(4))
    teacher.stages[0][-1].running_mean.fill_(7)
    copied = baselines.untrained_copy(teacher)
    assert copied.stages[0][-1].running_mean.eq(0).all() and copied.stages[0][-1].training
    assert teacher.stages[0][-1].running_mean.eq(7).all()


# --- Cost of inference --------------------------------------------------------------------------------------------

BY_HAND = {
    "padim": (4 * 256 * (18 + 18 * 18), 0),  # a mean and an inverse covariance at each position
    "spade": (4 * 12 * (8 + 18 * 256), 0),  # of each image a pooled vector and all features
    "conventional": (4 * (112 + 222 + 440), 112 + 222 + 440),  # three convolutions with their biases
}


@pytest.mark.parametrize("method", BY_HAND)
def test_what_is_stored_and_trained_by_hand(method):
    net = fitted(method)
    stored, trained = BY_HAND[method]
    found = complexity.measure(net, cfg_of(method))
    assert complexity.stored_bytes(net) == stored and found["stored_mb"] == round(stored / 1e6, 2)
    assert found["trainable_parameters"] == trained


def test_costs_are_finite_and_in_order():
    found = complexity.measure(fitted("reverse"), cfg_of("reverse"))
    assert all(math.isfinite(v) and v >= 0 for v in found.values())
    assert 0 < found["latency_ms_p50"] <= found["latency_ms_p95"] and found["images_per_s"] > 0 and found["memory_mb"] > 10


def test_other_work_beside_a_measurement_is_told():
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()  # it has started
            found = complexity.measure(OneConvolution(), config(image_size=256))
        finally:
            other.kill()
    assert found["other_work_cores"] > complexity.BUSY


class OneConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.teacher = nn.Conv2d(3, 16, 3, padding=1)

    def maps(self, teacher_feats, images):
        return [teacher_feats.mean(1)]


def test_arithmetic_of_one_convolution_by_hand():
    """256 x 256 positions x 16 outputs x 3 x 3 x 3 inputs = 28.3 million multiply-adds of one image."""
    found = complexity.measure(OneConvolution(), config(image_size=256))
    assert found["gmacs"] == round(256 * 256 * 16 * 27 / 1e9, 3) == 0.028
    assert found["trainable_parameters"] == 16 * 27 + 16


def test_trained_copies_of_a_lite_network_follow_their_batch_statistics():
    """The Lite networks' BatchNorm momentum of 0.01 would leave the running statistics behind in a short training."""
    teacher, _ = teachers.load_teacher("efficientnet_lite0")
    for trained in (baselines.untrained_copy(teacher), model.TailBottleneck(teacher.tail)):
        momenta = {m.momentum for m in trained.modules() if isinstance(m, torch.nn.BatchNorm2d)}
        assert momenta == {0.1}
