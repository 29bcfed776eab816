"""The weights and inputs of tests/golden, rebuilt from the formula in its README, and our model run on them."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torchvision.models import get_model

from rdlib import distance, metrics, official, score
from rdlib.model import OCBE, ReverseDistillation, Student
from rdlib.teachers import IDENTITY, RESNETS, resnet_teacher

GOLDEN = Path(__file__).parents[1] / "golden"
SIZE = (64, 64)


def tensor(name: str, shape) -> torch.Tensor:
    """One tensor by its full name (prefix and state-dict key)."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    n = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) == 4:
        n = n * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        n = np.exp(0.1 * n)
    elif name.endswith("weight"):
        n = 1 + 0.1 * n if len(shape) == 1 else 0.01 * n
    else:
        n = 0.1 * n
    return torch.tensor(n, dtype=torch.float32)


def teacher_state(name: str) -> dict[str, torch.Tensor]:
    """torchvision's state dict; what the model never uses (layer4, fc) is left at zero to save time."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in get_model(name, weights=None).state_dict().items()}
    return {k: torch.zeros(s) if k.startswith(("layer4", "fc")) else tensor(f"teacher.{k}", s) for k, s in shapes.items()}


def official_keys(name: str) -> dict[str, dict[str, list[int]]]:
    return json.loads((GOLDEN / f"official_keys_{name}.json").read_text())


def official_checkpoint(name: str) -> dict[str, dict[str, torch.Tensor]]:
    """As the official code saves it: bn (with the unused conv4 and bn4) and decoder."""
    return {part: {k: tensor(f"{part}.{k}", shape) for k, shape in keys.items()} for part, keys in official_keys(name).items()}


def golden_model(name: str) -> ReverseDistillation:
    arch = RESNETS[name]
    model = ReverseDistillation(resnet_teacher(name, teacher_state(name), *IDENTITY), OCBE(arch), Student(arch))
    official.load_checkpoint(model, official_checkpoint(name))
    return model


def inputs() -> torch.Tensor:
    return torch.tensor(np.random.RandomState(0).standard_normal((2, 3, *SIZE)), dtype=torch.float32)


def training_batches() -> torch.Tensor:
    return torch.tensor(np.random.RandomState(1).standard_normal((5, 4, 3, *SIZE)), dtype=torch.float32)


def train_losses(model: ReverseDistillation) -> list[float]:
    """Five steps of Adam, one per golden batch."""
    model.train()
    optimiser = torch.optim.Adam(model.trainable(), lr=0.005, betas=(0.5, 0.999))
    losses = []
    for batch in training_batches():
        loss = distance.flat_loss(*model(batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@dataclass(frozen=True)
class Parity:
    """Ours beside theirs: `arrays` under the names of official_forward.npz, `numbers` under those of the JSON file."""

    arrays: dict[str, np.ndarray]
    numbers: dict
    golden_arrays: dict[str, np.ndarray]
    golden_numbers: dict


@torch.no_grad()
def forward_arrays(model: ReverseDistillation) -> dict[str, np.ndarray]:
    teacher_feats, student_feats = model.eval()(inputs())
    maps = distance.distance_maps(teacher_feats, student_feats)
    named = {"phi": model.ocbe(teacher_feats)}
    for k in range(3):
        named |= {f"teacher{k + 1}": teacher_feats[k], f"student{k + 1}": student_feats[k], f"M{k + 1}": maps[k]}
    arrays = {k: v.numpy() for k, v in named.items()}
    arrays["map_sum"] = score.anomaly_map(teacher_feats, student_feats, SIZE, sigma=0)
    arrays["map_smoothed"] = score.anomaly_map(teacher_feats, student_feats, SIZE, sigma=4)
    return arrays


@torch.no_grad()
def forward_numbers(model: ReverseDistillation, arrays: dict[str, np.ndarray]) -> dict:
    feats = model.eval()(inputs())
    return {
        "flat_loss": distance.flat_loss(*feats).item(),
        "pixel_loss": distance.pixel_loss(*feats).item(),
        "image_score_max": metrics.image_score(arrays["map_smoothed"], "max").tolist(),
        "image_score_sum": metrics.image_score(arrays["map_smoothed"], "sum").tolist(),
        "params": {
            "teacher_through_layer3": count(model.teacher),
            "ocbe_used": count(model.ocbe),
            "student": count(model.student),
        },
    }


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def parity(name: str) -> Parity:
    """Run our model on the golden weights once: forward first, since training changes them."""
    model = golden_model(name)
    arrays = forward_arrays(model)
    numbers = forward_numbers(model, arrays) | {"train_losses": train_losses(model)}
    with np.load(GOLDEN / "official_forward.npz") as file:
        golden_arrays = {k.removeprefix(f"{name}/"): file[k] for k in file.files if k.startswith(f"{name}/")}
    return Parity(arrays, numbers, golden_arrays, json.loads((GOLDEN / "official_forward.json").read_text())[name])
