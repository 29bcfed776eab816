"""The frozen teacher's features of an image set, computed once: nothing is augmented, so they never change (Sec. 3.3)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rdlib.config import Config
from rdlib.run import cache
from rdlib.run.cache import Store

MEMORY = 4 * 2**30  # bytes of teacher features to keep in memory where they are not on disk
CHUNK = 4 * 256 * 256  # pixels per pass without gradients: what fits the processor's caches is fastest

Module = TypeVar("Module", bound=nn.Module)


def autocast(cfg: Config, device: torch.device) -> contextlib.AbstractContextManager:
    """bfloat16 in the convolutions if `precision` asks for it, else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=cfg.precision == "bf16")


def device_of(module: nn.Module) -> torch.device:
    """Where the module's tensors are; the CPU if it has none."""
    return next((p.device for p in [*module.parameters(), *module.buffers()]), torch.device("cpu"))


def to_batch(images: NDArray, device: torch.device) -> Tensor:
    """(B, 1 or 3, H, W) uint8 -> (B, 3, H, W) float32 in [0, 1] on the device, channels last"""
    batch = to_device(torch.from_numpy(images), device).float().div_(255)
    return batch.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """To a GPU from pinned memory, so that the copy does not wait for what the GPU is doing."""
    return batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)


def chunk_slices(images: NDArray) -> Iterator[slice]:
    """Slices of images (N, C, H, W) that go through the network together."""
    size = max(1, CHUNK // (images.shape[-2] * images.shape[-1]))
    return (slice(i, i + size) for i in range(0, len(images), size))


class TeacherFeatures:
    """The teacher's maps of an image set: from the store, else in memory, else computed at every access.

    features[indices] -> K tensors (B, C_k, h_k, w_k) on the teacher's device, shallow to deep; float32, or bfloat16
    where the run computes in it

    teacher: frozen module, images -> K maps; images: (N, 1 or 3, H, W) uint8
    keep: keep them in memory if there is no store (and they fit `MEMORY`)
    how: "store", "memory" or "recomputed"; the numbers are the same
    """

    def __init__(self, teacher: nn.Module, images: NDArray, cfg: Config, store: Store | None = None, what="", keep=True) -> None:
        self.images, self.cfg, self.device = images, cfg, device_of(teacher)
        self._teacher = for_inference(teacher, lambda t: t(to_batch(images[:1], self.device)))
        nbytes = sum(f[0].numel() * f.element_size() for f in self._compute(slice(0, 1))) * len(images)
        store = store or Store()
        kept = store.arrays(what, self._key(teacher), nbytes, self._packed)
        self.how = "store" if kept else "memory" if keep and nbytes <= MEMORY else "recomputed"
        if not kept:
            store.log[what] = "; ".join(filter(None, [store.log.get(what), self.how]))
        if self.how == "memory":
            kept = [np.concatenate(parts) for parts in zip(*self._packed())]
        self._kept = [torch.from_numpy(array) for array in kept] if kept else None

    def __getitem__(self, indices: Tensor | slice) -> list[Tensor]:
        if self._kept is None:
            return self._compute(indices)
        chosen = [k[indices] if isinstance(indices, slice) else k.index_select(0, indices) for k in self._kept]
        return [_unpack(to_device(c, self.device)) for c in chosen]

    def __iter__(self) -> Iterator[list[Tensor]]:
        """All images in order, a chunk at a time."""
        return (self[s] for s in chunk_slices(self.images))

    @torch.no_grad()
    def _compute(self, indices: Tensor | slice) -> list[Tensor]:
        chosen = self.images[indices if isinstance(indices, slice) else indices.numpy()]
        with autocast(self.cfg, self.device):
            feats = self._teacher(to_batch(chosen, self.device))
        dtype = torch.bfloat16 if self.cfg.precision == "bf16" else torch.float32
        return [f.to(dtype).contiguous(memory_format=torch.channels_last) for f in feats]

    def _packed(self) -> Iterator[list[NDArray]]:
        """Chunks as NumPy arrays (n, h_k, w_k, C_k): channels last, bfloat16 as its bits."""
        for s in chunk_slices(self.images):
            feats = [f.permute(0, 2, 3, 1).cpu() for f in self._compute(s)]
            yield [(f.view(torch.int16) if f.dtype == torch.bfloat16 else f).numpy() for f in feats]

    def _key(self, teacher: nn.Module) -> str:
        """Whatever may change a bit of the features: images, every tensor of the teacher, and what computes."""
        tensors = [*teacher.named_parameters(), *teacher.named_buffers()]
        state = [part for name, t in tensors for part in (name, t.detach().cpu().numpy())]
        computes = (torch.__version__, torch.backends.cpu.get_cpu_capability(), self.device.type, torch.get_num_threads())
        return cache.key_of("features", self.images, self.images.shape, *state, self.cfg.precision, *computes)


def _unpack(packed: Tensor) -> Tensor:
    """(B, h, w, C) -> (B, C, h, w) in channels-last memory, without a copy"""
    feats = packed.view(torch.bfloat16) if packed.dtype == torch.int16 else packed
    return feats.permute(0, 3, 1, 2)


@torch.no_grad()
def for_inference(module: Module, run: Callable[[Module], object]) -> Module:
    """A channels-last copy in eval mode, each BatchNorm folded into the convolution that feeds it.

    run: calls the module on an example: which convolution feeds which BatchNorm is seen, not guessed from names
    """
    module = copy.deepcopy(module).eval().to(memory_format=torch.channels_last)
    fed_by = _watch(module, run)
    for conv, norm in fed_by.values():
        fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
        conv.weight, conv.bias = fused.weight, fused.bias
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if child in fed_by:
                setattr(parent, name, nn.Identity())
    return module.requires_grad_(False)


def _watch(module: Module, run: Callable[[Module], object]) -> dict[nn.Module, tuple[nn.Module, nn.Module]]:
    """BatchNorm -> (convolution whose output it is given, itself), for those that have one to themselves."""
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is held, so that its id stays its own
    fed_by: dict[nn.Module, tuple[nn.Module, nn.Module]] = {}

    def after_conv(conv: nn.Module, _: object, output: Tensor) -> None:
        outputs[id(output)] = (conv, output)

    def before_norm(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if id(inputs[0]) in outputs:
            fed_by[norm] = (outputs[id(inputs[0])][0], norm)

    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [m.register_forward_hook(after_conv) for m in convs] + [m.register_forward_pre_hook(before_norm) for m in norms]
    run(module)
    for hook in hooks:
        hook.remove()
    return fed_by
