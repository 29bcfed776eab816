"""Folders of photographs of two shapes, the settings of notebook 11 for them, a detector: what its tests and those of bad inputs build."""

import functools

import numpy as np
import torch
from helpers import mask, picture, save

from rdlib import model
from rdlib.own import detector, images
from rdlib.teachers import load_teacher


def folders(root, good=8, bad=2):
    for i in range(good):
        save(picture((40, 28), seed=i), root / "good" / f"{i:02d}.png")
    for i in range(bad):
        save(picture((28, 44), seed=100 + i), root / "bad" / "hole" / f"{i:02d}.png")
        save(mask((28, 44)), root / "masks" / "hole" / f"{i:02d}_mask.png")
    return root


def own_settings(root, **changes):
    places = {name: str(root / name.removesuffix("_dir")) for name in ("good_dir", "bad_dir", "masks_dir")}
    return images.Settings(
        **places | {"image_size": 32, "epochs": 1, "out_dir": str(root / "out"), "threads": 1, "device": "cpu"} | changes
    )


@functools.cache
def judge():
    """A detector that nothing has trained, at 32 px on one core."""
    torch.manual_seed(0)
    cfg = detector.config_of(teacher="efficientnet_lite0", image_size=32)
    tensors = detector.trained_tensors(model.build(cfg, load_teacher(cfg.teacher)[0]))
    net, sha256 = detector.assemble(cfg, tensors, "cpu")
    return detector.Detector(net, cfg, sha256, detector.threshold_of(np.ones(9), 0.1))
