"""The frozen teacher's features of an image set, computed once: nothing is augmented, so they never change (Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdlib.config import Config
from rdlib.inference import autocast, chunk_slices, device_of, for_inference, to_batch, to_device

MEMORY = 4 * 2**30  # bytes of teacher features to keep in memory where they are not on disk


class Store(Protocol):
    """Keeps arrays for other runs, for example `rdlib.run.cache.Store`.

    arrays: those of `key` (parts that the content depends on), made if they are not there; None if they cannot be kept
    log: what was asked for -> where it came from
    """

    log: dict[str, str]

    def arrays(self, what: str, key: Sequence[Any], nbytes: int, make: Callable[[], Iterator[list[NDArray]]]) -> list[NDArray] | None: ...


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
        kept = store.arrays(what, self._key(teacher), nbytes, self._packed) if store else None
        self.how = "store" if kept else "memory" if keep and nbytes <= MEMORY else "recomputed"
        if store and not kept:
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

    def _key(self, teacher: nn.Module) -> list[Any]:
        """Whatever may change a bit of the features: images, every tensor of the teacher, and what computes."""
        tensors = [*teacher.named_parameters(), *teacher.named_buffers()]
        state = [part for name, t in tensors for part in (name, t.detach().cpu().numpy())]
        computes = (torch.__version__, torch.backends.cpu.get_cpu_capability(), self.device.type, torch.get_num_threads())
        return ["features", self.images, *state, self.cfg.precision, *computes]


def _unpack(packed: Tensor) -> Tensor:
    """(B, h, w, C) -> (B, C, h, w) in channels-last memory, without a copy"""
    feats = packed.view(torch.bfloat16) if packed.dtype == torch.int16 else packed
    return feats.permute(0, 3, 1, 2)
