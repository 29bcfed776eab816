"""Your own images: threshold, geometry, folders and what is wrong with them, the model file and what is wrong with it, ONNX."""

import copy
import json
import pickle
import sys
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import nbformat
import numpy as np
import own_images
import pandas as pd
import papermill
import pytest
import torch
from helpers import REPO, mask, mvtec_folder, picture, save
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from rdlib import data
from rdlib.errors import InputError
from rdlib.own import detector, images, photos
from rdlib.own.detector import Result, threshold_of
from rdlib.paths import PACKAGE

# --- Threshold ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "rate", "nth_highest", "expected"),
    [(19, 0.05, 1, 1 / 20), (20, 0.05, 1, 1 / 21), (39, 0.05, 2, 2 / 40), (9, 0.3, 3, 3 / 10), (4, 0.5, 2, 2 / 5), (8, 0.05, 1, 1 / 9)],
)
def test_threshold_is_the_order_statistic(count, rate, nth_highest, expected):
    scores = np.random.default_rng(0).permutation(count) + 0.5
    found = threshold_of(scores, rate)
    assert found.value == count - nth_highest + 0.5
    assert (found.rate, found.count, found.expected) == (rate, count, pytest.approx(expected))


@given(st.integers(1, 400), st.integers(1, 50))
def test_binary_fractions_do_not_spoil_the_count(count, percent):
    exact = max(1, int(Fraction(percent, 100) * (count + 1)))
    assert threshold_of(np.arange(count), percent / 100).expected == pytest.approx(exact / (count + 1))


@given(st.lists(st.integers(0, 8), min_size=2, max_size=60), st.floats(0.01, 0.5))
def test_expected_false_alarms_of_exchangeable_scores_stay_within_the_rate(scores, rate):
    """Each of n + 1 exchangeable scores (ties among them) is equally likely to be the new one: the expectation is this mean."""
    scores = np.array(scores, float)
    left_out = [threshold_of(np.delete(scores, i), rate) for i in range(len(scores))]
    alarms = np.mean([score > found.value for score, found in zip(scores, left_out)])
    assert alarms <= left_out[0].expected + 1e-12
    if rate >= 1 / len(scores):
        assert left_out[0].expected <= rate + 1e-9


def test_without_ties_the_promise_is_exhausted():
    """A threshold that never alarms would keep the promise too: this one uses all of it."""
    scores = np.random.default_rng(1).normal(size=40)
    alarms = [scores[i] > threshold_of(np.delete(scores, i), 0.1).value for i in range(40)]
    assert np.mean(alarms) == 4 / 40


def test_too_few_images_for_the_rate_are_said_plainly():
    few, enough = str(threshold_of(np.arange(8), 0.05)), str(threshold_of(np.arange(19), 0.05))
    assert "at most 11.1%" in few and "cannot be promised: that takes 19 held-out good images or more" in few
    assert "at most 5.0%" in enough and "cannot" not in enough


@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [np.inf]])
def test_a_threshold_needs_finite_scores(scores):
    with pytest.raises(InputError, match="held-out scores"):
        threshold_of(np.array(scores), 0.1)


def test_image_and_region_agree():
    result = Result(np.array([[0.1, 0.7, 0.2], [0.0, 0.3, 0.1]], np.float32), 0.3)
    assert result.score == np.float32(0.7) and result.is_anomalous and result.peak == (1, 0) and result.region.sum() == 2
    calm = Result(result.map, result.score)
    assert not calm.is_anomalous and not calm.region.any()


# --- Folders ------------------------------------------------------------------------------------------------------


def folders(root, good=8, bad=2):
    for i in range(good):
        save(picture((40, 28), seed=i), root / "good" / f"{i:02d}.png")
    for i in range(bad):
        save(picture((28, 44), seed=100 + i), root / "bad" / "hole" / f"{i:02d}.png")
        save(mask((28, 44)), root / "masks" / "hole" / f"{i:02d}_mask.png")
    return root


def settings(root, **changes):
    places = {name: str(root / name.removesuffix("_dir")) for name in ("good_dir", "bad_dir", "masks_dir")}
    return images.Settings(
        **places | {"image_size": 32, "epochs": 1, "out_dir": str(root / "out"), "threads": 1, "device": "cpu"} | changes
    )


