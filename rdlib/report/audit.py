"""What is in a data set, counted from its files: the numbers of `01_data`. Nothing here trains or changes a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from rdlib import data, demo
from rdlib.config import MVTEC_COUNTS, Config
from rdlib.data import DataError, find_items, load_mvtec, read_image, read_mask, region_of, resize, resize_mask
from rdlib.metrics import count_regions
from rdlib.paths import resolve

DEMO_COUNTS = (demo.TRAIN, demo.TEST_GOOD + demo.PER_DEFECT * len(demo.DEFECTS))


def category_folders(dataset: str, data_root: str | Path = "", categories: str = "") -> list[Path]:
    """The folders of the categories to look at, in order of name.

    dataset: "demo" (made if not there; data_root may be empty) or "mvtec"
    categories: comma separated; "" = all below `data_root`, half-extracted ones too (the audit will say what is missing)
    raises: DataError if no folder is given, a category is not there, or none is
    """
    if not str(data_root) and dataset != "demo":
        raise DataError("data_root is empty: give the folder that holds the categories, for example -p data_root data/mvtec")
    root = resolve(data_root) if str(data_root) else demo.demo_root()
    there = [p.name for p in data.categories(root)]
    wanted = [name.strip() for name in categories.split(",") if name.strip()] or there
    missing = sorted(set(wanted) - set(there))
    if missing or not wanted:
        raise DataError(f"{root}: no category {', '.join(missing)}; there are: {', '.join(there) or 'none'}")
    return [root / name for name in wanted]


def audit_categories(folders: Sequence[Path], settings: Mapping[str, Config]) -> list[dict[str, Any]]:
    """One row of `audit_category` each.

    settings: category -> Config
    raises: DataError with every problem of every category, not only the first one's
    """
    rows, reports = [], []
    for folder in folders:
        try:
            rows.append(audit_category(folder, settings[folder.name]))
        except DataError as error:
            reports.append(str(error))
    if reports:
        raise DataError("\n".join(reports))
    return rows


def audit_category(folder: Path, cfg: Config) -> dict[str, Any]:
    """One row on a category in MVTec layout, read by the same strict loader that training uses.

    cfg: its image_size (px) and mask_rule decide which regions vanish
    returns: counts of images and 8-connected regions; image sizes before resizing (width x height, px);
        share of the image that is anomalous, in per cent, over anomalous images; manifest (64 hex digits);
        duplicates, (train name, test name) of images with the same pixels, whatever their names or file formats;
        remarks, sentences on what reading passed over or decided
    raises: DataError with every problem found
    """
    loaded = load_mvtec(folder, cfg)
    train, test, _ = find_items(folder)
    masks = [region_of(read_mask(item.mask)) for item in test if item.mask]
    shares = [100 * mask.mean() for mask in masks] or [float("nan")]
    return {
        "category": folder.name,
        "train": len(loaded.train),
        "test good": int((loaded.test.labels == 0).sum()),
        "test anomalous": int(loaded.test.labels.sum()),
        "defect types": len({item.defect for item in test} - {"good"}),
        "size, px": ", ".join(sorted({_size(item.image) for item in train + test})),
        "regions": sum(count_regions(mask) for mask in masks),
        "area min, %": float(np.min(shares)),
        "area median, %": float(np.median(shares)),
        "area max, %": float(np.max(shares)),
        "vanished": loaded.notes["vanished_regions"],
        "manifest": loaded.manifest,
        "duplicates": list(loaded.duplicates),
        "remarks": list(loaded.said),
    }


def _size(path: Path) -> str:
    with Image.open(path) as image:
        return f"{image.width}x{image.height}"


def defect_counts(folder: Path) -> dict[str, int]:
    """Test images of each kind of a category, "good" among them."""
    return dict(Counter(item.defect for item in find_items(folder)[1]))


def official_counts(dataset: str, category: str) -> tuple[int, int] | None:
    """Train and test images the category should have: MVTec AD's table, the demo set's recipe; None if unknown."""
    return DEMO_COUNTS if dataset == "demo" else MVTEC_COUNTS.get(category)


def count_table(rows: Sequence[dict[str, Any]], dataset: str, chosen: str = "") -> list[dict[str, Any]]:
    """`compare_counts` of each row, then of each official category that is not there, with 0 images.

    chosen: the categories asked for; nothing is missing beside them, nor beside a set of the user's own
    """
    official, there = set(demo.CATEGORIES if dataset == "demo" else MVTEC_COUNTS), {row["category"] for row in rows}
    absent = sorted(official - there) if official & there and not chosen else []
    none = {"train": 0, "test good": 0, "test anomalous": 0}
    return [compare_counts(row, dataset) for row in [*rows, *({"category": name} | none for name in absent)]]


def compare_counts(row: dict[str, Any], dataset: str) -> dict[str, Any]:
    """A row of `audit_category` beside the official counts. returns: agrees is "yes", "NO" or "unknown\""""
    found = (row["train"], row["test good"] + row["test anomalous"])
    official = official_counts(dataset, row["category"])
    words = official or ("unknown", "unknown")
    agrees = "unknown" if official is None else "yes" if found == official else "NO"
    return {
        "category": row["category"],
        "train": found[0],
        "official train": words[0],
        "test": found[1],
        "official test": words[1],
        "agrees": agrees,
    }


