"""Photographs of any size: fitted into the square and back, read upright, found in folders."""

import numpy as np
import pytest
import torch
from helpers import picture, save
from PIL import Image

from rdlib.own import detector, photos
from rdlib.own.detector import Result

# --- Geometry -----------------------------------------------------------------------------------------------------

SHAPES = [(64, 64), (100, 40), (40, 100), (333, 200), (20, 31), (640, 90)]


@pytest.mark.parametrize("size", SHAPES)
def test_the_longer_side_fills_the_square_and_a_map_comes_back_at_the_photographs_size(size):
    width, height = photos.inside(size, 64)
    assert max(width, height) == 64 and width / height == pytest.approx(size[0] / size[1], rel=0.05)
    assert photos.to_square(picture(size), 64).shape == (3, 64, 64)
    back = photos.from_square(np.full((64, 64), 0.25, np.float32), size)
    assert back.shape == (size[1], size[0]) and back.dtype == np.float32 and (back == 0.25).all()


def test_the_rest_of_the_square_is_the_photograph_mirrored_at_its_edge():
    square = photos.to_square(picture((64, 24)), 64)
    assert (square[:, 24:48] == square[:, :24][:, ::-1]).all() and (square[:, 48:64] == square[:, :16]).all()
    assert (square[:, :24] == np.asarray(picture((64, 24))).transpose(2, 0, 1)).all()


class Brightness(torch.nn.Module):
    """Stands for a network: its one distance map is the brightness at a quarter of the resolution."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.teacher = torch.nn.Identity()

    def maps(self, teacher_feats, images):
        return [torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4)[:, 0]] * 3


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("place", [(0.1, 0.2), (0.5, 0.5), (0.9, 0.75), (0.2, 0.95)])
def test_a_defect_comes_back_where_it_is(size, place):
    """Through fitting, network, upsampling, smoothing, cutting and resizing: within one cell of the coarse map."""
    cell = 4 * max(size) / 128
    values = np.full((size[1], size[0], 3), 40, np.uint8)
    x, y = place[0] * (size[0] - 1), place[1] * (size[1] - 1)
    rows, columns = np.mgrid[: size[1], : size[0]]
    values[(np.abs(rows - y) <= cell) & (np.abs(columns - x) <= cell)] = 255
    cfg = detector.config_of(teacher="efficientnet_lite0", image_size=128, sigma=1.0)
    found = Result(detector.photo_map(Brightness(), cfg, Image.fromarray(values)), 0.0)
    assert found.map.shape == (size[1], size[0])
    assert np.abs(np.array(found.peak) - (x, y)).max() <= 1.5 * cell


# --- Files --------------------------------------------------------------------------------------------------------


def exif(number):
    found = Image.Exif()
    found[0x0112] = number
    return found


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_every_orientation_in_every_format_comes_upright(tmp_path, number, suffix):
    """The photograph stored as orientation `number` asks: white on top, grey on the right, black elsewhere."""
    there = np.zeros((48, 64), np.uint8)
    there[:16], there[16:, 48:] = 255, 128
    stored = {
        1: there, 2: there[:, ::-1], 3: there[::-1, ::-1], 4: there[::-1], 5: there.T, 6: np.rot90(there), 7: there[::-1, ::-1].T,
        8: np.rot90(there, -1),
    }[number]  # fmt: skip
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif(number))
    for found in (photos.read(path), photos.upright(photos.read(path))):
        assert found.mode == "RGB" and found.size == (64, 48)
        assert np.abs(np.asarray(found)[..., 0].astype(int) - there).max() < 60  # JPEG and WebP lose a little


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK", "I;16", "turned", "turned I;16"])
def test_an_opened_image_is_the_same_photograph_as_its_file(tmp_path, mode):
    path, image = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}", picture((40, 24))
    if "I;16" in mode:
        image = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
    image = image if "turned" in mode or mode == "I;16" else image.convert(mode)
    image.save(path, **{"exif": exif(6)} if "turned" in mode else {})
    with Image.open(path) as opened:
        found = photos.upright(opened)
    expected = photos.read(path)
    assert found.size == expected.size == ((24, 40) if "turned" in mode else (40, 24)) and found.tobytes() == expected.tobytes()
    if "I;16" in mode:  # scaled to 8 bits, not cut at 255
        assert len(np.unique(np.asarray(found))) > 200


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("?")


def found(folder, **options):
    problems, said = [], {}
    paths = photos.find(folder, problems, said=said, **options)
    return [p.relative_to(folder).as_posix() for p in paths], problems, said


def test_images_are_found_in_subfolders_and_in_folders_that_are_links(tmp_path):
    for name in ("all/b.png", "all/a/0.webp", "all/good/1.jpg", "disk2/2.PNG"):
        save(picture(), tmp_path / name)
    (tmp_path / "all/camera2").symlink_to(tmp_path / "disk2")
    (tmp_path / "all/camera2/round").symlink_to(tmp_path / "all/camera2")
    for name in (".hidden.png", "Thumbs.db", "@eaDir/0.png", "a/__MACOSX/0.png"):
        write(tmp_path / "all" / name)
    assert found(tmp_path / "all") == (["a/0.webp", "b.png", "camera2/2.PNG", "good/1.jpg"], [], {})
    assert found(tmp_path / "all", leave_out="good")[0] == ["a/0.webp", "b.png", "camera2/2.PNG"]


def test_a_note_is_passed_over_and_another_file_is_not(tmp_path):
    save(picture(), tmp_path / "0.png")
    for name in ("0.json", "about/readme.txt", "0.gif", "about/0.raw"):
        write(tmp_path / name)
    names, problems, said = found(tmp_path)
    assert names == ["0.png"] and said == {"not used": [tmp_path / "0.json", tmp_path / "about/readme.txt"]}
    assert [line.partition(": unexpected file")[0] for line in problems] == [str(tmp_path / "0.gif"), str(tmp_path / "about/0.raw")]
