"""Training with a tiny teacher: against a plain loop, repeatable to the bit, and nothing but the student changes."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from helpers import TinyTeacher, config, image_set
from hypothesis import given
from hypothesis import strategies as st

from rdlib import baselines, distance, features, fit, model, teachers
from rdlib.score import score

TRAIN = image_set(9)
CPU = torch.device("cpu")


def new_model(cfg):
    fit.seed_everything(cfg)
    return model.build(cfg, TinyTeacher())


def losses(cfg, train=TRAIN, on_epoch=None):
    return fit.fit(new_model(cfg), train, cfg, on_epoch)


def plain_loop(net, cfg, train, loss_of):
    """The method as one would write it down, the teacher asked anew at every step.

    In the same memory layout as `fit`: another one rounds differently, which training amplifies
    (test_the_memory_layout_changes_only_the_rounding).
    """
    net.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam([*net.ocbe.parameters(), *net.student.parameters()], lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), fused=True)
    order = torch.Generator().manual_seed(cfg.torch_seed)
    images = (torch.from_numpy(train.images).float() / 255).contiguous(memory_format=torch.channels_last)
    net.ocbe.train(), net.student.train(), net.teacher.eval()
    history = []
    for _ in range(cfg.epochs):
        indices, total = torch.randperm(len(images), generator=order), 0.0
        for start in range(0, len(images), cfg.batch_size):
            batch = images[indices[start : start + cfg.batch_size]]
            teacher_feats = net.teacher(batch)
            loss = loss_of(teacher_feats, net.student(net.ocbe(teacher_feats)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        history.append(total / len(images))
    return history


@pytest.mark.parametrize("name, loss_of", [("flat", distance.flat_loss), ("pixel", distance.pixel_loss)])
def test_losses_are_those_of_a_plain_loop(name, loss_of):
    cfg = config(loss=name, epochs=3, batch_size=4, lr=0.01, beta1=0.6, beta2=0.95)
    train = image_set(10)
    assert fit.fit(new_model(cfg), train, cfg) == pytest.approx(plain_loop(new_model(cfg), cfg, train, loss_of), rel=1e-5)


def test_the_memory_layout_changes_only_the_rounding():
    """In float64 twenty steps of the plain loop (NCHW, teacher in the graph, plain Adam) are ours (channels last, fused)."""
    history = []
    for layout, fused in ((torch.contiguous_format, False), (torch.channels_last, True)):
        torch.manual_seed(0)
        teacher = teachers.resnet_teacher("resnet18").double()
        net = model.build(config(teacher="resnet18"), teacher).double().to(memory_format=layout)
        images = torch.rand(8, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=layout)
        optimiser = torch.optim.Adam([*net.ocbe.parameters(), *net.student.parameters()], lr=0.005, betas=(0.5, 0.999), fused=fused)
        teacher_feats = net.teacher.requires_grad_(not fused)(images)
        losses = []
        for _ in range(20):
            loss = distance.flat_loss([f.detach() for f in teacher_feats], net.student(net.ocbe(teacher_feats)))
            optimiser.zero_grad()
            loss.backward(retain_graph=not fused)
            optimiser.step()
            losses.append(loss.item())
        history.append(losses)
    assert history[1] == pytest.approx(history[0], rel=1e-8) and history[0][-1] < 0.5 * history[0][0]


def test_the_same_run_is_the_same_to_the_bit_whatever_ran_before():
    cfg = config(epochs=3)
    first = losses(cfg)
    losses(config(seed=5, loss="pixel"))
    torch.rand(7), np.random.rand(3)
    assert losses(cfg) == first
    assert losses(config(epochs=3, seed=1)) != first


def test_looking_at_the_test_set_changes_nothing():
    cfg = config(epochs=3)
    net = new_model(cfg)
    looked = fit.fit(net, TRAIN, cfg, lambda *_: score(net, image_set(3, seed=9), cfg))
    assert looked == losses(cfg)


@pytest.mark.parametrize("made", [{}, {"bottleneck": "oce"}, {"bottleneck": "pre"}, {"method": "conventional"}], ids=str)
def test_training_and_scoring_draw_no_global_random_numbers(made):
    """So a checkpoint need not hold their states. The Lite networks have layers that could drop a path at random."""
    cfg = config(teacher="efficientnet_lite0", epochs=1, **made)
    fit.seed_everything(cfg)
    net = baselines.build(cfg, teachers.load_teacher(cfg.teacher)[0])
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    fit.fit(net, image_set(4), cfg, lambda *_: score(net, image_set(2), cfg))
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[2])
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1]))


def test_features_computed_again_give_the_same_losses(monkeypatch):
    cfg = config(epochs=3)
    cached = losses(cfg)
    monkeypatch.setattr(features, "MEMORY", 0)
    assert losses(cfg) == pytest.approx(cached, rel=1e-6)


def test_only_bottleneck_and_student_change():
    cfg = config()
    net = new_model(cfg)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fit.fit(net, TRAIN, cfg)
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if not k.startswith("teacher.")}


def test_on_epoch_is_called_with_number_and_loss():
    seen = []
    found = losses(config(epochs=3), on_epoch=lambda *args: seen.append(args))
    assert seen == list(enumerate(found, start=1))


class Broken(TinyTeacher):
    def forward(self, images):
        feats = super().forward(images)
        feats[1] = feats[1] * torch.where(images.amax((1, 2, 3), keepdim=True) == 0, torch.inf, 1.0)  # a black image
        return feats


def test_a_loss_that_is_not_finite_names_the_files():
    cfg = config(batch_size=3)
    train = image_set(6)
    train.images[4] = 0
    fit.seed_everything(cfg)
    net = model.build(cfg, TinyTeacher())
    net.teacher = Broken()
    order = torch.Generator().manual_seed(cfg.torch_seed)
    batch = next(b for b in torch.randperm(6, generator=order).split(3) if 4 in b)
    names = ", ".join(train.paths[i] for i in batch)
    with pytest.raises(FloatingPointError, match=f"loss is (nan|inf) in epoch 1; try a smaller lr. Batch: {names}$"):
        fit.fit(net, train, cfg)


def test_parameters_that_the_last_step_broke_are_reported(monkeypatch):
    """Its loss was still a number, so nothing else would tell before scoring."""

    def broken(*arguments):
        loss = step(*arguments)
        arguments[0].state_dict()[WEIGHT][:] = torch.nan
        return loss

    step = fit.step
    WEIGHT = next(k for k in new_model(config()).state_dict() if k.startswith("student."))
    monkeypatch.setattr(fit, "step", broken)
    with pytest.raises(FloatingPointError, match=f"{WEIGHT} is not finite after epoch 1; try a smaller lr"):
        losses(config(epochs=1, batch_size=16))


def test_grey_images_train_as_three_equal_channels():
    cfg = config(epochs=1)
    grey = TRAIN.images[:, :1]
    colour = dataclasses.replace(TRAIN, images=np.repeat(grey, 3, axis=1))
    assert losses(cfg, dataclasses.replace(TRAIN, images=grey)) == losses(cfg, colour)


def test_bfloat16_trains():
    found = losses(config(precision="bf16", epochs=4))
    assert found[-1] < found[0] and found != losses(config(epochs=4))
    assert found == pytest.approx(losses(config(epochs=4)), rel=0.1)


# --- Batches ------------------------------------------------------------------------------------------------------


@given(count=st.integers(1, 60), size=st.integers(2, 20), seed=st.integers(0, 99))
def test_batches_cover_every_index_once(count, size, seed):
    parts = list(fit.batches(count, size, torch.Generator().manual_seed(seed)))
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    assert all(len(p) == size for p in parts[:-1][:-1]) and len(parts[-1]) <= size + 1
    assert count == 1 or all(len(p) > 1 for p in parts)


@pytest.mark.parametrize("count, sizes", [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2]), (3, [3]), (1, [1]), (5, [5])])
def test_a_last_single_image_joins_the_batch_before(count, sizes):
    assert [len(p) for p in fit.batches(count, 4, torch.Generator())] == sizes


@pytest.mark.parametrize("count, sizes", [(8, [4, 4]), (9, [4, 4]), (10, [4, 4]), (3, [3]), (5, [4])])
def test_of_full_batches_the_last_small_one_is_left_out(count, sizes):
    parts = list(fit.batches(count, 4, torch.Generator().manual_seed(0), full=True))
    assert [len(p) for p in parts] == sizes and len(set(torch.cat(parts).tolist())) == sum(sizes)


@pytest.mark.parametrize("px, full", [(16, True), (32, False)])
def test_training_is_on_full_batches_where_the_embedding_is_one_position(px, full, monkeypatch):
    asked, real = [], fit.batches
    monkeypatch.setattr(fit, "batches", lambda *given, full: asked.append(full) or real(*given, full=full))
    cfg = config(image_size=64, epochs=1)
    fit.fit(model.build(cfg, TinyTeacher()), image_set(6, px), cfg)
    assert asked == [full]


def test_batches_are_shuffled_anew_each_epoch_and_repeatable():
    def epochs(seed):
        order = torch.Generator().manual_seed(seed)
        return [torch.cat(list(fit.batches(50, 8, order))).tolist() for _ in range(2)]

    first, second = epochs(3)
    assert first != second and first != sorted(first) and epochs(3) == [first, second] and epochs(4)[0] != first


# --- Small things -------------------------------------------------------------------------------------------------


def test_seeding_asks_for_deterministic_kernels():
    fit.seed_everything(config())
    drawn = torch.rand(3), np.random.rand(3)
    assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    fit.seed_everything(config())
    assert torch.equal(drawn[0], torch.rand(3)) and np.array_equal(drawn[1], np.random.rand(3))
