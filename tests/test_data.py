"""Folders in MVTec layout, the novelty data sets in every form they come in, and each error a user can make."""

import gzip
import hashlib
import io
import pickle
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import config, mask, mvtec_folder, picture, save
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets
from torchvision.transforms import Resize, ToTensor
from torchvision.transforms import functional as TF

from rdlib import data
from rdlib.config import Config
from rdlib.data import DataError
from rdlib.run.cache import Store

CFG = config()
BLACK_OR_WHITE = {0, 255}


@pytest.fixture
def folder(tmp_path):
    return mvtec_folder(tmp_path / "made_up")


def load(folder, cfg=CFG):
    return data.load(cfg, folder.parent)


def problems(folder):
    with pytest.raises(DataError) as caught:
        load(folder)
    return str(caught.value)


# --- What is read -------------------------------------------------------------------------------------------------


def test_a_folder_gives_images_labels_masks_and_names(folder):
    found = load(folder)
    assert found.train.images.shape == (4, 3, 32, 32) and found.train.images.dtype == np.uint8
    assert found.test.images.shape == (4, 3, 32, 32) and found.test.masks.shape == (4, 32, 32) and found.test.masks.dtype == bool
    assert found.train.paths == tuple(f"train/good/{i:03d}.png" for i in range(4))
    assert found.test.paths == ("test/good/000.png", "test/good/001.png", "test/hole/000.png", "test/hole/001.png")
    assert found.test.labels.tolist() == [0, 0, 1, 1] and not found.train.labels.any()
    assert found.test.masks.any((1, 2)).tolist() == [False, False, True, True] and not found.train.masks.any()
    assert found.notes == {"vanished_regions": 0, "train_test_duplicates": 0}


def test_a_defect_that_vanishes_in_resizing_leaves_an_anomalous_image(tmp_path):
    """Labels come from folders, not from masks (pitfall 10)."""
    folder = mvtec_folder(tmp_path / "made_up", size=(128, 128), bad=2)
    save(mask((128, 128), box=(50, 50, 52, 52)), folder / "ground_truth/hole/000_mask.png")
    found = load(folder)
    assert found.test.labels.tolist() == [0, 0, 1, 1] and found.notes["vanished_regions"] == 1
    assert found.test.masks.any((1, 2)).tolist() == [False, False, False, True]
    assert data.remarks(found, CFG) == [f"{CFG.category}: 1 defect region(s) are gone at {CFG.image_size} px"]


def test_the_content_of_each_image_is_at_its_name(folder):
    found = load(folder).test
    for path, image in zip(found.paths, found.images):
        with Image.open(folder / path) as original:
            assert np.array_equal(image, np.asarray(original.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1))


def test_order_does_not_depend_on_the_file_system(folder, monkeypatch):
    before = load(folder)
    original = type(folder).iterdir
    monkeypatch.setattr(type(folder), "iterdir", lambda self: iter(sorted(original(self), reverse=True)))
    after = load(folder)
    assert before.test.paths == after.test.paths and before.train.paths == after.train.paths
    assert np.array_equal(before.test.masks, after.test.masks) and before.manifest == after.manifest


