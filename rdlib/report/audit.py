"""What is in a data set, counted from its files: the numbers of `01_data`. Nothing here trains or changes a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rdlib import demo, layouts
from rdlib.config import Config
from rdlib.data import load_folder
from rdlib.errors import DataError
from rdlib.layouts import find_items
from rdlib.metrics import count_regions
from rdlib.paths import resolve
from rdlib.pictures import read_image, read_mask, region_of, resize, resize_mask


def category_folders(dataset: str, data_root: str | Path = "", categories: str = "") -> dict[str, Path]:
    """The categories to look at and their folders, in order of name.

    dataset: one of `datasets.IMAGE_FOLDER_DATASETS`; the demo is made if it is not there, and needs no data_root
    categories: comma separated; "" = all below `data_root`, half-extracted ones too (the audit will say what is missing)
    raises: DataError if no folder is given, a category is not there, or none is
    """
    if not str(data_root) and dataset != "demo":
        raise DataError("data_root is empty: give the folder that holds the categories, for example -p data_root data/mvtec")
    root = resolve(data_root) if str(data_root) else demo.demo_root()
    wanted = [name.strip() for name in categories.split(",") if name.strip()] or list(layouts.categories(root, dataset)) or ["any"]
    return {name: layouts.category_folder(root, dataset, name) for name in wanted}


def check_categories(folders: Mapping[str, Path], settings: Mapping[str, Config]) -> list[dict[str, Any]]:
    """Each category, read by the same strict loader that training uses.

    settings: category -> Config; its image_size (px) and mask_rule decide which regions vanish
    returns: a row per category: counts of train and test images and of vanished regions; manifest (64 hex digits);
        duplicates, (train name, test name) of the same pixels; remarks on what reading passed over or decided
    raises: DataError with every problem of every category, not only the first one's
    """
    rows, reports = [], []
    for category, folder in folders.items():
        try:
            loaded = load_folder(folder, settings[category])
        except DataError as error:
            reports.append(str(error))
            continue
        counts = {"train": len(loaded.train), "test": len(loaded.test), "vanished": loaded.notes["vanished_regions"]}
        rows.append({"category": category, **counts, "manifest": loaded.manifest, "duplicates": loaded.duplicates, "remarks": loaded.said})
    if reports:
        raise DataError("\n".join(reports))
    return rows


def image_rows(folders: Mapping[str, Path], dataset: str) -> list[dict[str, Any]]:
    """A row per image: category, split, kind ("good" or its defect), size before resizing (width x height, px), and of its
    mask the number of 8-connected regions and the anomalous share of the image in per cent (NaN if normal)."""
    rows = []
    for category, folder in folders.items():
        train, test, _ = find_items(folder, dataset)
        for split, item in [*(("train", item) for item in train), *(("test", item) for item in test)]:
            mask = region_of(read_mask(item.mask)) if item.mask else np.zeros((1, 1), bool)
            area = 100 * mask.mean() if item.mask else np.nan
            with Image.open(item.image) as image:
                size = f"{image.width}x{image.height}"
            image_of = {"category": category, "split": split, "kind": item.defect, "size, px": size}
            rows.append({**image_of, "regions": count_regions(mask), "area, %": area})
    return rows


def examples(folder: Path, cfg: Config) -> list[tuple[str, NDArray, NDArray | None]]:
    """Title, image (C, H, W) uint8 and mask (H, W) bool, None if normal, of the first test image of each kind, "good" first.

    Resized as the run will see them.
    """
    first = {item.defect: item for item in reversed(find_items(folder, cfg.dataset)[1])}
    shown = []
    for defect in sorted(first, key=lambda name: (name != "good", name)):
        item = first[defect]
        mask = resize_mask(read_mask(item.mask), cfg.image_size, cfg.mask_rule) if item.mask else None
        shown.append((defect, resize(read_image(item.image), cfg.image_size, cfg.resize), mask))
    return shown
