"""A trained detector: threshold from held-out good images, one model file, three lines to score a photograph.

    from rdlib.own import detector
    found = detector.load("model.safetensors").score("photo.jpg")
    found.score, found.is_anomalous, found.map  # float, bool, (H, W) at the photograph's own size

The model file is safetensors: plain tensors (OCBE and student) and a JSON card in its metadata; nothing in it is
executed. The frozen teacher is not in the file: it is loaded by name, and its weights must have the same sha256.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fastjsonschema
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from rdlib import model, pictures
from rdlib.config import Config
from rdlib.errors import InputError
from rdlib.inference import choose_device, device_of, to_batch
from rdlib.own import photos
from rdlib.paths import PACKAGE
from rdlib.run.files import write_atomically
from rdlib.score import enlarge
from rdlib.teachers import differs_at, load_teacher

FORMAT, VERSION = "rdlib-detector", 1
CARD = "rdlib"  # key of the card in the file's metadata
KEPT = ("teacher", "image_size", "epochs", "batch_size", "lr", "sigma", "seed")  # the rest of Config is at its default
SCHEMA = json.loads((PACKAGE / "own/detector.schema.json").read_text())  # of the card
LARGEST = {name: rule["maximum"] for name, rule in SCHEMA["properties"]["config"]["properties"].items() if "maximum" in rule}
check_card = fastjsonschema.compile(SCHEMA)


# --- Threshold ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Threshold:
    """value: scores above it are alarms; rate: the false-alarm rate asked for; count: held-out good images;
    expected: what the expected false-alarm rate is at most; greater than `rate` if `count` is too small for it
    """

    value: float
    rate: float
    count: int
    expected: float

    def __str__(self) -> str:
        text = (
            f"Threshold {self.value:.4g}, from {self.count} held-out good images: at most {self.expected:.1%} of new good ones are "
            f"expected to raise a false alarm (asked for: {self.rate:.1%})."
        )
        if self.expected > self.rate:
            text += (
                f" What was asked for cannot be promised: that takes {math.ceil(1 / self.rate - 1e-9) - 1} held-out good images or more, "
                "so the threshold is the highest score of those there are."
            )
        return text


def threshold_of(scores: NDArray, rate: float) -> Threshold:
    """The order statistic whose expected false-alarm rate is at most `rate` (split conformal prediction).

    If a new good image's score is exchangeable with the n held-out ones, it exceeds the k-th smallest of them with a
    probability of at most (n + 1 - k) / (n + 1), whatever the distribution, ties included. The smallest k that keeps this
    within `rate` is taken; if rate < 1 / (n + 1) there is none, and the maximum is taken.

    scores: (n,) of good images that were not trained on
    rate: in (0, 1)
    raises: InputError without scores, or if one is not finite
    """
    count = len(scores)
    if not count or not np.isfinite(scores).all():
        raise InputError(f"threshold: {count} held-out scores, all must be finite and one at least is needed")
    alarms = max(1, math.floor(rate * (count + 1) + 1e-9))  # 1e-9: 0.05 * 20 must be 1, whatever binary fractions say
    return Threshold(float(np.sort(scores)[count - alarms]), rate, count, alarms / (count + 1))


# --- Scoring ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """map: (H, W) float32 at the photograph's own size, higher is more anomalous; threshold: the detector's"""

    map: NDArray
    threshold: float

    @cached_property
    def score(self) -> float:
        """The map's maximum (S_AD, Sec. 3.3)."""
        return float(self.map.max())

    @property
    def is_anomalous(self) -> bool:
        return self.score > self.threshold

    @property
    def region(self) -> NDArray:
        """(H, W) bool: where the map exceeds the threshold; not empty exactly if the image is anomalous."""
        return self.map > np.float64(self.threshold)  # else NumPy rounds the threshold to float32, and `score` is not

    @property
    def peak(self) -> tuple[int, int]:
        """(x, y) of the map's maximum, in px of the photograph."""
        y, x = np.unravel_index(np.argmax(self.map), self.map.shape)
        return int(x), int(y)


@torch.no_grad()
def square_map(net: nn.Module, cfg: Config, image: Image.Image) -> NDArray:
    """Anomaly map (image_size, image_size) float32 of an RGB image fitted into the square (photos.GEOMETRY)."""
    batch = to_batch(photos.to_square(image, cfg.image_size)[None], device_of(net))
    maps = net.maps(net.teacher(batch), batch)
    return enlarge([maps[k - 1] for k in cfg.scales], batch.shape[-2:], cfg.sigma).sum(0)[0].cpu().numpy()


def photo_map(net: nn.Module, cfg: Config, image: Image.Image) -> NDArray:
    """Anomaly map (H, W) float32 of an RGB image, at its own size. One image at a time: no result depends on neighbours."""
    return photos.from_square(square_map(net, cfg, image), image.size)


