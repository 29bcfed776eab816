"""Images, labels and masks of every data set, as NumPy arrays at the run's resolution.

MVTec-layout folders (also the demo set) are read strictly: a missing mask, a file that does not decode, a size that
does not match or an image that does not belong is reported by name, all of them at once, and no image is skipped.
What cannot change a number (a note beside the images, the second page of a file) is a remark.

    <root>/<category>/train/good/000.png
                      test/good/000.png, test/<defect>/000.png
                      ground_truth/<defect>/000_mask.png
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage
from torchvision.transforms import functional as TF

from rdlib.config import MVTEC_COUNTS, NOVELTY_DATASETS, Config
from rdlib.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LITTER = ("__macosx", "@eadir", "thumbs.db", "desktop.ini")  # what systems leave in folders, besides hidden files
NOTES = (".txt", ".md", ".json", ".csv", ".xml", ".yaml", ".yml", ".html", ".pdf", "license", "readme")
PARTS = ("train", "test", "ground_truth")
ITS_TEXTS = ("license.txt", "readme.txt")  # MVTec AD has them in each category
HALF = 127  # of 255; a mask is anomalous above it, as in the official code (> 0.5)

Said = dict[str, list[Path]]  # what was passed over or decided -> the files it concerns, see `sentences`
Read = TypeVar("Read")


class DataError(InputError):
    """The data cannot be used as they are; the message names every file concerned and the remedy."""


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
        exactly the pixels of a training image; differs_from_official: images more or fewer than MVTec AD has (absent if unknown)
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
        train, test = MVTEC_COUNTS[cfg.category]
        said.append(f"{cfg.category}: {len(found.train)} training and {len(found.test)} test images, MVTec AD has {train} and {test}")
    if found.notes.get("vanished_regions"):
        said.append(f"{cfg.category}: {found.notes['vanished_regions']} defect region(s) are gone at {cfg.image_size} px")
    said += [f"{cfg.category}: {sentence}" for sentence in found.said]
    return said + [f"{test}: has exactly the pixels of {train}" for train, test in found.duplicates]


def load(cfg: Config, data_root: str | Path = "", store: Any = None) -> Data:
    """The data of one run.

    data_root: folder of the categories (mvtec), or of the original files (novelty); "" for demo and digits,
        which come with the installed packages
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
        raise DataError(f"data_root is empty: give the folder that holds {cfg.category}/train/good, for example -p data_root data/mvtec")
    if cfg.train_on == "all":
        return load_all(Path(data_root), cfg, store)
    return load_mvtec(Path(data_root) / cfg.category, cfg, store)


def load_mvtec(folder: Path, cfg: Config, store: Any = None) -> Data:
    """A category folder in MVTec layout.

    raises: DataError with every problem found
    """
    said: Said = {}
    train, test, problems = find_items(folder, said)
    try:
        digest = "" if problems else manifest(folder, [*train, *test])
    except OSError:  # decoding says which file cannot be read
        digest = ""

    def decode() -> list[NDArray]:
        return _decode_all(folder, train, test, problems, cfg)

    key = ("images, masks, facts", digest, cfg.image_size, cfg.resize, cfg.mask_rule, PIL.__version__)
    kept = store.arrays("images", key, 4 * len(train + test) * cfg.image_size**2, lambda: [decode()]) if store and digest else None
    train_x, test_x, test_masks, packed = kept or decode()
    facts = json.loads(packed.tobytes())
    refuse_too_few(len(train), str(folder / "train/good"), cfg)
    train_masks = np.zeros((len(train), *test_masks.shape[1:]), dtype=bool)
    splits = [_image_set(folder, *split) for split in ((train, train_x, train_masks), (test, test_x, test_masks))]
    duplicates = tuple((a, b) for a, b in facts["duplicates"])
    notes = {"vanished_regions": facts["vanished"], **count_duplicates(duplicates)}
    if cfg.dataset == "mvtec" and folder.name in MVTEC_COUNTS:
        notes["differs_from_official"] = sum(abs(len(a) - n) for a, n in zip((train, test), MVTEC_COUNTS[folder.name]))
    return Data(*splits, digest, notes, duplicates, (*sentences(said, folder), *facts["said"]))