def test_every_photograph_has_one_use(tmp_path):
    folders(tmp_path, good=10)
    for name in (".hidden.png", "Thumbs.db"):
        (tmp_path / "good" / name).write_text("not ours")
    save(picture(seed=7), tmp_path / "bad" / "good" / "00.png")  # as in MVTec's test folder
    found = images.collect(settings(tmp_path, held_out_share=0.3))
    assert found.table()["images"].tolist() == [7, 2, 1, 2, 0]
    good = [*found.train.paths, *(p.name for p in found.scored if p.group in ("threshold", "check"))]
    assert sorted(good) == [f"{i:02d}.png" for i in range(10)]
    assert [(p.name, p.mask.name) for p in found.of("bad")] == [("hole/00.png", "00_mask.png"), ("hole/01.png", "01_mask.png")]
    assert found.train.images.shape == (7, 3, 32, 32) and found.sizes == {"good": {(40, 28)}, "bad": {(28, 44)}}


def test_bad_images_need_no_masks(tmp_path):
    folders(tmp_path)
    found = images.collect(settings(tmp_path, masks_dir=""))
    assert [(p.name, p.mask) for p in found.of("bad")] == [("hole/00.png", None), ("hole/01.png", None)]


def test_the_split_depends_on_the_seed_only_and_check_images_replace_its_last_part(tmp_path):
    first, again, other = (images.split(50, settings(tmp_path, seed=s)) for s in (0, 0, 1))
    assert first == again != other and [len(part) for part in first] == [40, 5, 5]
    assert sorted(sum(first, [])) == list(range(50))
    assert [len(part) for part in images.split(50, settings(tmp_path, check_dir="more"))] == [40, 10, 0]


def broken(path, how):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(how)


