"""The embedded demo set: the same bytes every time, exact masks, train and test from different places."""

import numpy as np
import pytest
from PIL import Image

from rdlib import demo
from rdlib.errors import InputError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "first"
    demo.write(root)
    return root


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_same_bytes_every_time(written, tmp_path):
    np.random.seed(1)  # the global state plays no part
    demo.write(tmp_path / "second")
    assert contents(tmp_path / "second") == contents(written)


def test_five_categories_of_the_promised_counts(written):
    assert sorted(p.name for p in written.iterdir()) == sorted(demo.CATEGORIES) and len(demo.CATEGORIES) == 5
    for category in demo.CATEGORIES:
        counts = {p.relative_to(written / category).as_posix(): len(list(p.glob("*.png"))) for p in (written / category).glob("*/*")}
        expected = {"train/good": 40, "test/good": 15}
        expected |= {f"{split}/{defect}": 5 for defect in demo.DEFECTS for split in ("test", "ground_truth")}
        assert counts == expected and len(demo.DEFECTS) == 5


def test_images_differ_and_have_the_promised_size(written):
    images = [p for p in written.rglob("*.png") if "ground_truth" not in p.parts]
    assert all(read(p).shape == (128, 128, 3) for p in images)
    assert len({p.read_bytes() for p in images}) == len(images) == 5 * 80


STRIP = 32
# Strips of a crop by which its place in the photograph is found: a defect hardly covers all of them.
STRIPS = [(0, 0), (0, 96), (127, 0), (127, 96)]


@pytest.fixture(scope="module")
def places():
    """category -> bytes of each strip of 32 pixels in a row of the photograph -> its (y, x)"""
    found = {}
    for category in demo.TEXTURES:
        pixels = demo.photograph(category)
        height, width = pixels.shape[:2]
        found[category] = {pixels[y, x : x + STRIP].tobytes(): (y, x) for y in range(height) for x in range(width - STRIP + 1)}
    return found


def place(crop, where):
    """(y, x) of the crop's corner in the photograph, found by content."""
    for y, x in STRIPS:
        hit = where.get(crop[y, x : x + STRIP].tobytes())
        if hit is not None:
            return hit[0] - y, hit[1] - x
    raise AssertionError("no strip of the crop is in the photograph")


@pytest.mark.parametrize("category", demo.TEXTURES)
def test_train_and_test_come_from_disjoint_parts_of_the_photograph(written, places, category):
    train = [place(read(p), places[category])[1] for p in (written / category / "train").rglob("*.png")]
    test = [place(read(p), places[category])[1] for p in (written / category / "test").rglob("*.png")]
    assert len(train) == len(test) == 40
    assert max(train) + demo.SIZE <= min(test)


@pytest.mark.parametrize("category", demo.TEXTURES)
def test_normal_crops_are_the_photograph_itself_and_masks_hold_all_that_differs(written, places, category):
    pixels = demo.photograph(category).astype(int)
    for path in [p for part in ("train", "test") for p in (written / category / part).rglob("*.png")]:
        crop, defect = read(path).astype(int), path.parent.name
        y, x = place(crop.astype(np.uint8), places[category])
        changed = np.abs(crop - pixels[y : y + 128, x : x + 128]).max(axis=2)
        if defect == "good":
            assert not changed.any(), path
        else:
            mask = read(written / category / "ground_truth" / defect / f"{path.stem}_mask.png")
            assert set(np.unique(mask)) == {0, 255}
            assert not changed[mask == 0].any(), path
            assert changed[mask == 255].mean() > 4, path


def test_train_and_test_coins_are_different_coins(monkeypatch):
    seen = []

    def record(photo, coins, number, rng):
        seen.append(tuple(coins[number % len(coins)].centroid))
        return np.zeros((128, 128, 3))

    monkeypatch.setattr(demo, "_coin", record)
    demo._coin_crops(np.random.default_rng(0))
    train, test = set(seen[: demo.TRAIN]), set(seen[demo.TRAIN :])
    assert len(seen) == 80 and len(train) > 8 and len(test) > 4
    assert min(np.hypot(a[0] - b[0], a[1] - b[1]) for a in train for b in test) > 20  # centres: another coin, not another blob of one


# --- Defects ------------------------------------------------------------------------------------------------------


def noise(seed):
    return np.random.default_rng(seed).uniform(0, 255, (128, 128, 3))


@pytest.mark.parametrize("defect", demo.DEFECTS)
@pytest.mark.parametrize("seed", range(5))
def test_a_defect_changes_what_is_in_its_mask_and_nothing_else(defect, seed):
    crop, before = noise(seed), noise(seed)
    changed, shape = demo.DEFECTS[defect](crop, noise(seed + 100), np.random.default_rng(seed))
    assert shape.dtype == bool and shape.shape == (128, 128) and shape.any() and not shape.all()
    assert np.array_equal(changed[~shape], crop[~shape])
    assert np.abs(changed - crop)[shape].mean() > 0
    assert np.array_equal(crop, before)  # the input is not written on


def test_invisible_defects_are_drawn_again():
    """The first draws change nothing, or too few pixels."""
    crop = noise(0)
    shapes = [np.zeros((128, 128), bool) for _ in range(3)]
    shapes[0][:20, :20], shapes[1][:2, :2], shapes[2][:20, :20] = True, True, True
    changes = iter([(crop, shapes[0]), (np.where(shapes[1][..., None], 255 - crop, crop), shapes[1]), (255 - crop, shapes[2])])
    _, kept = demo._draw(lambda *_: next(changes), crop, crop, np.random.default_rng(0))
    assert kept is shapes[2]


# --- Where it lies ------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own, and a set that is quickly written."""
    monkeypatch.setattr(demo, "project_root", lambda: tmp_path)
    monkeypatch.setattr(demo, "write", lambda root: (root / "brick").mkdir())
    return tmp_path


def test_demo_root_is_made_once(project, monkeypatch):
    folder = demo.demo_root()
    assert folder == project / "data" / "demo-v2" and [p.name for p in folder.iterdir()] == ["brick"]
    assert [p.name for p in folder.parent.iterdir()] == ["demo-v2"]

    def fail(_):
        raise AssertionError("written again")

    monkeypatch.setattr(demo, "write", fail)
    assert demo.demo_root() == folder


@pytest.mark.parametrize(
    ("error", "raised"), [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), InputError)]
)
def test_a_killed_writer_or_a_full_disk_leaves_no_demo_set(project, monkeypatch, error, raised):
    def stopped(root):
        (root / "brick").mkdir()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(demo, "write", stopped)
        with pytest.raises(raised):
            demo.demo_root()
    assert list((project / "data").iterdir()) == []
    assert (demo.demo_root() / "brick").is_dir()


def test_a_place_that_cannot_be_written_is_said(project):
    (project / "data").touch()
    with pytest.raises(InputError, match="the demo set cannot be written"):
        demo.demo_root()


def test_a_second_writer_does_no_harm(project, monkeypatch):
    """Another process finishes while we write: its set stays, ours goes."""

    def overtaken(root):
        (root / "ours").mkdir()
        (project / "data" / "demo-v2" / "theirs").mkdir(parents=True)

    monkeypatch.setattr(demo, "write", overtaken)
    folder = demo.demo_root()
    assert [p.name for p in folder.iterdir()] == ["theirs"] and [p.name for p in folder.parent.iterdir()] == ["demo-v2"]