def load_all(root: Path, cfg: Config, store: Any = None) -> Data:
    """A category, with the training images of all categories below `root` in place of its own, in order of name (`train_on=all`).

    raises: DataError with every problem found in any of them
    """
    found, problems = {}, []
    for place in sorted({root / cfg.category, *categories(root)}):
        try:
            found[place.name] = load_mvtec(place, replace(cfg, category=place.name), store)
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


# --- Folders ------------------------------------------------------------------------------------------------------


def is_litter(name: str) -> bool:
    """Whether a system left this file or folder: hidden, or one of LITTER. It is passed over everywhere, without a remark."""
    return name.startswith(".") or name.lower() in LITTER


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, in order of name, without litter; nothing if it is not there."""
    return sorted(p for p in folder.iterdir() if not is_litter(p.name)) if folder.is_dir() else []


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files below a folder, in order of name, without litter; links to folders are followed, though not in circles."""
    here = folder.resolve()
    for path in entries(folder) if here not in above else []:
        yield from files_below(path, (*above, here)) if path.is_dir() else [path]


def images_among(paths: list[Path], problems: list[str], said: Said) -> list[Path]:
    """The images among files that should all be images: the one check of an image folder.

    problems: gets a sentence for what else is there, unless it is harmless, and for images that differ in their suffix only
    """
    images = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()]
    not_images = [p for p in paths if p not in set(images)]
    _pass_over(not_images, f"unexpected {{}} (images are {', '.join(IMAGE_SUFFIXES)}); move it away", problems, said)
    stems = Counter(p.with_suffix("") for p in images)
    problems += [f"{p}: another image has the same name with another suffix; remove one" for p in images if stems[p.with_suffix("")] > 1]
    return images


def _pass_over(paths: list[Path], why: str, problems: list[str], said: Said) -> None:
    """What does not belong: a remark if it is harmless, else a problem. why: the sentence; {} becomes "file" or "folder\""""
    for path in paths:
        if _is_harmless(path):
            said.setdefault("not used", []).append(path)
        else:
            problems.append(f"{path}: {why.format('folder' if path.is_dir() else 'file')}")


def _is_harmless(path: Path) -> bool:
    """Whether no number changes without it: a note, or a folder that holds nothing else."""
    return all(map(_is_harmless, files_below(path))) if path.is_dir() else (path.suffix or path.name).lower() in NOTES


def sentences(said: Said, folder: Path) -> list[str]:
    """One sentence for each kind of remark, with the first three files it concerns, relative to the folder."""
    names = {what: [p.relative_to(folder).as_posix() for p in paths] for what, paths in said.items()}
    return [f"{what}: {', '.join(n[:3])}" + f" and {len(n) - 3} more" * (len(n) > 3) for what, n in names.items()]


def categories(root: Path) -> list[Path]:
    """Category folders below `root`, in order of name: those with one of a category's parts, half-extracted ones too."""
    return [p for p in entries(root) if any((p / part).exists() for part in PARTS)]


def overlapping(folders: dict[str, Path], allowed: Collection[tuple[str, str]] = ()) -> list[str]:
    """A sentence for each two folders of which one is the other or lies in it, links resolved.

    folders: parameter -> folder; allowed: (inner, outer) that may be so, the same folder only if both orders are allowed
    """
    real = {name: folder.resolve() for name, folder in folders.items()}
    found = [(a, b) for a, b in permutations(real, 2) if real[a].is_relative_to(real[b]) and (a, b) not in allowed]
    once = [(a, b) for a, b in found if real[a] != real[b] or (b, a) not in found or a < b]
    return [
        f"{a}={folders[a]}: {'is the same folder as' if real[a] == real[b] else 'lies in'} {b}={folders[b]}; give separate folders"
        for a, b in once
    ]


@dataclass(frozen=True)
class Item:
    """One image of an MVTec-layout folder: its file, defect ("good" = normal) and mask file (None if normal)."""

    image: Path
    defect: str
    mask: Path | None = None