PNG = b"\x89PNG\r\n\x1a\n"
# What is done to the folders -> words of the one report (file and mend).
FAULTS = {
    "no folder": (lambda d: (d / "good").rename(d / "elsewhere"), ["good: no such folder; give an existing one"]),
    "empty folder": (lambda d: [p.unlink() for p in (d / "good").iterdir()], ["good: 0 good images; at least 8 are needed"]),
    "one image": (lambda d: [p.unlink() for p in sorted((d / "good").iterdir())[1:]], ["good: 1 good images", "add photographs"]),
    "one too few": (lambda d: (d / "good" / "00.png").unlink(), ["good: 7 good images"]),
    "no bad images": (
        lambda d: [p.unlink() for p in (d / "bad" / "hole").iterdir()],
        ["bad: no images; add some, or leave bad_dir empty", "mask without an image"],
    ),
    "corrupt": (lambda d: broken(d / "good" / "x.png", PNG + b"junk"), ["x.png: cannot be decoded", "replace the file"]),
    "truncated": (
        lambda d: broken(d / "good" / "00.png", (d / "good" / "00.png").read_bytes()[:200]),
        ["00.png: cannot be decoded"],
    ),
    "text called jpg": (lambda d: broken(d / "bad" / "x.jpg", b"hello"), ["x.jpg: cannot be decoded"]),
    "not an image": (lambda d: broken(d / "good" / "0.gif", b"GIF89a"), ["0.gif: unexpected file", "move it away"]),
    "two suffixes": (lambda d: save(picture(seed=9), d / "good" / "00.bmp"), ["00.bmp: another image has the same", "00.png: another"]),
    "good and bad": (
        lambda d: save(picture((40, 28), seed=3), d / "bad" / "hole" / "00.bmp") and (d / "bad" / "hole" / "00.png").unlink(),
        ["hole/00.bmp: the same picture as", "good/03.png; remove one of them"],
    ),
    "twice good": (lambda d: save(picture((40, 28), seed=3), d / "good" / "copy.png"), ["copy.png: the same picture as", "03.png"]),
    "no mask": (lambda d: (d / "masks/hole/01_mask.png").unlink(), ["hole/01.png: no mask", "or leave masks_dir empty"]),
    "mask alone": (lambda d: save(mask((28, 44)), d / "masks/hole/09_mask.png"), ["09_mask.png: mask without an image", "move it away"]),
    "mask of another size": (lambda d: save(mask(), d / "masks/hole/00_mask.png"), ["00_mask.png: mask is 40x32, its image is 28x44"]),
    "empty mask": (lambda d: save(mask((28, 44), (0, 0, 0, 0)), d / "masks/hole/00_mask.png"), ["00_mask.png: mask is empty"]),
    "broken mask": (lambda d: broken(d / "masks/hole/00_mask.png", b"junk"), ["00_mask.png: cannot be decoded"]),
    "too narrow": (lambda d: save(picture((300, 9), seed=9), d / "bad/x.png"), ["x.png: 300x9 is too long and narrow", "crop it or raise"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_the_folders_is_named_with_its_mend(tmp_path, fault):
    spoil, words = FAULTS[fault]
    folders(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError) as refusal:
        images.collect(settings(tmp_path))
    assert [w for w in words if w not in str(refusal.value)] == []


def test_sound_folders_are_not_refused(tmp_path):
    assert len(images.collect(settings(folders(tmp_path))).train) == 6


def test_all_problems_are_in_one_report(tmp_path):
    folders(tmp_path)
    for fault in ("corrupt", "not an image", "twice good", "mask alone", "empty mask", "too narrow"):
        FAULTS[fault][0](tmp_path)
    with pytest.raises(InputError, match="^7 problem") as refusal:  # the narrow image has no mask either
        images.collect(settings(tmp_path))
    assert len(str(refusal.value).splitlines()) == 8


def test_results_do_not_go_where_the_next_run_would_read_them(tmp_path):
    with pytest.raises(InputError, match="out_dir=.*lies in .*good.*choose another"):
        images.collect(settings(folders(tmp_path), out_dir=str(tmp_path / "good" / "out")))


@pytest.mark.parametrize("good", ["x/../good", "link"])
def test_no_detour_hides_that_results_lie_among_the_images(tmp_path, good):
    (folders(tmp_path) / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "good")
    with pytest.raises(InputError, match="out_dir=.*lies in .*choose another"):
        images.collect(settings(tmp_path, good_dir=str(tmp_path / good), out_dir=str(tmp_path / "good" / "out")))


def test_results_do_not_go_into_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="^out_dir=.*: is a file; give a folder"):
        settings(tmp_path, out_dir=str(tmp_path / "file"))


def test_what_may_be_trained_may_be_loaded(trained):
    """The limits are those of the model file's schema, and their corners pass it."""
    judge = trained[2]
    limits = json.loads((PACKAGE / "own/detector.schema.json").read_text())["properties"]["config"]["properties"]
    assert {name: rule["maximum"] for name, rule in limits.items() if "maximum" in rule} == images.LARGEST
    for corner in ({}, images.LARGEST, {"image_size": 32, "sigma": 0.0, "lr": 1e-9, "epochs": 1, "batch_size": 2, "seed": 0}):
        made = {name: getattr(images.Settings(**corner), name) for name in detector.KEPT}
        card = {
            "format": detector.FORMAT, "version": detector.VERSION, "config": made, "threshold": asdict(judge.threshold),
            "geometry": photos.GEOMETRY, "teacher_sha256": "0" * 64, "tensors_sha256": "0" * 64,
        }  # fmt: skip
        assert detector._parse_card(Path("x"), json.dumps(card))["config"] == made


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"good_dri": "x"}, "did you mean 'good_dir'"),
        ({"good_dir": 3}, "good_dir=3: expected str"),
        ({"epochs": 1.5}, "epochs=1.5: expected int"),
        ({"epochs": 0}, "epochs=0"),
        ({"threads": -1}, "threads=-1"),
        ({"image_size": 100}, "image_size=100: must be a multiple of 32"),
        ({"image_size": 2048}, "image_size=2048: must not be greater than 1024"),
        ({"sigma": 65}, "sigma=65.0: must not be greater than 64"),
        ({"lr": 2000.0}, "lr=2000.0: must not be greater than 1000"),
        ({"out_dir": "../../x"}, "out_dir='../../x': must lie below results/"),
        ({"out_dir": "rdlib"}, "out_dir='rdlib': must lie below results/"),
        ({"out_dir": ""}, "out_dir='': must be the name of a folder"),
        ({"false_alarm_rate": 0}, "false_alarm_rate=0.0: must lie above 0"),
        ({"held_out_share": 0.6}, "held_out_share=0.6: must lie above 0 and not above 0.5"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"teacher": "vgg"}, "teacher='vgg': must be one of"),
        ({"new_dir": "new"}, "new_dir is given but good_dir is empty"),
        ({"good_dir": "good", "masks_dir": "masks"}, "masks_dir is given but bad_dir is empty"),
    ],
)
def test_an_impossible_parameter_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        images.from_notebook(changes)