def test_masks_are_paired_by_name_not_by_position(tmp_path):
    folder = mvtec_folder(tmp_path / "made_up", bad=0)
    boxes = {"1": (0, 0, 20, 8), "10": (20, 0, 40, 16), "2": (0, 16, 40, 32)}
    for name, box in boxes.items():
        save(picture(), folder / f"test/hole/{name}.png")
        save(mask(box=box), folder / f"ground_truth/hole/{name}_mask.png")
    test = load(folder).test
    for path, found in zip(test.paths[2:], test.masks[2:]):
        left, top, right, bottom = boxes[path.removeprefix("test/hole/").removesuffix(".png")]
        expected = np.zeros((32, 32), bool)
        expected[top:bottom, left * 32 // 40 : right * 32 // 40] = True
        assert np.array_equal(found, expected), path


# Names of which one is part of another, with and without what a mask's name ends in.
NAMED = ["0", "00", "000", "100", "1000", "0_mask", "00_mask", "mask", "_mask", "a.b", "a"]
NAMES = st.sets(st.sampled_from(NAMED) | st.text("01_m", min_size=1, max_size=4))


@given(images=NAMES.filter(len), masks=NAMES, suffixes=st.tuples(*[st.sampled_from([".png", ".bmp", ".JPG"])] * 2))
@example({"00", "100"}, {"100"}, (".png", ".png"))
@example({"00"}, {"100"}, (".png", ".png"))
@example({"0", "0_mask"}, {"0"}, (".png", ".png"))
def test_an_image_has_the_mask_of_its_very_name_or_is_refused(images, masks, suffixes):
    """Whatever the names: each pair there is, and a problem for each image without its mask and each mask without its image."""
    with tempfile.TemporaryDirectory() as tmp:
        folder, (of_images, of_masks) = Path(tmp), suffixes
        test, truth = folder / "test/hole", folder / "ground_truth/hole"
        for place in (folder / "train/good", test, truth):
            place.mkdir(parents=True)
        wanted = {test / f"{name}{of_images}": truth / f"{name}_mask{of_masks}" for name in images}
        there = {truth / f"{name}_mask{of_masks}" for name in masks}
        for path in (folder / "train/good/0.png", *wanted, *there):
            path.touch()
        _, found, said = data.find_items(folder)
    assert {item.image: item.mask for item in found} == {image: mask if mask in there else None for image, mask in wanted.items()}
    missing, extra = (image for image, mask in wanted.items() if mask not in there), there - set(wanted.values())
    expected = [f"{image}: no mask " for image in missing] + [f"{mask}: mask without an image" for mask in extra]
    assert len(said) == len(expected) and all(any(line.startswith(words) for line in said) for words in expected)


def test_labels_come_from_folders(tmp_path):
    folder = mvtec_folder(tmp_path / "made_up", good=1, bad=1)
    mvtec_folder(folder, train=0, good=0, bad=1, defect="a_crack")
    found = load(folder).test
    assert dict(zip(found.paths, found.labels)) == {"test/a_crack/000.png": 1, "test/good/000.png": 0, "test/hole/000.png": 1}


def gradient(mode):
    """A 50 x 36 picture in the given PIL mode."""
    y, x = np.mgrid[:36, :50]
    grey = (3 * x + 2 * y).astype(np.uint8)
    rgb = Image.fromarray(np.stack([grey, 255 - grey, grey // 2], axis=2))
    return Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else rgb.convert(mode)


FORMATS = [
    ("RGB", "png"),
    ("L", "png"),
    ("I;16", "png"),
    ("P", "png"),
    ("RGBA", "png"),
    ("LA", "png"),
    ("1", "png"),
    ("RGB", "jpg"),
    ("L", "jpeg"),
]
FORMATS += [("RGB", "bmp"), ("L", "bmp"), ("RGB", "tif"), ("L", "tiff"), ("I;16", "tiff"), ("RGB", "PNG"), ("RGB", "JPG")]


@pytest.mark.parametrize("mode, suffix", FORMATS)
def test_every_format_is_read_as_rgb(tmp_path, mode, suffix):
    path = save(gradient(mode), tmp_path / f"image.{suffix}")
    found = data.read_image(path)
    assert found.mode == "RGB" and found.size == (50, 36)
    with Image.open(path) as stored:
        grey16 = stored.mode.startswith("I")
        expected = np.asarray(gradient("L") if grey16 else stored.convert("RGB"))
    if grey16:
        y, x = np.mgrid[:36, :50]
        expected = np.repeat((3 * x + 2 * y).astype(np.uint8)[..., None], 3, axis=2)
    assert np.array_equal(np.asarray(found), expected)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    path = save(Image.fromarray(np.array([[0, 256, 32768, 65535]], dtype=np.uint16)), tmp_path / "image.png")
    assert np.asarray(data.read_image(path))[0, :, 0].tolist() == [0, 0, 127, 255]


@pytest.mark.parametrize("kind, words", [(np.float32, "floating-point numbers"), (np.int32, "32-bit integers")])
def test_pixels_of_which_nothing_says_what_is_white_are_refused(folder, kind, words):
    """Floats of 0 to 1 would all become 0 or 1 of 255."""
    path = save(Image.fromarray(np.linspace(0, 1, 1280).reshape(32, 40).astype(kind)), folder / "train/good/003.tif")
    (folder / "train/good/003.png").unlink()
    text = problems(folder)
    assert f"{path}: cannot be decoded (pixels are {words}" in text and "8 or 16 bits" in text and "1 problem" in text


@pytest.mark.parametrize("mode, suffix", FORMATS)
def test_folders_of_every_format_load(tmp_path, mode, suffix):
    folder = mvtec_folder(tmp_path / "made_up", train=0, good=0, bad=0)
    for name in ("train/good/a", "test/good/b", "test/hole/c"):
        save(gradient(mode), folder / f"{name}.{suffix}")
    save(mask((50, 36)), folder / "ground_truth/hole/c_mask.png")
    found = load(folder)
    assert found.train.images.shape == (1, 3, 32, 32) and found.test.labels.tolist() == [0, 1] and found.test.masks[1].any()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("value", [1, 255])
def test_masks_of_every_mode_are_anomalous_above_zero(tmp_path, mode, value):
    if mode == "1" and value == 1:
        value = 255  # one bit has no shades
    values = np.zeros((8, 8), np.uint8)
    values[2:5, 3:6] = value
    image = Image.fromarray(values.astype(np.uint16)) if mode == "I;16" else Image.fromarray(values).convert(mode)
    found = np.asarray(data.read_mask(save(image, tmp_path / "000_mask.png")))
    assert set(np.unique(found)) == BLACK_OR_WHITE and np.array_equal(found == 255, values > 0)


MARKED, BLANK = (0, 0, 4), (0, 0, 0)


@pytest.mark.parametrize(
    "mode, suffix, marked, blank",
    [
        ("F", "tif", 0.9, 0.0),
        ("F", "tif", 1e-9, -1.0),
        ("I", "tif", 1, 0),
        ("RGB", "png", MARKED, BLANK),
        ("RGBA", "png", (*MARKED, 255), (*BLANK, 255)),
        ("RGBA", "png", (255, 255, 255, 1), (255, 255, 255, 0)),
        ("LA", "png", (1, 255), (0, 255)),
        ("P", "png", 0, 1),
    ],
)
def test_a_mask_is_anomalous_where_any_channel_is_above_zero(tmp_path, mode, suffix, marked, blank):
    """Conversion to grey would round 0.9 and (0, 0, 4) to 0. Of a palette the colour counts: here number 0 is dark blue, 1 black."""
    image = Image.new(mode, (8, 6), blank)
    if mode == "P":
        image.putpalette([*MARKED, *BLANK])
    image.paste(marked, (3, 2, 6, 5))
    expected = np.zeros((6, 8), bool)
    expected[2:5, 3:6] = True
    assert np.array_equal(np.asarray(data.read_mask(save(image, tmp_path / f"mask.{suffix}"))) == 255, expected)


def test_hidden_files_and_the_licence_beside_the_folders_are_no_problem(folder):
    for name in ("license.txt", "readme.txt"):
        (folder / name).write_text("MVTec AD has these")
    for place in ("", "train", "train/good", "test", "test/hole", "ground_truth"):
        (folder / place / ".DS_Store").write_text("macOS leaves these")
    assert len(load(folder).train) == 4


# --- Resizing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 32), (300, 200), (17, 33), (64, 64)])
def test_antialias_is_torchvisions_resize_on_pil_bit_for_bit(size):
    image = picture(size)
    expected = np.asarray(Resize((64, 64))(image)).transpose(2, 0, 1)
    assert np.array_equal(data.resize(image, 64, "antialias"), expected)


def test_no_antialias_is_another_resize():
    image = picture((300, 200))
    found = data.resize(image, 64, "no_antialias")
    float_image = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(float_image, (64, 64), mode="bilinear", align_corners=False)[0].numpy()
    assert np.abs(found - expected).max() <= 1  # rounding to 8 bits
    assert np.abs(found.astype(int) - data.resize(image, 64, "antialias")).max() > 20


@pytest.mark.parametrize("seed", range(3))
def test_over_half_is_the_official_threshold(seed):
    rng = np.random.default_rng(seed)
    original = Image.fromarray((rng.uniform(size=(90, 70)) < 0.5).astype(np.uint8) * 255)
    expected = ToTensor()(Resize((64, 64))(original))[0].numpy() > 0.5
    assert np.array_equal(data.resize_mask(original, 64, "over_half"), expected)
    assert 0 < expected.mean() < 1


def test_any_keeps_what_over_half_loses():
    thin = mask((256, 256), (100, 0, 101, 256))
    assert not data.resize_mask(thin, 32, "over_half").any()
    assert data.resize_mask(thin, 32, "any").any(axis=1).all()


@pytest.mark.parametrize("rule, lost", [("over_half", 2), ("any", 0)])
def test_regions_that_vanish_are_counted(tmp_path, rule, lost):
    folder = mvtec_folder(tmp_path / "made_up", bad=1, size=(256, 256))
    three = np.asarray(mask((256, 256), (10, 10, 100, 100))).copy()
    three[200, 200] = three[200, 100] = 255  # two regions of one pixel
    save(Image.fromarray(three), folder / "ground_truth/hole/000_mask.png")
    assert load(folder, config(mask_rule=rule)).notes["vanished_regions"] == lost


def test_regions_that_merge_have_not_vanished(tmp_path):
    folder = mvtec_folder(tmp_path / "made_up", bad=1, size=(256, 256))
    two = np.asarray(mask((256, 256), (10, 10, 200, 100))).copy()
    two[:, 100] = 0  # a gap of one pixel, lost at 32 px
    save(Image.fromarray(two), folder / "ground_truth/hole/000_mask.png")
    assert load(folder).notes["vanished_regions"] == 0


# --- The manifest -------------------------------------------------------------------------------------------------


def test_the_manifest_is_that_of_names_and_contents(folder):
    files = sorted(p for p in folder.rglob("*.png"))
    lines = [f"{p.relative_to(folder).as_posix()} {hashlib.sha256(p.read_bytes()).hexdigest()}\n" for p in files]
    assert load(folder).manifest == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_manifest_does_not_depend_on_the_place(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere" / "made_up")
    assert load(tmp_path / "elsewhere" / "made_up").manifest == load(folder).manifest


@pytest.mark.parametrize("name", ["train/good/001.png", "test/good/000.png", "test/hole/001.png", "ground_truth/hole/000_mask.png"])
def test_one_byte_changes_the_manifest(folder, name):
    before = load(folder).manifest
    path = folder / name
    path.write_bytes(path.read_bytes() + b"\0")  # after the PNG's end: the pixels stay
    assert load(folder).manifest != before


def test_one_name_changes_the_manifest(folder):
    before = load(folder).manifest
    (folder / "train/good/003.png").rename(folder / "train/good/004.png")
    assert load(folder).manifest != before


# --- What is refused ----------------------------------------------------------------------------------------------


def test_a_missing_mask_is_named(folder):
    (folder / "ground_truth/hole/001_mask.png").unlink()
    text = problems(folder)
    assert f"{folder / 'test/hole/001.png'}: no mask {folder / 'ground_truth/hole/001_mask'}.png" in text and "1 problem" in text


def test_a_missing_folder_of_masks_is_a_missing_mask_for_each_image(folder):
    shutil.rmtree(folder / "ground_truth")
    text = problems(folder)
    assert "2 problem" in text and str(folder / "test/hole/000.png") in text and str(folder / "test/hole/001.png") in text


def test_a_mask_without_an_image_is_named(folder):
    save(mask(), folder / "ground_truth/hole/007_mask.png")
    assert f"{folder / 'ground_truth/hole/007_mask.png'}: mask without an image" in problems(folder)


def test_masks_of_a_defect_that_has_no_images_are_named(folder):
    save(mask(), folder / "ground_truth/crack/000_mask.png")
    assert str(folder / "ground_truth/crack") in problems(folder)


def test_an_image_beside_the_defect_folders_is_named(folder):
    save(picture(), folder / "test/000.png")
    assert str(folder / "test/000.png") in problems(folder)


@pytest.mark.parametrize("name", ["train/good/002.png", "test/hole/000.png", "ground_truth/hole/000_mask.png"])
@pytest.mark.parametrize("keep", [0, 20, 50])
def test_a_truncated_png_is_named(folder, name, keep):
    path = folder / name
    path.write_bytes(path.read_bytes()[:keep])
    text = problems(folder)
    assert f"{path}: cannot be decoded" in text and "1 problem" in text


@pytest.mark.parametrize("suffix", ["jpg", "bmp"])
def test_other_truncated_files_are_named(folder, suffix):
    path = save(picture((200, 200)), folder / f"train/good/cut.{suffix}")
    path.write_bytes(path.read_bytes()[:1000])
    assert f"{path}: cannot be decoded" in problems(folder)


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "test/good/001.png").write_text("<html>not found</html>")
    assert f"{folder / 'test/good/001.png'}: cannot be decoded" in problems(folder)


def test_an_oversized_mask_is_named_itself_not_its_image(folder):
    header = bytearray((folder / "ground_truth/hole/000_mask.png").read_bytes())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    (folder / "ground_truth/hole/000_mask.png").write_bytes(header)
    assert f"{folder / 'ground_truth/hole/000_mask.png'}: " in problems(folder)


def test_no_training_images(tmp_path):
    folder = mvtec_folder(tmp_path / "made_up", train=0)
    (folder / "train/good").mkdir(parents=True)
    assert f"{folder / 'train/good'}: no images" in problems(folder)


def test_no_test_images(tmp_path):
    folder = mvtec_folder(tmp_path / "made_up", good=0, bad=0)
    (folder / "test").mkdir()
    assert f"{folder / 'test'}: no images" in problems(folder)


@pytest.mark.parametrize("part", ["train/good", "test"])
def test_missing_folders_are_named(folder, part):
    shutil.rmtree(folder / part)
    assert f"{folder}: no folder {part}" in problems(folder)


def test_a_category_that_is_not_there_is_named(tmp_path):
    assert str(tmp_path / "made_up") in problems(tmp_path / "made_up")


def test_a_mask_of_another_size_is_named_with_both_sizes(folder):
    save(mask((32, 40)), folder / "ground_truth/hole/001_mask.png")
    text = problems(folder)
    assert f"{folder / 'ground_truth/hole/001_mask.png'}: mask is 32x40" in text and "001.png is 40x32" in text


def test_an_empty_mask_is_named(folder):
    save(mask(box=(0, 0, 0, 0)), folder / "ground_truth/hole/001_mask.png")
    assert f"{folder / 'ground_truth/hole/001_mask.png'}: mask is empty" in problems(folder)


@pytest.mark.parametrize("name", ["000.png", "notes.txt", "license.png"])
def test_a_stray_file_at_the_top_of_a_category_is_named(folder, name):
    (folder / name).write_text("?")
    assert f"{folder / name}: unexpected file (a category holds train, test, ground_truth)" in problems(folder)


def test_what_is_missing_does_not_hide_the_rest(folder):
    """Every problem at once, also without train/good and test."""
    shutil.rmtree(folder / "train/good")
    shutil.rmtree(folder / "test")
    (folder / "notes.txt").touch()
    text = problems(folder)
    assert f"{folder}: no folder train/good, no folder test; expected" in text and f"{folder / 'notes.txt'}: unexpected file" in text
    assert "2 problem" in text


@pytest.mark.parametrize("name", ["train/good/notes.txt", "test/good/Thumbs.db", "test/hole/000.gif", "ground_truth/hole/readme.md"])
def test_an_unexpected_file_is_named(folder, name):
    (folder / name).write_text("?")
    assert f"{folder / name}: unexpected file" in problems(folder)


def test_a_folder_among_the_images_is_named(folder):
    (folder / "train/good/more").mkdir()
    assert f"{folder / 'train/good/more'}: unexpected" in problems(folder)


def test_an_unexpected_folder_in_train_is_named(folder):
    (folder / "train/bad").mkdir()
    assert f"{folder / 'train/bad'}: unexpected folder" in problems(folder)


@pytest.mark.parametrize("name", ["train/good/000.jpg", "test/hole/001.bmp"])
def test_the_same_name_with_two_suffixes_is_named(folder, name):
    save(picture(), folder / name)
    text = problems(folder)
    assert f"{folder / name}: another image has the same name" in text


def test_all_problems_are_reported_at_once(folder):
    (folder / "ground_truth/hole/001_mask.png").unlink()
    save(mask((8, 8)), folder / "ground_truth/hole/000_mask.png")
    (folder / "train/good/000.png").write_bytes(b"")
    (folder / "test/good/notes.txt").write_text("?")
    text = problems(folder)
    named = ("test/hole/001.png", "ground_truth/hole/000_mask.png", "train/good/000.png", "test/good/notes.txt")
    assert "4 problem" in text and all(str(folder / name) in text for name in named)


def test_a_long_list_is_not_cut(tmp_path):
    folder = mvtec_folder(tmp_path / "made_up", bad=50)
    shutil.rmtree(folder / "ground_truth")
    text = problems(folder)
    assert "50 problem" in text and all(f"{folder}/test/hole/{i:03d}.png: no mask" in text for i in range(50))


def test_an_empty_data_root_says_what_to_give():
    with pytest.raises(DataError, match="data_root is empty.*made_up/train/good"):
        data.load(CFG, "")


def test_a_folder_of_masks_for_normal_images_is_named(folder):
    save(mask(), folder / "ground_truth/good/000_mask.png")
    assert f"{folder / 'ground_truth/good'}: masks of no defect" in problems(folder)


def test_a_defect_without_images_is_named(folder):
    (folder / "test/crack").mkdir()
    assert f"{folder / 'test/crack'}: no images of this defect" in problems(folder)


def test_an_unexpected_folder_in_a_category_is_named(folder):
    (folder / "test (copy)").mkdir()
    assert f"{folder / 'test (copy)'}: unexpected folder" in problems(folder)


@pytest.mark.parametrize("method, size, refused", [("reverse", 32, True), ("reverse", 64, False), ("conventional", 32, False)])
def test_one_training_image_needs_more_than_one_position(tmp_path, method, size, refused):
    mvtec_folder(tmp_path / "made_up", train=1)
    cfg = config(teacher="efficientnet_lite0", method=method, image_size=size)
    if refused:
        with pytest.raises(DataError, match="train/good: 1 training image; at image_size=32.*take image_size=64"):
            data.load(cfg, tmp_path)
    else:
        assert len(data.load(cfg, tmp_path).train) == 1


# --- What every run is told ---------------------------------------------------------------------------------------


def test_test_images_that_are_training_images_are_counted(folder):
    """As they are, and under another name in another format; one pixel off is another image."""
    (folder / "test/good/000.png").write_bytes((folder / "train/good/000.png").read_bytes())
    with Image.open(folder / "train/good/001.png") as image:
        save(image, folder / "test/hole/001.bmp")
        image.putpixel((0, 0), tuple(255 - v for v in image.getpixel((0, 0))))
        save(image, folder / "test/good/almost.png")
    (folder / "test/hole/001.png").unlink()
    found = load(folder)
    pairs = (("train/good/000.png", "test/good/000.png"), ("train/good/001.png", "test/hole/001.bmp"))
    assert found.notes["train_test_duplicates"] == 2 and found.duplicates == pairs
    assert data.remarks(found, CFG) == [f"{test}: has exactly the pixels of {train}" for train, test in pairs]


def test_a_test_image_that_is_two_training_images_is_one(folder):
    for name in ("train/good/001.png", "test/good/001.png"):
        (folder / name).write_bytes((folder / "train/good/000.png").read_bytes())
    found = load(folder)
    assert found.notes["train_test_duplicates"] == 1
    assert found.duplicates == (("train/good/000.png", "test/good/001.png"), ("train/good/001.png", "test/good/001.png"))


@pytest.mark.parametrize("planted", [0, 2])
def test_duplicates_and_counts_come_from_the_store_as_they_went_in(folder, tmp_path, planted):
    for i in range(planted):
        (folder / f"test/good/00{i}.png").write_bytes((folder / f"train/good/00{i}.png").read_bytes())
    stores = [Store(tmp_path / "store") for _ in range(2)]
    first, again = (data.load(CFG, folder.parent, store) for store in stores)
    assert [store.log["images"] for store in stores] == ["computed and kept", "read"]
    assert first.duplicates == again.duplicates == load(folder).duplicates and len(first.duplicates) == planted
    assert first.notes == again.notes and np.array_equal(first.test.masks, again.test.masks)


def test_the_shape_is_part_of_a_pictures_hash():
    """Grey pictures of 4 x 2 and 2 x 4 pixels have the same bytes."""
    assert data.pixel_hash(Image.new("RGB", (4, 2))) != data.pixel_hash(Image.new("RGB", (2, 4)))


def test_copies_within_one_split_are_no_leak(folder):
    (folder / "train/good/000.png").write_bytes((folder / "train/good/001.png").read_bytes())
    (folder / "test/good/000.png").write_bytes((folder / "test/good/001.png").read_bytes())
    assert load(folder).notes["train_test_duplicates"] == 0


@pytest.mark.parametrize("official, differs", [((4, 4), 0), ((5, 4), 1), ((3, 6), 3)])
def test_counts_are_compared_with_the_official_ones(tmp_path, monkeypatch, official, differs):
    monkeypatch.setitem(data.MVTEC_COUNTS, "bottle", official)
    mvtec_folder(tmp_path / "bottle")
    cfg = config(category="bottle")
    found = data.load(cfg, tmp_path)
    assert found.notes["differs_from_official"] == differs
    said = f"bottle: 4 training and 4 test images, MVTec AD has {official[0]} and {official[1]}"
    assert data.remarks(found, cfg) == [said] * bool(differs)


def test_only_mvtec_has_official_counts(tmp_path):
    mvtec_folder(tmp_path / "bottle")
    assert "differs_from_official" not in data.load(config(dataset="demo", category="bottle"), tmp_path).notes


# --- Novelty: MNIST and Fashion-MNIST -----------------------------------------------------------------------------

MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MNIST_SETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


def idx(values):
    """The idx format: two zero bytes, type (8 = unsigned byte), dimensions, sizes as big-endian ints, data."""
    return bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.astype(np.uint8).tobytes()


def mnist_content():
    rng = np.random.default_rng(0)
    train_y, test_y = np.arange(30) % 10, np.arange(20) % 10
    return rng.integers(0, 256, (30, 28, 28)), train_y, rng.integers(0, 256, (20, 28, 28)), test_y


def md5(content):
    return hashlib.md5(content).hexdigest()


def write_mnist(folder, packed=False, content=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in zip(MNIST_FILES, content or mnist_content()):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values), mtime=0))
        else:
            (folder / name).write_bytes(idx(values))


@pytest.fixture(autouse=True)
def official_mnist(monkeypatch):
    """The made-up files are the originals: their counts and the md5 of each packed one. Gives the true counts."""
    sums = [md5(gzip.compress(idx(values), mtime=0)) for values in mnist_content()]
    for name in MNIST_SETS.values():
        cls = getattr(datasets, name)
        monkeypatch.setattr(cls, "resources", [(url, s) for (url, _), s in zip(cls.resources, sums, strict=True)])
    counts = data.MNIST_COUNTS
    monkeypatch.setattr(data, "MNIST_COUNTS", (30, 20))
    return counts


def novelty(dataset, **params):
    return Config.create(dataset=dataset, normal_class=3, **params)


@pytest.mark.parametrize("dataset", MNIST_SETS)
@pytest.mark.parametrize("layout", ["plain", "gz", "torchvision"])
def test_mnist_in_every_layout(tmp_path, dataset, layout):
    write_mnist(tmp_path / f"{MNIST_SETS[dataset]}/raw" if layout == "torchvision" else tmp_path, packed=layout == "gz")
    found = data.load(novelty(dataset), tmp_path)
    train_x, train_y, test_x, test_y = mnist_content()
    assert found.train.images.shape == (3, 1, 32, 32) and not found.train.labels.any()
    assert found.train.paths == ("train/00003", "train/00013", "train/00023")
    assert found.test.images.shape == (20, 1, 32, 32) and found.test.labels.tolist() == (test_y != 3).astype(int).tolist()
    assert found.test.paths[12] == "test/00012-class2" and found.test.masks is None
    chosen = Image.fromarray(train_x[13].astype(np.uint8))
    assert np.array_equal(found.train.images[1, 0], np.asarray(Resize((32, 32))(chosen)))
    expected = b"".join(a.tobytes() for a in (train_x.astype(np.uint8), train_y, test_x.astype(np.uint8), test_y))
    assert found.manifest == hashlib.sha256(expected).hexdigest()


def test_mnist_duplicates_are_counted(tmp_path):
    """Images 3 and 13 of the training set are of class 3, image 4 is not."""
    train_x, train_y, test_x, test_y = mnist_content()
    test_x[7], test_x[8], test_x[9] = train_x[3], train_x[13], train_x[4]
    write_mnist(tmp_path, content=(train_x, train_y, test_x, test_y))
    found = data.load(novelty("mnist"), tmp_path)
    assert found.notes == {"train_test_duplicates": 2}
    assert found.duplicates == (("train/00003", "test/00007-class7"), ("train/00013", "test/00008-class8"))


def test_mnist_leaves_the_users_folder_as_it_was(tmp_path):
    write_mnist(tmp_path / "user", packed=True)
    before = sorted(p.name for p in (tmp_path / "user").rglob("*"))
    data.load(novelty("mnist"), tmp_path / "user")
    assert sorted(p.name for p in (tmp_path / "user").rglob("*")) == before


def test_mnist_without_antialiasing(tmp_path):
    write_mnist(tmp_path)
    found = data.load(novelty("mnist", resize="no_antialias"), tmp_path)
    original = torch.from_numpy(mnist_content()[0][3].astype(np.uint8))[None]
    assert np.array_equal(found.train.images[0], TF.resize(original, [32, 32], antialias=False).numpy())


def test_missing_mnist_files_are_named(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / MNIST_FILES[1]).unlink()
    (tmp_path / MNIST_FILES[2]).unlink()
    with pytest.raises(DataError) as caught:
        data.load(novelty("mnist"), tmp_path)
    assert all((str(tmp_path / name) in str(caught.value)) == (name in MNIST_FILES[1:3]) for name in MNIST_FILES)


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_a_novelty_folder_that_is_empty_or_not_there(tmp_path, dataset):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=f"{place}: no such folder, or empty; expected "):
            data.load(novelty(dataset), place)


def cut(content):
    return content[:200]


def corrupt(content):
    """The deflate stream is broken, header and end are whole."""
    return content[:100] + bytes(b ^ 255 for b in content[100:140]) + content[140:]


@pytest.mark.parametrize("spoil", [cut, corrupt, lambda content: b"<html>please log in</html>", lambda content: gzip.compress(b"other")])
def test_a_gzip_file_that_is_not_the_original_is_named(tmp_path, spoil):
    write_mnist(tmp_path, packed=True)
    path = tmp_path / f"{MNIST_FILES[0]}.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=f"^{path}: md5 is {hashlib.md5(path.read_bytes()).hexdigest()}.*fetch the original again"):
        data.load(novelty("mnist"), tmp_path)


def test_the_packed_original_counts_where_both_are_there(tmp_path):
    write_mnist(tmp_path, packed=True)
    (tmp_path / MNIST_FILES[1]).write_bytes(idx(np.zeros(30)))
    assert len(data.load(novelty("mnist"), tmp_path).train) == 3


@pytest.mark.parametrize("name", MNIST_FILES)
@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03", b"<html>please log in</html>" * 9, bytes(500), b"\0\0\x0f\x01" + bytes(500)])
def test_what_is_no_idx_file_is_named(tmp_path, name, content):
    write_mnist(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"^{tmp_path / name}: is not the original file of .*there are {len(content)} .*put the original"):
        data.load(novelty("mnist"), tmp_path)


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"\0"])
def test_an_idx_file_of_another_length_is_named(tmp_path, change):
    write_mnist(tmp_path)
    path = tmp_path / MNIST_FILES[2]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=f"^{path}: is not the original file of 20 images: 15696 bytes"):
        data.load(novelty("mnist"), tmp_path)


