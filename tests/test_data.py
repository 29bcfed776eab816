"""Folders in MVTec layout: what is read from them and how, what is passed over, and what is refused."""

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import config, mask, mvtec_folder, picture, save
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import Resize, ToTensor

from rdlib import data, layouts, pictures
from rdlib.config import Config
from rdlib.datasets import MVTEC_COUNTS
from rdlib.errors import DataError
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
        _, found, said = layouts.find_items(folder)
    assert {item.image: item.mask for item in found} == {image: mask if mask in there else None for image, mask in wanted.items()}
    missing, extra = (image for image, mask in wanted.items() if mask not in there), there - set(wanted.values())
    expected = [f"{image}: no mask " for image in missing] + [f"{mask}: mask without an image" for mask in extra]
    assert len(said) == len(expected) and all(any(line.startswith(words) for line in said) for words in expected)


def gradient(mode):
    """A 50 x 36 picture in the given PIL mode."""
    y, x = np.mgrid[:36, :50]
    grey = (3 * x + 2 * y).astype(np.uint8)
    rgb = Image.fromarray(np.stack([grey, 255 - grey, grey // 2], axis=2))
    return Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else rgb.convert(mode)


FORMATS = [(mode, "png") for mode in ("RGB", "L", "I;16", "P", "RGBA", "LA", "1")]
FORMATS += [("RGB", "jpg"), ("L", "jpeg")]
FORMATS += [("RGB", "bmp"), ("L", "bmp"), ("RGB", "tif"), ("L", "tiff"), ("I;16", "tiff"), ("RGB", "webp"), ("RGB", "PNG"), ("RGB", "JPG")]


@pytest.mark.parametrize("mode, suffix", FORMATS)
def test_every_format_is_read_as_rgb(tmp_path, mode, suffix):
    path = save(gradient(mode), tmp_path / f"image.{suffix}")
    found = pictures.read_image(path)
    assert found.mode == "RGB" and found.size == (50, 36)
    with Image.open(path) as stored:
        grey16 = stored.mode.startswith("I")
        expected = np.asarray(gradient("L") if grey16 else stored.convert("RGB"))
    if grey16:
        y, x = np.mgrid[:36, :50]
        expected = np.repeat((3 * x + 2 * y).astype(np.uint8)[..., None], 3, axis=2)
    assert np.array_equal(np.asarray(found), expected)


def test_a_folder_may_hold_every_format(folder):
    for number, (mode, suffix) in enumerate(FORMATS):
        save(gradient(mode), folder / f"train/good/in_{number}.{suffix}")
    assert load(folder).train.images.shape == (4 + len(FORMATS), 3, 32, 32)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    path = save(Image.fromarray(np.array([[0, 256, 32768, 65535]], dtype=np.uint16)), tmp_path / "image.png")
    assert np.asarray(pictures.read_image(path))[0, :, 0].tolist() == [0, 0, 127, 255]


# --- Masks: what is anomalous, a file's values say ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("value", [1, 255])
def test_one_value_beside_black_is_anomalous_whatever_it_is(tmp_path, mode, value):
    if mode == "1" and value == 1:
        value = 255  # one bit has no shades
    values = np.zeros((8, 8), np.uint8)
    values[2:5, 3:6] = value
    image = Image.fromarray(values.astype(np.uint16)) if mode == "I;16" else Image.fromarray(values).convert(mode)
    found = np.asarray(pictures.read_mask(save(image, tmp_path / "000_mask.png")))
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
    assert np.array_equal(np.asarray(pictures.read_mask(save(image, tmp_path / f"mask.{suffix}"))) == 255, expected)


def mask_of(tmp_path, values, kind=np.uint8, suffix="png"):
    """What is read from a file of these values: mask, and the remarks."""
    said = {}
    return pictures.read_mask(save(Image.fromarray(np.array(values, kind)), tmp_path / f"000_mask.{suffix}"), said), list(said)


NEITHER = "neither black and white nor label numbers, anomalous is what is "


@pytest.mark.parametrize(
    ("values", "anomalous", "remark"),
    [
        ([0, 1, 2, 3], [0, 1, 1, 1], ""),  # label numbers, as of several kinds of defect in one file
        ([0, 5, 31, 0], [0, 1, 1, 0], ""),
        ([0, 255, 254, 253], [0, 1, 1, 1], ""),  # MVTec LOCO's numbers
        ([0, 100, 128, 255], [0, 0, 1, 1], ""),  # white with grey edges
        ([3, 9, 247, 255], [0, 0, 1, 1], ""),  # the noise of JPEG
        ([1, 255, 1, 255], [0, 1, 0, 1], ""),
        ([0, 7, 100, 0], [0, 1, 1, 0], NEITHER + "above 0"),
        ([0, 100, 127, 200], [0, 0, 0, 1], NEITHER + "brighter than half"),
    ],
)
def test_the_values_of_a_file_say_what_is_anomalous(tmp_path, values, anomalous, remark):
    found, said = mask_of(tmp_path, [values])
    assert pictures.region_of(found)[0].tolist() == [bool(a) for a in anomalous] and said == [remark] * bool(remark)


@pytest.mark.parametrize(("kind", "white", "suffix"), [(np.uint16, 65535, "png"), (np.float32, 1.0, "tif"), (np.int32, 65535, "tif")])
def test_grey_edges_of_more_than_eight_bits_are_scaled(tmp_path, kind, white, suffix):
    found, said = mask_of(tmp_path, [[0, 0.25 * white, 0.75 * white, white]], kind, suffix)
    assert np.asarray(found).tolist() == [[0, 63, 191, 255]] and not said


def test_a_grey_area_beside_white_is_told(tmp_path):
    """Edges are nowhere even over 3 x 3 pixels; an area of 100 may well be a defect of another kind."""
    values = np.zeros((20, 20))
    values[2:8, 2:8], values[12:18, 12:18] = 255, 100
    found, said = mask_of(tmp_path, values)
    assert pictures.region_of(found).sum() == 36 and said == [NEITHER + "brighter than half"]


def test_colours_of_a_palette_are_labels(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8), mode=None).convert("P")
    image.putpalette([0, 0, 0, 64, 0, 0, 0, 128, 0, 255, 255, 255])
    image.putdata([0, 1, 2, 3])
    said = {}
    found = pictures.read_mask(save(image, tmp_path / "000_mask.png"), said)
    assert pictures.region_of(found).tolist() == [[False, True, True, True]] and not said


@pytest.mark.parametrize("size", [64, 100, 256])
@pytest.mark.parametrize("seed", range(3))
def test_a_mask_that_was_resized_before_is_the_official_one(tmp_path, size, seed):
    """The official code: ToTensor(Resize(mask)) > 0.5, of the greys that are in the file."""
    rng = np.random.default_rng(seed)
    drawn = Image.fromarray(np.kron(rng.integers(0, 2, (9, 9)), np.full((40, 40), 255)).astype(np.uint8))
    path = save(drawn.resize((256, 256), Image.Resampling.BILINEAR), tmp_path / "000_mask.png")
    with Image.open(path) as stored:
        expected = ToTensor()(Resize((size, size))(stored))[0].numpy() > 0.5
        assert ((np.asarray(stored) > 0) & (np.asarray(stored) < 255)).any()
    assert np.array_equal(pictures.resize_mask(pictures.read_mask(path), size, "over_half"), expected)


@given(box=st.tuples(*[st.integers(2, 40)] * 2, *[st.integers(46, 62)] * 2), quality=st.integers(50, 95))
def test_the_noise_of_jpeg_does_not_grow_a_region(box, quality):
    drawn = mask((64, 64), box)
    with tempfile.TemporaryDirectory() as tmp:
        drawn.save(Path(tmp, "m.jpg"), quality=quality)
        said = {}
        found = pictures.read_mask(Path(tmp, "m.jpg"), said)
    for size, rule in ((64, "over_half"), (64, "any"), (32, "any")):
        assert np.array_equal(pictures.resize_mask(found, size, rule), pictures.resize_mask(drawn, size, rule))
    assert not said


def test_regions_with_grey_edges_vanish_as_a_whole_or_not(tmp_path):
    """Three regions: 5 x 5 pixels, one pixel that its wide edge keeps above half, one pixel with a narrow edge that vanishes."""
    folder = mvtec_folder(tmp_path / "made_up", bad=1, size=(64, 64))
    values = np.zeros((64, 64), np.uint8)
    values[9:16, 9:16], values[10:15, 10:15] = 120, 255
    values[26:35, 26:35], values[30, 30] = 126, 200
    values[50:53, 50:53], values[51, 51] = 126, 130
    save(Image.fromarray(values), folder / "ground_truth/hole/000_mask.png")
    assert load(folder).notes["vanished_regions"] == 1
    assert load(folder, config(mask_rule="any")).notes["vanished_regions"] == 0


# --- As a screen shows it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [0, 90, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_lies_under_transparent_pixels_does_not_count(tmp_path, hidden, mode):
    values = np.full((40, 40, 4), hidden, np.uint8)
    values[..., 3] = 0
    values[10:30, 10:30] = (120, 120, 120, 255)
    if mode == "P":
        image = Image.fromarray((values[..., 3] > 0).astype(np.uint8)).convert("P")
        image.putpalette([hidden] * 3 + [120] * 3)
        image.putdata((values[..., 3] > 0).astype(int).ravel().tolist())
        image.info["transparency"] = 0
    else:
        image = Image.fromarray(values).convert(mode)
    found = np.asarray(pictures.read_image(save(image, tmp_path / "a.png")))
    expected = np.zeros((40, 40, 3), np.uint8)
    expected[10:30, 10:30] = 120
    assert np.array_equal(found, expected)


def test_what_is_half_transparent_is_half_as_bright(tmp_path):
    path = save(Image.new("RGBA", (2, 2), (200, 100, 50, 128)), tmp_path / "a.png")
    assert np.abs(np.asarray(pictures.read_image(path))[0, 0] - np.array([100, 50, 25])).max() <= 1


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("mode, suffix", [("RGB", "png"), ("RGB", "jpg"), ("L", "tif"), ("I;16", "png"), ("I", "tif")])
def test_a_photograph_and_its_mask_are_turned_alike(tmp_path, number, mode, suffix):
    """The same picture as photograph and as mask, both with an EXIF orientation: white in the corner that it says."""
    there = np.zeros((48, 64), np.uint8)
    there[:12, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = number
    photo, drawn = tmp_path / "photo.png", tmp_path / f"mask.{suffix}"
    Image.fromarray(there).convert("RGB").save(photo, exif=exif)
    Image.fromarray(there.astype({"I;16": np.uint16, "I": np.int32}.get(mode, np.uint8))).save(drawn, exif=exif)
    image, found = pictures.read_image(photo), pictures.read_mask(drawn)
    assert image.size == found.size == ((64, 48) if number < 5 else (48, 64))
    assert np.array_equal(np.asarray(image)[..., 0] > 127, pictures.region_of(found)) and pictures.region_of(found).sum() == 12 * 16
    assert pictures.region_of(found)[0, 0] == (number in (1, 5))


@pytest.mark.parametrize("suffix", ["tif", "webp", "png"])
def test_further_pages_and_frames_are_told(folder, tmp_path, suffix):
    for name in ("train/good/004", "ground_truth/hole/000_mask"):
        (folder / f"{name}.png").unlink(missing_ok=True)
        pages = [mask(), mask(box=(20, 4, 36, 16))]
        pages[0].save(folder / f"{name}.{suffix}", save_all=True, append_images=pages[1:], **{"lossless": True} if suffix == "webp" else {})
    store = tmp_path / "store"
    for _ in range(2):
        found = data.load(CFG, folder.parent, Store(store))
        text = f"more than one page or frame, only the first is read: train/good/004.{suffix}, ground_truth/hole/000_mask.{suffix}"
        assert found.said == (text,) and f"{CFG.category}: {text}" in data.remarks(found, CFG)
        assert np.array_equal(found.test.masks[2], pictures.resize_mask(mask(), 32, "over_half"))


# --- What is passed over ------------------------------------------------------------------------------------------

LEFT = (".DS_Store", "._000.png", "Thumbs.db", "desktop.ini", "@eaDir/000.png", "__MACOSX/._000.png")


def write(path, text="?"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("name", LEFT)
def test_what_systems_leave_in_folders_is_passed_over_without_a_word(folder, name):
    before = load(folder)
    for place in ("", "train", "train/good", "test", "test/hole", "ground_truth", "ground_truth/hole"):
        write(folder / place / name)
    for text in ("license.txt", "readme.txt"):
        write(folder / text, "MVTec AD has these")
    found = load(folder)
    assert found.manifest == before.manifest and found.test.paths == before.test.paths and data.remarks(found, CFG) == []
    assert layouts.categories(folder.parent) == {"made_up": folder}


def test_what_changes_no_number_is_a_remark(folder):
    before = load(folder)
    names = ["ground_truth/origin.json", "origin.json", "test/hole/000.json", "test/notes.md", "train/LICENSE", "train/good/list.csv"]
    for name in (*names, "about/notes.txt"):
        write(folder / name)
    found = load(folder)
    assert found.manifest == before.manifest and len(found.said) == 1
    assert found.said[0].startswith("not used: ") and found.said[0].endswith(" and 4 more")
    write(folder / "about/000.png")
    assert f"{folder / 'about'}: unexpected folder" in problems(folder)


@pytest.mark.parametrize("linked", ["", "train/good", "test/hole", "ground_truth"])
def test_a_folder_that_is_a_link_is_followed(folder, tmp_path, linked):
    before = load(folder)
    shutil.move(folder / linked, tmp_path / "elsewhere")
    (folder / linked).symlink_to(tmp_path / "elsewhere")
    assert load(folder).manifest == before.manifest


def test_links_in_a_circle_end(tmp_path):
    save(picture(), tmp_path / "all/a/0.png")
    (tmp_path / "all/a/up").symlink_to(tmp_path / "all")
    (tmp_path / "all/self").symlink_to(tmp_path / "all/self")
    (tmp_path / "all/b").symlink_to(tmp_path / "all/a")
    names = [p.relative_to(tmp_path / "all").as_posix() for p in layouts.files_below(tmp_path / "all")]
    assert names == ["a/0.png", "b/0.png", "self"]


@pytest.mark.parametrize(
    ("bad", "allowed", "words"),
    [
        ("all/bad", (), ["bad_dir=.*lies in good_dir=.*all; "]),
        ("all/bad", [("bad_dir", "good_dir")], []),
        ("all/bad", [("good_dir", "bad_dir")], ["bad_dir=.*lies in good_dir="]),
        ("all", (), ["bad_dir=.*is the same folder as good_dir="]),
        ("all", [("bad_dir", "good_dir")], ["good_dir=.*is the same folder as bad_dir="]),
        ("all", [("bad_dir", "good_dir"), ("good_dir", "bad_dir")], []),
        ("x/../all/bad", (), ["bad_dir=.*lies in good_dir="]),
        ("link", (), ["bad_dir=.*lies in good_dir="]),
        (".", (), ["good_dir=.*lies in bad_dir="]),
        ("all-others", (), []),
        ("nowhere", (), []),
    ],
)
def test_folders_that_share_images_are_told(tmp_path, bad, allowed, words):
    for name in ("all/bad", "all-others", "x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "all/bad")
    said = layouts.overlapping({"good_dir": tmp_path / "all", "bad_dir": tmp_path / bad}, allowed)
    assert len(said) == len(words) and all(re.match(word, text) for word, text in zip(words, said))


# --- Resizing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 32), (300, 200), (17, 33), (64, 64)])
def test_antialias_is_torchvisions_resize_on_pil_bit_for_bit(size):
    image = picture(size)
    expected = np.asarray(Resize((64, 64))(image)).transpose(2, 0, 1)
    assert np.array_equal(pictures.resize(image, 64, "antialias"), expected)


def test_no_antialias_is_another_resize():
    image = picture((300, 200))
    found = pictures.resize(image, 64, "no_antialias")
    float_image = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(float_image, (64, 64), mode="bilinear", align_corners=False)[0].numpy()
    assert np.abs(found - expected).max() <= 1  # rounding to 8 bits
    assert np.abs(found.astype(int) - pictures.resize(image, 64, "antialias")).max() > 20


def test_any_keeps_what_over_half_loses():
    thin = mask((256, 256), (100, 0, 101, 256))
    assert not pictures.resize_mask(thin, 32, "over_half").any()
    assert pictures.resize_mask(thin, 32, "any").any(axis=1).all()


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


# --- What is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "bmp"])
def test_other_truncated_files_are_named(folder, suffix):
    path = save(picture((200, 200)), folder / f"train/good/cut.{suffix}")
    path.write_bytes(path.read_bytes()[:1000])
    assert f"{path}: cannot be decoded" in problems(folder)


def test_all_problems_are_reported_at_once(folder):
    (folder / "ground_truth/hole/001_mask.png").unlink()
    save(mask((8, 8)), folder / "ground_truth/hole/000_mask.png")
    (folder / "train/good/000.png").write_bytes(b"")
    (folder / "test/good/0.gif").write_text("?")
    text = problems(folder)
    named = ("test/hole/001.png", "ground_truth/hole/000_mask.png", "train/good/000.png", "test/good/0.gif")
    assert "4 problem" in text and all(str(folder / name) in text for name in named)


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
    assert pictures.pixel_hash(Image.new("RGB", (4, 2))) != pictures.pixel_hash(Image.new("RGB", (2, 4)))


@pytest.mark.parametrize("official, differs", [([4, 4], 0), ([5, 4], 1), ([3, 6], 3)])
def test_counts_are_compared_with_the_official_ones(tmp_path, monkeypatch, official, differs):
    monkeypatch.setitem(MVTEC_COUNTS, "bottle", official)
    mvtec_folder(tmp_path / "bottle")
    cfg = config(category="bottle")
    found = data.load(cfg, tmp_path)
    assert found.notes["differs_from_official"] == differs
    said = f"bottle: 4 training and 4 test images, MVTec AD has {official[0]} and {official[1]}"
    assert data.remarks(found, cfg) == [said] * bool(differs)


def test_only_mvtec_has_official_counts(tmp_path):
    mvtec_folder(tmp_path / "bottle")
    assert "differs_from_official" not in data.load(config(dataset="demo", category="bottle"), tmp_path).notes


# --- The demo set -----------------------------------------------------------------------------------------------


def test_demo_is_read_by_the_ordinary_loader(monkeypatch, tmp_path):
    """An empty data_root means the embedded set; here a stand-in of the same layout."""
    mvtec_folder(tmp_path / "demo" / "brick")
    monkeypatch.setattr("rdlib.demo.demo_root", lambda: tmp_path / "demo")
    found = data.load(Config.create(dataset="demo", category="brick"), "")
    assert found.test.images.shape == (4, 3, 128, 128) and found.test.labels.sum() == 2