def test_the_parameters_of_the_notebook_are_the_settings():
    path = REPO / "notebooks" / "11_your_images.ipynb"
    defaults = {name: json.loads(p["default"].replace("'", '"')) for name, p in papermill.inspect_notebook(path).items()}
    assert images.from_notebook(defaults) == images.Settings() and list(defaults) == list(images.Settings.__dataclass_fields__)
    assert "own.collect(settings)" in "".join(c.source for c in nbformat.read(path, as_version=4).cells)


# --- From folders to scores ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of photographs of two shapes, and the detector trained on them for one epoch at 32 px."""
    torch.manual_seed(0)
    root = folders(tmp_path_factory.mktemp("own"), good=10)
    chosen = settings(root, held_out_share=0.4)
    found = images.collect(chosen)
    judge, losses = images.train(found, chosen)
    assert len(losses) == 1 and np.isfinite(losses).all()
    return root, found, judge


def test_the_threshold_comes_from_the_held_out_images(trained):
    _, found, judge = trained
    scores = [judge.score(photo.path).score for photo in found.of("threshold")]
    assert judge.threshold.value == max(scores) and judge.threshold.count == len(scores) == 2


def test_scores_heat_maps_and_measures_are_written(trained, tmp_path):
    _, found, judge = trained
    stale, strange = save(picture(), tmp_path / "heatmaps/bad/old_map.png"), save(picture(), tmp_path / "heatmaps/mine.png")
    seen = []
    scored = images.score_photos(judge, found, tmp_path, lambda: seen.append(1))
    assert len(seen) == len(found.scored) == 6 and not stale.exists() and strange.exists()
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table["group"].tolist() == ["threshold"] * 2 + ["check"] * 2 + ["bad"] * 2
    for row, photo in zip(table.itertuples(), found.scored):
        result = judge.score(photo.path)
        assert (row.file, row.is_anomalous) == (photo.name, result.is_anomalous) and row.score == pytest.approx(result.score)
        assert result.map.shape == (row.height, row.width) and result.map[row.peak_y, row.peak_x] == result.map.max()
        with Image.open(tmp_path / row.heat_map) as drawn:
            assert min(drawn.size) > 300
    assert scored.masks.any(axis=(1, 2)).tolist() == [False, False, True, True] and scored.maps.shape == (4, 32, 32)
    rows = images.measure(scored)
    assert list(rows.index) == [
        "false-alarm rate", "bad images found", "image AUROC", "pixel AUROC", "AU-PRO", "AU-PRO per image",
    ]  # fmt: skip
    assert set(images.telling(scored)) <= set(table["heat_map"])


def test_measures_in_the_head():
    """4 good, one alarm; 2 bad, one found; of the 8 pairs 7 are in order. Wilson's interval of 1 in 4 is 4.6 to 69.9 %."""
    table = pd.DataFrame({"group": ["check"] * 4 + ["bad"] * 2 + ["new"], "score": [1, 2, 3, 6, 5, 7, 9.0], "heat_map": list("abcdefg")})
    scored = images.Scored(table.assign(is_anomalous=table["score"] > 5), None, None)
    rows = images.measure(scored)
    assert rows["value, %"].tolist() == [25.0, 50.0, 87.5]
    assert (
        rows.loc["false-alarm rate", "interval, %"] == "4.6 to 69.9" and rows.loc["false-alarm rate", "counted on"] == "1 of 4 check images"
    )
    assert images.telling(scored) == ["d", "e", "f", "g"]
    assert list(images.measure(images.Scored(scored.table[:4], None, None)).index) == ["false-alarm rate"]


