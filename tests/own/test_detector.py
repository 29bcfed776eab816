"""The detector: its threshold, what it scores, and its model file."""

from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
from helpers import picture, save
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from rdlib.own import detector, images, photos
from rdlib.own.detector import Result, threshold_of

# --- Threshold ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(1, 50))
def test_the_threshold_is_the_order_statistic_of_exact_fractions(count, percent):
    alarms = max(1, int(Fraction(percent, 100) * (count + 1)))
    found = threshold_of(np.random.default_rng(0).permutation(count) + 0.5, percent / 100)
    assert (found.value, found.count) == (count - alarms + 0.5, count) and found.expected == pytest.approx(alarms / (count + 1))
    assert ("cannot be promised" in str(found)) == (percent * (count + 1) < 100)


@given(st.lists(st.integers(0, 8), min_size=2, max_size=60), st.floats(0.01, 0.5))
def test_expected_false_alarms_of_exchangeable_scores_stay_within_the_rate(scores, rate):
    """Each of n + 1 exchangeable scores (ties among them) is equally likely to be the new one: the expectation is this mean."""
    scores = np.array(scores, float)
    left_out = [threshold_of(np.delete(scores, i), rate) for i in range(len(scores))]
    alarms = np.mean([score > found.value for score, found in zip(scores, left_out)])
    assert alarms <= left_out[0].expected + 1e-12
    if rate >= 1 / len(scores):
        assert left_out[0].expected <= rate + 1e-9


# --- Scoring ------------------------------------------------------------------------------------------------------


def test_image_and_region_agree():
    result = Result(np.array([[0.1, 0.7, 0.2], [0.0, 0.3, 0.1]], np.float32), 0.3)
    assert result.score == np.float32(0.7) and result.is_anomalous and result.peak == (1, 0) and result.region.sum() == 2
    calm = Result(result.map, result.score)
    assert not calm.is_anomalous and not calm.region.any()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_file_an_opened_image_and_an_array_are_scored_alike(judge, tmp_path, mode):
    image = picture((50, 40)).convert(mode)
    path = save(image, tmp_path / "a.png")
    maps = [judge.score(photo).map for photo in (path, str(path), image, np.asarray(image), np.asarray(image)[:, ::-1][:, ::-1])]
    assert maps[0].shape == (40, 50) and all((found == maps[0]).all() for found in maps)


def test_a_turned_photograph_is_scored_upright_opened_or_not(judge, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    picture((40, 50)).save(tmp_path / "a.png", exif=turned)
    with Image.open(tmp_path / "a.png") as opened:
        maps = [judge.score(photo).map for photo in (tmp_path / "a.png", opened)]
    assert maps[0].shape == (40, 50) and (maps[0] == maps[1]).all()


# --- Model file -----------------------------------------------------------------------------------------------------


def test_a_loaded_detector_gives_the_same_bits(judge, tmp_path):
    judge.save(tmp_path / "model.safetensors")
    loaded = detector.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.threshold == judge.threshold and loaded.cfg == judge.cfg and loaded.teacher_sha256 == judge.teacher_sha256
    for size in ((40, 28), (28, 44)):
        assert (loaded.score(picture(size)).map == judge.score(picture(size)).map).all()
    assert not any(name.startswith("teacher") for name in load_file(tmp_path / "model.safetensors"))


def test_what_may_be_trained_may_be_loaded(judge):
    """The limits of the parameters are those of the model file's schema, and their corners pass it."""
    assert detector.LARGEST == {"image_size": 1024, "lr": 1000, "sigma": 64}
    for corner in ({}, detector.LARGEST, {"image_size": 32, "sigma": 0.0, "lr": 1e-9, "epochs": 1, "batch_size": 2, "seed": 0}):
        made = {name: getattr(images.Settings(**corner), name) for name in detector.KEPT}
        card = {
            "format": detector.FORMAT, "version": detector.VERSION, "config": made, "threshold": asdict(judge.threshold),
            "geometry": photos.GEOMETRY, "teacher_sha256": "0" * 64, "tensors_sha256": "0" * 64,
        }  # fmt: skip
        assert detector.check_card(card)["config"] == made