@pytest.mark.parametrize("dataset", MNIST_SETS)
@pytest.mark.parametrize("mixed, named", [((0, 3, 2, 3), 1), ((0, 1, 2, 1), 3), ((2, 3, 0, 1), 0), ((0, 1, 0, 1), 2)])
def test_train_and_test_files_that_are_mixed_up_are_named(tmp_path, dataset, mixed, named):
    """Test labels for training images, the reverse, both splits exchanged, the training set twice: each would train silently."""
    contents = mnist_content()
    write_mnist(tmp_path, content=[contents[i] for i in mixed])
    with pytest.raises(DataError, match=f"^{tmp_path / MNIST_FILES[named]}: is not the original file of .*mixed up"):
        data.load(novelty(dataset), tmp_path)


def test_mnist_has_its_official_counts_unless_a_test_says_otherwise(official_mnist):
    assert official_mnist == (60_000, 10_000)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10"])
def test_novelty_needs_a_folder_and_says_how_to_get_one(dataset):
    with pytest.raises(DataError, match="data_root is empty.*download=True"):
        data.load(novelty(dataset), "")


# --- Novelty: CIFAR-10 --------------------------------------------------------------------------------------------


def cifar_batches():
    """Name -> (images (N, 32, 32, 3), classes); ten images each."""
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return {name: (rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8), rng.permutation(10)) for name in names}


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder cifar-10-batches-py of ten images per file, whose md5 sums torchvision is told to expect."""
    folder = tmp_path / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    contents = {
        n: pickle.dumps({"data": x.transpose(0, 3, 1, 2).reshape(10, -1), "labels": y.tolist()}) for n, (x, y) in cifar_batches().items()
    }
    contents["batches.meta"] = pickle.dumps({"label_names": [f"class{i}" for i in range(10)]})
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    cls = datasets.CIFAR10
    monkeypatch.setattr(cls, "train_list", [[n, md5(contents[n])] for n, _ in cls.train_list])
    monkeypatch.setattr(cls, "test_list", [[n, md5(contents[n])] for n, _ in cls.test_list])
    monkeypatch.setattr(cls, "meta", cls.meta | {"md5": md5(contents["batches.meta"])})
    return folder


def pack(folder, target):
    with tarfile.open(target, "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")


@pytest.mark.parametrize("layout", ["root", "folder", "archive"])
def test_cifar_in_every_layout(cifar, tmp_path, layout):
    places = {"root": cifar.parent, "folder": cifar, "archive": tmp_path / "packed"}
    (tmp_path / "packed").mkdir()
    pack(cifar, tmp_path / "packed" / "cifar-10-python.tar.gz")
    found = data.load(novelty("cifar10"), places[layout])
    batches = cifar_batches()
    train_x = np.concatenate([x[y == 3] for n, (x, y) in batches.items() if n != "test_batch"])
    assert np.array_equal(found.train.images, train_x.transpose(0, 3, 1, 2)) and len(train_x) == 5
    assert np.array_equal(found.test.images, batches["test_batch"][0].transpose(0, 3, 1, 2))
    assert found.test.labels.tolist() == (batches["test_batch"][1] != 3).astype(int).tolist()


@pytest.mark.parametrize("name", ["data_batch_4", "test_batch"])
def test_missing_cifar_files_are_named(cifar, name):
    (cifar / name).unlink()
    with pytest.raises(DataError, match=f"{cifar.parent}: not a complete copy of cifar10.*{name}"):
        data.load(novelty("cifar10"), cifar.parent)


def test_a_changed_cifar_file_is_refused(cifar):
    (cifar / "data_batch_2").write_bytes((cifar / "data_batch_2").read_bytes() + b"\0")
    with pytest.raises(DataError, match="not a complete copy of cifar10"):
        data.load(novelty("cifar10"), cifar.parent)


def test_a_truncated_cifar_archive_is_named(cifar, tmp_path):
    (tmp_path / "packed").mkdir()
    path = tmp_path / "packed" / "cifar-10-python.tar.gz"
    pack(cifar, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=f"{tmp_path / 'packed'}.*cifar"):
        data.load(novelty("cifar10"), tmp_path / "packed")


def test_an_archive_that_would_write_outside_its_folder_is_refused(cifar, tmp_path):
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "cifar-10-python.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("../../escaped")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="packed.*cifar"):
        data.load(novelty("cifar10"), tmp_path / "packed")


# --- Novelty: digits ----------------------------------------------------------------------------------------------


def test_digits_train_on_one_class_and_test_on_all():
    from sklearn.datasets import load_digits

    digits = load_digits()
    found = data.load(novelty("digits"))
    assert found.train.images.shape == (int((digits.target[:1000] == 3).sum()), 1, 32, 32)
    assert found.test.images.shape == (797, 1, 32, 32) and found.test.masks is None
    assert found.test.labels.tolist() == (digits.target[1000:] != 3).astype(int).tolist()
    indices = [int(p.removeprefix("train/")) for p in found.train.paths]
    assert (digits.target[indices] == 3).all() and max(indices) < 1000
    assert found.train.images.min() == 0 and found.train.images.max() == 255


def test_digits_classes_share_the_test_set():
    three, four = (data.load(Config.create(dataset="digits", normal_class=n)) for n in (3, 4))
    assert np.array_equal(three.test.images, four.test.images) and three.manifest == four.manifest
    assert not set(three.train.paths) & set(four.train.paths)


def test_demo_is_read_by_the_ordinary_loader(monkeypatch, tmp_path):
    """An empty data_root means the embedded set; here a stand-in of the same layout."""
    mvtec_folder(tmp_path / "demo" / "brick")
    monkeypatch.setattr("rdlib.demo.demo_root", lambda: tmp_path / "demo")
    found = data.load(Config.create(dataset="demo", category="brick"), "")
    assert found.test.images.shape == (4, 3, 128, 128) and found.test.labels.sum() == 2