def test_the_file_of_measures_holds_all_figures_unrounded(trained, tmp_path):
    _, found, judge = trained
    scored = images.score_photos(judge, found, tmp_path)
    images.write_measures(tmp_path / "measures.csv", judge, scored, 2.5e-7, 6)
    table = pd.read_csv(tmp_path / "measures.csv", keep_default_na=False).set_index("quantity")
    measured = images.measure(scored)
    assert table["value"].tolist() == [judge.threshold.value, *measured["value, %"], 2.5e-7]
    assert table["unit"].tolist() == ["", *["%"] * len(measured), ""]
    assert table["interval"].tolist() == ["", *measured["interval, %"], ""]
    assert table["counted on"].tolist() == ["2 held-out good images", *measured["counted on"], "6 images"]


# --- The README's figures -----------------------------------------------------------------------------------------


def test_photographs_are_cut_to_two_shapes_and_a_defect_that_is_cut_away_takes_its_photograph_along(tmp_path):
    source = mvtec_folder(tmp_path / "bottle", train=3, good=2, bad=4, size=(40, 40))
    for stem, box in (("001", (0, 18, 4, 22)), ("002", (18, 0, 22, 4))):
        save(mask((40, 40), box), source / f"ground_truth/hole/{stem}_mask.png")
    own_images.cut(source, tmp_path / "cut")
    sizes = {p.relative_to(tmp_path / "cut").as_posix(): data.read_image(p).size for p in (tmp_path / "cut").rglob("*.png")}
    assert sizes == {
        "ground_truth/hole/000_mask.png": (40, 28),
        "ground_truth/hole/003_mask.png": (25, 40),
        "test/good/000.png": (40, 28),
        "test/good/001.png": (25, 40),
        "test/hole/000.png": (40, 28),
        "test/hole/003.png": (25, 40),
        "train/good/000.png": (40, 28),
        "train/good/001.png": (25, 40),
        "train/good/002.png": (40, 28),
    }
    whole, part = (np.asarray(data.read_image(folder / "test/hole/003.png")) for folder in (source, tmp_path / "cut"))
    assert np.array_equal(whole[:, 7:32], part)


def test_the_committed_table_is_that_of_the_committed_measures():
    folder = REPO / "results/reference/own"
    assert (folder / "tables/bottle.md").read_text() == own_images.table(folder)
    for name in own_images.COLUMNS:
        measures = pd.read_csv(folder / name / "measures.csv").set_index("quantity")["value"]
        scores = pd.read_csv(folder / name / "scores.csv")
        alarms = scores["score"] > measures["threshold"]
        assert measures["false-alarm rate"] == pytest.approx(100 * alarms[scores["group"] == "check"].mean())
        assert measures["bad images found"] == pytest.approx(100 * alarms[scores["group"] == "bad"].mean())


# --- Model file ---------------------------------------------------------------------------------------------------


def test_a_loaded_detector_gives_the_same_bits(trained, tmp_path):
    _, found, judge = trained
    judge.save(tmp_path / "model.safetensors")
    loaded = detector.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.threshold == judge.threshold and loaded.cfg == judge.cfg and loaded.teacher_sha256 == judge.teacher_sha256
    for photo in found.scored:
        assert (loaded.score(str(photo.path)).map == judge.score(photos.read(photo.path)).map).all()
    grey = save(Image.fromarray(np.asarray(picture())[..., 0].astype(np.uint16) * 257), tmp_path / "sixteen_bits.png")
    with Image.open(grey) as opened:
        assert (loaded.score(opened).map == loaded.score(grey).map).all()
    assert not any(name.startswith("teacher") for name in load_file(tmp_path / "model.safetensors"))


def test_a_photograph_that_cannot_be_scored_is_named(trained, tmp_path):
    _, _, judge = trained
    broken(tmp_path / "x.jpg", b"junk")
    for path, words in ((tmp_path / "none.jpg", "none.jpg: no such file"), (tmp_path / "x.jpg", "x.jpg: cannot be decoded")):
        with pytest.raises(InputError, match=words):
            judge.score(path)
    with pytest.raises(InputError, match="image: 400x10 is too long and narrow"):
        judge.score(picture((400, 10)))


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("it_ran"),)


