"""Anomaly maps and image scores (Sec. 3.4). Torch ends here: what comes out is NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from rdlib.config import Config
from rdlib.data import ImageSet
from rdlib.distance import distance_maps
from rdlib.fit import autocast, chunks, device_of
from rdlib.metrics import image_score

__all__ = ["Scores", "anomaly_map", "image_score", "score", "smooth", "upsample"]


@dataclass(frozen=True)
class Scores:
    """What scoring a test set gives.

    scale_maps: (K, N, H, W) float32, each M^k upsampled and smoothed, in [0, 2]
    labels, masks, paths: of the test set
    image_scores: (N,) where the method has an image score of its own (SPADE), else None: taken from the maps
    """

    scale_maps: NDArray
    labels: NDArray
    masks: NDArray | None
    paths: tuple[str, ...]
    image_scores: NDArray | None = None

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
def score(model: nn.Module, test: ImageSet, cfg: Config) -> Scores:
    """Score every test image with the model as it is.

    model: any with `maps(images)`, see rdlib.baselines
    returns: Scores, whose maps are at the resolution of `test.images`
    """
    device = device_of(model)
    model.eval()
    maps, own = [], []
    for images in chunks(test.images, device):
        with autocast(cfg, device):
            distances = model.maps(images)
        up = torch.stack(upsample([m.float() for m in distances], images.shape[-2:])).cpu().numpy()
        maps.append(smooth(up, cfg.sigma))
        if hasattr(model, "image_scores"):
            own.append(model.image_scores(images).float().cpu().numpy())
    return Scores(np.concatenate(maps, axis=1), test.labels, test.masks, test.paths, np.concatenate(own) if own else None)
