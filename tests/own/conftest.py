"""What the tests of the reader's own images share."""

import numpy as np
import pytest
import torch

from rdlib import model
from rdlib.own import detector
from rdlib.teachers import load_teacher


@pytest.fixture(scope="package")
def judge():
    """A detector that nothing has trained, at 32 px on one core."""
    torch.manual_seed(0)
    cfg = detector.config_of(teacher="efficientnet_lite0", image_size=32)
    tensors = detector.trained_tensors(model.build(cfg, load_teacher(cfg.teacher)[0]))
    return detector.Detector(*made(cfg, tensors), detector.threshold_of(np.array([2.9, 3.0]), 0.05))


def made(cfg, tensors):
    net, sha256 = detector.assemble(cfg, tensors, "cpu")
    return net, cfg, sha256
