"""Images, labels and masks of every data set, as NumPy arrays at the run's resolution.

MVTec-layout folders (also the demo set) are read strictly: a missing mask, a file that does not decode, a size that
does not match or a file that does not belong is reported by name, all of them at once, and nothing is skipped.

    <root>/<category>/train/good/000.png
                      test/good/000.png, test/<defect>/000.png
                      ground_truth/<defect>/000_mask.png
"""

from __future__ import annotations

import gzip
import hashlib
import math
import shutil
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torchvision import datasets
from torchvision.transforms import functional as TF

from rdlib.config import MVTEC_COUNTS, NOVELTY_DATASETS, Config
from rdlib.errors import InputError
from rdlib.features import Store
from rdlib.metrics import EIGHT_NEIGHBOURS

try:
    from backports import tarfile  # installed where Python, before 3.11.4, has no data filter (Debian 12)
except ImportError:
    import tarfile

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
PARTS = ("train", "test", "ground_truth")
ITS_TEXTS = ("license.txt", "readme.txt")  # MVTec AD has them in each category


class DataError(InputError):
    """The data cannot be used as they are; the message names every file concerned and the mend."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one split.

    images: (N, C, H, W) uint8, C = 1 (grey, repeated to 3 for the teacher) or 3
    labels: (N,) uint8, 1 = anomalous; from the folder (or class), never from the mask
    paths: N names relative to the category's folder
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
    notes: what to know, counted; the run file holds it. vanished_regions: gone at the run's resolution; train_test_duplicates:
        test images with exactly the pixels of a training image; differs_from_official: images more or fewer than MVTec AD
        has in this category, train and test added (absent where there are no official counts)
    duplicates: (training image, test image) of exactly the same pixels, by their names
    """

    train: ImageSet
    test: ImageSet
    manifest: str
    notes: dict[str, int]
    duplicates: tuple[tuple[str, str], ...] = ()


def remarks(found: Data, cfg: Config) -> list[str]:
    """A sentence for each thing that a run does not refuse and its reader must know: counts that are not MVTec AD's,
    regions that are gone at the run's resolution, duplicates."""
    said = []
    if found.notes.get("differs_from_official"):
        train, test = MVTEC_COUNTS[cfg.category]
        said.append(f"{cfg.category}: {len(found.train)} training and {len(found.test)} test images, MVTec AD has {train} and {test}")
    if found.notes.get("vanished_regions"):
        said.append(f"{cfg.category}: {found.notes['vanished_regions']} defect region(s) are gone at {cfg.image_size} px")
    return said + [f"{test}: has exactly the pixels of {train}" for train, test in found.duplicates]


def load(cfg: Config, data_root: str | Path = "", store: Store | None = None) -> Data:
    """The data of one run.

    data_root: folder of the categories (mvtec), or of the original files (novelty); "" for demo and digits,
        which come with the installed packages
    store: keeps the decoded images for other runs on the same files
    raises: DataError naming what is missing or wrong
    """
    if cfg.dataset in NOVELTY_DATASETS:
        return load_novelty(cfg, data_root)
    if cfg.dataset == "demo" and not str(data_root):
        from rdlib.demo import demo_root

        data_root = demo_root()
    if not str(data_root):
        raise DataError(f"data_root is empty: give the folder that holds {cfg.category}/train/good, for example -p data_root data/mvtec")
    return load_mvtec(Path(data_root) / cfg.category, cfg, store)


# --- MVTec layout -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One image of an MVTec-layout folder: its file, defect ("good" = normal) and mask file (None if normal)."""

    image: Path
    defect: str
    mask: Path | None = None


def load_mvtec(folder: Path, cfg: Config, store: Store | None = None) -> Data:
    """A category folder in MVTec layout.

    raises: DataError with every problem found
    """
    train, test, problems = find_items(folder)

    def decode() -> Iterator[list[NDArray]]:
        decoded, bad = _decode_all([*train, *test], cfg)
        if problems or bad:
            raise DataError(report(str(folder), problems + bad))
        yield _stack(train, test, decoded)

    digest = "" if problems else _manifest_if_readable(folder, [*train, *test])
    key = ["images, duplicates by number", digest, cfg.image_size, cfg.resize, cfg.mask_rule, PIL.__version__]
    kept = store.arrays("images", key, 4 * len(train + test) * cfg.image_size**2, decode) if store and digest else None
    train_x, test_x, test_masks, (vanished,), duplicates = kept or next(decode())
    _refuse_too_few(len(train), str(folder / "train/good"), cfg)
    train_masks = np.zeros((len(train), *test_masks.shape[1:]), dtype=bool)
    splits = [_image_set(folder, *split) for split in ((train, train_x, train_masks), (test, test_x, test_masks))]
    notes = {"vanished_regions": int(vanished), "train_test_duplicates": _images_among(duplicates)}
    if cfg.dataset == "mvtec" and folder.name in MVTEC_COUNTS:
        notes["differs_from_official"] = sum(abs(len(a) - n) for a, n in zip((train, test), MVTEC_COUNTS[folder.name]))
    return Data(*splits, digest, notes, _named(duplicates, *splits))


