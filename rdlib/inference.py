"""A network as it computes: on which device, in batches, in which precision, and with its BatchNorms folded away."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from rdlib.config import Config
from rdlib.errors import InputError

CHUNK = 4 * 256 * 256  # pixels per pass without gradients: what fits the processor's caches is fastest

Module = TypeVar("Module", bound=nn.Module)


def choose_device(name: str = "auto") -> torch.device:
    """ "auto" takes cuda, then mps, then cpu. A GPU that is named by number becomes the one that streams and graphs are of.

    raises: InputError if the named device is not there
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(n for n, ok in there.items() if ok))
    if not there.get(name.split(":")[0], False):
        raise InputError(f"device={name!r}: not available here; there is {', '.join(n for n, ok in there.items() if ok)}")
    device = torch.device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def describe_hardware(device: torch.device) -> dict[str, str | int]:
    """What computes: device, its name where it has one, CPU threads."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"device": str(device), "gpu": gpu, "threads": torch.get_num_threads()}


def missing_precision(cfg: Config, device: torch.device) -> str:
    """What to say where the device does not have the run's precision, so that float32 takes its place; "" where it has it.

    TF32 (convolutions read the first 10 bits of a mantissa) is of NVIDIA's GPUs from Ampere on; others ignore that it is allowed.
    """
    has_it = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "" if cfg.precision != "tf32" or has_it else "float32 in place of tf32, which this device does not have"


def autocast(cfg: Config, device: torch.device) -> contextlib.AbstractContextManager:
    """bfloat16 in the convolutions if `precision` asks for it, else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=cfg.precision == "bf16")


def device_of(module: nn.Module) -> torch.device:
    """Where the module's tensors are; the CPU if it has none."""
    return next((p.device for p in [*module.parameters(), *module.buffers()]), torch.device("cpu"))


def to_batch(images: NDArray | Tensor, device: torch.device) -> Tensor:
    """(B, 1 or 3, H, W) uint8 -> (B, 3, H, W) float32 in [0, 1] on the device, channels last"""
    batch = to_device(torch.as_tensor(images), device).float().div_(255)
    return batch.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """To a GPU from pinned memory, so that the copy does not wait for what the GPU is doing."""
    to_a_gpu = device.type == "cuda" and batch.device.type == "cpu"
    return batch.pin_memory().to(device, non_blocking=True) if to_a_gpu else batch.to(device)


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The GPU's stream of copies, which run beside what it computes."""
    return torch.cuda.Stream(device)


def to_host(batch: Tensor) -> Tensor:
    """To the CPU. From a GPU into pinned memory beside what it computes next: wait for `copy_stream` before reading it."""
    if batch.device.type != "cuda":
        return batch.cpu()
    copies = copy_stream(batch.device)
    copies.wait_stream(torch.cuda.current_stream(batch.device))
    with torch.cuda.stream(copies):
        host = batch.to("cpu", non_blocking=True)
    batch.record_stream(copies)
    return host


