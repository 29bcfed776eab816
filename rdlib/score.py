"""Anomaly maps and image scores (Sec. 3.4). Torch ends here: what comes out is NumPy."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from rdlib.config import Config
from rdlib.data import ImageSet
from rdlib.distance import distance_maps
from rdlib.features import Store, TeacherFeatures
from rdlib.inference import autocast, chunk_slices, copy_stream, device_of, for_inference, to_batch, to_host
from rdlib.metrics import image_score
from rdlib.model import Distillation

__all__ = ["Scores", "anomaly_map", "enlarge", "image_score", "score"]


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
        return functools.reduce(np.add, [self.scale_maps[k - 1] for k in scales])


@cache
def enlargement(small: int, large: int, sigma: float, device: torch.device = torch.device("cpu")) -> Tensor:  # noqa: B008
    """The matrix (large, small) that upsamples a line and smooths it; float32.

    Upsampling (bilinear, align_corners=True as in the official code) and the Gaussian (SciPy's defaults, sigma in pixels of
    the enlarged image, 0 = none) are both linear and separable, so one matrix per axis does both, exactly.
    """
    unit = torch.eye(small, dtype=torch.float64)[:, None]
    lines = F.interpolate(unit, size=large, mode="linear", align_corners=True)[:, 0].numpy()
    smoothed = gaussian_filter1d(lines, sigma, axis=-1) if sigma > 0 else lines
    return torch.from_numpy(smoothed.T.copy()).float().to(device)


def enlarge(maps: Sequence[Tensor], size: tuple[int, int], sigma: float) -> Tensor:
    """Distance maps at the image's size, smoothed (Sec. 3.4).

    maps: K tensors (B, h_k, w_k); size: (H, W); sigma: pixels, 0 = none
    returns: (K, B, H, W) float32
    """
    pairs = [[enlargement(n, large, sigma, m.device) for n, large in zip(m.shape[-2:], size)] for m in maps]
    return torch.stack([rows @ m.float() @ columns.T for m, (rows, columns) in zip(maps, pairs)])


def anomaly_map(teacher_feats: Sequence[Tensor], student_feats: Sequence[Tensor], size: tuple[int, int], sigma: float = 4.0) -> NDArray:
    """Sum of upsampled, smoothed distance maps (S_AL, Sec. 3.4).

    teacher_feats, student_feats: K tensors (B, C_k, h_k, w_k), shallow to deep
    size: (H, W) of the image
    returns: (B, H, W) float32, in [0, 2K], higher is more anomalous
    """
    return enlarge(distance_maps(teacher_feats, student_feats), size, sigma).sum(0).cpu().numpy()


@torch.no_grad()
def score(model: nn.Module, test: ImageSet, cfg: Config, store: Store | None = None) -> Scores:
    """Score every test image with the model as it is.

    model: any with `maps(teacher_feats, images)`, see rdlib.baselines
    store: keeps the teacher's features of the test images for other runs
    returns: Scores, whose maps are at the resolution of `test.images`
    """
    features = TeacherFeatures(model.teacher, test.images, cfg, store, "test features", keep=False)
    net = ready(model, test.images)
    maps, own = [], []
    for chunk in chunk_slices(test.images):
        teacher_feats = features[chunk]
        with autocast(cfg, features.device):
            distances = net.maps(teacher_feats, to_batch(test.images[chunk], features.device))
        maps.append(to_host(enlarge(distances, test.images.shape[-2:], cfg.sigma)))
        if hasattr(net, "image_scores"):
            own.append(to_host(net.image_scores(teacher_feats)))
    if features.device.type == "cuda":
        copy_stream(features.device).synchronize()
    return Scores(np.concatenate(maps, axis=1), test.labels, test.masks, test.paths, np.concatenate(own) if own else None)


def ready(model: nn.Module, images: NDArray) -> nn.Module:
    """The model for scoring only: a distillation made `for_inference`, a method without training as it is."""
    if not isinstance(model, Distillation):
        return model
    batch = to_batch(images[:1], device_of(model))
    return for_inference(model, lambda m: m.student_feats(m.teacher(batch), batch))
