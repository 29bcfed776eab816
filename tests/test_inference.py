"""Devices, batches, and BatchNorm folding on real architectures."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import nn

from rdlib import distance, inference, model, teachers

CPU = torch.device("cpu")


def test_auto_takes_what_is_there(monkeypatch):
    for cuda, mps, expected in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert inference.choose_device("auto").type == expected


def test_a_named_device_is_taken():
    assert inference.choose_device("cpu") == CPU
    assert inference.describe_hardware(CPU) == {"device": "cpu", "gpu": "", "threads": torch.get_num_threads()}


def test_to_batch_scales_to_one():
    images = np.array([0, 51, 255], dtype=np.uint8).reshape(3, 1, 1, 1)
    batch = inference.to_batch(images, CPU)
    assert batch.shape == (3, 3, 1, 1) and batch.dtype == torch.float32
    assert batch[:, 2, 0, 0].tolist() == pytest.approx([0, 0.2, 1]) and images.max() == 255


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
def test_folding_changes_no_feature_and_leaves_no_batchnorm(name):
    torch.manual_seed(0)
    teacher = teachers.resnet_teacher(name)
    for m in teacher.modules():  # statistics unlike the initial 0 and 1
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-0.5, 0.5), m.running_var.uniform_(0.5, 2), m.weight.data.uniform_(0.5, 2), m.bias.data.uniform_(-1, 1)
    x = torch.rand(2, 3, 64, 64)
    fast = inference.for_inference(teacher, lambda t: t(x))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    for found, expected in zip(fast(x), teacher(x), strict=True):
        assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-5
    assert any(isinstance(m, nn.BatchNorm2d) for m in teacher.modules())


class NormAndMore(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize("between", [nn.ReLU(), nn.ReLU(inplace=True), NormAndMore(4)])
def test_a_batchnorm_that_cannot_be_folded_stays(between):
    """No convolution feeds the last one, nor may one that does more than normalise be folded away."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), between, nn.BatchNorm2d(4)).eval()
    x = torch.rand(1, 3, 8, 8)
    fast = inference.for_inference(net, lambda n: n(x))
    assert isinstance(fast[2], nn.BatchNorm2d)
    torch.testing.assert_close(fast(x), net(x))


class Shared(nn.Module):
    """What is between a convolution and its BatchNorm is also given on, or one of the two is used twice."""

    def __init__(self, way):
        super().__init__()
        self.way, self.conv, self.other, self.norm = way, nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.norm.running_var.fill_(9)

    def forward(self, x):
        between = self.conv(x)
        y = self.norm(between)
        ways = {
            "shortcut": lambda: y.relu() + between,  # PreActResNet
            "map": lambda: [between, y],
            "concatenated": lambda: torch.cat([between, y]),
            "convolution": lambda: self.conv(y),
            "norm": lambda: self.norm(self.other(y)),
        }
        return ways[self.way]()


@pytest.mark.parametrize("way", ["shortcut", "map", "concatenated", "convolution", "norm"])
def test_a_batchnorm_is_not_folded_into_a_convolution_that_others_see(way):
    net, x = Shared(way).eval(), torch.rand(1, 3, 8, 8)
    fast = inference.for_inference(net, lambda n: n(x))
    for found, expected in zip(fast(x), net(x), strict=True):
        torch.testing.assert_close(found, expected)


def two_steps(net, feats):
    """Losses of two steps of Adam in float64, and the gradients of the last."""
    optimiser, losses = torch.optim.Adam(net.parameters(), lr=0.005), []
    for _ in range(2):
        loss = distance.flat_loss(feats, net(feats))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses, {name: p.grad for name, p in net.named_parameters()}


def whole_taps(net):
    """The network with plain convolutions in place of those that know which taps see something."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, inference.OnePosition):
            module.__class__ = nn.Conv2d
    return net


SEEN = {"oce.0.conv1": 4, "oce.0.conv2": 1, "oce.1.conv1": 1, "oce.1.conv2": 1}


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_only_seen_taps_trains_as_the_whole_convolutions(size, layout):
    """At 64 px every tap sees something and nothing changes at all."""
    teacher = teachers.resnet_teacher("resnet18").double()
    fast = nn.Sequential(model.OCBE(teacher.arch), model.Student(teacher.arch)).double().to(memory_format=layout).train()
    plain, cut = whole_taps(fast), copy.deepcopy(fast)
    before = {k: v.clone() for k, v in fast.state_dict().items()}
    feats = [f.contiguous(memory_format=layout) for f in teacher(torch.rand(4, 3, size, size, dtype=torch.float64))]
    (expected, wanted), (found, grads) = two_steps(plain, feats), two_steps(fast, feats)
    with inference.cut_to_seen_taps(cut) if size == 32 else contextlib.nullcontext():
        losses, _ = two_steps(cut, feats)
    assert losses == pytest.approx(found, rel=1e-12)
    torch.testing.assert_close(cut.state_dict(), fast.state_dict(), rtol=1e-7, atol=1e-9)
    assert {k: v.shape for k, v in cut.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    if size == 64:
        assert found == expected and all(torch.equal(grads[k], wanted[k]) for k in wanted)
        return
    assert found == pytest.approx(expected, rel=1e-9)
    for name, seen in SEEN.items():
        grad, weight = grads[f"0.{name}.weight"], cut.state_dict()[f"0.{name}.weight"]
        torch.testing.assert_close(grad, wanted[f"0.{name}.weight"], rtol=1e-5, atol=1e-12)
        unseen = grad.eq(0).all((0, 1))
        assert unseen.sum() == 9 - seen and torch.equal(weight[:, :, unseen], before[f"0.{name}.weight"][:, :, unseen])


def test_cutting_leaves_what_is_frozen_frozen():
    """The bottleneck "Pre" of Table 5."""
    net = model.FrozenTailBottleneck(teachers.resnet_teacher("resnet18").tail)
    with inference.cut_to_seen_taps(net):
        assert not any(p.requires_grad for p in net.parameters())
        assert net.tail[0].conv1.weight.shape[-2:] == (2, 2)
