"""Distance between teacher and student features: the maps M^k (eq. 1) and both training losses (Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Features = Sequence[Tensor]


def distance_maps(teacher_feats: Features, student_feats: Features) -> list[Tensor]:
    """M^k(h, w) = 1 - cos(f_E^k(h, w), f_D^k(h, w)), the cosine over channels (eq. 1).

    teacher_feats, student_feats: K tensors (B, C_k, h_k, w_k), shallow to deep
    returns: K tensors (B, h_k, w_k), in [0, 2], higher is more anomalous
    raises: ValueError if the two lists differ in length or shape
    """
    _check_pairs(teacher_feats, student_feats)
    return [1 - F.cosine_similarity(t, s, dim=1) for t, s in zip(teacher_feats, student_feats)]


def pixel_loss(teacher_feats: Features, student_feats: Features) -> Tensor:
    """L = sum over k of the mean of M^k over positions (and over the batch), the paper's eq. 2.

    teacher_feats, student_feats: K tensors (B, C_k, h_k, w_k)
    returns: scalar in [0, 2K]
    """
    return torch.stack([m.mean() for m in distance_maps(teacher_feats, student_feats)]).sum()


def flat_loss(teacher_feats: Features, student_feats: Features) -> Tensor:
    """L as the official code computes it: one cosine per image and scale, over the flattened C*h*w vector.

    Positions with long feature vectors weigh more than in eq. 2; the published numbers come from this one.

    teacher_feats, student_feats: K tensors (B, C_k, h_k, w_k)
    returns: scalar in [0, 2K]
    """
    _check_pairs(teacher_feats, student_feats)
    per_scale = [(1 - F.cosine_similarity(*_flat_pair(t, s), dim=1)).mean() for t, s in zip(teacher_feats, student_feats)]
    return torch.stack(per_scale).sum()


def _flat_pair(*feats: Tensor) -> list[Tensor]:
    """(B, C, h, w) -> (B, C*h*w), both in the order of memory if it is channels last: the cosine is the same in any
    common order, and a copy would cost time."""
    last = all(f.is_contiguous(memory_format=torch.channels_last) for f in feats)
    return [(f.permute(0, 2, 3, 1) if last else f).flatten(1) for f in feats]


LOSSES = {"flat": flat_loss, "pixel": pixel_loss}


def _check_pairs(teacher_feats: Features, student_feats: Features) -> None:
    shapes = [tuple(t.shape) for t in teacher_feats], [tuple(s.shape) for s in student_feats]
    if shapes[0] != shapes[1]:
        raise ValueError(f"teacher and student features differ in shape: {shapes[0]} against {shapes[1]}")
