"""What several test files build: a tiny teacher, random image sets, made-up scores and folders in MVTec layout."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from rdlib.config import Config
from rdlib.data import ImageSet
from rdlib.score import Scores

REPO = Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds after which a test gives up waiting: long, because a busy machine is no failure


class TinyTeacher(nn.Module):
    """Random frozen convolutions of stride 2: one map per entry of `channels`, at 1/2, 1/4, ... of the image."""

    def __init__(self, channels=(4, 8, 12), strides=None):
        super().__init__()
        widths = (3, *channels)
        strides = strides or (2,) * len(channels)
        with torch.random.fork_rng():
            torch.manual_seed(42)
            self.stages = nn.ModuleList(
                nn.Sequential(nn.Conv2d(i, o, 3, stride=s, padding=1), nn.ReLU()) for i, o, s in zip(widths, channels, strides)
            )
        self.requires_grad_(False)

    def forward(self, images):
        feats = []
        for stage in self.stages:
            images = stage(images)
            feats.append(images)
        return feats


class Evil:
    """Makes the folder `mark` when it is unpickled without precaution."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def config(**params) -> Config:
    """A quick run: 32 px, the tiny teacher, two epochs, unless said otherwise."""
    quick = {"dataset": "mvtec", "category": "made_up", "teacher": "custom", "image_size": 32, "epochs": 2, "batch_size": 4, "sigma": 1.0}
    return Config.create(**quick | params)


def image_set(count=8, size=32, masks=False, seed=0) -> ImageSet:
    """Smooth random images; with `masks`, every second image has one region of 4 x 5 pixels and label 1."""
    rng = np.random.default_rng(seed)
    images = np.kron(rng.integers(0, 256, (count, 3, size // 4, size // 4)), np.ones((4, 4))).astype(np.uint8)
    labels = (np.arange(count) % 2 if masks else np.zeros(count)).astype(np.uint8)
    regions = np.zeros((count, size, size), bool)
    regions[1::2, 3:7, 8:13] = True
    return ImageSet(images, labels, tuple(f"{i:03d}.png" for i in range(count)), regions if masks else None)


def made_up_scores(masks=True, seed=0) -> Scores:
    """Scores of 6 images, 3 scales, 16 px; with masks, a little higher where they are."""
    rng = np.random.default_rng(seed)
    test = image_set(6, 16, masks=True)
    maps = rng.uniform(0, 1, (3, 6, 16, 16)) + 0.3 * test.masks
    return Scores(maps.astype(np.float32), test.labels, test.masks if masks else None, test.paths)


def picture(size=(40, 32), seed=0) -> Image.Image:
    """RGB noise; size: (width, height)"""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def mask(size=(40, 32), box=(4, 4, 20, 16)) -> Image.Image:
    """8-bit mask, white inside box = (left, top, right, bottom)."""
    values = np.zeros((size[1], size[0]), np.uint8)
    values[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(values)


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def mvtec_folder(root: Path, train=4, good=2, bad=2, defect="hole", size=(40, 32)) -> Path:
    """A category in MVTec layout, made at `root`: noise, with masks of one rectangle."""
    for split, count, start in (("train/good", train, 0), ("test/good", good, 100), (f"test/{defect}", bad, 200)):
        for i in range(count):
            save(picture(size, seed=start + i), root / split / f"{i:03d}.png")
    for i in range(bad):
        save(mask(size), root / "ground_truth" / defect / f"{i:03d}_mask.png")
    return root


def failures_of(folder):
    """The run files below a folder that failed or diverged."""
    from rdlib.run import record  # here: `make gpu` reads this file too, without the packages that check a run file

    return [result for result in record.read_all(folder) if result["status"] != "finished"]
