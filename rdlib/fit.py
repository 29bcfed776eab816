"""Training (Sec. 3.3): Adam on the distance between the teacher's maps and the student's. Never sees test data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rdlib.config import Config
from rdlib.data import ImageSet
from rdlib.distance import LOSSES
from rdlib.errors import InputError
from rdlib.features import Store, TeacherFeatures
from rdlib.inference import autocast, to_batch
from rdlib.model import Distillation


class Checkpoint(Protocol):
    """Where an unfinished training is kept, for example `rdlib.run.checkpoint.Checkpoint`.

    folder: named in messages; due: whether it is time to save; load: what was saved last, None if nothing was
    """

    folder: Path

    @property
    def due(self) -> bool: ...

    def load(self) -> dict[str, Any] | None: ...

    def save(self, state: dict[str, Any]) -> None: ...


def seed_everything(cfg: Config) -> None:
    """Seed every generator from (seed, dataset, category or class) and ask for deterministic kernels. Call before the model is built."""
    torch.manual_seed(cfg.torch_seed)
    np.random.seed(cfg.torch_seed % 2**32)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it writes NaN into every new tensor; nothing here reads one
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32, on CUDA too
    torch.backends.cudnn.benchmark = False


def fit(
    model: nn.Module,
    train: ImageSet,
    cfg: Config,
    on_epoch: Callable[[int, float], None] | None = None,
    store: Store | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[float]:
    """Train the model's trainable part on normal images; a baseline that trains nothing memorises them instead.

    The teacher's features come from `TeacherFeatures`, computed once. A last batch of one image joins the batch before
    it, since BatchNorm over a single vector (32 px images have a 1 x 1 embedding) is undefined.

    on_epoch: called after each epoch with its number (from 1) and mean loss
    store: keeps the features for other runs on the same images
    checkpoint: training goes on from it, and ends with the same bits as without interruption (CPU, same thread count)
    returns: mean loss per image of each epoch
    raises: FloatingPointError naming the files of the first batch whose loss is not finite, or the epoch whose last step
        left parameters that are not
    """
    memorises = hasattr(model, "memorise")
    features = TeacherFeatures(model.teacher, train.images, cfg, store, "train features", keep=not memorises)
    if memorises:
        model.memorise(features)
        return []
    model.to(memory_format=torch.channels_last)
    optimiser = optimiser_of(model, cfg)
    order = torch.Generator().manual_seed(cfg.torch_seed)
    losses = restore(checkpoint, model, optimiser, order) if checkpoint else []
    model.train()
    for epoch in range(len(losses) + 1, cfg.epochs + 1):
        total = 0.0
        for indices in batches(len(train), cfg.batch_size, order):
            loss = step(model, optimiser, features, train, indices, cfg)
            if not math.isfinite(loss):
                names = ", ".join(train.paths[i] for i in indices)
                raise FloatingPointError(f"loss is {loss} in epoch {epoch}; try a smaller lr. Batch: {names}")
            total += loss * len(indices)
        losses.append(total / len(train))
        refuse_not_finite(model, epoch)  # the next loss would tell, but the test set may be looked at, or a checkpoint kept, before
        if on_epoch:
            on_epoch(epoch, losses[-1])
        if checkpoint and (checkpoint.due or epoch == cfg.epochs):
            checkpoint.save(state_of(model, optimiser, order, losses))
    return losses


def own_state(model: Distillation) -> dict[str, Tensor]:
    """Parameters and running statistics of all but the teacher, by name."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith("teacher.")}


def state_of(model: Distillation, optimiser: torch.optim.Optimizer, order: torch.Generator, losses: list[float]) -> dict[str, Any]:
    """All that training after this epoch depends on; the frozen teacher is loaded, not saved."""
    return {"model": own_state(model), "optimiser": optimiser.state_dict(), "order": order.get_state(), "losses": losses}


def restore(checkpoint: Checkpoint, model: Distillation, optimiser: torch.optim.Optimizer, order: torch.Generator) -> list[float]:
    """Put everything into the state of the newest checkpoint; returns the losses of the epochs that are done."""
    state = checkpoint.load()
    if state is None:
        return []
    try:
        model.load_state_dict(model.state_dict() | state["model"])
        optimiser.load_state_dict(state["optimiser"])
        order.set_state(state["order"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{checkpoint.folder}: its checkpoint does not fit this model ({str(error).splitlines()[0]}); remove it") from None
    return state["losses"]


def refuse_not_finite(model: Distillation, epoch: int) -> None:
    """Parameters and running statistics of what is trained must be numbers.

    raises: FloatingPointError naming the first that is not
    """
    broken = next((k for k, v in own_state(model).items() if not torch.isfinite(v).all()), None)
    if broken is not None:
        raise FloatingPointError(f"{broken} is not finite after epoch {epoch}; try a smaller lr")


def optimiser_of(model: Distillation, cfg: Config) -> torch.optim.Adam:
    """Adam on what is trainable (Sec. 4.1), all parameters updated in one pass."""
    return torch.optim.Adam(model.trainable(), lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), fused=True)


def step(
    model: Distillation, optimiser: torch.optim.Optimizer, features: TeacherFeatures, train: ImageSet, indices: Tensor, cfg: Config
) -> float:
    """One optimiser step on the images `indices`; a loss that is not finite changes nothing. Returns the loss."""
    teacher_feats = features[indices]
    images = to_batch(train.images[indices.numpy()], features.device) if model.sees_images else None
    with autocast(cfg, features.device):
        student_feats = model.student_feats(teacher_feats, images)
    loss = LOSSES[cfg.loss]([f.float() for f in teacher_feats], [f.float() for f in student_feats])
    if torch.isfinite(loss):
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return loss.item()


def batches(count: int, size: int, order: torch.Generator) -> Iterator[Tensor]:
    """Shuffled index batches; a last one of a single image joins the one before it."""
    parts = list(torch.randperm(count, generator=order).split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return iter(parts)
