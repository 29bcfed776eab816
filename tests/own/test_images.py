"""Your own images: folders, what is scored, drawn and written, and the notebook. What is refused: tests/test_bad_inputs.py."""

import json
import os
from types import SimpleNamespace

import numpy as np
import own_images
import pandas as pd
import papermill
import pytest
import torch
from helpers import REPO, mask, mvtec_folder, picture, save
from own_folders import folders, own_settings
from PIL import Image

from rdlib import pictures
from rdlib.own import detector, images
from rdlib.report import plots

# --- Folders ------------------------------------------------------------------------------------------------------


def test_every_photograph_has_one_use(tmp_path):
    folders(tmp_path, good=10)
    for name in (".hidden.png", "Thumbs.db"):
        (tmp_path / "good" / name).write_text("not ours")
    save(picture(seed=7), tmp_path / "bad" / "good" / "00.png")  # as in MVTec's test folder
    found = images.collect(own_settings(tmp_path, held_out_share=0.3))
    assert [len(found.train), *(len(found.of(group)) for group in ("threshold", "check", "bad", "new"))] == [7, 2, 1, 2, 0]
    good = [*found.train.paths, *(p.name for p in found.scored if p.group in ("threshold", "check"))]
    assert sorted(good) == [f"{i:02d}.png" for i in range(10)]
    assert [(p.name, p.mask.name) for p in found.of("bad")] == [("hole/00.png", "00_mask.png"), ("hole/01.png", "01_mask.png")]
    assert found.train.images.shape == (7, 3, 32, 32) and found.sizes == {"good": {(40, 28)}, "bad": {(28, 44)}}
    assert [photo.mask for photo in images.collect(own_settings(tmp_path, masks_dir="")).of("bad")] == [None, None]


def test_the_split_depends_on_the_seed_only_and_check_images_replace_its_last_part(tmp_path):
    first, again, other = (images.split(50, own_settings(tmp_path, seed=s)) for s in (0, 0, 1))
    assert first == again != other and [len(part) for part in first] == [40, 5, 5]
    assert sorted(sum(first, [])) == list(range(50))
    assert [len(part) for part in images.split(50, own_settings(tmp_path, check_dir="more"))] == [40, 10, 0]


def test_folders_in_the_layout_of_mvtec_may_lie_in_each_other_and_beside_the_results(tmp_path):
    root = mvtec_folder(tmp_path / "bottle", train=8, good=3)
    (tmp_path / "link").symlink_to(root / "test")
    places = {"good_dir": "bottle/train/good", "check_dir": "bottle/test/good", "bad_dir": "link", "masks_dir": "bottle/ground_truth"}
    given = {name: str(tmp_path / place) for name, place in places.items()} | {"image_size": 32, "out_dir": str(tmp_path)}
    found = images.collect(images.Settings(**given))
    assert [len(found.of(group)) for group in ("threshold", "check", "bad")] == [2, 3, 2]


def test_what_is_passed_over_or_decided_is_said(tmp_path):
    folders(tmp_path)
    (tmp_path / "good" / "notes.txt").write_text("taken on Monday")
    save(Image.new("L", (28, 44), 100), tmp_path / "masks/hole/00_mask.png")
    grey = np.tile(np.repeat([0, 100, 180], [10, 10, 8]).astype(np.uint8), (44, 1))
    save(Image.fromarray(grey), tmp_path / "masks/hole/01_mask.png")
    said = images.collect(own_settings(tmp_path)).remarks
    assert said[0] == "good_dir: not used: notes.txt" and len(said) == 2
    assert said[1].startswith("masks_dir: neither black and white nor label numbers") and said[1].endswith("hole/01_mask.png")


def test_the_parameters_of_the_notebook_are_the_settings():
    cells = papermill.inspect_notebook(REPO / "notebooks" / "11_your_images.ipynb")
    defaults = {name: json.loads(p["default"].replace("'", '"')) for name, p in cells.items()}
    assert images.from_notebook(defaults) == images.Settings() and list(defaults) == list(images.Settings.__dataclass_fields__)