def _refuse_too_few(count: int, where: str, cfg: Config) -> None:
    """raises: DataError if BatchNorm would see a single vector, which torch refuses in the middle of training"""
    if count < cfg.smallest_batch:
        raise DataError(
            f"{where}: {count} training image; at image_size={cfg.image_size} the embedding is one position and BatchNorm needs two "
            "images at least: add an image or take image_size=64"
        )


def find_items(folder: Path) -> tuple[list[Item], list[Item], list[str]]:
    """Pair every image with its mask by name; nothing is decoded.

    returns: train items, test items (both in sorted order), problems found
    """
    absent = ", ".join(f"no folder {part}" for part in ("train/good", "test") if not (folder / part).is_dir())
    problems = [f"{folder}: {absent}; expected MVTec layout (train/good, test/<defect>, ground_truth/<defect>)"] * bool(absent)
    train = [Item(p, "good") for p in _images_in(folder / "train/good", problems)]
    test = []
    there = _entries(folder / "test")
    problems += [f"{p}: unexpected file; images belong into test/good or test/<defect>" for p in there if not p.is_dir()]
    problems += [f"{p}: masks of no defect in {folder / 'test'}; remove them" for p in _extra_masks(folder)]
    for defect in [p for p in there if p.is_dir()]:
        before = len(problems)
        images = _images_in(defect, problems)
        if not images and len(problems) == before and defect.name != "good":
            problems.append(f"{defect}: no images of this defect; put them there or remove the folder")
        masks = {} if defect.name == "good" else _masks_of(folder / "ground_truth" / defect.name, problems)
        for path in images:
            mask = masks.get(f"{path.stem}_mask")
            if defect.name != "good" and mask is None:
                problems.append(
                    f"{path}: no mask {folder / 'ground_truth' / defect.name / path.stem}_mask.png; put it there or remove the image"
                )
            test.append(Item(path, defect.name, mask))
        stems = {f"{path.stem}_mask" for path in images}
        problems += [
            f"{mask}: mask without an image in {defect}; remove it or add the image" for stem, mask in masks.items() if stem not in stems
        ]
    if not train and (folder / "train/good").is_dir():
        problems.append(f"{folder / 'train/good'}: no images; one normal image at least is needed to train")
    if not test and (folder / "test").is_dir():
        problems.append(f"{folder / 'test'}: no images; expected test/good and test/<defect>")
    problems += [
        f"{p}: unexpected {'folder' if p.is_dir() else 'file'} in train (only train/good is used); move it away"
        for p in _entries(folder / "train")
        if p.name != "good"
    ]
    problems += [
        f"{p}: unexpected {'folder' if p.is_dir() else 'file'} (a category holds {', '.join(PARTS)}); move it away"
        for p in _entries(folder)
        if p.name not in (PARTS if p.is_dir() else ITS_TEXTS)
    ]
    return train, test, problems


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files; nothing if it is not there."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []


def _extra_masks(folder: Path) -> list[Path]:
    """Folders of ground truth that belong to no folder of anomalous test images; none if the whole of test is missing."""
    found = _entries(folder / "ground_truth") if (folder / "test").is_dir() else []
    return [p for p in found if p.name == "good" or not (folder / "test" / p.name).is_dir()]


def _images_in(folder: Path, problems: list[str]) -> list[Path]:
    files = _entries(folder)
    problems += [
        f"{p}: unexpected file (images are {', '.join(IMAGE_SUFFIXES)}); move it away"
        for p in files
        if p.suffix.lower() not in IMAGE_SUFFIXES
    ]
    images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    stems = [p.stem for p in images]
    problems += [f"{p}: another image has the same name with another suffix; remove one" for p in images if stems.count(p.stem) > 1]
    return images


def _masks_of(folder: Path, problems: list[str]) -> dict[str, Path]:
    return {p.stem: p for p in _images_in(folder, problems)}


@dataclass(frozen=True)
class _Decoded:
    image: NDArray  # (3, H, W) uint8
    mask: NDArray | None  # (H, W) bool
    vanished: int  # regions that disappeared with resizing
    pixels: str  # sha256 of the image as it is stored, before resizing