def rewrite(path, card=None, tensors=None, sign=True):
    """Write the model file again with other parts; sign: with the right sha256 of the tensors."""
    there = load_file(path)
    with detector.safe_open(path, framework="pt") as file:
        old = json.loads(file.metadata()["rdlib"])
    there = tensors(there) if tensors else there
    new = old | ({"tensors_sha256": detector.digest(there)} if sign else {}) | (card or {})
    save_file(there, path, metadata={"rdlib": json.dumps(new)})


def in_config(**changes):
    return {
        "config": {"teacher": "efficientnet_lite0", "image_size": 32, "epochs": 1, "batch_size": 16, "lr": 0.005, "sigma": 4.0, "seed": 0}
        | changes
    }


def changed(name, change):
    return lambda tensors: tensors | {name: change(tensors[name])}


STEM = "ocbe.mff.paths.0.0.0.weight"
SPOILT = {
    "missing": (lambda p: p.unlink(), "no such file"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "no such file"),
    "empty": (lambda p: p.write_bytes(b""), "not a readable safetensors file"),
    "text": (lambda p: p.write_text("hello " * 50), "not a readable safetensors file"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-1000]), "not a readable safetensors file"),
    "huge header": (lambda p: p.write_bytes(b"\xff" * 7 + b"\x7f" + p.read_bytes()[8:]), "not a readable safetensors file"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps(Hostile())), "not a readable safetensors file"),
    "torch file": (lambda p: torch.save({"a": torch.zeros(2)}, p), "not a readable safetensors file"),
    "foreign": (lambda p: save_file({"a": torch.zeros(2)}, p), "not one of rdlib's detectors"),
    "foreign metadata": (lambda p: save_file({"a": torch.zeros(2)}, p, metadata={"rdlib": "{"}), "its card cannot be read"),
    "list as card": (lambda p: save_file({"a": torch.zeros(2)}, p, metadata={"rdlib": "[]"}), "its card cannot be read"),
    "deep card": (lambda p: save_file({"a": torch.zeros(2)}, p, metadata={"rdlib": "[" * 100_000}), "its card cannot be read"),
    "a bit flipped": (lambda p: p.write_bytes(p.read_bytes()[:-9] + b"\x55" + p.read_bytes()[-8:]), "damaged.*copy it again"),
    "other tensors": (lambda p: rewrite(p, tensors=changed(STEM, lambda t: t + 1), sign=False), "damaged.*copy it again"),
    "tensor missing": (lambda p: rewrite(p, tensors=lambda t: {k: v for k, v in t.items() if k != STEM}), "do not fit"),
    "tensor too many": (lambda p: rewrite(p, tensors=lambda t: t | {"teacher.stem.0.weight": torch.zeros(1)}), "do not fit"),
    "other shape": (lambda p: rewrite(p, tensors=changed(STEM, lambda t: t[:1].clone())), "do not fit"),
    "other type": (lambda p: rewrite(p, tensors=changed(STEM, lambda t: t.double())), "do not fit"),
    "not finite": (lambda p: rewrite(p, tensors=changed(STEM, lambda t: t * torch.nan)), "not finite"),
    "later version": (lambda p: rewrite(p, {"version": 2}), "version 2 of the format, this rdlib reads 1"),
    "other format": (lambda p: rewrite(p, {"format": "other"}), "its card cannot be read"),
    "other geometry": (lambda p: rewrite(p, {"geometry": "stretched"}), "its card cannot be read"),
    "unknown entry": (lambda p: rewrite(p, {"code": "import os"}), "its card cannot be read"),
    "other weights": (lambda p: rewrite(p, {"teacher_sha256": "0" * 64}), "trained with other weights of efficientnet_lite0"),
    "other teacher": (lambda p: rewrite(p, in_config(teacher="efficientnet_lite1")), "trained with other weights of efficientnet_lite1"),
    "own teacher": (lambda p: rewrite(p, in_config(teacher="custom")), "has no weights to load"),
    "unknown teacher": (lambda p: rewrite(p, in_config(teacher="../x")), "teacher='../x': must be one of"),
    "huge image": (lambda p: rewrite(p, in_config(image_size=32_000)), "its card cannot be read"),
    "odd image": (lambda p: rewrite(p, in_config(image_size=33)), "must be a multiple of 32"),
    "huge sigma": (lambda p: rewrite(p, in_config(sigma=1e300)), "its card cannot be read"),
    "NaN as threshold": (
        lambda p: rewrite(p, {"threshold": {"value": float("nan"), "rate": 0.1, "count": 1, "expected": 0.5}}),
        "its card cannot be read .NaN is not a number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_damaged_foreign_or_hostile_model_file_is_refused(trained, tmp_path, monkeypatch, spoilt):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    trained[2].save(path)
    spoil, words = SPOILT[spoilt]
    spoil(path)
    with pytest.raises(InputError, match=words) as refusal:
        detector.load(path)
    assert "model.safetensors" in str(refusal.value) and not Path("it_ran").exists()


def test_the_table_above_spoils_files_that_are_sound_otherwise(trained, tmp_path):
    path = tmp_path / "model.safetensors"
    trained[2].save(path)
    rewrite(path, in_config(), tensors=lambda t: t)
    assert detector.load(path).threshold == trained[2].threshold


# --- ONNX ---------------------------------------------------------------------------------------------------------


def test_onnx_gives_the_same_maps(trained, tmp_path):
    """7 images in batches of 4 and 3; a network with other weights is told apart."""
    _, _, judge = trained
    path = tmp_path / "model.onnx"
    detector.export_onnx(judge, path)
    images = [picture((40 + 9 * i, 50), seed=i) for i in range(7)]
    assert detector.onnx_difference(judge, path, images) <= detector.PARITY == 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]  # one file, no weights beside it
    import onnxruntime

    facts = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert float(facts["threshold"]) == judge.threshold.value and facts["image_size"] == "32"
    for weight in (0.0, torch.nan):
        other = copy.deepcopy(judge)
        torch.nn.init.constant_(other.net.student.stages[-1][-1].bn1.weight, weight)
        with pytest.raises(InputError, match="model.onnx: its maps differ from PyTorch's by up to .*do not use this file"):
            detector.onnx_difference(other, path, images)