# --- From folders to scores ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of photographs of two shapes, and the detector trained on them for one epoch at 32 px."""
    torch.manual_seed(0)
    root = folders(tmp_path_factory.mktemp("own"), good=10)
    chosen = own_settings(root, held_out_share=0.4)
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
    seen = []
    scored = images.score_photos(judge, found, tmp_path, lambda: seen.append(1))
    assert len(seen) == len(found.scored) == 6 and scored.remarks == ()
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table["group"].tolist() == ["threshold"] * 2 + ["check"] * 2 + ["bad"] * 2
    for row, photo in zip(table.itertuples(), found.scored):
        result = judge.score(photo.path)
        assert (row.file, row.is_anomalous) == (photo.name, result.is_anomalous) and row.score == pytest.approx(result.score)
        assert result.map.shape == (row.height, row.width) and result.map[row.peak_y, row.peak_x] == result.map.max()
        with Image.open(tmp_path / row.heat_map) as drawn:
            assert min(drawn.size) > 300
    assert scored.masks.any(axis=(1, 2)).tolist() == [False, False, True, True] and scored.maps.shape == (4, 32, 32)
    rows = images.measure(judge, scored)
    assert list(rows.index[-4:]) == ["image AUROC", "pixel AUROC", "AU-PRO", "AU-PRO per image"]
    assert rows.loc["threshold"].tolist() == [judge.threshold.value, "", "", "2 held-out good images"]
    assert set(images.telling(scored.table)) <= set(table["heat_map"])


def test_only_heat_maps_of_an_earlier_run_are_deleted(trained, tmp_path):
    """Those that its scores.csv names: not what a user calls alike, and nothing outside `heatmaps`."""
    _, found, judge = trained
    out = tmp_path / "out"
    kept = [out / "heatmaps/mine_map.png", tmp_path / "x_map.png", out / "y_map.png"]
    stale = out / "heatmaps/bad/old_map.png"
    for path in (*kept, stale):
        save(picture(), path)
    names = ["heatmaps/bad/old_map.png", "heatmaps/../../x_map.png", str(kept[1]), "y_map.png", "", "heatmaps/gone_map.png"]
    pd.DataFrame({"heat_map": names}).to_csv(out / "scores.csv")
    images.score_photos(judge, found, out)
    assert not stale.exists() and all(path.exists() for path in kept)
    (out / "scores.csv").write_bytes(b"\xff not ours")
    images.score_photos(judge, found, out)
    assert len(list(out.rglob("*_map.png"))) == 6 + 2


def test_a_picture_that_fails_costs_that_picture_and_a_remark(trained, tmp_path, monkeypatch):
    root, found, judge = trained

    def draw(photo, map, threshold, title):
        if "hole/00" in title:
            raise RuntimeError("Failed to process string with tex\nbecause latex could not be found")
        return drawn(photo, map, threshold, title)

    drawn = plots.heat_map
    monkeypatch.setattr(plots, "heat_map", draw)
    scored = images.score_photos(judge, found, tmp_path)
    assert scored.remarks == ("bad: hole/00.png: no heat map (Failed to process string with tex)",)
    table = pd.read_csv(tmp_path / "scores.csv", keep_default_na=False)
    assert (table["heat_map"] == "").sum() == 1 and len(table) == 6 and "" not in images.telling(scored.table)


def test_measures_and_pictures_worth_a_look_in_the_head():
    """4 good, one alarm; 2 bad, one found; of the 8 pairs 7 are in order. Wilson's interval of 1 in 4 is 4.6 to 69.9 %."""
    table = pd.DataFrame({"group": ["check"] * 4 + ["bad"] * 2 + ["new"], "score": [1, 2, 3, 6, 5, 7, 9.0], "heat_map": list("abcdefg")})
    table["is_anomalous"] = table["score"] > 5
    judge = SimpleNamespace(threshold=detector.Threshold(5.0, 0.05, 8, 1 / 9))
    rows = images.measure(judge, images.Scored(table))
    assert rows["value"].tolist() == [5.0, 25.0, 50.0, 87.5] and rows["unit"].tolist() == ["", "%", "%", "%"]
    assert rows.loc["false-alarm rate", ["interval", "counted on"]].tolist() == ["4.6 to 69.9", "1 of 4 check images"]
    assert images.telling(table) == ["e", "f", "d", "g"]
    assert list(images.measure(judge, images.Scored(table[:4])).index) == ["threshold", "false-alarm rate"]


