"""The teacher's features: the same from the store, from memory and recomputed."""

import pytest
import torch
from helpers import TinyTeacher, config, image_set

from rdlib import features, inference, teachers
from rdlib.features import TeacherFeatures
from rdlib.run.cache import Store

IMAGES = image_set(9).images
CPU = torch.device("cpu")


def made(store=None, cfg=None, teacher=None, **kwargs):
    return TeacherFeatures(teacher or TinyTeacher(), IMAGES, cfg or config(), store, "x", **kwargs)


def test_memory_up_to_the_budget_then_recomputed(monkeypatch):
    needed = sum(f.numel() * 4 for f in TinyTeacher()(torch.zeros(9, 3, 32, 32)))
    monkeypatch.setattr(features, "MEMORY", needed)
    assert made().how == "memory" and made(keep=False).how == "recomputed"
    monkeypatch.setattr(features, "MEMORY", needed - 1)
    store = Store(None)
    assert made(store).how == "recomputed" and store.log == {"x": "recomputed"}


def test_over_the_stores_limit_they_stay_in_memory(tmp_path):
    store = Store(tmp_path, limit=1)
    assert made(store).how == "memory" and store.log["x"].startswith("not kept: ") and store.log["x"].endswith("; memory")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_they_are_the_teachers_wherever_they_come_from(tmp_path, precision):
    cfg, indices = config(precision=precision), torch.tensor([7, 2])
    with torch.no_grad(), inference.autocast(cfg, CPU):
        expected = TinyTeacher()(inference.to_batch(IMAGES[[7, 2]], CPU))
    store = Store(tmp_path)
    sources = [made(cfg=cfg), made(cfg=cfg, keep=False), made(store, cfg), made(store, cfg)]
    assert [s.how for s in sources] == ["memory", "recomputed", "store", "store"]
    for source in sources:
        for found, wanted in zip(source[indices], expected, strict=True):
            assert found.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
            assert found.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(found.float(), wanted.float(), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(sources[0][indices], sources[3][indices]))


def test_iterating_gives_all_images_in_order(monkeypatch):
    monkeypatch.setattr(inference, "CHUNK", 4 * 32 * 32)
    assert [len(f[0]) for f in made()] == [4, 4, 1]
    whole = torch.cat([f[-1] for f in made()])
    assert torch.equal(whole, made()[slice(0, 9)][-1])


def test_another_teacher_image_precision_or_thread_count_has_another_entry(tmp_path):
    store, other = Store(tmp_path), TinyTeacher()
    with torch.no_grad():
        other.stages[0][0].bias[0] += 1e-3
    made(store)
    made(store, teacher=other)
    made(store, cfg=config(precision="bf16"))
    TeacherFeatures(TinyTeacher(), IMAGES[::-1].copy(), config(), store)
    entries = [p for p in tmp_path.iterdir() if p.name != "locks"]
    assert len(entries) == 4


def test_an_unchanging_teacher_input_normalisation_is_part_of_the_key(tmp_path):
    store = Store(tmp_path)
    for mean in (teachers.IMAGENET[0], teachers.IDENTITY[0]):
        torch.manual_seed(0)
        TeacherFeatures(teachers.resnet_teacher("resnet18", mean=mean), IMAGES, config(), store)
    assert len([p for p in tmp_path.iterdir() if p.name != "locks"]) == 2
