"""What inference costs (Table 3), on this machine: time, memory, storage, parameters, arithmetic."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rdlib.config import Config
from rdlib.fit import own_state
from rdlib.inference import autocast, device_of, to_batch
from rdlib.score import enlarge, ready

WARM_UP, REPEATS, BATCH = 3, 30, 16
BUSY = 0.25  # cores of other work beside a measurement that a table tells


@torch.no_grad()
def measure(model: nn.Module, cfg: Config) -> dict[str, Any]:
    """Cost of inference, image to smoothed anomaly map, of a model that has been fitted.

    returns: latency_ms_p50, latency_ms_p95 (batch 1), images_per_s (batch 16), memory_mb (resident memory of the process,
        or the peak of the GPU's), stored_mb (what must be kept beside the teacher), trainable_parameters,
        gmacs (10^9 multiply-adds per image, convolutions and matrix products),
        other_work_cores (processor cores that other processes kept busy meanwhile: above BUSY the times say little)
    """
    device = device_of(model)
    noise = np.random.default_rng(0).integers(0, 256, (BATCH, 3, cfg.image_size, cfg.image_size), dtype=np.uint8)
    batch, net = to_batch(noise, device), ready(model.eval(), noise)
    one = batch[:1]
    clock, others = time.perf_counter(), _others_s()
    for _ in range(WARM_UP):
        _infer(net, one, cfg)
    latency = np.array([_seconds(net, one, cfg) for _ in range(REPEATS)])
    images_per_s = BATCH / min(_seconds(net, batch, cfg) for _ in range(3))
    others = max(0.0, _others_s() - others) / (time.perf_counter() - clock)
    with FlopCounterMode(display=False) as counter:
        net.maps(net.teacher(one), one)
    return {
        "latency_ms_p50": round(1000 * float(np.percentile(latency, 50)), 2),
        "latency_ms_p95": round(1000 * float(np.percentile(latency, 95)), 2),
        "images_per_s": round(images_per_s, 2),
        "other_work_cores": round(others, 2),
        "memory_mb": round(_memory(device) / 1e6, 1),
        "stored_mb": round(stored_bytes(model) / 1e6, 2),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "gmacs": round(counter.get_total_flops() / 2e9, 3),
    }


def stored_bytes(model: nn.Module) -> int:
    """Bytes of everything learned or memorised: all of the model's state except the teacher's."""
    return sum(t.numel() * t.element_size() for t in own_state(model).values())


def _infer(net: nn.Module, images: Tensor, cfg: Config) -> np.ndarray:
    with autocast(cfg, images.device):
        maps = net.maps(net.teacher(images), images)
    return enlarge(maps, images.shape[-2:], cfg.sigma).sum(0).cpu().numpy()


def _seconds(net: nn.Module, images: Tensor, cfg: Config) -> float:
    start = time.perf_counter()
    _infer(net, images, cfg)
    return time.perf_counter() - start


def _others_s() -> float:
    """Processor seconds that all other processes of this machine have used so far."""
    used = psutil.cpu_times()
    return used.user + used.system + getattr(used, "nice", 0.0) - time.process_time()


def _memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