WANTS = {"onnxscript": detector.export_onnx, "onnxruntime": lambda *given: detector.onnx_difference(*given, [])}


@pytest.mark.parametrize("package", WANTS)
def test_without_onnx_the_package_to_install_is_named(trained, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"ONNX needs the package {package}: pip install 'rdlib\[onnx\]'"):
        WANTS[package](trained[2], tmp_path / "model.onnx")


# --- The notebook -------------------------------------------------------------------------------------------------


def test_the_notebook_on_photographs_that_are_not_square(tmp_path):
    """From papermill to the three lines that score a photograph; one name holds what matplotlib would read as mathematics."""
    root = folders(tmp_path)
    save(picture((44, 28), seed=7), root / "new" / r"$\frac{1}{$.png")
    places = {name: str(root / name.removesuffix("_dir")) for name in ("good_dir", "bad_dir", "masks_dir", "new_dir")}
    quick = {"image_size": 32, "epochs": 1, "batch_size": 6, "threads": 1, "device": "cpu", "out_dir": str(root / "out")}
    notebook = str(REPO / "notebooks" / "11_your_images.ipynb")
    papermill.execute_notebook(notebook, str(root / "executed.ipynb"), places | quick, progress_bar=False, cwd=str(REPO / "notebooks"))
    table = pd.read_csv(root / "out/scores.csv")
    assert table.groupby("group").size().to_dict() == {"threshold": 1, "check": 1, "bad": 2, "new": 1}
    assert all((root / "out" / picture).is_file() for picture in table["heat_map"])
    judge = detector.load(root / "out/model.safetensors", device="cpu")
    for row in table.itertuples():
        folder = {"bad": "bad", "new": "new"}.get(row.group, "good")
        result = judge.score(root / folder / row.file)
        assert result.map.shape == (row.height, row.width) and result.score == pytest.approx(row.score, abs=1e-5)
    assert (root / "out/model.onnx").is_file()
