"""How the files of a data set lie: folders of images, read strictly, and a function for each layout.

A missing mask or an image that does not belong is reported by name, all of them at once, and no image is skipped. What
cannot change a number, as a note beside the images, is a remark.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from operator import attrgetter
from pathlib import Path

from rdlib.datasets import DATASETS
from rdlib.errors import DataError
from rdlib.pictures import Said, read_mask, region_of

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LITTER = ("__macosx", "@eadir", "thumbs.db", "desktop.ini")  # what systems leave in folders, besides hidden files
NOTES = (".txt", ".md", ".json", ".csv", ".xml", ".yaml", ".yml", ".html", ".pdf", "license", "readme")
PARTS = ("train", "test", "ground_truth")
ITS_TEXTS = ("license.txt", "readme.txt")  # MVTec AD has them in each category


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


def categories(root: Path, dataset: str = "mvtec") -> dict[str, Path]:
    """Category -> its folder, in order of name: those below `root` with one of a category's parts, half-extracted ones too."""
    _, parts = LAYOUTS[DATASETS[dataset].layout]
    if not parts:  # one category, which is the folder itself
        return dict.fromkeys(DATASETS[dataset].counts, root) if root.is_dir() else {}
    return {p.name: p for p in entries(root) if any((p / part).exists() for part in parts)}


def category_folder(root: Path, dataset: str, category: str) -> Path:
    """Where a category's files lie. raises: DataError naming the categories that are there"""
    there = categories(root, dataset)
    if category not in there:
        raise DataError(f"{root}: no category {category} of {dataset}; there are: {', '.join(there) or 'none'}")
    return there[category]


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


def report(what: str, problems: list[str]) -> str:
    """One text of all problems, a line each; a long list is not cut, since every file in it has to be put right."""
    return "\n  ".join([f"{what}: {len(problems)} problem(s) with the data:", *problems])


# --- Layouts: folder -> train items, test items -------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One image: its file, defect ("good" = normal) and mask file (None if normal)."""

    image: Path
    defect: str
    mask: Path | None = None


Items = tuple[list[Item], list[Item]]


def find_items(folder: Path, dataset: str = "mvtec", said: Said | None = None) -> tuple[list[Item], list[Item], list[str]]:
    """The images of a category, each with its mask by name; nothing is decoded but the labels of KolektorSDD.

    said: gets what is passed over
    returns: train items, test items (both in order of their paths), problems found
    """
    known, problems = DATASETS[dataset], []
    train, test = LAYOUTS[known.layout][0](folder, problems, {} if said is None else said)
    if not problems and not (train and test):
        problems.append(f"{folder}: no {'test' if train else 'normal'} images; expected {known.title} as published (docs/datasets.md)")
    return *(sorted(items, key=attrgetter("image")) for items in (train, test)), problems


def _paired(images: list[Path], masks: list[Path], place: Path, ending: str, problems: list[str]) -> list[tuple[Path, Path | None]]:
    """Each image with the mask of its very name, and a problem for whatever is left over on either side.

    place, ending: where a mask lies, and what follows its image's name in its own
    """
    by_stem = {mask.stem: mask for mask in masks}
    wanted = [Path(f"{image.stem}{ending}").stem for image in images]
    pairs = [(image, by_stem.get(stem)) for image, stem in zip(images, wanted)]
    problems += [f"{image}: no mask {place / image.stem}{ending}; put it there or remove the image" for image, mask in pairs if not mask]
    problems += [f"{by_stem[s]}: mask without an image; remove it or add the image" for s in by_stem if s not in wanted]
    return pairs


def _mvtec(folder: Path, problems: list[str], said: Said, good: str = "good", ending: str = "_mask.png") -> Items:
    """train/good/000.png, test/good/000.png, test/<defect>/000.png, ground_truth/<defect>/000_mask.png"""
    normal, tests, truth = folder / "train" / good, folder / "test", folder / "ground_truth"
    absent = ", ".join(f"no folder {place.relative_to(folder)}" for place in (normal, tests) if not place.is_dir())
    problems += [f"{folder}: {absent}; expected MVTec layout (train/{good}, test/<defect>, ground_truth/<defect>)"] * bool(absent)
    train, test = [Item(p, "good") for p in images_among(entries(normal), problems, said)], []
    for place in [p for p in entries(tests) if p.is_dir()]:
        before = len(problems)
        images = images_among(entries(place), problems, said)
        if place.name == good:
            test += [Item(p, "good") for p in images]
            continue
        if place.name == "good":
            problems.append(f"{place}: unexpected folder; normal images belong into test/{good}")
        elif not images and len(problems) == before:
            problems.append(f"{place}: no images of this defect; put them there or remove the folder")
        masks = images_among(entries(truth / place.name), problems, said)
        test += [Item(p, place.name, mask) for p, mask in _paired(images, masks, truth / place.name, ending, problems)]
    if not train and normal.is_dir():
        problems.append(f"{normal}: no images; one normal image at least is needed to train")
    if not test and tests.is_dir():
        problems.append(f"{tests}: no images; expected test/{good} and test/<defect>")
    no_defect = [p for p in entries(truth) if p.name == good or not (tests / p.name).is_dir()] if tests.is_dir() else []
    beside = [p for p in entries(folder) if p.name not in (PARTS if p.is_dir() else ITS_TEXTS)]
    for paths, why in (
        ([p for p in entries(tests) if not p.is_dir()], f"unexpected file; images belong into test/{good} or test/<defect>"),
        (no_defect, f"masks of no defect in {tests}; remove them"),
        ([p for p in entries(normal.parent) if p.name != good], f"unexpected {{}} in train (only train/{good} is used); move it away"),
        (beside, f"unexpected {{}} (a category holds {', '.join(PARTS)}); move it away"),
    ):
        _pass_over(paths, why, problems, said)
    return train, test


