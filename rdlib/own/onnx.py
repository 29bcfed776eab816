"""A detector as one ONNX file, and the check that onnxruntime gives the same maps with it."""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rdlib.errors import InputError
from rdlib.own import photos
from rdlib.own.detector import Detector, square_map
from rdlib.run.files import write_atomically
from rdlib.score import enlargement

OPSET = 18
PARITY = 1e-4  # largest difference allowed between maps of PyTorch and of onnxruntime; maps lie in [0, 6]
# Official builds of onnxruntime write a device id below HOME and report to Microsoft; read when it is imported (its Privacy.md).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


class WholeMap(nn.Module):
    """images (B, 3, S, S) in [0, 1] -> anomaly maps (B, S, S): teacher, OCBE, student, distance, upsampling, smoothing.

    The last two are products with the matrices of `score.enlargement`, one for each scale.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.net, self.scales = copy.deepcopy(detector.net).cpu(), detector.cfg.scales
        size = detector.cfg.image_size
        with torch.no_grad():
            feats = self.net.teacher(torch.zeros(1, 3, size, size))
        for k in self.scales:
            self.register_buffer(f"enlarge{k}", enlargement(feats[k - 1].shape[-1], size, detector.cfg.sigma))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.net.maps(self.net.teacher(images), images)
        pairs = [(getattr(self, f"enlarge{k}"), maps[k - 1]) for k in self.scales]
        return torch.stack([matrix @ m @ matrix.T for matrix, m in pairs]).sum(0)


def export(detector: Detector, path: str | Path) -> None:
    """One ONNX file, teacher included: images (batch, 3, S, S) in [0, 1] -> maps (batch, S, S), S = image_size.

    Its metadata hold the threshold, image_size and the rule of geometry, which stays outside: fit a photograph into the
    square before, crop the map and resize it to the photograph after (rdlib.own.photos); the score is the maximum.
    raises: InputError if the packages for it (extra "onnx") are not installed
    """
    for package in ("onnx", "onnxscript"):
        needed(package)
    size = detector.cfg.image_size
    program = torch.onnx.export(
        WholeMap(detector).eval(),
        (torch.zeros(2, 3, size, size),),
        input_names=["images"],
        output_names=["maps"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    facts = {"threshold": repr(detector.threshold.value), "image_size": str(size), "geometry": photos.GEOMETRY, "input": "RGB in [0, 1]"}
    program.model.metadata_props.update(facts)
    write_atomically(Path(path), program.model_proto.SerializeToString())


def difference(detector: Detector, path: str | Path, images: Sequence[Image.Image], batch: int = 4) -> float:
    """Largest absolute difference between the detector's maps and onnxruntime's, over all pixels of these RGB images.

    batch: images per call of onnxruntime (the detector takes them one by one)
    raises: InputError if it is greater than PARITY, or a map is not finite
    """
    session = needed("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        squares = np.stack([photos.to_square(image, detector.cfg.image_size) for image in part]).astype(np.float32) / 255
        (maps,) = session.run(["maps"], {"images": squares})
        ours = np.stack([square_map(detector.net, detector.cfg, image) for image in part])
        worst = float(np.maximum(worst, np.abs(maps - ours).max()))  # unlike max(), it keeps a NaN
    if not worst <= PARITY:
        raise InputError(
            f"{path}: its maps differ from PyTorch's by up to {worst:.1e}, allowed are {PARITY:g}; do not use this file, and report the "
            "versions of torch, onnxscript and onnxruntime"
        )
    return worst


def needed(package: str) -> ModuleType:
    """The installed package, imported.

    raises: InputError if it is not installed
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(f"ONNX needs the package {package}: pip install 'rdlib[onnx]'") from None
