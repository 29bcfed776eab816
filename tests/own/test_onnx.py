"""ONNX: the same maps as PyTorch's, and nothing that onnxruntime writes or sends."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from helpers import REPO, picture

from rdlib.errors import InputError
from rdlib.own import onnx


def test_onnx_gives_the_same_maps(judge, tmp_path):
    """7 images in batches of 4 and 3; a network with other weights is told apart."""
    path = tmp_path / "model.onnx"
    onnx.export(judge, path)
    images = [picture((40 + 9 * i, 50), seed=i) for i in range(7)]
    assert onnx.difference(judge, path, images) <= onnx.PARITY == 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]  # one file, no weights beside it
    facts = onnx.needed("onnxruntime").InferenceSession(path).get_modelmeta().custom_metadata_map
    assert float(facts["threshold"]) == judge.threshold.value and facts["image_size"] == "32"
    for weight in (0.0, torch.nan):
        other = copy.deepcopy(judge)
        torch.nn.init.constant_(other.net.student.stages[-1][-1].bn1.weight, weight)
        with pytest.raises(InputError, match="model.onnx: its maps differ from PyTorch's by up to .*do not use this file"):
            onnx.difference(other, path, images)


USE = """
import sys
def refuse(event, _):
    assert not event.startswith("socket."), event
sys.addaudithook(refuse)
from PIL import Image
from rdlib.own import detector, onnx
judge = detector.load("model.safetensors", device="cpu")
onnx.export(judge, "model.onnx")
onnx.difference(judge, "model.onnx", [Image.new("RGB", (40, 40))])
"""


def test_nothing_is_written_at_home_and_no_socket_opened(judge, tmp_path):
    """Without the switch onnxruntime leaves a device id in HOME, at its import, for what it later sends."""
    (tmp_path / "home").mkdir()
    judge.save(tmp_path / "model.safetensors")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("XDG_") and name != "ORT_DISABLE_TELEMETRY"}
    env = ours | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPO)}
    subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, env=env, check=True)
    assert [p.relative_to(tmp_path).as_posix() for p in (tmp_path / "home").rglob("*")] == []