@dataclass(frozen=True)
class Detector:
    """A trained network with its threshold."""

    net: model.ReverseDistillation
    cfg: Config
    teacher_sha256: str
    threshold: Threshold

    def score(self, photo: str | Path | Image.Image | NDArray) -> Result:
        """Score one photograph of any size: a file, an opened image, or its pixels (H, W, 3) RGB or (H, W) grey, uint8.

        raises: InputError naming the file if it cannot be read, is too long and narrow, or is of another kind
        """
        is_file = isinstance(photo, str | os.PathLike)
        image = photos.read(photo) if is_file else opened(photo)
        photos.check_shape(photo if is_file else "image", image.size, self.cfg.image_size)
        return Result(photo_map(self.net, self.cfg, image), self.threshold.value)

    def save(self, path: str | Path) -> None:
        """Write the model file, whole or not at all."""
        tensors = trained_tensors(self.net)
        card = {
            "format": FORMAT,
            "version": VERSION,
            "config": {name: getattr(self.cfg, name) for name in KEPT},
            "threshold": asdict(self.threshold),
            "geometry": photos.GEOMETRY,
            "teacher_sha256": self.teacher_sha256,
            "tensors_sha256": digest(tensors),
        }
        write_atomically(Path(path), to_safetensors(tensors, metadata={CARD: json.dumps(card, allow_nan=False)}))


def opened(photo: Image.Image | NDArray) -> Image.Image:
    """RGB image of an opened image, turned upright, or of an array."""
    if isinstance(photo, Image.Image):
        return pictures.to_rgb(photo)
    if isinstance(photo, np.ndarray) and photo.dtype == np.uint8 and photo.size and (photo.ndim == 2 or photo.shape[2:] == (3,)):
        return Image.fromarray(photo).convert("RGB")
    what = f"array {photo.shape} of {photo.dtype}" if isinstance(photo, np.ndarray) else type(photo).__name__
    raise InputError(f"{what}: cannot be scored; give a file's name, an opened image, or an array (H, W, 3) RGB or (H, W) grey of uint8")


def config_of(**values: Any) -> Config:
    """The configuration of a detector: a Config with the paper's defaults for MVTec AD where nothing else is said."""
    return Config.create(dataset="mvtec", category="own", **values)


def trained_tensors(net: model.ReverseDistillation) -> dict[str, Tensor]:
    """OCBE and student as plain contiguous CPU tensors; the teacher is left out."""
    state = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("teacher.")}
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over the sorted names and contents."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].numpy().tobytes())
    return total.hexdigest()


def assemble(
    cfg: Config, tensors: dict[str, Tensor], device: str = "auto", weights: str | Path = ""
) -> tuple[model.ReverseDistillation, str]:
    """The network that `cfg` describes with these trained tensors, in a fresh memory layout, ready to score.

    A detector just trained and one loaded from a file are both built here, so that their scores are the same bits.
    returns: network, sha256 of the teacher's weights
    raises: InputError if names or shapes do not fit
    """
    teacher, sha256 = load_teacher(cfg.teacher, cfg.normalise, weights)
    net = model.build(cfg, teacher)
    try:
        net.load_state_dict(tensors | teacher.state_dict(prefix="teacher."))
    except RuntimeError as error:
        raise InputError(f"its tensors do not fit teacher {cfg.teacher}{differs_at(error)}") from None
    return net.eval().to(choose_device(device)), sha256


# --- Loading ------------------------------------------------------------------------------------------------------


def load(path: str | Path, device: str = "auto", weights: str | Path = "") -> Detector:
    """The detector of a model file. Nothing in the file is executed; every part of it is checked.

    weights: local file of the teacher's torchvision weights; "" as in rdlib.teachers.load_teacher
    raises: InputError if the file is missing, damaged, of another kind or version, or made with other teacher weights
    """
    card, tensors = _read(Path(path))
    try:
        cfg = config_of(**card["config"])
        net, sha256 = assemble(cfg, tensors, device, weights)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if sha256 != card["teacher_sha256"]:
        raise InputError(
            f"{path}: was trained with other weights of {cfg.teacher} (sha256 {card['teacher_sha256'][:8]}..., "
            f"here {sha256[:8]}...); install those, or train again"
        )
    return Detector(net, cfg, sha256, Threshold(**card["threshold"]))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; a detector is written by notebooks/11_your_images")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(CARD)
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); copy it again, or train again") from None
    if text is None:
        raise InputError(f"{path}: a safetensors file, but not one of rdlib's detectors (no card {CARD!r})")
    try:
        card = check_card(json.loads(text, parse_constant=_refuse))  # NaN lies within any limits of a schema
    except (ValueError, RecursionError, fastjsonschema.JsonSchemaException) as error:
        raise InputError(f"{path}: its card cannot be read by this version of rdlib ({str(error)[:200]}); train again") from None
    if digest(tensors) != card["tensors_sha256"]:
        raise InputError(f"{path}: damaged, its tensors do not have the sha256 on its card; copy it again, or train again")
    return card, tensors


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")
