"""The audit counts what is there, and finds by name what was planted."""

import shutil

import numpy as np
import pytest
from helpers import config, mask, mvtec_folder, picture, save
from PIL import Image

from rdlib import demo
from rdlib.config import MVTEC_COUNTS
from rdlib.data import DataError
from rdlib.report import audit


def test_a_row_counts_images_regions_and_areas(tmp_path):
    """Masks of 16 x 12 pixels in 40 x 32: 15 % of the image."""
    row = audit.audit_category(mvtec_folder(tmp_path / "nut", train=4, good=3, bad=2), config())
    counts = {"category": "nut", "train": 4, "test good": 3, "test anomalous": 2, "defect types": 1, "regions": 2, "vanished": 0}
    assert row.items() >= counts.items() and row["size, px"] == "40x32" and row["duplicates"] == []
    assert [row[f"area {which}, %"] for which in ("min", "median", "max")] == pytest.approx([15, 15, 15])
    assert len(row["manifest"]) == 64
    save(picture((64, 32)), tmp_path / "nut/train/good/900.png")
    assert audit.audit_category(tmp_path / "nut", config())["size, px"] == "40x32, 64x32"
    normal = audit.audit_category(mvtec_folder(tmp_path / "normal", bad=0), config())
    assert normal["regions"] == 0 and np.isnan(normal["area median, %"])


def test_areas_are_of_what_is_brighter_than_half_and_what_is_passed_over_is_told(tmp_path):
    """White of 10 x 10 pixels in 40 x 32, with a grey edge: 7.8125 % of the image."""
    folder = mvtec_folder(tmp_path / "nut", bad=1)
    values = np.zeros((32, 40), np.uint8)
    values[8:20, 8:20], values[9:19, 9:19] = 90, 255
    save(Image.fromarray(values), folder / "ground_truth/hole/000_mask.png")
    (folder / "origin.json").touch()
    row = audit.audit_category(folder, config())
    assert row["area max, %"] == pytest.approx(7.8125) and row["remarks"] == ["not used: origin.json"]


def test_a_vanished_region_is_counted(tmp_path):
    folder = mvtec_folder(tmp_path / "nut", size=(128, 128), bad=1)
    save(mask((128, 128), box=(50, 50, 52, 52)), folder / "ground_truth/hole/000_mask.png")
    assert audit.audit_category(folder, config(image_size=32))["vanished"] == 1
    assert audit.audit_category(folder, config(image_size=32, mask_rule="any"))["vanished"] == 0


def test_the_problems_of_all_categories_are_in_one_report(tmp_path):
    folders = [mvtec_folder(tmp_path / name) for name in ("bolt", "nut", "screw")]
    (folders[0] / "ground_truth/hole/001_mask.png").unlink()
    (folders[2] / "train/good/000.png").write_bytes(b"")
    (folders[2] / "test/0.png").touch()
    settings = {folder.name: config(category=folder.name) for folder in folders}
    with pytest.raises(DataError) as caught:
        audit.audit_categories(folders, settings)
    text = str(caught.value)
    assert text.count("problem(s)") == 2 and str(folders[1]) not in text
    for name in ("bolt/test/hole/001.png: no mask", "screw/train/good/000.png: cannot be decoded", "screw/test/0.png: unexpected"):
        assert str(tmp_path / name) in text
    assert [row["category"] for row in audit.audit_categories(folders[1:2], settings)] == ["nut"]


def test_defect_counts(tmp_path):
    assert audit.defect_counts(mvtec_folder(tmp_path / "nut", good=3, bad=2)) == {"good": 3, "hole": 2}


# --- Official counts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("category", "train", "agrees"), [("bottle", 209, "yes"), ("bottle", 208, "NO"), ("nut", 209, "unknown")])
def test_counts_beside_the_official_ones(category, train, agrees):
    row = {"category": category, "train": train, "test good": 20, "test anomalous": 63}
    assert audit.compare_counts(row, "mvtec")["agrees"] == agrees


def rows(*names):
    return [{"category": name, "train": 0, "test good": 0, "test anomalous": 0} for name in names]


def test_an_official_category_that_is_not_there_has_a_line_of_its_own():
    found = audit.count_table(rows("bottle", "nut"), "mvtec")
    assert [row["category"] for row in found] == ["bottle", "nut", *sorted(set(MVTEC_COUNTS) - {"bottle"})]
    assert found[-1] == {"category": "zipper", "train": 0, "official train": 240, "test": 0, "official test": 151, "agrees": "NO"}