def _decode_all(items: list[Item], cfg: Config) -> tuple[dict[Path, _Decoded], list[str]]:
    decoded, problems = {}, []
    for item in items:
        try:
            decoded[item.image] = _decode(item, cfg)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            # PIL raises SyntaxError for broken PNG chunks.
            text = str(error)
            problems.append(text if isinstance(error, DataError) else f"{item.image}: cannot be decoded ({text}); replace the file")
    return decoded, problems


def _decode(item: Item, cfg: Config) -> _Decoded:
    image = read_image(item.image)
    resized = resize(image, cfg.image_size, cfg.resize)
    if item.mask is None:
        return _Decoded(resized, None, 0, pixel_hash(image))
    mask = read_mask(item.mask)
    if mask.size != image.size:
        raise DataError(
            f"{item.mask}: mask is {mask.size[0]}x{mask.size[1]}, its image {item.image.name} is {image.size[0]}x{image.size[1]}; "
            "give the mask of this image"
        )
    original = np.asarray(mask) > 0
    if not original.any():
        raise DataError(
            f"{item.mask}: mask is empty, but its folder says the image is anomalous; mark the region, or move the image to test/good"
        )
    small = resize_mask(mask, cfg.image_size, cfg.mask_rule)
    return _Decoded(resized, small, _vanished(original, cfg), pixel_hash(image))


def pixel_hash(image: Image.Image | NDArray) -> str:
    """sha256 of the pixels and their shape: the same picture under another name or in another format has one hash."""
    pixels = np.ascontiguousarray(image)
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def find_duplicates(train: list[str], test: list[str]) -> NDArray:
    """(D, 2) int64: the numbers of a training and of a test image, given by the hashes of their pixels, that are one picture."""
    known = defaultdict(list)
    for i, pixels in enumerate(train):
        known[pixels].append(i)
    pairs = [(i, j) for j, pixels in enumerate(test) for i in known.get(pixels, [])]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _images_among(duplicates: NDArray) -> int:
    """Test images that are training images too; one may be several training images."""
    return len(set(duplicates[:, 1].tolist()))


def _named(duplicates: NDArray, train: ImageSet, test: ImageSet) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((train.paths[i], test.paths[j]) for i, j in duplicates.tolist()))


def read_image(path: Path) -> Image.Image:
    """RGB image of any PNG, JPEG, BMP or TIFF."""
    with open_image(path) as image:
        return to_rgb(image)


def open_image(path: Path) -> Image.Image:
    """As Image.open, but never mapped into memory: Pillow 13 then reads a grey TIFF that is stored turned with the sides exchanged."""
    image = Image.open(path)
    image.filename = ""
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image of any mode; 16-bit grey is scaled to 8 bits (65535 -> 255).

    raises: InputError for floats and 32-bit integers, of which nothing says what is white
    """
    if image.mode in ("F", "I"):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit integers"
        raise InputError(f"pixels are {kind}, and nothing says which is white; save the image with 8 or 16 bits")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64) // 257).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def read_mask(path: Path) -> Image.Image:
    """8-bit grey mask, 0 or 255; any value above 0 in the file is anomalous.

    raises: DataError naming the file if it does not decode
    """
    try:
        with open_image(path) as image:
            return Image.fromarray(np.where(_above_zero(image), 255, 0).astype(np.uint8))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be decoded ({error}); replace the file") from None


def _above_zero(image: Image.Image) -> NDArray:
    """(H, W) bool: the number, or any of the colour channels, is above 0, and the pixel is not wholly transparent.

    Of a palette, the colour counts and not its number. Converting to grey first would lose the darkest blue.
    """
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;"):
        return np.asarray(image) > 0
    values = np.asarray(image.convert("RGBA"))
    return values[..., :3].any(axis=2) & (values[..., 3] > 0)


def resize(image: Image.Image, size: int, how: str) -> NDArray:
    """(3, size, size) uint8. "antialias" is what torchvision's Resize does on PIL images (official code)."""
    if how == "antialias":
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    return TF.resize(TF.pil_to_tensor(image), [size, size], antialias=False).numpy()


def resize_mask(mask: Image.Image, size: int, rule: str) -> NDArray:
    """(size, size) bool; resized as the image, then > 0.5 ("over_half", official code) or > 0 ("any")."""
    values = np.asarray(mask.resize((size, size), Image.Resampling.BILINEAR))
    return values > (127 if rule == "over_half" else 0)