Example = tuple[str, NDArray, NDArray | None]  # title, image (C, H, W) uint8, mask (H, W) bool


def examples(folder: Path, cfg: Config) -> list[Example]:
    """The first test image of each kind, "good" first, resized as the run will see it, with its mask (None if normal)."""
    first = {item.defect: item for item in reversed(find_items(folder)[1])}
    shown = []
    for defect in sorted(first, key=lambda name: (name != "good", name)):
        item = first[defect]
        mask = resize_mask(read_mask(item.mask), cfg.image_size, cfg.mask_rule) if item.mask else None
        shown.append((defect, resize(read_image(item.image), cfg.image_size, cfg.resize), mask))
    return shown


# --- The demo set: are train and test crops disjoint? --------------------------------------------------------------


def demo_crop_columns(folder: Path) -> dict[str, Any]:
    """Which columns of its photograph the crops of a demo texture come from, found again by their top row of pixels.

    folder: a texture category of the demo set (coins are turned, so they cannot be found again)
    returns: photograph's width, first and last column of train and of test crops (px), crops found and all crops
    raises: DataError if no crop is found, for example because it is not a demo category
    """
    photo = _photograph(folder.name)
    train, test, _ = find_items(folder)
    lefts = [[_left(photo, item.image) for item in items] for items in (train, test)]
    found = [[x for x in columns if x is not None] for columns in lefts]
    if not all(found):
        raise DataError(f"{folder}: its crops are not in the photograph {folder.name!r}")
    spans = [f"{min(columns)}-{max(columns) + demo.SIZE - 1}" for columns in found]
    return {
        "category": folder.name,
        "photograph width": photo.shape[1],
        "train columns": spans[0],
        "test columns": spans[1],
        "disjoint": max(found[0]) + demo.SIZE <= min(found[1]),
        "crops found": sum(map(len, found)),
        "crops": len(train) + len(test),
    }


def _photograph(category: str) -> NDArray:
    """(H, W, 3) uint8: the photograph a demo texture is cut from."""
    if category not in set(demo.CATEGORIES) - {"coin"}:
        raise DataError(f"category={category!r}: not a texture of the demo set")
    photo = skimage.data.immunohistochemistry() if category == "tissue" else getattr(skimage.data, category)()
    return np.broadcast_to(np.atleast_3d(photo), (*photo.shape[:2], 3))


def _left(photo: NDArray, path: Path) -> int | None:
    """Left column of a crop within its photograph; None if its top row is nowhere (a defect may cover it)."""
    row = np.asarray(read_image(path))[0]
    ys, xs = np.nonzero((photo[:, : photo.shape[1] - len(row) + 1] == row[0]).all(axis=2))
    for i, pixel in enumerate(row):
        same = (photo[ys, xs + i] == pixel).all(axis=1)
        ys, xs = ys[same], xs[same]
    return int(xs[0]) if len(xs) else None