def find_items(folder: Path, said: Said | None = None) -> tuple[list[Item], list[Item], list[str]]:
    """Pair every image with its mask by name; nothing is decoded.

    said: gets what is passed over
    returns: train items, test items (both in sorted order), problems found
    """
    said = {} if said is None else said
    good, tests, truth = folder / "train/good", folder / "test", folder / "ground_truth"
    absent = ", ".join(f"no folder {place.relative_to(folder)}" for place in (good, tests) if not place.is_dir())
    problems = [f"{folder}: {absent}; expected MVTec layout (train/good, test/<defect>, ground_truth/<defect>)"] * bool(absent)
    train = [Item(p, "good") for p in images_among(entries(good), problems, said)]
    test = []
    for defect in [p for p in entries(tests) if p.is_dir()]:
        before = len(problems)
        images = images_among(entries(defect), problems, said)
        if not images and len(problems) == before and defect.name != "good":
            problems.append(f"{defect}: no images of this defect; put them there or remove the folder")
        of_masks = [] if defect.name == "good" else images_among(entries(truth / defect.name), problems, said)
        masks = {p.stem: p for p in of_masks}
        for path in images:
            mask = masks.get(f"{path.stem}_mask")
            if defect.name != "good" and mask is None:
                problems.append(f"{path}: no mask {truth / defect.name / path.stem}_mask.png; put it there or remove the image")
            test.append(Item(path, defect.name, mask))
        extra = [masks[stem] for stem in masks if stem not in {f"{path.stem}_mask" for path in images}]
        problems += [f"{mask}: mask without an image in {defect}; remove it or add the image" for mask in extra]
    if not train and good.is_dir():
        problems.append(f"{good}: no images; one normal image at least is needed to train")
    if not test and tests.is_dir():
        problems.append(f"{tests}: no images; expected test/good and test/<defect>")
    no_defect = [p for p in entries(truth) if p.name == "good" or not (tests / p.name).is_dir()] if tests.is_dir() else []
    beside = [p for p in entries(folder) if p.name not in (PARTS if p.is_dir() else ITS_TEXTS)]
    for paths, why in (
        ([p for p in entries(tests) if not p.is_dir()], "unexpected file; images belong into test/good or test/<defect>"),
        (no_defect, f"masks of no defect in {tests}; remove them"),
        ([p for p in entries(good.parent) if p.name != "good"], "unexpected {} in train (only train/good is used); move it away"),
        (beside, f"unexpected {{}} (a category holds {', '.join(PARTS)}); move it away"),
    ):
        _pass_over(paths, why, problems, said)
    return train, test, problems


