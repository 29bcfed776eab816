"""Training (Sec. 3.3): Adam on the distance between the teacher's maps and the student's. Never sees test data."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdlib.config import Config
from rdlib.data import ImageSet
from rdlib.distance import LOSSES
from rdlib.errors import InputError
from rdlib.features import Rows, Store, TeacherFeatures
from rdlib.inference import autocast, cut_to_seen_taps, device_of, to_batch
from rdlib.model import Distillation

WARM_UP = 3  # full batches before the step is captured in a CUDA graph; steps of the training as all others


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
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA's matrix products are deterministic only with it
    # float32 means float32, on CUDA too. "tf32" is PyTorch's default: convolutions, not the matrix products of maps and baselines.
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, cfg.precision == "tf32"
    torch.backends.cudnn.benchmark = False


def fit(
    model: nn.Module,
    train: ImageSet,
    cfg: Config,
    on_epoch: Callable[[int, float], None] | None = None,
    store: Store | None = None,
    checkpoint: Checkpoint | None = None,
    cuda_graph: bool = True,
) -> list[float]:
    """Train the model's trainable part on normal images; a baseline that trains nothing memorises them instead.

    The teacher's features come from `TeacherFeatures`, computed once. A last batch of one image joins the batch before
    it; where the embedding is one position (32 px) a smaller last batch is left out, see `_train`.

    on_epoch: called after each epoch with its number (from 1) and mean loss
    store: keeps the features for other runs on the same images
    checkpoint: training goes on from it, and ends with the same bits as without interruption (CPU, same thread count)
    cuda_graph: on CUDA, let a step be one launch, see `Steps`
    returns: mean loss per image of each epoch
    raises: FloatingPointError, at the end of the epoch, naming the files of the first batch whose loss is not finite, or what the last
        step left that is not
    """
    if hasattr(model, "memorise"):
        model.memorise(TeacherFeatures(model.teacher, train.images, cfg, store, "train features", keep=False))
        return []
    with seen_taps(model, train.images) as one_position:
        losses, how = _train(model, train, cfg, on_epoch, store, checkpoint, cuda_graph, one_position)
    if store and how:
        store.log["training step"] = how
    return losses


@contextlib.contextmanager
def seen_taps(model: Distillation, images: NDArray) -> Iterator[bool]:
    """Whether the embedding of such images is one position, as at 32 px. If so, the model holds only the taps that see something."""
    deepest = model.teacher(to_batch(images[:1], device_of(model)))[-1]
    one_position = deepest.shape[-2:] == (2, 2)
    with cut_to_seen_taps(model) if one_position else contextlib.nullcontext():
        yield one_position


def layout_of(one_position: bool) -> torch.memory_format:
    """The faster memory layout of training, see `make bench`."""
    return torch.contiguous_format if one_position else torch.channels_last


def _train(
    model: Distillation,
    train: ImageSet,
    cfg: Config,
    on_epoch: Callable[[int, float], None] | None,
    store: Store | None,
    checkpoint: Checkpoint | None,
    cuda_graph: bool,
    one_position: bool,
) -> tuple[list[float], str]:
    """The losses of `fit`, and how a step was taken, see `Steps`.

    Where the embedding is one position, BatchNorm sees as many values as a batch has images. Those of an epoch's last,
    smaller batch would weigh a tenth in the running statistics that the test set is scored with: it is left out.
    """
    layout = layout_of(one_position)
    model.to(memory_format=layout)
    optimiser = optimiser_of(model, cfg)
    order = torch.Generator().manual_seed(cfg.torch_seed)
    losses = restore(checkpoint, model, optimiser, order) if checkpoint else []
    if len(losses) == cfg.epochs:  # a checkpoint of the last epoch: nothing is trained, so no features are needed
        return losses, ""
    features = TeacherFeatures(model.teacher, train.images, cfg, store, "train features")
    images = Rows([train.images], features.device) if model.sees_images else None
    take = Steps(model, optimiser, cfg, cuda_graph)
    model.train()
    for epoch in range(len(losses) + 1, cfg.epochs + 1):
        parts = list(batches(len(train), cfg.batch_size, order, full=one_position))
        found = []  # kept on the device until the epoch ends, so that no step waits for the one before
        for i in parts:
            teacher_feats = [f.contiguous(memory_format=layout) for f in features[i]]
            found.append(take(teacher_feats, to_batch(images[i][0], features.device) if images else None))
        losses.append(mean_loss(torch.stack(found).tolist(), parts, train.paths, epoch))
        refuse_not_finite(model, epoch)  # the next loss would tell, but the test set may be looked at, or a checkpoint kept, before
        if on_epoch:
            on_epoch(epoch, losses[-1])
        if checkpoint and (checkpoint.due or epoch == cfg.epochs):
            checkpoint.save(state_of(model, optimiser, order, losses))
    return losses, take.how


def mean_loss(losses: list[float], parts: list[Tensor], paths: Sequence[str], epoch: int) -> float:
    """Mean per image of the losses of an epoch's batches.

    raises: FloatingPointError naming the files of the first batch whose loss is not finite
    """
    total = 0.0  # not by `sum`, which rounds otherwise from Python 3.12 on
    for loss, indices in zip(losses, parts):
        if not math.isfinite(loss):
            names = ", ".join(paths[i] for i in indices)
            raise FloatingPointError(f"loss is {loss} in epoch {epoch}; try a smaller lr. Batch: {names}")
        total += loss * len(indices)
    return total / sum(map(len, parts))


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
    """Adam on what is trainable (Sec. 4.1), all parameters updated in one pass, unless its `found_inf` is 1."""
    device = device_of(model)
    on_cuda = device.type == "cuda"
    optimiser = torch.optim.Adam(model.trainable(), lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), fused=True, capturable=on_cuda)
    if on_cuda or device.type == "cpu":  # as GradScaler has it; whether Metal's kernel heeds it is not known
        optimiser.found_inf = torch.zeros((), device=device)
    return optimiser


def step(model: Distillation, optimiser: torch.optim.Adam, teacher_feats: list[Tensor], images: Tensor | None, cfg: Config) -> Tensor:
    """One optimiser step. A loss that is not finite freezes the parameters, in this step and all later ones.

    teacher_feats: K maps (B, C_k, h_k, w_k); images: (B, 3, H, W) in [0, 1], or None if the model does not see them
    returns: the loss, a scalar that stays on the device
    """
    with autocast(cfg, teacher_feats[0].device):
        student_feats = model.student_feats(teacher_feats, images)
    loss = LOSSES[cfg.loss]([f.float() for f in teacher_feats], [f.float() for f in student_feats])
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    loss = loss.detach()
    if hasattr(optimiser, "found_inf"):
        optimiser.found_inf.copy_(torch.maximum(optimiser.found_inf, (~torch.isfinite(loss)).float()))
    optimiser.step()
    return loss


class Steps:
    """`step`, batch after batch. On CUDA a full batch becomes one launch of a graph: small kernels take longer to launch than to run.

    The graph is the same step on tensors of fixed address, captured after WARM_UP of them; other batches stay as they are.
    how: "CUDA graph", or why not; "" on other devices. The numbers are the same within rounding
    """

    def __init__(self, model: Distillation, optimiser: torch.optim.Adam, cfg: Config, cuda_graph: bool = True) -> None:
        self.model, self.optimiser, self.cfg, on_cuda = model, optimiser, cfg, device_of(model).type == "cuda"
        self.graphed, self.how = on_cuda and cuda_graph, "one by one" if on_cuda else ""
        self._inputs: list[Tensor] = []
        self._warm, self._replay = 0, None

    def __call__(self, teacher_feats: list[Tensor], images: Tensor | None) -> Tensor:
        if not self.graphed or len(teacher_feats[0]) != self.cfg.batch_size:
            return step(self.model, self.optimiser, teacher_feats, images, self.cfg)
        given = teacher_feats if images is None else [*teacher_feats, images]
        self._inputs = self._inputs or [torch.empty_like(tensor) for tensor in given]
        for tensor, new in zip(self._inputs, given):
            tensor.copy_(new)
        if self._warm < WARM_UP:
            self._warm += 1
            return aside(self._on_inputs)
        try:
            self._replay = self._replay or captured(self._on_inputs)
        except RuntimeError as error:  # of a driver, of memory
            self.graphed, self.how = False, f"one by one: {str(error).splitlines()[0]}"
            return self._on_inputs()
        self.how = "CUDA graph"
        return self._replay().clone()

    def _on_inputs(self) -> Tensor:
        feats, images = (self._inputs[:-1], self._inputs[-1]) if self.model.sees_images else (self._inputs, None)
        return step(self.model, self.optimiser, feats, images, self.cfg)


def aside(run: Callable[[], Tensor]) -> Tensor:
    """Run on another stream than the current one, as what is captured later has to be warmed up."""
    now, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(now)
    with torch.cuda.stream(side):
        found = run()
    now.wait_stream(side)
    return found


def captured(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """What launches all that `run` launches at once and gives its result, which the next launch overwrites. Nothing is run by this."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()

    def replay() -> Tensor:
        graph.replay()
        return found

    return replay


def batches(count: int, size: int, order: torch.Generator, full: bool = False) -> Iterator[Tensor]:
    """Shuffled index batches; a last one of a single image joins the one before it.

    full: of an epoch leave out the last batch if it is smaller, unless it is the only one
    """
    parts = list(torch.randperm(count, generator=order).split(size))
    if full and len(parts[-1]) < size:
        parts = parts[:-1] or parts
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return iter(parts)
