"""The model against the official code's numbers, and what the bottlenecks, the student and the builder promise."""

import golden_weights as golden
import numpy as np
import pytest
import torch
from helpers import TinyTeacher, config
from torchvision.models import get_model
from torchvision.models.resnet import BasicBlock, Bottleneck

from rdlib import model, teachers
from rdlib.config import LITE_TEACHERS

OFFICIAL = ("resnet18", "wide_resnet50_2")
# Step by step. Adam's first steps have the size of lr whatever the gradient, so they amplify rounding: weights changed by
# 1e-7, or another number of threads, move the losses by up to half of these.
TRAINING_TOLERANCE = {"resnet18": [1e-5, 2e-4, 1e-3, 5e-3, 5e-3], "wide_resnet50_2": [1e-5, 2e-3, 2e-2, 2e-2, 2e-2]}


@pytest.fixture(scope="module")
def parities():
    return {name: golden.parity(name) for name in OFFICIAL}


@pytest.fixture(scope="module")
def lite():
    """Teacher and sha256 of each Lite network."""
    return {name: teachers.load_teacher(name) for name in LITE_TEACHERS}


# --- Parity with the official code --------------------------------------------------------------------------------


def relative_difference(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("key", ["teacher1", "teacher2", "teacher3", "phi", "student1", "student2", "student3"])
def test_features_are_the_official_ones(parities, name, key):
    assert relative_difference(parities[name].arrays[key], parities[name].golden_arrays[key]) < 1e-4


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("key", ["M1", "M2", "M3", "map_sum", "map_smoothed"])
def test_maps_are_the_official_ones(parities, name, key):
    assert relative_difference(parities[name].arrays[key], parities[name].golden_arrays[key]) < 1e-5


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("key", ["flat_loss", "pixel_loss", "image_score_max", "image_score_sum"])
def test_losses_and_image_scores_are_the_official_ones(parities, name, key):
    assert parities[name].numbers[key] == pytest.approx(parities[name].golden_numbers[key], rel=1e-5)


@pytest.mark.parametrize("name", OFFICIAL)
def test_five_training_steps_are_the_official_ones(parities, name):
    ours, theirs = np.array(parities[name].numbers["train_losses"]), np.array(parities[name].golden_numbers["train_losses"])
    assert (np.abs(ours / theirs - 1) < TRAINING_TOLERANCE[name]).all(), ours / theirs - 1


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameter_counts_are_the_official_ones(parities, name):
    expected = dict(parities[name].golden_numbers["params"])
    unused = expected.pop("ocbe_unused_conv4_bn4")
    assert parities[name].numbers["params"] == expected
    shapes = [shape for key, shape in golden.official_keys(name)["bn"].items() if key in ("conv4.weight", "bn4.weight", "bn4.bias")]
    assert sum(int(np.prod(shape)) for shape in shapes) == unused


# --- The teacher in the model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LITE_TEACHERS)
def test_lite_models_train_at_most_ten_million_parameters(lite, name):
    net = model.build(config(teacher=name), lite[name][0])
    trainable = sum(p.numel() for p in net.trainable())
    assert 1e6 < trainable <= 1e7
    assert trainable == golden.count(net.ocbe) + golden.count(net.student)


def test_the_teacher_is_frozen_in_eval_mode(lite):
    net = model.build(config(teacher="efficientnet_lite0"), lite["efficientnet_lite0"][0])
    net.train()
    assert not any(m.training for m in net.teacher.modules())
    assert all(m.training for m in [*net.ocbe.modules(), *net.student.modules()])
    assert not any(p.requires_grad for p in net.teacher.parameters())
    net.eval()
    assert not any(m.training for m in net.modules())


# --- Bottlenecks (Table 5) ----------------------------------------------------------------------------------------


def lite_model(lite, **params):
    name = "efficientnet_lite0"
    return model.build(config(teacher=name, **params), lite[name][0])


def test_pre_has_nothing_to_train(lite):
    net = lite_model(lite, bottleneck="pre").train()
    assert not any(p.requires_grad for p in net.ocbe.parameters())
    assert not any(m.training for m in net.ocbe.modules())
    assert len(net.trainable()) == len(list(net.student.parameters()))


def test_oce_trains_the_teachers_next_stage_and_not_the_teachers_own_copy(lite):
    net = lite_model(lite, bottleneck="oce").train()
    tail = lite["efficientnet_lite0"][0].tail
    assert all(p.requires_grad for p in net.ocbe.parameters()) and all(m.training for m in net.ocbe.modules())
    assert [tuple(p.shape) for p in net.ocbe.tail.parameters()] == [tuple(p.shape) for p in tail.parameters()]
    assert all(torch.equal(a, b) and a is not b for a, b in zip(net.ocbe.tail.parameters(), tail.parameters()))


@pytest.mark.parametrize("bottleneck", ["mff+oce", "oce", "pre"])
def test_every_bottleneck_gives_the_embedding_at_half_the_deepest_map(lite, bottleneck):
    net = lite_model(lite, bottleneck=bottleneck).eval()
    with torch.no_grad():
        teacher_feats, student_feats = net(torch.rand(1, 3, 64, 64))
        assert net.ocbe(teacher_feats).shape == (1, 320, 2, 2)
    assert [f.shape for f in teacher_feats] == [f.shape for f in student_feats]


def test_pre_is_the_pretrained_network_itself():
    net = get_model("resnet18", weights=None).eval()
    teacher = teachers.resnet_teacher("resnet18", net.state_dict(), *teachers.IDENTITY)
    pre = model.FrozenTailBottleneck(teacher.tail)
    seen = []
    net.layer4.register_forward_hook(lambda _, __, out: seen.append(out))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        net(images)
        torch.testing.assert_close(pre(teacher(images)), seen[0], rtol=1e-5, atol=1e-5)


def test_conv1x1_adds_one_convolution_and_its_batchnorm(lite):
    plain, fused = lite_model(lite), lite_model(lite, conv1x1=True)
    width = 3 * 672
    assert golden.count(fused) - golden.count(plain) == width * width + 2 * width
    assert golden.count(fused.student) == golden.count(plain.student)


# --- Custom teachers ----------------------------------------------------------------------------------------------


def test_a_teacher_with_two_maps_and_odd_widths():
    net = model.build(config(scales=(1, 2)), TinyTeacher((6, 10))).eval()
    with torch.no_grad():
        teacher_feats, student_feats = net(torch.rand(2, 3, 32, 32))
    assert [tuple(f.shape) for f in student_feats] == [(2, 6, 16, 16), (2, 10, 8, 8)] == [tuple(f.shape) for f in teacher_feats]
    blocks = {type(m) for m in net.student.modules() if isinstance(m, BasicBlock | Bottleneck)}
    assert blocks == {BasicBlock}  # 6 and 10 are not multiples of a bottleneck's expansion


def test_a_teacher_with_four_maps():
    net = model.build(config(scales=(4,)), TinyTeacher((4, 8, 12, 16))).eval()
    with torch.no_grad():
        assert [tuple(f.shape) for f in net(torch.rand(1, 3, 32, 32))[1]] == [(1, 4, 16, 16), (1, 8, 8, 8), (1, 12, 4, 4), (1, 16, 2, 2)]