def test_the_folder_of_results_is_free_again_after_a_run(tmp_path):
    for _ in range(2):
        first, again = images.claim(tmp_path / "out"), images.claim(tmp_path / "out")  # a cell may be run twice
        assert first.is_locked
        again.release(force=True)
        assert not first.is_locked


# --- The README's figures -----------------------------------------------------------------------------------------


def test_photographs_are_cut_to_two_shapes_and_a_defect_that_is_cut_away_takes_its_photograph_along(tmp_path):
    source = mvtec_folder(tmp_path / "bottle", train=1, good=0, bad=4, size=(40, 40))
    for stem, box in (("001", (0, 18, 4, 22)), ("002", (18, 0, 22, 4))):
        save(mask((40, 40), box), source / f"ground_truth/hole/{stem}_mask.png")
    own_images.cut(source, tmp_path / "cut")
    sizes = {p.relative_to(tmp_path / "cut").as_posix(): pictures.read_image(p).size for p in (tmp_path / "cut").rglob("*.png")}
    landscape = ("train/good/000.png", "test/hole/000.png", "ground_truth/hole/000_mask.png")
    portrait = ("test/hole/003.png", "ground_truth/hole/003_mask.png")
    assert sizes == dict.fromkeys(landscape, (40, 28)) | dict.fromkeys(portrait, (25, 40))
    whole, part = (np.asarray(pictures.read_image(folder / "test/hole/003.png")) for folder in (source, tmp_path / "cut"))
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


# --- The notebook -------------------------------------------------------------------------------------------------

LONG = "x" * 250
NAMES = {
    r"$\frac{1}{$": r"$\frac{1}{$",  # matplotlib would read it as mathematics
    "\u6f22\u5b57": "\u6f22\u5b57",  # which DejaVu lacks
    os.fsdecode(b"caf\xe9"): r"caf\udce9",  # not UTF-8
    LONG: LONG,  # its heat map's name does not fit a file system
}


def test_the_notebook_on_photographs_that_are_not_square(tmp_path, monkeypatch):
    """From papermill to the three lines that score a photograph, with hard names and a matplotlibrc that asks for LaTeX."""
    root = folders(tmp_path)
    for i, name in enumerate(NAMES):
        save(picture((44, 28), seed=200 + i), root / "new" / f"{name}.png")
    places = {name: str(root / name.removesuffix("_dir")) for name in ("good_dir", "bad_dir", "masks_dir", "new_dir")}
    quick = {"image_size": 32, "epochs": 1, "batch_size": 6, "threads": 1, "device": "cpu", "out_dir": str(root / "out")}
    (root / "matplotlibrc").write_text("text.usetex: True\nfont.family: no such font\n")
    (root / "home").mkdir()
    for name, value in {"MATPLOTLIBRC": root / "matplotlibrc", "HOME": root / "home"}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    notebook = str(REPO / "notebooks" / "11_your_images.ipynb")
    papermill.execute_notebook(notebook, str(root / "executed.ipynb"), places | quick, progress_bar=False, cwd=str(REPO / "notebooks"))
    table = pd.read_csv(root / "out/scores.csv", keep_default_na=False)
    assert table.groupby("group").size().to_dict() == {"threshold": 1, "check": 1, "bad": 2, "new": 4}
    assert set(table.query("group == 'new'")["file"]) == {f"{shown}.png" for shown in NAMES.values()}
    assert table.query("heat_map == ''")["file"].tolist() == [f"{LONG}.png"]
    assert all((root / "out" / picture).is_file() for picture in table["heat_map"] if picture)
    judge = detector.load(root / "out/model.safetensors", device="cpu")
    for row in table.itertuples():
        if row.file.isascii() and "udce9" not in row.file:
            folder = {"bad": "bad", "new": "new"}.get(row.group, "good")
            result = judge.score(root / folder / row.file)
            assert result.map.shape == (row.height, row.width) and result.score == pytest.approx(row.score, abs=1e-5)
    assert (root / "out/model.onnx").is_file() and len(pd.read_csv(root / "out/measures.csv")) == 8
    left = {p.relative_to(root / "home").parts[:2] for p in (root / "home").rglob("*") if p.is_file()}
    assert {parts[0] for parts in left} <= {".ipython", ".cache", ".config"} and (".cache", "Microsoft") not in left
