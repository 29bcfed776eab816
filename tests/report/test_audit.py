"""The audit counts what is there, and finds by name what was planted."""

import shutil

import numpy as np
import pytest
from helpers import config, mvtec_folder, picture, save
from PIL import Image

from rdlib.errors import DataError
from rdlib.report import audit


def checked(*folders):
    settings = {folder.name: config(category=folder.name) for folder in folders}
    return audit.check_categories({folder.name: folder for folder in folders}, settings)


def test_a_category_has_a_row_of_what_its_loading_said(tmp_path):
    folder = mvtec_folder(tmp_path / "nut", train=4, good=3, bad=2)
    (folder / "origin.json").touch()
    with Image.open(folder / "train/good/002.png") as image:
        save(image, folder / "test/good/copy.bmp")
    (row,) = checked(folder)
    assert len(row.pop("manifest")) == 64
    assert row == {
        "category": "nut",
        "train": 4,
        "test": 6,
        "vanished": 0,
        "duplicates": (("train/good/002.png", "test/good/copy.bmp"),),
        "remarks": ("not used: origin.json",),
    }


def test_the_problems_of_all_categories_are_in_one_report(tmp_path):
    folders = [mvtec_folder(tmp_path / name) for name in ("bolt", "nut", "screw")]
    (folders[0] / "ground_truth/hole/001_mask.png").unlink()
    (folders[2] / "train/good/000.png").write_bytes(b"")
    (folders[2] / "test/0.png").touch()
    with pytest.raises(DataError) as caught:
        checked(*folders)
    text = str(caught.value)
    assert text.count("problem(s)") == 2 and str(folders[1]) not in text
    for name in ("bolt/test/hole/001.png: no mask", "screw/train/good/000.png: cannot be decoded", "screw/test/0.png: unexpected"):
        assert str(tmp_path / name) in text


def test_an_image_has_a_row_with_the_regions_and_the_area_of_its_mask(tmp_path):
    """A mask of 16 x 12 pixels in 40 x 32 is 15 % of the image; white of 10 x 10 with a grey edge is 7.8125 %."""
    folder = mvtec_folder(tmp_path / "nut", train=1, good=1, bad=2)
    values = np.zeros((32, 40), np.uint8)
    values[8:20, 8:20], values[9:19, 9:19] = 90, 255
    save(Image.fromarray(values), folder / "ground_truth/hole/001_mask.png")
    save(picture((64, 32)), folder / "train/good/000.png")
    rows = [tuple(row.values()) for row in audit.image_rows({"nut": folder}, "mvtec")]
    assert rows == [
        ("nut", "train", "good", "64x32", 0, pytest.approx(np.nan, nan_ok=True)),
        ("nut", "test", "good", "40x32", 0, pytest.approx(np.nan, nan_ok=True)),
        ("nut", "test", "hole", "40x32", 1, pytest.approx(15)),
        ("nut", "test", "hole", "40x32", 1, pytest.approx(7.8125)),
    ]


# --- Folders and examples -----------------------------------------------------------------------------------------


def test_category_folders(tmp_path):
    for name in ("nut", "bolt"):
        mvtec_folder(tmp_path / name, train=1, good=1, bad=1)
    for wanted, names in (("", ["bolt", "nut"]), ("nut, bolt", ["nut", "bolt"])):
        assert audit.category_folders("mvtec", tmp_path, wanted) == {name: tmp_path / name for name in names}


@pytest.mark.parametrize("part", ["train", "test", "ground_truth"])
def test_a_category_without_one_of_its_parts_is_not_passed_over(tmp_path, part):
    shutil.rmtree(mvtec_folder(tmp_path / "nut") / part)
    mvtec_folder(tmp_path / "bolt")
    folders = audit.category_folders("mvtec", tmp_path)
    assert list(folders) == ["bolt", "nut"]
    with pytest.raises(DataError, match=f"{tmp_path / 'nut'}: [12] problem"):
        checked(*folders.values())


def test_examples_are_good_first_then_one_of_each_defect(tmp_path):
    folder = mvtec_folder(mvtec_folder(tmp_path / "nut"), defect="crack")
    shown = audit.examples(folder, config())
    assert [title for title, _, _ in shown] == ["good", "crack", "hole"]
    assert shown[0][2] is None
    assert shown[1][1].shape == (3, 32, 32)
    assert shown[1][2].any()
