"""The frozen teacher's features of an image set, computed once: nothing is augmented, so they never change (Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdlib.config import Config
from rdlib.inference import autocast, chunk_slices, copy_stream, device_of, for_inference, to_batch

MEMORY = 4 * 2**30  # bytes of teacher features to keep in memory where they are not on disk
SHARE = 0.25  # of a GPU's free memory that features, or images, may take


class Store(Protocol):
    """Keeps arrays for other runs, for example `rdlib.run.cache.Store`.

    arrays: those of `key` (parts that the content depends on), made if they are not there; None if they cannot be kept
    log: what was asked for -> where it came from
    """

    log: dict[str, str]

    def arrays(self, what: str, key: Sequence[Any], nbytes: int, make: Callable[[], Iterator[list[NDArray]]]) -> list[NDArray] | None: ...


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU; None where the host's memory is the only one."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


class Rows:
    """Arrays (N, ...), a row per image: rows[indices] -> the chosen rows of each, on the device.

    how: "on the device" where they fit `SHARE` of its free memory; else "copied ahead", through two sets of pinned buffers in turn, so
        that one batch is gathered and copied while the GPU computes on another; "" on the CPU and on Apple's GPUs. The numbers are the same
    """

    def __init__(self, arrays: Sequence[NDArray], device: torch.device) -> None:
        self.device, self._stages = device, [_Stage(device), _Stage(device)]
        self._rows = [torch.from_numpy(array) for array in arrays]
        free, nbytes = free_memory(device), sum(row.numel() * row.element_size() for row in self._rows)
        self.how = "" if free is None else "on the device" if nbytes <= SHARE * free else "copied ahead"
        if self.how == "on the device":
            self._rows = [row.to(device) for row in self._rows]

    def __getitem__(self, indices: Tensor | slice) -> list[Tensor]:
        if self.how == "copied ahead":
            self._stages.reverse()
            return self._stages[0].send(self._rows, indices)
        if isinstance(indices, slice):
            return [row[indices].to(self.device) for row in self._rows]
        there = indices.to(self._rows[0].device, non_blocking=True)
        return [row.index_select(0, there).to(self.device) for row in self._rows]


class _Stage:
    """Pinned buffers that a batch goes through, and the event after which they may be filled again."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.buffers, self.copied = device, [], torch.cuda.Event() if device.type == "cuda" else None

    def send(self, rows: list[Tensor], indices: Tensor | slice) -> list[Tensor]:
        chosen = torch.arange(len(rows[0]))[indices] if isinstance(indices, slice) else indices
        count, pinned = len(chosen), self.copied is not None
        if pinned:
            self.copied.synchronize()
        if not self.buffers or len(self.buffers[0]) < count:
            self.buffers = [torch.empty((count, *row.shape[1:]), dtype=row.dtype, pin_memory=pinned) for row in rows]
        filled = [torch.index_select(row, 0, chosen, out=buffer[:count]) for row, buffer in zip(rows, self.buffers)]
        if not pinned:
            return [f.clone() for f in filled]
        copies, now = copy_stream(self.device), torch.cuda.current_stream(self.device)
        with torch.cuda.stream(copies):
            batch = [f.to(self.device, non_blocking=True) for f in filled]
            self.copied.record(copies)
        now.wait_event(self.copied)
        for tensor in batch:
            tensor.record_stream(now)
        return batch


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
        if store:
            store.log.pop(what, None)  # of an earlier look at the same images
        kept = store.arrays(what, self._key(teacher), nbytes, self._packed) if store else None
        self.how = "store" if kept else "memory" if keep and nbytes <= MEMORY else "recomputed"
        if self.how == "memory":
            kept = [np.concatenate(parts) for parts in zip(*self._packed())]
        self._rows = Rows(kept, self.device) if kept else None
        if store:
            told = [store.log.get(what), self.how * (self.how != "store"), self._rows.how if self._rows else ""]
            store.log[what] = "; ".join(filter(None, told))

    def __getitem__(self, indices: Tensor | slice) -> list[Tensor]:
        return self._compute(indices) if self._rows is None else [_unpack(chosen) for chosen in self._rows[indices]]

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