def chunk_slices(images: NDArray) -> Iterator[slice]:
    """Slices of images (N, C, H, W) that go through the network together."""
    size = max(1, CHUNK // (images.shape[-2] * images.shape[-1]))
    return (slice(i, i + size) for i in range(0, len(images), size))


@torch.no_grad()
def for_inference(module: Module, run: Callable[[Module], object]) -> Module:
    """A channels-last copy in eval mode, each BatchNorm folded into the convolution that feeds it.

    run: calls the module on an example: which convolution feeds which BatchNorm is seen, not guessed from names
    """
    module = copy.deepcopy(module).eval().to(memory_format=torch.channels_last)
    pairs = _watch(module, run)
    for norm, conv in pairs.items():
        fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
        conv.weight, conv.bias = fused.weight, fused.bias
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if child in pairs:
                setattr(parent, name, nn.Sequential(*child.children()))  # timm's BatchNormAct2d holds its activation, a plain one nothing
    return module.requires_grad_(False)


class _Uses(TorchFunctionMode):
    """Counts for each tensor, by its id, the calls of torch that make another tensor from it."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if not isinstance(made, torch.Size) and any(isinstance(m, Tensor) for m in tree_leaves(made)):
            self.count.update(map(id, tree_leaves((args, kwargs))))
        return made


def _watch(module: Module, run: Callable[[Module], object]) -> dict[nn.Module, nn.Module]:
    """BatchNorm -> the convolution that feeds it, where neither is called twice and nothing else sees what is between them."""
    outputs: dict[int, tuple[nn.Module, Tensor, int]] = {}  # the tensor is held, so that its id stays its own
    fed: list[tuple[nn.Module, nn.Module, int]] = []
    calls: Counter[nn.Module] = Counter()

    def after_conv(conv: nn.Module, _: object, output: Tensor) -> None:
        calls[conv] += 1
        outputs[id(output)] = (conv, output, output._version)
        uses.count[id(output)] = 0  # an earlier tensor may have had this id

    def before_norm(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        calls[norm] += 1
        conv, _, version = outputs.get(id(inputs[0]), (None, None, None))
        if inputs[0]._version == version:  # no activation has changed it in place
            fed.append((norm, conv, id(inputs[0])))

    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and _only_normalises(m)]
    hooks = [m.register_forward_hook(after_conv) for m in convs] + [m.register_forward_pre_hook(before_norm) for m in norms]
    with _Uses() as uses:
        uses.count.update(map(id, tree_leaves(run(module))))  # a map that is returned is seen, too
    for hook in hooks:
        hook.remove()
    return {norm: conv for norm, conv, between in fed if uses.count[between] == calls[conv] == calls[norm] == 1}


def _only_normalises(norm: nn.BatchNorm2d) -> bool:
    """Whether nothing is lost if it is folded away; timm's subclass goes on with its children, another may do anything."""
    return type(norm).forward is nn.BatchNorm2d.forward or type(norm).__name__ == "BatchNormAct2d"


class OnePosition(nn.Conv2d):
    """A 3x3 convolution with a border of 1 that, where its output is one position, multiplies only the taps that see more than the border.

    At 32 px the embedding is 1 x 1: of the OCE's strided convolution 4 of 9 taps see something, of its others 1 of 9. The same
    within rounding; the gradient of the other taps is exactly zero, so Adam leaves them as they are.
    """

    @property
    def seen(self) -> Tensor:
        """The taps inside an image of `stride` x `stride`; all of a weight that is cut to them."""
        side = self.stride[0]
        return self.weight if self.weight.shape[-1] == side else self.weight[:, :, 1 : 1 + side, 1 : 1 + side]

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != self.stride:
            return super().forward(x)
        return F.linear(x.flatten(1), self.seen.flatten(1), self.bias)[:, :, None, None]


def only_seen_taps(module: nn.Module) -> None:
    """Let every 3x3 convolution of the module compute as `OnePosition`; names and shapes of its state stay."""
    for conv in module.modules():
        if type(conv) is nn.Conv2d and (conv.kernel_size, conv.padding, conv.dilation, conv.groups) == ((3, 3), (1, 1), (1, 1), 1):
            conv.__class__ = OnePosition


@contextlib.contextmanager
def cut_to_seen_taps(module: nn.Module) -> Iterator[None]:
    """While one position trains, hold only the taps that move: the rest costs an optimiser as much time and stays what it is."""
    cut = [m for m in module.modules() if isinstance(m, OnePosition)]
    whole = [conv.weight for conv in cut]
    for conv in cut:
        conv.weight = nn.Parameter(conv.seen.detach().clone(), conv.weight.requires_grad)
    try:
        yield
    finally:
        for conv, weight in zip(cut, whole):
            trained, conv.weight = conv.weight, weight
            conv.seen.data.copy_(trained)