def _visa(folder: Path, problems: list[str], said: Said) -> Items:
    """Data/Images/Normal/0000.JPG, Data/Images/Anomaly/000.JPG, Data/Masks/Anomaly/000.png; beside the categories
    split_csv/1cls.csv, the official split for one-class training, with a row for every image."""
    table = folder.parent / "split_csv/1cls.csv"
    train, test = [], []
    try:
        rows = [row for row in csv.reader(table.read_text(encoding="utf-8-sig").splitlines()) if row]
    except (OSError, ValueError, csv.Error):
        rows = []
    if rows[:1] != [["object", "split", "label", "image", "mask"]]:
        problems.append(f"{table}: not there, or not VisA's table of object,split,label,image,mask; put the original there")
        return train, test
    there = {p for part in ("Images", "Masks") for p in images_among([*files_below(folder / "Data" / part)], problems, said)}
    named: set[Path] = set()
    for _, split, label, image, mask in [row for row in rows if row[0] == folder.name and len(row) == 5]:
        normal = label == "normal"
        item = Item(folder.parent / image, "good" if normal else label, None if normal else folder.parent / mask)
        absent = [p for p in (item.image, item.mask) if p and p not in there]
        problems += [f"{p}: not there, and {table} names it; put it there" for p in absent]
        if (split, label) not in (("train", "normal"), ("test", "normal"), ("test", "anomaly")):
            problems.append(f"{table}: {image} is {label!r} in {split!r}; put the original there")
        elif not absent:
            (train if split == "train" else test).append(item)
        named |= {p for p in (item.image, item.mask) if p}
    problems += [f"{p}: no row of {table} names it; remove it, or put the original table there" for p in sorted(there - named)]
    return train, test


def _named(pattern: str, folder: Path, said: Said) -> list[Path]:
    """What lies in a folder under such names; the rest, pages and pictures about the data set, is passed over."""
    if rest := [p for p in entries(folder) if not re.match(pattern, p.name)]:
        said.setdefault("not used", []).extend(rest)
    return [p for p in entries(folder) if p not in rest]


def _kolektorsdd(folder: Path, problems: list[str], said: Said) -> Items:
    """kos01/Part0.jpg, kos01/Part0_label.bmp: the label alone says whether the image is anomalous.

    No split for one-class training is published. Ours keeps the images of a commutator together, which are alike: those of every
    fifth (kos05, kos10, ...) are for the test, and with them all anomalous ones.
    """
    train, test = [], []
    for place in _named(r"kos\d+$", folder, said):
        files = images_among(entries(place), problems, said)
        labels = [p for p in files if p.stem.endswith("_label")]
        for image, mask in _paired([p for p in files if p not in labels], labels, place, "_label.bmp", problems):
            try:
                anomalous = mask is not None and region_of(read_mask(mask)).any()
            except DataError as error:
                problems.append(str(error))
                continue
            held_out = anomalous or int(place.name[3:]) % 5 == 0
            (test if held_out else train).append(Item(image, "defect", mask) if anomalous else Item(image, "good"))
    return train, test


def _magnetic_tile(folder: Path, problems: list[str], said: Said) -> Items:
    """MT_Free/Imgs/exp1_num_1234.jpg, MT_<defect>/Imgs/exp1_num_1234.jpg, MT_<defect>/Imgs/exp1_num_1234.png (mask).

    No split for one-class training is published. Ours tests on the free ones of every fifth thousand of frame numbers (0 to 999, 5000
    to 5999, ...): frames of one tile under several exposures have neighbouring numbers, so nearly all of them stay together.
    """
    train, test = [], []
    for place in _named("MT_", folder, said):
        files = entries(place / "Imgs")
        masks = [p for p in files if p.suffix.lower() == ".png"]
        images = images_among([p for p in files if p not in masks], problems, said)
        if place.name != "MT_Free":
            test += [Item(p, place.name, mask) for p, mask in _paired(images, masks, place / "Imgs", ".png", problems)]
            continue
        for path in images:
            number = re.search(r"\d+$", path.stem)
            if not number:
                problems.append(f"{path}: no frame number at the end of its name, by which the split is made; give the original name")
            (test if number and int(number[0]) // 1000 % 5 == 0 else train).append(Item(path, "good"))
    return train, test


# How a data set's files lie -> who finds them, and what a category's folder holds; () if the data set is one category, the folder itself.
LAYOUTS: dict[str, tuple[Callable[[Path, list[str], Said], Items], tuple[str, ...]]] = {
    "mvtec": (_mvtec, PARTS),
    "btad": (partial(_mvtec, good="ok", ending=".png"), PARTS),
    "visa": (_visa, ("Data",)),
    "kolektorsdd": (_kolektorsdd, ()),
    "magnetic_tile": (_magnetic_tile, ()),
}