def _vanished(original: NDArray, cfg: Config) -> int:
    """Regions of the original mask (H, W) of which no pixel is left at the run's resolution."""
    regions, count = ndimage.label(original, EIGHT_NEIGHBOURS)
    alone = (Image.fromarray(np.where(regions == r, 255, 0).astype(np.uint8)) for r in range(1, count + 1))
    return sum(not resize_mask(region, cfg.image_size, cfg.mask_rule).any() for region in alone)


def _stack(train: list[Item], test: list[Item], decoded: dict[Path, _Decoded]) -> list[NDArray]:
    """Images (N, 3, H, W) of both splits, masks (N, H, W) of the test images, count (1,) of vanished regions, duplicates (D, 2)."""
    images = [np.stack([decoded[item.image].image for item in items]) for items in (train, test)]
    empty = np.zeros(images[0].shape[-2:], dtype=bool)
    masks = np.stack([empty if decoded[item.image].mask is None else decoded[item.image].mask for item in test])
    duplicates = find_duplicates(*([decoded[item.image].pixels for item in items] for items in (train, test)))
    return [*images, masks, np.array([sum(decoded[item.image].vanished for item in test)]), duplicates]


def _image_set(folder: Path, items: list[Item], images: NDArray, masks: NDArray) -> ImageSet:
    labels = np.array([item.defect != "good" for item in items], dtype=np.uint8)
    return ImageSet(images, labels, tuple(item.image.relative_to(folder).as_posix() for item in items), masks)


def manifest(folder: Path, items: list[Item]) -> str:
    """sha256 over the sorted names and contents of all images and masks of a category."""
    total = hashlib.sha256()
    for path in sorted(p for item in items for p in (item.image, item.mask) if p):
        total.update(f"{path.relative_to(folder).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _manifest_if_readable(folder: Path, items: list[Item]) -> str:
    """ "" if a file cannot be read: decoding will say which."""
    try:
        return manifest(folder, items)
    except OSError:
        return ""


def report(what: str, problems: list[str]) -> str:
    """One text of all problems, a line each; a long list is not cut, since every file in it has to be mended."""
    return "\n  ".join([f"{what}: {len(problems)} problem(s) with the data:", *problems])


# --- One-class novelty --------------------------------------------------------------------------------------------


def load_novelty(cfg: Config, data_root: str | Path) -> Data:
    """Train on one class, test on the whole test set, the other nine classes are novel (Sec. 4.2)."""
    (train_x, train_y), (test_x, test_y) = _read_digits() if cfg.dataset == "digits" else _read_torchvision(cfg.dataset, data_root)
    chosen = np.flatnonzero(train_y == cfg.normal_class)
    _refuse_too_few(len(chosen), f"{data_root or cfg.dataset}: class {cfg.normal_class}", cfg)
    train = ImageSet(_resize_batch(train_x[chosen], cfg), np.zeros(len(chosen), np.uint8), tuple(f"train/{i:05d}" for i in chosen))
    test_paths = tuple(f"test/{i:05d}-class{y}" for i, y in enumerate(test_y))
    test = ImageSet(_resize_batch(test_x, cfg), (test_y != cfg.normal_class).astype(np.uint8), test_paths)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in (train_x, train_y, test_x, test_y))).hexdigest()
    duplicates = find_duplicates(*(list(map(pixel_hash, images)) for images in (train_x[chosen], test_x)))
    return Data(train, test, digest, {"train_test_duplicates": _images_among(duplicates)}, _named(duplicates, train, test))


Split = tuple[NDArray, NDArray]  # images (N, H, W[, 3]) uint8, classes (N,) int64


