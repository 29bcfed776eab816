"""The embedded demo set: real photographs from ordinary wheels, cut into crops, with SYNTHETIC defects.

Photographs: scikit-image's brick, grass, gravel (CC0), immunohistochemistry (colour tissue, public domain) and
coins (single coins as objects, public domain). Train and test crops come from disjoint regions of a photograph (for
coins: from different coins). Defects are drawn inside an exact mask, leave every other pixel as it was, and
are drawn so that a person would see them. Written once, seeded, in MVTec layout, so the ordinary loader reads it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
import skimage.draw
import skimage.measure
import skimage.transform
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from rdlib.errors import InputError
from rdlib.paths import project_root

TEXTURES = ("brick", "grass", "gravel", "tissue")
CATEGORIES = (*TEXTURES, "coin")
SIZE = 128
TRAIN, TEST_GOOD, PER_DEFECT = 40, 15, 5
VERSION = 2  # part of the folder's name: change it whenever a pixel of the set changes

Photo = NDArray  # (H, W, 3) float, 0..255
Shape = NDArray  # (H, W) bool


def demo_root() -> Path:
    """Folder of the demo set (`data/demo-v2` in the project), made at the first call.

    Written to a temporary folder and renamed when complete, so that a killed or a second process does no harm.
    raises: InputError if it cannot be written; the temporary folder is removed
    """
    folder = project_root() / "data" / f"demo-v{VERSION}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".demo-") as tmp:
            made = Path(tmp, folder.name)
            made.mkdir()
            write(made)
            made.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was first
            raise InputError(f"{folder}: the demo set cannot be written ({error}); make room or allow writing there") from None
    return folder


def write(root: Path) -> None:
    """All categories in MVTec layout below `root`."""
    for number, category in enumerate(CATEGORIES):
        rng = np.random.default_rng([VERSION, number])
        train, test = _coin_crops(rng) if category == "coin" else _texture_crops(category, rng)
        _save(root / category / "train" / "good", [(crop, None) for crop in train])
        good, bad = test[:TEST_GOOD], test[TEST_GOOD:]
        _save(root / category / "test" / "good", [(crop, None) for crop in good])
        for i, (name, draw) in enumerate(DEFECTS.items()):
            crops = bad[i * PER_DEFECT : (i + 1) * PER_DEFECT]
            others = _crops(photograph("gravel" if category == "tissue" else "tissue").astype(float), PER_DEFECT, rng)
            defective = [_draw(draw, crop, other, rng) for crop, other in zip(crops, others)]
            _save(root / category / "test" / name, defective, root / category / "ground_truth" / name)


def _save(folder: Path, crops: list[tuple[Photo, Shape | None]], mask_folder: Path | None = None) -> None:
    folder.mkdir(parents=True)
    for i, (crop, mask) in enumerate(crops):
        Image.fromarray(crop.round().clip(0, 255).astype(np.uint8)).save(folder / f"{i:03d}.png")
        if mask_folder is not None:
            mask_folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(mask_folder / f"{i:03d}_mask.png")


# --- Crops of the photographs -------------------------------------------------------------------------------------


def test_count() -> int:
    return TEST_GOOD + PER_DEFECT * len(DEFECTS)


def photograph(category: str) -> NDArray:
    """(H, W, 3) uint8: what the crops of one of TEXTURES are cut from."""
    photo = skimage.data.immunohistochemistry() if category == "tissue" else getattr(skimage.data, category)()
    return np.broadcast_to(np.atleast_3d(photo), (*photo.shape[:2], 3))


def _texture_crops(category: str, rng: Generator) -> tuple[list[Photo], list[Photo]]:
    """Crops at native resolution: train from the left three fifths of the photograph, test from the rest."""
    photo = photograph(category).astype(float)
    cut = photo.shape[1] * 3 // 5
    return _crops(photo[:, :cut], TRAIN, rng), _crops(photo[:, cut:], test_count(), rng)


def _crops(region: Photo, count: int, rng: Generator) -> list[Photo]:
    height, width = region.shape[:2]
    corners = zip(rng.integers(height - SIZE + 1, size=count), rng.integers(width - SIZE + 1, size=count))
    return [region[y : y + SIZE, x : x + SIZE].copy() for y, x in corners]


def _coin_crops(rng: Generator) -> tuple[list[Photo], list[Photo]]:
    """Single coins, each at a random angle and offset; every third coin is kept for the test."""
    photo = skimage.data.coins().astype(float)
    blobs = skimage.measure.label(gaussian_filter(photo, 2) > 110)
    coins = [r for r in skimage.measure.regionprops(blobs) if r.area > 500 and r.bbox[0] > 20]
    coins.sort(key=lambda r: tuple(r.centroid))
    test_coins = coins[2::3]
    train_coins = [c for c in coins if c not in test_coins]
    return [_coin(photo, train_coins, i, rng) for i in range(TRAIN)], [_coin(photo, test_coins, i, rng) for i in range(test_count())]


def _coin(photo: NDArray, coins: list, number: int, rng: Generator) -> Photo:
    coin = coins[number % len(coins)]
    moved = skimage.transform.SimilarityTransform
    turn = moved(rotation=rng.uniform(0, 2 * np.pi), scale=72 / SIZE)
    centre = np.array(coin.centroid[::-1]) + rng.uniform(-2, 2, size=2)
    place = moved(translation=(-SIZE / 2, -SIZE / 2)) + turn + moved(translation=centre)
    crop = skimage.transform.warp(photo, place, output_shape=(SIZE, SIZE), order=1, mode="reflect", preserve_range=True)
    disc = _ellipse((SIZE / 2, SIZE / 2), (52, 52), 0)
    background = np.median(crop[~disc])
    # Neighbouring coins in the corners would be part of the object: they are painted over, softly.
    alpha = gaussian_filter(disc.astype(float), 2)
    return np.repeat((alpha * crop + (1 - alpha) * background)[..., None], 3, axis=2)


# --- Defects: each returns the changed crop and its exact mask ----------------------------------------------------------


def scratch(crop: Photo, other: Photo, rng: Generator) -> tuple[Photo, Shape]:
    """A thin bent line, darker or brighter than what it crosses."""
    start, length, angle = rng.uniform(30, 98, 2), rng.uniform(40, 80), rng.uniform(0, 2 * np.pi)
    bend = angle + rng.uniform(-0.6, 0.6)
    middle = start + length / 2 * np.array([np.sin(angle), np.cos(angle)])
    end = middle + length / 2 * np.array([np.sin(bend), np.cos(bend)])
    shape = np.zeros((SIZE, SIZE), bool)
    points = np.round([start, middle, end]).astype(int)
    rows, cols = skimage.draw.bezier_curve(*points[0], *points[1], *points[2], 1, shape=shape.shape)
    shape[rows, cols] = True
    width = rng.uniform(1.0, 1.8)
    shape = gaussian_filter(shape.astype(float), width) > 0.12
    return _blend(crop, crop + rng.choice([-1, 1]) * rng.uniform(90, 150), shape, soft=0.5)


def hole(crop: Photo, other: Photo, rng: Generator) -> tuple[Photo, Shape]:
    """A dark dent with a lit lower rim."""
    radius = rng.uniform(8, 16)
    shape = _blob(rng, radius)
    rim = shape & ~np.roll(shape, -2, axis=0)
    dark = crop * rng.uniform(0.05, 0.3)
    dark[rim] = crop[rim] * 0.5 + 100
    return _blend(crop, dark, shape, soft=0.8)


def stain(crop: Photo, other: Photo, rng: Generator) -> tuple[Photo, Shape]:
    """A soft green patch; the texture shows through."""
    shape = _blob(rng, rng.uniform(9, 22))
    tint = np.array([rng.uniform(0.4, 0.7), 1.0, rng.uniform(0.4, 0.7)]) * rng.uniform(0.6, 0.9)
    return _blend(crop, crop * tint, shape, soft=2.0)


def foreign(crop: Photo, other: Photo, rng: Generator) -> tuple[Photo, Shape]:
    """A piece of another photograph lies on it: tissue, or gravel on tissue."""
    shape = _blob(rng, rng.uniform(10, 20))
    return _blend(crop, np.roll(other, rng.integers(SIZE, size=2), axis=(0, 1)), shape, soft=0.7)


def missing_part(crop: Photo, other: Photo, rng: Generator) -> tuple[Photo, Shape]:
    """The structure is gone: what is left is its surroundings, smoothed (texture) or the background (coin)."""
    shape = _blob(rng, rng.uniform(12, 20))
    smooth = gaussian_filter(crop, (9, 9, 0)) + gaussian_filter(rng.normal(0, 6, crop.shape[:2]), 0.7)[..., None]
    return _blend(crop, smooth, shape, soft=1.0)


DEFECTS: dict[str, Callable[[Photo, Photo, Generator], tuple[Photo, Shape]]] = {
    f.__name__: f for f in (scratch, hole, stain, foreign, missing_part)
}


def _draw(draw: Callable, crop: Photo, other: Photo, rng: Generator) -> tuple[Photo, Shape]:
    """Draw until the defect is seen, or it would be a wrong label: 40 pixels, changed by about as much as what they cover varies."""
    while True:
        changed, shape = draw(crop, other, rng)
        difference = np.abs(changed.round().clip(0, 255) - crop.round()).max(axis=2)
        if shape.sum() >= 40 and difference[shape].mean() >= max(8, 0.75 * crop[shape].std()):
            return changed, shape


def _blend(crop: Photo, changed: Photo, shape: Shape, soft: float) -> tuple[Photo, Shape]:
    """`changed` inside the shape, fading to `crop` at its inner edge; nothing changes outside."""
    alpha = gaussian_filter(shape.astype(float), soft) * shape
    alpha = (alpha / alpha.max())[..., None] if alpha.max() else alpha[..., None]
    return crop + alpha * (changed - crop), shape


def _blob(rng: Generator, radius: float) -> Shape:
    """An irregular connected patch of about that radius, not far from the centre."""
    centre = rng.uniform(36, SIZE - 36, size=2)
    wobble = gaussian_filter(rng.normal(size=(SIZE, SIZE)), radius / 2)
    wobble /= np.abs(wobble).max()
    shape = _ellipse(centre, radius * rng.uniform(0.7, 1.3, 2), rng.uniform(0, np.pi), wobble)
    regions = skimage.measure.label(shape)
    return regions == np.bincount(regions.ravel())[1:].argmax() + 1


def _ellipse(centre, radii, angle: float, wobble: NDArray | float = 0.0) -> Shape:
    y, x = np.mgrid[:SIZE, :SIZE] - np.reshape(centre, (2, 1, 1))
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return (u / radii[1]) ** 2 + (v / radii[0]) ** 2 < 1 + wobble
