"""Which images go into the paper's figures, by rule and never by hand, and how a figure becomes a file. `plots` draws them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rdlib.report import plots
from rdlib.run import record
from rdlib.run.files import write_atomically

ROWS = 6  # rows of a figure at the most


# --- Choices ------------------------------------------------------------------------------------------------------
# On a table of test images, a row each with category, path and what `by` names: `runs.images`.


def in_turn(images: pd.DataFrame, by: str, ascending: bool = True) -> pd.DataFrame:
    """The first image of every category in the order of column `by`, then the second of every one ..., up to ROWS; equals by path."""
    ranked = images.sort_values([by, "path"], ascending=ascending)
    rank = ranked.groupby("category").cumcount()
    return ranked.assign(rank=rank).sort_values(["rank", "category"]).head(ROWS)


def typical(images: pd.DataFrame) -> pd.DataFrame:
    """The defect of median size of each category; of a single category, defects from small to large."""
    ranked = images.sort_values(["category", "anomalous_pixels", "path"])
    groups = [group for _, group in ranked.groupby("category")]
    if len(groups) == 1:
        return ranked.iloc[np.linspace(0, len(ranked) - 1, min(ROWS, len(ranked))).astype(int)]
    return pd.concat([ranked.iloc[:0], *(group.iloc[[len(group) // 2]] for group in groups)]).head(ROWS)


def telling_images(result: dict[str, Any], each: int = 2) -> list[int]:
    """Test images worth looking at: the worst misses, the plainest finds, the normal ones with the highest score."""
    labels = np.array([i["label"] for i in result["images"]])
    order = np.argsort([i["score"] for i in result["images"]], kind="stable")
    anomalous, normal = order[labels[order] == 1], order[labels[order] == 0]
    return [*anomalous[:each].tolist(), *anomalous[::-1][:each].tolist(), *normal[::-1][:each].tolist()]


# --- Pictures of runs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """What one run kept of its test images.

    images: (N, C, H, W) uint8; masks: (N, H, W) bool, or (0,) where there are none
    scale_maps: (K, N, H, W), M^k upsampled and smoothed; scales: those that `maps` sums, from 1
    """

    images: NDArray
    masks: NDArray
    scale_maps: NDArray
    paths: tuple[str, ...]
    scales: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path, run: dict[str, Any]) -> Self | None:
        """The images and maps of the run in `folder/runs`, or None if it kept none.

        raises: InputError naming the file if it is damaged
        """
        found = record.load_maps(folder / "runs" / run["run_id"])
        if found is None:
            return None
        arrays = {name: found[name] for name in ("images", "masks", "scale_maps")}
        return cls(**arrays, paths=tuple(map(str, found["paths"])), scales=tuple(run["config"]["scales"]))

    @cached_property
    def maps(self) -> NDArray:
        """(N, H, W), the sum over the scales; zero without any."""
        return self.scale_maps[[k - 1 for k in self.scales]].sum(0)


def grid(chosen: pd.DataFrame, columns: dict[str, dict[str, Kept]], note: str = "") -> Figure:
    """Image | ground truth | a map per column, of images that were kept.

    chosen: rows of category and path; columns: name -> category -> what a run kept
    The colour scale of a row is its category's: from the smallest to the greatest value of all images that were kept, in all columns.
    """
    rows = [(category, path, [runs[category] for runs in columns.values()]) for category, path in zip(chosen["category"], chosen["path"])]
    at = [[run.paths.index(path) for run in runs] for _, path, runs in rows]
    return plots.map_grid(
        images=[runs[0].images[i[0]] for (_, _, runs), i in zip(rows, at)],
        masks=[runs[0].masks[i[0]] for (_, _, runs), i in zip(rows, at)],
        maps={name: [runs[n].maps[i[n]] for (_, _, runs), i in zip(rows, at)] for n, name in enumerate(columns)},
        titles=[f"{category}\n{path.split('/')[1]}" for category, path, _ in rows],
        note=note,
        limits=[(min(run.maps.min() for run in runs), max(run.maps.max() for run in runs)) for _, _, runs in rows],
    )


# --- Files --------------------------------------------------------------------------------------------------------


def save_figure(figure: Figure, stem: Path, formats: tuple[str, ...] = ("png",), caption: str = "", alt: str = "") -> None:
    """Write the figure as `stem.png` (and `.pdf`), in our style and without dates: equal figures are equal files.

    caption, alt: heading and alternative text, kept in the file (a PNG's Title and Description), where the report reads them
    """
    metadata = {
        "png": {"Software": None, "Title": caption or None, "Description": alt or None},
        "pdf": {"CreationDate": None, "Title": caption or None, "Subject": alt or None},
    }
    for suffix in formats:
        write_atomically(stem.with_suffix(f".{suffix}"), plots.png(figure, 150, format=suffix, metadata=metadata[suffix]))