def _read_digits() -> tuple[Split, Split]:
    """scikit-learn's 1,797 handwritten digits, 8 x 8; the first 1,000 train, the rest test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return (images[:1000], digits.target[:1000]), (images[1000:], digits.target[1000:])


MNIST_COUNTS = (60_000, 10_000)  # train and test images of MNIST, and of Fashion-MNIST
_TORCHVISION = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}


def _read_torchvision(name: str, data_root: str | Path) -> tuple[Split, Split]:
    """Both splits through torchvision's own class, from any local folder with the original files.

    raises: DataError naming the files that are missing or not the original ones
    """
    cls = _TORCHVISION[name]
    if not str(data_root):
        raise DataError(
            f"data_root is empty: give the folder with the original files of {name}, or fetch them first: "
            f"python -c \"from torchvision.datasets import {cls.__name__} as D; D('data', download=True)\" and -p data_root data"
        )
    with _torchvision_layout(cls, Path(data_root)) as root:
        try:
            splits = [cls(root, train=train) for train in (True, False)]
        except (RuntimeError, OSError) as error:  # CIFAR-10, of which torchvision compares every file's md5 with the original's
            raise DataError(f"{data_root}: not a complete copy of {name} ({error}); expected {', '.join(_original_files(cls))}") from None
    train, test = [(np.asarray(s.data), np.asarray(s.targets)) for s in splits]
    return train, test


def _original_files(cls: type) -> list[str]:
    if cls is datasets.CIFAR10:
        return [cls.filename, *(f"{cls.base_folder}/{n}" for n, _ in cls.train_list + cls.test_list)]
    return [Path(url).name for url, _ in cls.resources]


@contextmanager
def _torchvision_layout(cls: type, folder: Path) -> Iterator[Path]:
    """A root in the layout torchvision expects, made in a temporary folder from the original files in `folder`.

    Accepts torchvision's own layout, or the files by themselves, gzipped or not (an archive for CIFAR-10).
    """
    own = cls.base_folder if cls is datasets.CIFAR10 else f"{cls.__name__}/raw"
    source = next((p for p in (folder / own, folder) if p.is_dir() and any(p.iterdir())), None)
    if source is None:
        raise DataError(f"{folder}: no such folder, or empty; expected {', '.join(_original_files(cls))}")
    with tempfile.TemporaryDirectory() as tmp:
        target = Path(tmp) / own
        target.parent.mkdir(parents=True, exist_ok=True)
        if cls is datasets.CIFAR10:
            _lay_out_cifar(cls, source, target)
        else:
            _lay_out_mnist(cls, source, target)
        yield Path(tmp)


def _lay_out_mnist(cls: type, source: Path, target: Path) -> None:
    """Copy or unpack the four files; packed ones have a known md5, so they are taken first."""
    target.mkdir()
    places = [(source / Path(url).name, source / Path(url).stem) for url, _ in cls.resources]
    missing = [f"{plain}[.gz]" for packed, plain in places if not packed.is_file() and not plain.is_file()]
    if missing:
        raise DataError(f"missing: {', '.join(missing)}; put the original files there")
    for (packed, plain), (_, md5) in zip(places, cls.resources):
        if packed.is_file():
            _unpack_original(packed, target / plain.name, md5)
        else:
            shutil.copyfile(plain, target / plain.name)
        _check_idx(target / plain.name, packed if packed.is_file() else plain)


def _unpack_original(packed: Path, target: Path, md5: str) -> None:
    with packed.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise DataError(f"{packed}: md5 is {found}, the original's {md5}; damaged or another file: fetch the original again")
    with gzip.open(packed) as original, target.open("wb") as unpacked:
        shutil.copyfileobj(original, unpacked)


def _check_idx(file: Path, source: Path) -> None:
    """Compare a file's header and length with the original's; torchvision would take any number of images and of labels.

    The idx format: two zero bytes, type (8 = unsigned byte), number of dimensions, sizes as big-endian ints of 4 bytes, values.
    raises: DataError naming `source`, where the file came from
    """
    count = MNIST_COUNTS["t10k" in file.name]
    shape = (count, 28, 28) if "images" in file.name else (count,)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    with file.open("rb") as opened:
        found = opened.read(len(header))
    size, expected = file.stat().st_size, len(header) + math.prod(shape)
    if (found, size) != (header, expected):
        raise DataError(
            f"{source}: is not the original file of {count} {'images' if len(shape) == 3 else 'labels'}: {expected} bytes beginning with "
            f"{header.hex()} are expected, there are {size} beginning with {found.hex()}; damaged, or train and test mixed up: "
            "put the original there"
        )


def _lay_out_cifar(cls: type, source: Path, target: Path) -> None:
    archive = source / cls.filename
    if archive.is_file():
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(target.parent, filter="data")
        except tarfile.FilterError as error:
            raise DataError(f"{archive}: member {error.tarinfo.name!r} would leave its folder; this is not the original archive") from None
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise DataError(f"{archive}: cannot be unpacked ({error}); replace the file") from None
    else:
        target.symlink_to(source.resolve(), target_is_directory=True)


def _resize_batch(images: NDArray, cfg: Config) -> NDArray:
    """(N, H, W[, 3]) uint8 -> (N, 1 or 3, size, size) uint8, each image resized as `resize` does."""
    one = partial(_resize_small, size=cfg.image_size, how=cfg.resize)
    return np.stack([one(image) for image in images])


def _resize_small(image: NDArray, size: int, how: str) -> NDArray:
    if how == "antialias":
        small = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
        return small[None] if small.ndim == 2 else small.transpose(2, 0, 1)
    tensor = torch.from_numpy(np.atleast_3d(image).transpose(2, 0, 1).copy())
    return TF.resize(tensor, [size, size], antialias=False).numpy()
