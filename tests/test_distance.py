"""Distance maps and both losses against values one can do by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rdlib.distance import distance_maps, flat_loss, pixel_loss


def one_position(*channels):
    """(1, C, 1, 1)"""
    return torch.tensor(channels, dtype=torch.float64).view(1, -1, 1, 1)


CLOSED_FORMS = [
    ((3, 4), (3, 4), 0),
    ((3, 4), (-3, -4), 2),
    ((1, 0), (0, 1), 1),
    ((1, 0), (1, 1), 1 - 1 / math.sqrt(2)),
    ((1, 2), (3, 4), 1 - 11 / math.sqrt(125)),
]


@pytest.mark.parametrize("teacher, student, expected", CLOSED_FORMS)
def test_one_position(teacher, student, expected):
    feats = [one_position(*teacher)], [one_position(*student)]
    for value in (distance_maps(*feats)[0], flat_loss(*feats), pixel_loss(*feats)):
        assert value.item() == pytest.approx(expected, abs=1e-7)


# Two positions of two channels. Position one: (1, 0) against (1, 0), distance 0; two: (0, 3) against (3, 0), distance 1.
HAND_TEACHER = torch.tensor([[1.0, 0.0], [0.0, 3.0]]).view(1, 2, 1, 2)  # [channel][position]
HAND_STUDENT = torch.tensor([[1.0, 3.0], [0.0, 0.0]]).view(1, 2, 1, 2)


def test_map_of_the_hand_case():
    (found,) = distance_maps([HAND_TEACHER], [HAND_STUDENT])
    assert found.shape == (1, 1, 2)
    assert found.flatten().tolist() == pytest.approx([0, 1], abs=1e-6)


def test_flat_and_pixel_loss_differ_as_computed_by_hand():
    """Pixel: (0 + 1) / 2. Flat: the vectors are (1, 0, 0, 3) and (1, 3, 0, 0), cosine 1 / 10; long vectors weigh more."""
    assert pixel_loss([HAND_TEACHER], [HAND_STUDENT]).item() == pytest.approx(1 / 2, abs=1e-6)
    assert flat_loss([HAND_TEACHER], [HAND_STUDENT]).item() == pytest.approx(1 - 1 / 10, abs=1e-6)


def test_losses_are_means_over_images_and_sums_over_scales():
    same, opposite = one_position(1, 2), one_position(-1, -2)
    teacher = [torch.cat([same, same]), torch.cat([same, same])]
    student = [torch.cat([same, opposite]), torch.cat([opposite, opposite])]
    for loss in (flat_loss, pixel_loss):
        assert loss(teacher, student).item() == pytest.approx((0 + 2) / 2 + 2)


def test_flat_loss_is_one_cosine_per_image_not_per_batch():
    teacher = torch.tensor([[1.0, 0.0], [100.0, 0.0]]).view(2, 2, 1, 1)
    student = torch.tensor([[0.0, 1.0], [100.0, 0.0]]).view(2, 2, 1, 1)
    assert flat_loss([teacher], [student]).item() == pytest.approx(1 / 2, abs=1e-6)


positive = st.floats(1e-2, 1e2)


@given(a=positive, b=positive, seed=st.integers(0, 1000))
def test_distances_do_not_depend_on_the_length_of_vectors(a, b, seed):
    rng = torch.Generator().manual_seed(seed)
    teacher, student = (torch.randn(2, 3, 2, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    for f in (lambda t, s: distance_maps([t], [s])[0], lambda t, s: flat_loss([t], [s]), lambda t, s: pixel_loss([t], [s])):
        torch.testing.assert_close(f(a * teacher, b * student), f(teacher, student), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", [distance_maps, flat_loss, pixel_loss])
def test_features_that_do_not_pair_are_refused(function):
    a, b = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\).*\(1, 2, 2, 2\)"):
        function([a], [b])
    with pytest.raises(ValueError, match="differ in shape"):
        function([a, b], [a])
    with pytest.raises(ValueError, match="differ in shape"):
        function([a, b], [b, a])


@pytest.mark.parametrize("loss", [flat_loss, pixel_loss])
@pytest.mark.parametrize("student_layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("teacher_layout", [torch.contiguous_format, torch.channels_last])
def test_the_order_in_memory_changes_nothing(loss, teacher_layout, student_layout):
    """Both are flattened in one order, whichever of them lies in memory as channels last."""
    random = torch.Generator().manual_seed(0)
    teacher, student = (torch.rand(2, 3, 4, 5, generator=random, dtype=torch.float64) for _ in range(2))
    found = loss([teacher.contiguous(memory_format=teacher_layout)], [student.contiguous(memory_format=student_layout)])
    by_hand = torch.stack([1 - torch.dot(t.ravel(), s.ravel()) / (t.norm() * s.norm()) for t, s in zip(teacher, student)]).mean()
    expected = by_hand if loss is flat_loss else loss([teacher], [student])
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
