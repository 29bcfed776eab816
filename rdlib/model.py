"""One-class bottleneck embedding (OCBE) and student, in the paper's order (Sec. 3.1-3.2).

    images -> Teacher -> K feature maps -> MFF -> OCE -> embedding -> Student -> K restored maps
                                           `--- OCBE ---'

The OCBE and the student are built from the teacher's channel widths and block type, see `rdlib.teachers.Architecture`.
Residual blocks are torchvision's own; only the up-sampling blocks of the student are ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from rdlib.config import Config
from rdlib.distance import distance_maps
from rdlib.errors import InputError
from rdlib.inference import only_seen_taps
from rdlib.teachers import Architecture, Frozen, probe, trainable_copy

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


class OCE(nn.Sequential):
    """One-class embedding: the backbone's fourth stage, randomly initialised; its first block halves the resolution.

    (B, inputs, h, w) -> embedding phi (B, C, h / 2, w / 2)
    """

    def __init__(self, inputs: int, arch: Architecture) -> None:
        planes = arch.embedding // arch.block.expansion
        shortcut = nn.Sequential(nn.Conv2d(inputs, arch.embedding, 1, stride=2, bias=False), nn.BatchNorm2d(arch.embedding))
        first = arch.block(inputs, planes, stride=2, downsample=shortcut, base_width=arch.base_width)
        super().__init__(first, *[arch.block(arch.embedding, planes, base_width=arch.base_width) for _ in range(arch.oce_blocks - 1)])
        only_seen_taps(self)


class OCBE(nn.Module):
    """One-class bottleneck embedding: MFF, then OCE (Sec. 3.2)."""

    def __init__(self, arch: Architecture, conv1x1: bool = False) -> None:
        super().__init__()
        self.mff = MFF(arch.channels, conv1x1)
        self.oce = OCE(self.mff.out_channels, arch)
        self.apply(init_weights)

    def forward(self, teacher_feats: Sequence[Tensor]) -> Tensor:
        """K maps (B, C_k, h_k, w_k) -> embedding phi (B, C, h_K / 2, w_K / 2)"""
        return self.oce(self.mff(teacher_feats))


class TailBottleneck(nn.Module):
    """The bottlenecks without MFF of Table 5: the teacher's own next stage on its deepest map.

    "Pre+OCE": that stage, trained. It starts from the ImageNet weights [open: the paper does not say].
    """

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.tail = trainable_copy(tail)
        only_seen_taps(self)

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


def build(cfg: Config, teacher: nn.Module) -> ReverseDistillation:
    """The model that `cfg` describes, with random OCBE and student (seed first).

    teacher: from `rdlib.teachers.load_teacher`, or any frozen module images -> K feature maps, each half the size of the one
        before; one without `arch` gets bottleneck blocks of a quarter width
    raises: InputError if the maps do not halve from scale to scale, or the bottleneck needs a tail that is not there
    """
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
        raise InputError(
            f"bottleneck={cfg.bottleneck!r}: needs the teacher's next stage, its `tail`, and this teacher has none (a weights file may end "
            "at layer3); use 'mff+oce', or a file that holds layer4"
        )
    return FrozenTailBottleneck(tail) if cfg.bottleneck == "pre" else TailBottleneck(tail)
