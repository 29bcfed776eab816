"""Devices, batches, and BatchNorm folding on real architectures."""

import numpy as np
import pytest
import torch
from torch import nn

from rdlib import inference, teachers
from rdlib.errors import InputError

CPU = torch.device("cpu")


def test_auto_takes_what_is_there(monkeypatch):
    for cuda, mps, expected in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert inference.choose_device("auto").type == expected


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "tpu", ""])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"^device='{name}': not available here; there is cpu$"):
        inference.choose_device(name)


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


def test_a_batchnorm_that_no_convolution_feeds_stays():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    x = torch.rand(1, 3, 8, 8)
    fast = inference.for_inference(net, lambda n: n(x))
    assert isinstance(fast[2], nn.BatchNorm2d)
    torch.testing.assert_close(fast(x), net(x))
