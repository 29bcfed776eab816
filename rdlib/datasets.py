"""The data sets that are known here: what each is called, holds and looks like (paper/datasets.json), and what is not as on MVTec AD.

Reading is left to rdlib.layouts and rdlib.data (folders of images) and rdlib.novelty. docs/datasets.md shows the table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from rdlib.paths import PACKAGE


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One data set.

    title: as published
    layout: how its files lie: a key of `layouts.LAYOUTS`, or how rdlib.novelty reads it
    counts: category -> [train, test] images as published, how many in all where the split is ours, None where nothing is published
    images: how many there are, where `counts` does not say it
    signs: a folder holds a category if one of these is in it; {} stands for the category
    places: the names that this folder may have below DATA, the likeliest first; "." is DATA itself
    md5: file -> md5 of the original's bytes: of what a .gz holds and not of the .gz, since anybody may have packed it
    """

    title: str
    layout: str
    licence: str
    source: str
    counts: dict[str, list[int] | int | None] = field(default_factory=dict)
    images: str = ""
    signs: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    md5: dict[str, str] = field(default_factory=dict)


DATASETS = {name: Dataset(**facts) for name, facts in json.loads((PACKAGE / "paper/datasets.json").read_text(encoding="utf-8")).items()}
NOVELTY_DATASETS = ("fashion_mnist", "mnist", "cifar10", "digits")
IMAGE_FOLDER_DATASETS = tuple(name for name in DATASETS if name not in NOVELTY_DATASETS)
FURTHER_DATASETS = tuple(name for name in IMAGE_FOLDER_DATASETS if name not in ("demo", "mvtec"))  # of which the paper has no number
MVTEC_COUNTS = DATASETS["mvtec"].counts  # Bergmann et al. 2019, Table 1, in the order of the paper's tables
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")

# What the paper or the official code does differently from the field defaults of `Config`; nothing for the others.
_NOVELTY = {
    "teacher": "resnet18",  # [code]
    "image_size": 32,  # [code]
    "image_score": "sum",  # [paper] Sec. 4.2
    "sigma": 0.0,  # [open] one official helper smooths, one does not
    "normalise": "none",  # [code] MNIST and Fashion-MNIST are not normalised
}
DATASET_DEFAULTS: dict[str, dict[str, Any]] = {
    "demo": {"image_size": 128, "teacher": "efficientnet_lite0"},
    "mnist": _NOVELTY,
    "fashion_mnist": _NOVELTY,
    "digits": _NOVELTY | {"teacher": "efficientnet_lite0"},
    "cifar10": _NOVELTY | {"normalise": "imagenet"},  # [code]
}


def rows() -> list[dict[str, str]]:
    """The table of docs/datasets.md and 01_data, a row per data set."""
    return [
        {
            "dataset": name,
            "title": known.title,
            "category": ", ".join(known.counts) or ("normal_class 0 to 9" if name in NOVELTY_DATASETS else "any"),
            "images (train, test)": known.images or published([sum(n) for n in zip(*map(_listed, known.counts.values()))]),
            "layout": known.layout,
            "licence": known.licence,
            "where to get it": known.source,
        }
        for name, known in DATASETS.items()
    ]


def _listed(counts: list[int] | int) -> list[int]:
    return [counts] if isinstance(counts, int) else counts


def published(counts: list[int] | int) -> str:
    """Counts as a text."""
    return " and ".join(f"{n:,}" for n in _listed(counts)) + " in all" * (len(_listed(counts)) == 1)