@pytest.mark.parametrize(
    ("names", "dataset", "chosen"), [(["bottle"], "mvtec", "bottle"), (["nut"], "mvtec", ""), (demo.CATEGORIES, "demo", "")]
)
def test_nothing_is_missing_beside_what_was_asked_for_or_the_users_own(names, dataset, chosen):
    assert [row["category"] for row in audit.count_table(rows(*names), dataset, chosen)] == list(names)


# --- Duplicates ---------------------------------------------------------------------------------------------------


def test_planted_duplicates_are_found_by_name(tmp_path):
    """One copy as it is, one under another name in another format; same size but one pixel off is no duplicate."""
    folder = mvtec_folder(tmp_path / "nut")
    with Image.open(folder / "train/good/002.png") as image:
        save(image, folder / "test/good/copy.bmp")
        image.putpixel((0, 0), tuple(255 - v for v in image.getpixel((0, 0))))
        save(image, folder / "test/good/almost.png")
    (folder / "test/hole/001.png").write_bytes((folder / "train/good/000.png").read_bytes())
    found = audit.audit_category(folder, config())["duplicates"]
    assert found == [("train/good/000.png", "test/hole/001.png"), ("train/good/002.png", "test/good/copy.bmp")]


# --- Folders and examples -----------------------------------------------------------------------------------------


def test_category_folders(tmp_path):
    for name in ("nut", "bolt"):
        mvtec_folder(tmp_path / name, train=1, good=1, bad=1)
    names = lambda wanted: [p.name for p in audit.category_folders("mvtec", tmp_path, wanted)]  # noqa: E731
    assert names("") == ["bolt", "nut"]
    assert names("nut, bolt") == ["nut", "bolt"]


@pytest.mark.parametrize("part", ["train", "test", "ground_truth"])
def test_a_category_without_one_of_its_parts_is_not_passed_over(tmp_path, part):
    shutil.rmtree(mvtec_folder(tmp_path / "nut") / part)
    mvtec_folder(tmp_path / "bolt")
    folders = audit.category_folders("mvtec", tmp_path)
    assert [p.name for p in folders] == ["bolt", "nut"]
    with pytest.raises(DataError, match=f"{tmp_path / 'nut'}: [12] problem"):
        audit.audit_categories(folders, {folder.name: config(category=folder.name) for folder in folders})


def test_examples_are_good_first_then_one_of_each_defect(tmp_path):
    folder = mvtec_folder(mvtec_folder(tmp_path / "nut"), defect="crack")
    shown = audit.examples(folder, config())
    assert [title for title, _, _ in shown] == ["good", "crack", "hole"]
    assert shown[0][2] is None
    assert shown[1][1].shape == (3, 32, 32)
    assert shown[1][2].any()


# --- The demo set -------------------------------------------------------------------------------------------------


def test_demo_crops_are_found_where_they_were_cut(tmp_path):
    photo = audit._photograph("brick")
    for name, x in (("train/good/0", 5), ("train/good/1", 100), ("test/good/0", 384)):
        save(Image.fromarray(photo[40 : 40 + demo.SIZE, x : x + demo.SIZE]), tmp_path / "brick" / f"{name}.png")
    save(picture((demo.SIZE, demo.SIZE)), tmp_path / "brick/test/good/1.png")
    row = audit.demo_crop_columns(tmp_path / "brick")
    assert (row["train columns"], row["test columns"], row["disjoint"]) == ("5-227", "384-511", True)
    assert (row["crops found"], row["crops"]) == (3, 4)


def test_overlapping_demo_crops_are_told(tmp_path):
    photo = audit._photograph("grass")
    for name, x in (("train/good/0", 100), ("test/good/0", 227)):
        save(Image.fromarray(photo[: demo.SIZE, x : x + demo.SIZE]), tmp_path / "grass" / f"{name}.png")
    assert audit.demo_crop_columns(tmp_path / "grass")["disjoint"] is False


def test_only_demo_textures_can_be_found_again(tmp_path):
    with pytest.raises(DataError, match="not a texture"):
        audit.demo_crop_columns(mvtec_folder(tmp_path / "coin"))
    with pytest.raises(DataError, match="not in the photograph"):
        audit.demo_crop_columns(mvtec_folder(tmp_path / "brick"))