def manifest(folder: Path, items: list[Item]) -> str:
    """sha256 over the sorted names and contents of all images and masks of a category."""
    total = hashlib.sha256()
    for path in sorted(p for item in items for p in (item.image, item.mask) if p):
        total.update(f"{path.relative_to(folder).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def report(what: str, problems: list[str]) -> str:
    """One text of all problems, a line each; a long list is not cut, since every file in it has to be put right."""
    return "\n  ".join([f"{what}: {len(problems)} problem(s) with the data:", *problems])


# --- Files --------------------------------------------------------------------------------------------------------


def read_image(path: Path, said: Said | None = None) -> Image.Image:
    """RGB image of any PNG, JPEG, BMP, TIFF or WebP, as `to_rgb` makes it.

    said: gets a remark if the file holds more than one page or frame
    raises: DataError naming the file if it cannot be decoded
    """
    return _read(path, to_rgb, said)


def read_mask(path: Path, said: Said | None = None) -> Image.Image:
    """8-bit grey mask, upright, as `to_mask` makes it; anomalous where it is above HALF.

    said: gets a remark if the file's values leave open what is anomalous, or if it holds more than one page or frame
    raises: DataError naming the file if it cannot be decoded
    """
    mask, doubt = _read(path, to_mask, said)
    if doubt and said is not None:
        said.setdefault(doubt, []).append(path)
    return mask


def _read(path: Path, convert: Callable[[Image.Image], Read], said: Said | None) -> Read:
    try:
        with Image.open(path) as image:
            # Never mapped into memory: Pillow 13 then reads a grey TIFF that is stored turned with the sides exchanged.
            image.filename = ""
            if said is not None and getattr(image, "n_frames", 1) > 1:
                said.setdefault("more than one page or frame, only the first is read", []).append(path)
            return convert(image)
    except Exception as error:  # a broken file can make Pillow's decoders raise nearly anything
        raise DataError(f"{path}: cannot be decoded ({error}); replace the file") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image of any mode, as a screen shows it: upright (EXIF), and black where it is transparent.

    16-bit grey is scaled to 8 bits (65535 -> 255).
    raises: InputError for floats and 32-bit integers, of which nothing says what is white
    """
    if image.mode in ("F", "I"):
        raise InputError(f"pixels are {_number_type(image)}, and nothing says which is white; save the image with 8 or 16 bits")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        return Image.fromarray((np.asarray(upright).astype(np.int64) // 257).astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, upright.convert("RGBA")).convert("RGB")
    return upright.convert("RGB")


def _number_type(image: Image.Image) -> str:
    """What the file holds, from a TIFF's own tags: Pillow's mode is only what it made of them."""
    tags = getattr(image, "tag_v2", {})
    (bits, *_), (kind, *_) = tags.get(258, (32,)), tags.get(339, (3 if image.mode == "F" else 2,))
    return {2: f"signed {bits}-bit integers", 3: f"{bits}-bit floating-point numbers"}.get(kind, f"{bits}-bit integers")


def to_mask(image: Image.Image) -> tuple[Image.Image, str]:
    """8-bit grey mask of an image of any mode, upright; what is anomalous, its values say.

    Label numbers (one value beside 0, none above 31, or a palette's colours) are anomalous above 0 and become 0 or 255.
    Greys that reach white (above 223) stay as they are, so that edges grey from resizing, or the noise of JPEG, do not make a region grow.
    A file that is neither has a grey area, or no white: then what is brighter than half if anything is, else all above 0.

    returns: mask, and the remark if it is neither ("" if not)
    """
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(ImageOps.exif_transpose(image)).astype(float))
        white = 1 if image.mode == "F" and values.max() <= 1 else 255 if values.max() <= 255 else 65535
    else:  # of colours the brightest channel: grey would make 0 of the darkest blue
        colours, white = np.asarray(to_rgb(image)), 255
        values = colours.max(axis=2)
    grey = (np.clip(values, 0, white).astype(float) * 255 / white).astype(np.uint8)
    marked, most = values[values > 0], grey.max()
    numbered = image.mode.startswith("P") and bool(np.ptp(colours, axis=2).any())
    if most < 32 or marked.min() == marked.max() or numbered:
        return _black_or_white(values > 0), ""
    flat = (ndimage.minimum_filter(grey, 3) == ndimage.maximum_filter(grey, 3)) & (grey > 31) & (grey < 224)
    doubt = "neither black and white nor label numbers, anomalous is what is " if most < 224 or flat.any() else ""
    if most > HALF:
        return Image.fromarray(grey), doubt and doubt + "brighter than half"
    return _black_or_white(values > 0), doubt + "above 0"


def _black_or_white(region: NDArray) -> Image.Image:
    return Image.fromarray(np.where(region, 255, 0).astype(np.uint8))


def region_of(mask: Image.Image) -> NDArray:
    """(H, W) bool: where a mask of `read_mask` is anomalous."""
    return np.asarray(mask) > HALF


def resize(image: Image.Image, size: int, how: str) -> NDArray:
    """(C, size, size) uint8, C = 1 (grey) or 3. "antialias" is what torchvision's Resize does on PIL images (official code)."""
    if how == "antialias":
        return np.atleast_3d(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    return TF.resize(TF.pil_to_tensor(image), [size, size], antialias=False).numpy()


def resize_mask(mask: Image.Image, size: int, rule: str) -> NDArray:
    """(size, size) bool; resized as the image, then > 0.5 ("over_half", official code), or any part of its region ("any")."""
    mask = mask if rule == "over_half" else _black_or_white(region_of(mask))
    values = np.asarray(mask.resize((size, size), Image.Resampling.BILINEAR))
    return values > (127 if rule == "over_half" else 0)


def pixel_hash(image: Image.Image | NDArray) -> str:
    """sha256 of the pixels and their shape, whatever the file's name or format."""
    pixels = np.ascontiguousarray(image)
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()


# --- From files to arrays -----------------------------------------------------------------------------------------


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
