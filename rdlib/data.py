"""Images, labels and masks of every data set, as NumPy arrays at the run's resolution.

`layouts` finds the files of a category, `pictures` decodes them; every problem of either is reported, all of them at once.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from rdlib.config import Config
from rdlib.datasets import DATASETS, NOVELTY_DATASETS, published
from rdlib.errors import DataError
from rdlib.layouts import Item, categories, category_folder, find_items, report, sentences
from rdlib.pictures import HALF, Said, pixel_hash, read_image, read_mask, region_of, resize, resize_mask


@dataclass(frozen=True)
class ImageSet:
    """Images of one split.

    images: (N, C, H, W) uint8, C = 1 (grey, repeated to 3 for the teacher) or 3
    labels: (N,) uint8, 1 = anomalous; from the folder (or class), never from the mask
    paths: N names relative to the category's folder (to that of the categories, if the images are of all of them)
    masks: (N, H, W) bool, 1 = anomalous; None where the data set has none
    """

    images: NDArray
    labels: NDArray
    paths: tuple[str, ...]
    masks: NDArray | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Data:
    """What a run sees.

    train: normal images only; test: both kinds
    manifest: sha256 over names and contents
    notes: counts for the run file. vanished_regions: gone at the run's resolution; train_test_duplicates: test images with
        exactly the pixels of a training image; differs_from_official: images more or fewer than are published (absent if none are)
    duplicates: (training image, test image) of exactly the same pixels, by their names
    said: sentences on what reading passed over or decided
    train_manifests: category -> manifest of all that `train` comes from, if that is not the one of `test` alone
    """

    train: ImageSet
    test: ImageSet
    manifest: str
    notes: dict[str, int]
    duplicates: tuple[tuple[str, str], ...] = ()
    said: tuple[str, ...] = ()
    train_manifests: dict[str, str] = field(default_factory=dict)


def remarks(found: Data, cfg: Config) -> list[str]:
    """A sentence for each thing that a run does not refuse and its reader must know."""
    if found.train_manifests:
        return list(found.said)
    said = []
    if found.notes.get("differs_from_official"):
        known = DATASETS[cfg.dataset]
        has = f"{known.title} has {published(known.counts[cfg.category])}"
        said.append(f"{cfg.category}: {len(found.train)} training and {len(found.test)} test images, {has}")
    if found.notes.get("vanished_regions"):
        said.append(f"{cfg.category}: {found.notes['vanished_regions']} defect region(s) are gone at {cfg.image_size} px")
    said += [f"{cfg.category}: {sentence}" for sentence in found.said]
    return said + [f"{test}: has exactly the pixels of {train}" for train, test in found.duplicates]


def load(cfg: Config, data_root: str | Path = "", store: Any = None) -> Data:
    """The data of one run.

    data_root: folder of the categories, or of the original files (novelty); "" for demo and digits, which come with the
        installed packages
    store: keeps the decoded images for other runs on the same files (a run.cache.Store)
    raises: DataError naming what is missing or wrong
    """
    if cfg.dataset in NOVELTY_DATASETS:
        from rdlib import novelty

        return novelty.load(cfg, data_root)
    if cfg.dataset == "demo" and not str(data_root):
        from rdlib.demo import demo_root

        data_root = demo_root()
    if not str(data_root):
        holds = DATASETS[cfg.dataset].signs[0].format(cfg.category)
        raise DataError(f"data_root is empty: give the folder that holds {holds}, for example -p data_root data/{cfg.dataset}")
    if cfg.train_on == "all":
        return load_all(Path(data_root), cfg, store)
    return load_folder(category_folder(Path(data_root), cfg.dataset, cfg.category), cfg, store)


def load_folder(folder: Path, cfg: Config, store: Any = None) -> Data:
    """A category in the layout of the run's data set.

    raises: DataError with every problem found
    """
    said: Said = {}
    train, test, problems = find_items(folder, cfg.dataset, said)
    try:
        digest = "" if problems else manifest(folder, train, test)
    except OSError:  # decoding says which file cannot be read
        digest = ""

    def decode() -> list[NDArray]:
        return _decode_all(folder, train, test, problems, cfg)

    key = ("images, masks, facts", digest, cfg.image_size, cfg.resize, cfg.mask_rule, PIL.__version__)
    kept = store.arrays("images", key, 4 * len(train + test) * cfg.image_size**2, lambda: [decode()]) if store and digest else None
    train_x, test_x, test_masks, packed = kept or decode()
    facts = json.loads(packed.tobytes())
    refuse_too_few(len(train), str(train[0].image.parent), cfg)
    train_masks = np.zeros((len(train), *test_masks.shape[1:]), dtype=bool)
    splits = [_image_set(folder, *split) for split in ((train, train_x, train_masks), (test, test_x, test_masks))]
    duplicates = tuple((a, b) for a, b in facts["duplicates"])
    notes = {"vanished_regions": facts["vanished"], **count_duplicates(duplicates)}
    official = DATASETS[cfg.dataset].counts.get(cfg.category)
    if official:
        counts = len(train + test) if isinstance(official, int) else [len(train), len(test)]
        notes["differs_from_official"] = int(np.abs(np.subtract(counts, official)).sum())
    return Data(*splits, digest, notes, duplicates, (*sentences(said, folder), *facts["said"]))


def load_all(root: Path, cfg: Config, store: Any = None) -> Data:
    """A category, with the training images of all categories below `root` in place of its own, in order of name (`train_on=all`).

    raises: DataError with every problem found in any of them
    """
    category_folder(root, cfg.dataset, cfg.category)
    found, problems = {}, []
    for name, place in categories(root, cfg.dataset).items():
        try:
            found[name] = load_folder(place, replace(cfg, category=name), store)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    sets, own = [one.train for one in found.values()], found[cfg.category]
    names = tuple(f"{name}/{path}" for name, one in found.items() for path in one.train.paths)
    train = ImageSet(*(np.concatenate([getattr(s, part) for s in sets]) for part in ("images", "labels")), names)
    manifests = {name: one.manifest for name, one in found.items()}
    return replace(own, train=train, train_manifests=manifests, said=tuple(remarks(own, cfg)))


def refuse_too_few(count: int, where: str, cfg: Config) -> None:
    """raises: DataError if BatchNorm would see a single vector, which torch refuses in the middle of training"""
    if count < cfg.smallest_batch:
        raise DataError(
            f"{where}: {count} training image; at image_size={cfg.image_size} the embedding is one position and BatchNorm needs two "
            "images at least: add an image or take image_size=64"
        )


# --- From files to arrays -----------------------------------------------------------------------------------------


def manifest(folder: Path, train: list[Item], test: list[Item]) -> str:
    """sha256 over the sorted names and contents of all images and masks of a category, and the split where no folder tells it."""
    total = hashlib.sha256()
    for path in sorted(p for item in train + test for p in (item.image, item.mask) if p):
        total.update(f"{path.relative_to(folder).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for name in [_name(item, folder) for item in train]:
        total.update(b"" if name.startswith("train/") else f"train {name}\n".encode())
    return total.hexdigest()


def _decode_all(folder: Path, train: list[Item], test: list[Item], problems: list[str], cfg: Config) -> list[NDArray]:
    """Images (N, 3, H, W) of both splits, masks (N, H, W) of the test images, and facts: JSON in bytes, since a store keeps arrays.

    raises: DataError with `problems` and those of decoding
    """
    said: Said = {}
    images, masks, pixels, bad, vanished = [], [], [], [], 0
    for item in [*train, *test]:
        try:
            image, mask = _decode(item, said)
        except DataError as error:
            bad.append(str(error))
            continue
        images.append(resize(image, cfg.image_size, cfg.resize))
        masks.append(resize_mask(mask, cfg.image_size, cfg.mask_rule))
        vanished += _vanished(mask, cfg) if item.mask else 0
        pixels.append((_name(item, folder), pixel_hash(image)))
    if problems or bad:
        raise DataError(report(str(folder), problems + bad))
    n = len(train)
    facts = {"vanished": vanished, "duplicates": find_duplicates(pixels[:n], pixels[n:]), "said": sentences(said, folder)}
    return [*map(np.stack, (images[:n], images[n:], masks[n:])), np.frombuffer(json.dumps(facts).encode(), np.uint8)]


def _decode(item: Item, said: Said) -> tuple[Image.Image, Image.Image]:
    """RGB image and its grey mask, at their own resolution; black for a normal image."""
    image = read_image(item.image, said)
    if item.mask is None:
        return image, Image.new("L", image.size)
    mask = read_mask(item.mask, said)
    if mask.size != image.size:
        raise DataError(
            f"{item.mask}: mask is {mask.size[0]}x{mask.size[1]}, its image {item.image.name} is {image.size[0]}x{image.size[1]}; "
            "give the mask of this image"
        )
    if not region_of(mask).any():
        raise DataError(
            f"{item.mask}: mask is empty, but its folder says the image is anomalous; mark the region, or move the image to test/good"
        )
    return image, mask


def _vanished(mask: Image.Image, cfg: Config) -> int:
    """Regions of a mask of which no pixel is left at the run's resolution."""
    values = np.asarray(mask)
    regions, count = ndimage.label(values > HALF, ndimage.generate_binary_structure(2, 2))  # 8 neighbours, as the metrics
    # Each region by itself with all grey edges: these are below half, so nothing but the region can be above it.
    alone = (Image.fromarray(np.where((regions == r) | (regions == 0), values, 0)) for r in range(1, count + 1))
    return sum(not resize_mask(region, cfg.image_size, cfg.mask_rule).any() for region in alone)


def _name(item: Item, folder: Path) -> str:
    return item.image.relative_to(folder).as_posix()


def _image_set(folder: Path, items: list[Item], images: NDArray, masks: NDArray) -> ImageSet:
    labels = np.array([item.defect != "good" for item in items], dtype=np.uint8)
    return ImageSet(images, labels, tuple(_name(item, folder) for item in items), masks)


def find_duplicates(train: Iterable[tuple[str, str]], test: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """(training image, test image) that are one picture, sorted. train, test: (name, `pixel_hash`) of each image"""
    known = defaultdict(list)
    for name, pixels in train:
        known[pixels].append(name)
    return tuple(sorted((original, name) for name, pixels in test for original in known.get(pixels, [])))


def count_duplicates(duplicates: Collection[tuple[str, str]]) -> dict[str, int]:
    """Test images that are training images too; one may be several training images."""
    return {"train_test_duplicates": len({test for _, test in duplicates})}
