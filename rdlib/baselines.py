"""What the paper compares with, on the same teacher, resolution, smoothing and metrics as ours.

    conventional   distillation as in Fig. 2a: the student is an encoder of the teacher's architecture on the raw image
                   (in the spirit of MKD, Salehi et al. 2021, and STPM, Wang et al. 2021)
    padim          PaDiM, Defard et al. 2021: a Gaussian per position, Mahalanobis distance
    spade          SPADE, Cohen & Hoshen 2020: distance to the features of the nearest normal images

`build` gives any method one interface: `maps(teacher_feats, images)` -> K maps, and either trainable parameters or
`memorise`. The teacher's features come from outside, since runs share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdlib import model
from rdlib.config import Config
from rdlib.model import Distillation
from rdlib.teachers import Encoder, Teacher, trainable_copy

PADIM_DIMENSIONS = {"resnet18": 100, "wide_resnet50_2": 550}  # random channels kept, PaDiM Sec. 4.3
PADIM_DEFAULT = 100
PADIM_RIDGE = 0.01  # added to the covariance's diagonal, PaDiM eq. 1
SPADE_IMAGES = 50  # neighbours for the image score, SPADE Sec. 4
SPADE_GALLERY = 5  # [open] neighbours whose pixels are compared; SPADE's 50 would cost ten times the time


def build(cfg: Config, teacher: nn.Module) -> nn.Module:
    """The method that `cfg` names, with the same teacher for all of them.

    raises: InputError as `model.build` does
    """
    if cfg.method == "reverse":
        return model.build(cfg, teacher)
    if cfg.method == "conventional":
        return ConventionalDistillation(teacher)
    return PaDiM(teacher, PADIM_DIMENSIONS.get(cfg.teacher, PADIM_DEFAULT), cfg.torch_seed) if cfg.method == "padim" else SPADE(teacher)


class ConventionalDistillation(Distillation):
    """Teacher and a student encoder of the same architecture, both on the raw image (Fig. 2a)."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher, self.student = teacher, untrained_copy(teacher)

    def student_feats(self, teacher_feats: Sequence[Tensor], images: Tensor) -> list[Tensor]:
        """K maps (B, C_k, h_k, w_k) of the student's own look at the images (B, 3, H, W)"""
        return self.student(images)


def untrained_copy(teacher: Teacher) -> Encoder:
    """An encoder of the teacher's architecture with fresh weights, all of them trainable."""
    encoder = trainable_copy(Encoder(teacher.stem, list(teacher.stages), teacher.mean.tolist(), teacher.std.tolist()))
    for module in encoder.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return encoder


def concatenated(teacher_feats: Sequence[Tensor]) -> Tensor:
    """K maps (B, C_k, h_k, w_k) -> (B, sum C_k, h_1, w_1): the deeper ones enlarged to the shallowest one's size."""
    size = teacher_feats[0].shape[-2:]
    return torch.cat([F.interpolate(f, size=size, mode="nearest") for f in teacher_feats], dim=1)


class PaDiM(nn.Module):
    """A Gaussian over the normal images' features at each position; the map is the Mahalanobis distance.

    dimensions: channels kept, drawn at random once (Defard et al. found random as good as PCA)
    """

    def __init__(self, teacher: nn.Module, dimensions: int, seed: int) -> None:
        super().__init__()
        self.teacher, self.dimensions, self.seed = teacher, dimensions, seed

    def _features(self, teacher_feats: Sequence[Tensor]) -> Tensor:
        feats = concatenated([f.float() for f in teacher_feats])
        order = torch.randperm(feats.shape[1], generator=torch.Generator().manual_seed(self.seed))
        return feats[:, order[: self.dimensions].to(feats.device)].flatten(2)  # (B, d, P)

    @torch.no_grad()
    def memorise(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Mean and inverse covariance at each of the P positions, from batches of K maps (B, C_k, h_k, w_k)."""
        feats = torch.cat([self._features(teacher_feats) for teacher_feats in batches])
        count, d, positions = feats.shape
        mean = feats.mean(0)
        centred = (feats - mean).permute(2, 0, 1)  # (P, N, d)
        covariance = centred.transpose(1, 2) @ centred / max(count - 1, 1) + PADIM_RIDGE * torch.eye(d, device=feats.device)
        self.register_buffer("mean", mean)
        self.register_buffer("inverse", torch.linalg.inv(covariance))

    def maps(self, teacher_feats: Sequence[Tensor], images: Tensor | None = None) -> list[Tensor]:
        """K maps (B, C_k, h_k, w_k) -> one map (B, h_1, w_1) of distances, 0 or greater"""
        height, width = teacher_feats[0].shape[-2:]
        delta = (self._features(teacher_feats) - self.mean).permute(2, 0, 1)  # (P, B, d)
        squared = torch.einsum("pbd,pde,pbe->bp", delta, self.inverse, delta)
        return [squared.clamp_min(0).sqrt().view(-1, height, width)]


class SPADE(nn.Module):
    """Each position's distance to the nearest feature in a gallery of the most similar normal images."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher

    @torch.no_grad()
    def memorise(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Keep all features of the normal images (batches of K maps), and one pooled vector of the deepest map for each."""
        feats = [[f.float() for f in teacher_feats] for teacher_feats in batches]
        self.register_buffer("pooled", torch.cat([f[-1].mean((2, 3)) for f in feats]))
        self.register_buffer("gallery", torch.cat([concatenated(f) for f in feats]))

    def _neighbours(self, teacher_feats: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
        distances = torch.cdist(teacher_feats[-1].float().mean((2, 3)), self.pooled)
        return distances.topk(min(count, len(self.pooled)), largest=False)

    def image_scores(self, teacher_feats: Sequence[Tensor]) -> Tensor:
        """K maps (B, C_k, h_k, w_k) -> (B,) mean distance of the pooled vectors to the nearest normal images"""
        return self._neighbours(teacher_feats, SPADE_IMAGES)[0].mean(1)

    def maps(self, teacher_feats: Sequence[Tensor], images: Tensor | None = None) -> list[Tensor]:
        """K maps (B, C_k, h_k, w_k) -> one map (B, h_1, w_1) of distances, 0 or greater"""
        _, nearest = self._neighbours(teacher_feats, SPADE_GALLERY)
        feats = concatenated([f.float() for f in teacher_feats])
        maps = [self._to_gallery(f, self.gallery[n]) for f, n in zip(feats, nearest)]
        return [torch.stack(maps).view(len(feats), *feats.shape[-2:])]

    @staticmethod
    def _to_gallery(feats: Tensor, gallery: Tensor) -> Tensor:
        """feats (C, h, w), gallery (n, C, h, w) -> (h * w,) distance of each position to the nearest of all n * h * w"""
        ours = feats.flatten(1).T
        best = [torch.cdist(ours, other.flatten(1).T).amin(1) for other in gallery]
        return torch.stack(best).amin(0)
