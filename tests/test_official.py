"""The official code's checkpoints: every name, every value, and what is no such checkpoint."""

import golden_weights as golden
import pytest
import torch
from helpers import Evil

from rdlib import model, official, teachers
from rdlib.errors import InputError


@pytest.fixture(scope="module")
def resnet18():
    """Ours with random weights, never changed by a test."""
    return model.ReverseDistillation(
        teachers.resnet_teacher("resnet18"), model.OCBE(teachers.RESNETS["resnet18"]), model.Student(teachers.RESNETS["resnet18"])
    )


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
def test_official_names_are_ours_but_for_conv4_and_bn4(name):
    with torch.device("meta"):
        arch = teachers.RESNETS[name]
        ours = {"bn": model.OCBE(arch), "decoder": model.Student(arch)}
    rename = {"bn": official.ocbe_name, "decoder": official.student_name}
    for part, keys in golden.official_keys(name).items():
        used = {rename[part](k): tuple(shape) for k, shape in keys.items() if k.split(".")[0] not in ("conv4", "bn4")}
        assert used == {k: tuple(v.shape) for k, v in ours[part].state_dict().items()}


def test_a_checkpoint_file_loads_its_values(resnet18, tmp_path):
    checkpoint = golden.official_checkpoint("resnet18")
    assert {"conv4.weight", "bn4.bias"} <= set(checkpoint["bn"])
    torch.save(checkpoint, tmp_path / "official.pth")
    official.load_checkpoint(resnet18, tmp_path / "official.pth")
    assert torch.equal(resnet18.ocbe.mff.paths[0][1][0].weight, checkpoint["bn"]["conv2.weight"])
    assert torch.equal(resnet18.ocbe.mff.paths[1][0][1].running_var, checkpoint["bn"]["bn3.running_var"])
    assert torch.equal(resnet18.student.stages[2][0].downsample[0].weight, checkpoint["decoder"]["layer3.0.upsample.0.weight"])


def test_a_pickled_object_is_not_executed(resnet18, tmp_path):
    """weights_only: a file that holds anything but tensors could run code when it is opened."""
    torch.save({"bn": Evil(tmp_path / "mark"), "decoder": {}}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="evil.pth: damaged, or holds something else than a dictionary of tensors"):
        official.load_checkpoint(resnet18, tmp_path / "evil.pth")
    assert not (tmp_path / "mark").exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # it would have
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut", b"\x80\x02}q\x00.", b"\x80\x04\x95\xff"])
def test_a_damaged_checkpoint_is_an_input_error(resnet18, tmp_path, content):
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(InputError, match="broken.pth: "):
        official.load_checkpoint(resnet18, tmp_path / "broken.pth")


@pytest.mark.parametrize("part", [{}, {"conv9.weight": torch.zeros(1)}, {"x": 1}, {1: 2}, {"bn_layer.0.conv1.weight": "text"}])
def test_missing_and_odd_entries_of_a_checkpoint_are_refused(resnet18, part):
    with pytest.raises(InputError, match="does not fit this model"):
        official.load_checkpoint(resnet18, {"bn": part, "decoder": {}})
