"""The official code's checkpoints in our model: the same tensors under other names."""

from __future__ import annotations

from pathlib import Path

from rdlib.errors import InputError
from rdlib.model import ReverseDistillation
from rdlib.teachers import differs_at, read_tensors

# Official name of each MFF convolution -> (scale, position on that scale's path)
_MFF_NAMES = {"1": "0.0", "2": "0.1", "3": "1.0"}


def load_checkpoint(model: ReverseDistillation, checkpoint: str | Path | dict) -> None:
    """Load OCBE and student from a checkpoint of the official code, `{"bn": ..., "decoder": ...}`.

    The entries of its never-called 1x1 convolution (conv4, bn4) are dropped.
    checkpoint: file (read with weights_only) or the dictionary itself
    raises: InputError if it is no such checkpoint, or shapes or names do not fit the model
    """
    name = "checkpoint" if isinstance(checkpoint, dict) else str(checkpoint)
    found = checkpoint if isinstance(checkpoint, dict) else read_tensors(checkpoint)
    if not all(isinstance(found.get(part), dict) for part in ("bn", "decoder")):
        raise InputError(f"{name}: not of the official code; expected keys 'bn' and 'decoder' with tensors, got {list(found)[:5]}")
    try:
        model.ocbe.load_state_dict({ocbe_name(k): v for k, v in found["bn"].items() if k.split(".")[0] not in ("conv4", "bn4")})
        model.student.load_state_dict({student_name(k): v for k, v in found["decoder"].items()})
    except (RuntimeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise InputError(
            f"{name}: does not fit this model{differs_at(error)}; it is of another backbone, or not the official code's"
        ) from None


def ocbe_name(key: str) -> str:
    """bn_layer.0.conv1.weight -> oce.0.conv1.weight; conv2.weight -> mff.paths.0.1.0.weight; bn2.bias -> mff.paths.0.1.1.bias"""
    first, rest = key.split(".", 1)
    if first == "bn_layer":
        return f"oce.{rest}"
    kind, number = first[:-1], first[-1]
    return f"mff.paths.{_MFF_NAMES[number]}.{0 if kind == 'conv' else 1}.{rest}"


def student_name(key: str) -> str:
    """layer1.0.upsample.0.weight -> stages.0.0.downsample.0.weight (layer1 runs first, on the embedding)"""
    layer, rest = key.split(".", 1)
    return f"stages.{int(layer.removeprefix('layer')) - 1}.{rest.replace('upsample.', 'downsample.')}"
