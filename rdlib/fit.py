"""Training (Sec. 3.3): Adam on the distance between the teacher's maps and the student's. Never sees test data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdlib.config import Config
from rdlib.data import ImageSet
from rdlib.distance import LOSSES
from rdlib.errors import InputError
from rdlib.model import Distillation

FEATURE_BUDGET = 4 * 2**30  # bytes of teacher features to keep in memory
CHUNK = 32  # images per teacher pass


def choose_device(name: str = "auto") -> torch.device:
    """ "auto" takes cuda, then mps, then cpu.

    raises: InputError if the named device is not there
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(n for n, ok in there.items() if ok))
    if not there.get(name.split(":")[0], False):
        raise InputError(f"device={name!r}: not available here; there is {', '.join(n for n, ok in there.items() if ok)}")
    return torch.device(name)


def describe_hardware(device: torch.device) -> dict[str, str | int]:
    """What computes: device, its name where it has one, CPU threads."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"device": str(device), "gpu": gpu, "threads": torch.get_num_threads()}


def seed_everything(cfg: Config) -> None:
    """Seed every generator from (seed, run id) and ask for deterministic kernels. Call before the model is built."""
    torch.manual_seed(cfg.torch_seed)
    np.random.seed(cfg.torch_seed % 2**32)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def autocast(cfg: Config, device: torch.device) -> contextlib.AbstractContextManager:
    """bfloat16 in the convolutions if `precision` asks for it, else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=cfg.precision == "bf16")


def to_batch(images: NDArray, device: torch.device) -> Tensor:
    """(B, 1 or 3, H, W) uint8 -> (B, 3, H, W) float32 in [0, 1] on the device"""
    batch = torch.from_numpy(images).to(device).float().div_(255)
    return batch.expand(-1, 3, -1, -1)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def chunks(images: NDArray, device: torch.device) -> Iterator[Tensor]:
    """(N, C, H, W) uint8 -> batches (CHUNK, 3, H, W) float32 in [0, 1] on the device, in order"""
    return (to_batch(images[i : i + CHUNK], device) for i in range(0, len(images), CHUNK))


def fit(
    model: nn.Module,
    train: ImageSet,
    cfg: Config,
    on_epoch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train the model's trainable part on normal images; a baseline that trains nothing memorises them instead.

    The teacher is frozen and nothing is augmented, so its features are computed once and kept if they fit
    `FEATURE_BUDGET`. A last batch of one image joins the batch before it, since BatchNorm over a single vector
    (32 px images have a 1 x 1 embedding) is undefined.

    on_epoch: called after each epoch with its number (from 1) and mean loss
    returns: mean loss per image of each epoch
    raises: FloatingPointError naming the files of the first batch whose loss is not finite
    """
    device = device_of(model)
    if hasattr(model, "memorise"):
        model.memorise(chunks(train.images, device))
        return []
    features = TeacherFeatures(model, train.images, cfg)
    optimiser = torch.optim.Adam(model.trainable(), lr=cfg.lr, betas=(cfg.beta1, cfg.beta2))
    order = torch.Generator().manual_seed(cfg.torch_seed)
    loss_of = LOSSES[cfg.loss]
    model.train()
    losses = []
    for epoch in range(1, cfg.epochs + 1):
        total = 0.0
        for indices in batches(len(train), cfg.batch_size, order):
            teacher_feats = features[indices]
            with autocast(cfg, device):
                student_feats = model.student_feats(teacher_feats, to_batch(train.images[indices.numpy()], device))
            loss = loss_of(teacher_feats, [f.float() for f in student_feats])
            if not torch.isfinite(loss):
                names = ", ".join(train.paths[i] for i in indices)
                raise FloatingPointError(f"loss is {loss.item()} in epoch {epoch}; try a smaller lr. Batch: {names}")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.item() * len(indices)
        losses.append(total / len(train))
        if on_epoch:
            on_epoch(epoch, losses[-1])
            model.train()
    return losses


def batches(count: int, size: int, order: torch.Generator) -> Iterator[Tensor]:
    """Shuffled index batches; a last one of a single image joins the one before it."""
    parts = list(torch.randperm(count, generator=order).split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return iter(parts)


@dataclass
class TeacherFeatures:
    """The teacher's maps of the training images, computed once if they fit the budget, else at every access.

    features[indices] -> K tensors (B, C_k, h_k, w_k), float32, shallow to deep
    """

    model: Distillation
    images: NDArray
    cfg: Config

    def __post_init__(self) -> None:
        first = self._compute(self.images[:1])
        bytes_needed = sum(f.numel() * f.element_size() for f in first) * len(self.images)
        self.cached = None
        if bytes_needed <= FEATURE_BUDGET:
            chunks = [self._compute(self.images[i : i + CHUNK]) for i in range(0, len(self.images), CHUNK)]
            self.cached = [torch.cat(maps) for maps in zip(*chunks)]

    def __getitem__(self, indices: Tensor) -> list[Tensor]:
        if self.cached is None:
            return self._compute(self.images[indices.numpy()])
        return [maps[indices.to(maps.device)] for maps in self.cached]

    @torch.no_grad()
    def _compute(self, images: NDArray) -> list[Tensor]:
        device = device_of(self.model)
        with autocast(self.cfg, device):
            return [f.float() for f in self.model.teacher(to_batch(images, device))]
