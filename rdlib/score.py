"""Anomaly maps and image scores (Sec. 3.4). Torch ends here: what comes out is NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from rdlib.config import Config
from rdlib.data import ImageSet
from rdlib.distance import distance_maps
from rdlib.fit import CHUNK, autocast, to_batch
from rdlib.model import ReverseDistillation


@dataclass(frozen=True)
class Scores:
    """What scoring a test set gives.

    scale_maps: (K, N, H, W) float32, each M^k upsampled and smoothed, in [0, 2]
    labels, masks, paths: of the test set
    """

    scale_maps: NDArray
    labels: NDArray
    masks: NDArray | None
    paths: tuple[str, ...]

    def maps(self, scales: Sequence[int]) -> NDArray:
        """Anomaly maps S_AL (N, H, W): the sum over the chosen scales (smoothing is linear, so the order is free)."""
        return self.scale_maps[[k - 1 for k in scales]].sum(axis=0)


def upsample(maps: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
    """K maps (B, h_k, w_k) -> K maps (B, H, W), bilinear with align_corners=True as in the official code."""
    return [F.interpolate(m[:, None], size=size, mode="bilinear", align_corners=True)[:, 0] for m in maps]


def smooth(maps: NDArray, sigma: float) -> NDArray:
    """Gaussian with SciPy's defaults over the last two axes; sigma in pixels, 0 = none."""
    return gaussian_filter(maps, sigma, axes=(-2, -1)) if sigma > 0 else maps


def anomaly_map(teacher_feats: Sequence[Tensor], student_feats: Sequence[Tensor], size: tuple[int, int], sigma: float = 4.0) -> NDArray:
    """Sum of upsampled, smoothed distance maps (S_AL, Sec. 3.4).

    teacher_feats, student_feats: K tensors (B, C_k, h_k, w_k), shallow to deep
    size: (H, W) of the image
    returns: (B, H, W) float32, in [0, 2K], higher is more anomalous
    """
    maps = upsample(distance_maps(teacher_feats, student_feats), size)
    return smooth(torch.stack(maps).sum(0).float().cpu().numpy(), sigma)


@torch.no_grad()
def score(model: ReverseDistillation, test: ImageSet, cfg: Config) -> Scores:
    """Score every test image with the model as it is.

    returns: Scores, whose maps are at the resolution of `test.images`
    """
    device = next(model.student.parameters()).device
    model.eval()
    parts = []
    for i in range(0, len(test), CHUNK):
        images = to_batch(test.images[i : i + CHUNK], device)
        with autocast(cfg, device):
            teacher_feats, student_feats = model(images)
        maps = distance_maps([f.float() for f in teacher_feats], [f.float() for f in student_feats])
        up = torch.stack(upsample(maps, images.shape[-2:])).cpu().numpy()
        parts.append(smooth(up, cfg.sigma))
    return Scores(np.concatenate(parts, axis=1), test.labels, test.masks, test.paths)
