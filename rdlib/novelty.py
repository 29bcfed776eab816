"""One-class novelty (Sec. 4.2): MNIST, Fashion-MNIST, CIFAR-10 and scikit-learn's digits. One class is normal, nine are novel."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets

from rdlib.config import Config
from rdlib.data import Data, ImageSet, count_duplicates, find_duplicates, refuse_too_few
from rdlib.datasets import DATASETS
from rdlib.errors import DataError
from rdlib.pictures import pixel_hash, resize

IDX_FILES = {name: known.md5 for name, known in DATASETS.items() if known.md5}
CIFAR = datasets.CIFAR10
CIFAR_FILES = [*(name for name, _ in CIFAR.train_list + CIFAR.test_list), CIFAR.meta["filename"]]
_CLASSES = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST, "cifar10": CIFAR}

Split = tuple[NDArray, NDArray]  # images (N, H, W[, 3]) uint8, classes (N,) int64


def load(cfg: Config, data_root: str | Path) -> Data:
    """Train on one class, test on the whole test set.

    data_root: folder of the original files, packed or not; "" for digits
    raises: DataError naming the files that are missing or not the original ones
    """
    (train_x, train_y), (test_x, test_y) = _read(cfg.dataset, data_root)
    chosen = np.flatnonzero(train_y == cfg.normal_class)
    refuse_too_few(len(chosen), f"{data_root or cfg.dataset}: class {cfg.normal_class}", cfg)
    train_names = [f"train/{i:05d}" for i in chosen]
    test_names = [f"test/{i:05d}-class{y}" for i, y in enumerate(test_y)]
    train = ImageSet(_resized(train_x[chosen], cfg), np.zeros(len(chosen), np.uint8), tuple(train_names))
    test = ImageSet(_resized(test_x, cfg), (test_y != cfg.normal_class).astype(np.uint8), tuple(test_names))
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in (train_x, train_y, test_x, test_y))).hexdigest()
    duplicates = find_duplicates(zip(train_names, map(pixel_hash, train_x[chosen])), zip(test_names, map(pixel_hash, test_x)))
    return Data(train, test, digest, count_duplicates(duplicates), duplicates)


def _resized(images: NDArray, cfg: Config) -> NDArray:
    """(N, H, W[, 3]) uint8 -> (N, 1 or 3, size, size) uint8"""
    return np.stack([resize(Image.fromarray(image), cfg.image_size, cfg.resize) for image in images])


def _read(name: str, data_root: str | Path) -> tuple[Split, Split]:
    if name == "digits":
        return _read_digits()
    own = CIFAR.base_folder if name == "cifar10" else f"{_CLASSES[name].__name__}/raw"  # torchvision's layout
    expected = ", ".join([CIFAR.filename, CIFAR.base_folder] if name == "cifar10" else [f"{file}[.gz]" for file in IDX_FILES[name]])
    if not str(data_root):
        raise DataError(
            f"data_root is empty: give the folder with the original files of {name}, or fetch them first: "
            f"python -c \"from torchvision.datasets import {_CLASSES[name].__name__} as D; D('data', download=True)\" and -p data_root data"
        )
    folder = next((p for p in (Path(data_root, own), Path(data_root)) if p.is_dir() and any(p.iterdir())), None)
    if folder is None:
        raise DataError(f"{data_root}: no such folder, or empty; expected {expected}")
    return _read_cifar(folder) if name == "cifar10" else _read_idx(folder, IDX_FILES[name])


def _read_digits() -> tuple[Split, Split]:
    """scikit-learn's 1,797 handwritten digits, 8 x 8; the first 1,000 train, the rest test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return (images[:1000], digits.target[:1000]), (images[1000:], digits.target[1000:])


def _read_idx(folder: Path, files: dict[str, str]) -> tuple[Split, Split]:
    """Both splits of MNIST or Fashion-MNIST from the four files, packed or not.

    The idx format: a header of 16 bytes (images) or 8 (labels), then one byte each; that it is so says the md5.
    """
    places = [next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None) for name in files]
    if None in places:
        missing = [f"{folder / name}[.gz]" for name, place in zip(files, places) if place is None]
        raise DataError(f"missing: {', '.join(missing)}; put the original files there")
    train_x, train_y, test_x, test_y = (np.frombuffer(_original(p, md5), np.uint8) for p, md5 in zip(places, files.values()))
    train, test = [(x[16:].reshape(-1, 28, 28), y[8:].astype(np.int64)) for x, y in ((train_x, train_y), (test_x, test_y))]
    return train, test


def _original(path: Path, md5: str) -> bytes:
    """raises: DataError if the file, unpacked, is not the original"""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); put the original there") from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        others = [name for files in IDX_FILES.values() for name, known in files.items() if known == found]
        what = f"it is {others[0]}, of this or another data set" if others else "damaged, or another file"
        raise DataError(f"{path}: {len(content)} bytes with md5 {found}, the original's is {md5}; {what}: put the original there")
    return content


def _read_cifar(folder: Path) -> tuple[Split, Split]:
    """Both splits of CIFAR-10 from the archive or its files, by torchvision's own class, which compares each file's md5."""
    archive = folder / CIFAR.filename
    try:
        with tempfile.TemporaryDirectory() as tmp:
            files = Path(tmp, CIFAR.base_folder)
            if archive.is_file():
                files.mkdir()
                with tarfile.open(archive) as tar:
                    for name in CIFAR_FILES:  # these and nothing else, so that no member of the archive can be written anywhere else
                        (files / name).write_bytes(tar.extractfile(f"{CIFAR.base_folder}/{name}").read())
            else:
                files.symlink_to(folder.resolve(), target_is_directory=True)
            train, test = (CIFAR(tmp, train=train) for train in (True, False))
    except (RuntimeError, OSError, tarfile.TarError, EOFError, zlib.error, KeyError, AttributeError) as error:
        place = archive if archive.is_file() else folder
        raise DataError(
            f"{place}: not a complete copy of cifar10 ({error}); expected {', '.join(CIFAR_FILES)}, put the original there"
        ) from None
    return (train.data, np.asarray(train.targets)), (test.data, np.asarray(test.targets))
