"""Which images go into the paper's figures: chosen by rule from the run files, never by hand. `plots` draws them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rdlib.report import plots
from rdlib.run.files import write_atomically

Run = dict[str, Any]
Choice = list[tuple[str, str]]  # (category, path of a test image)
Source = Callable[[str, str], NDArray]  # (category, path) -> anomaly map (H, W)
ROWS = 6  # rows of a figure at the most


class Kept:
    """The test images and maps that runs kept, found by category and path.

    runs: one per category; load: run -> what `results.load_maps` gives. Runs without maps are left out
    """

    def __init__(self, runs: list[Run], load: Callable[[Run], dict[str, NDArray] | None]) -> None:
        found = {r["config"]["category"]: (r, load(r)) for r in runs}
        self.runs = [r for r, maps in found.values() if maps is not None]
        self._maps = {c: maps for c, (_, maps) in found.items() if maps is not None}
        self._where = {c: {str(p): i for i, p in enumerate(m["paths"])} for c, m in self._maps.items()}
        self._scales = {r["config"]["category"]: r["config"]["scales"] for r in self.runs}

    def __len__(self) -> int:
        return len(self._maps)

    def __contains__(self, category: str) -> bool:
        return category in self._maps

    def image(self, category: str, path: str) -> NDArray:
        return self._maps[category]["images"][self._where[category][path]]

    def mask(self, category: str, path: str) -> NDArray:
        return self._maps[category]["masks"][self._where[category][path]]

    def scale_map(self, k: int) -> Source:
        """M^k of an image, upsampled and smoothed."""
        return lambda category, path: self._maps[category]["scale_maps"][k - 1, self._where[category][path]]

    def map(self, category: str, path: str) -> NDArray:
        """The image's anomaly map: the sum over the run's scales."""
        return sum(self.scale_map(k)(category, path) for k in self._scales[category])


# --- Choices ------------------------------------------------------------------------------------------------------


def ranked_by_area(run: Run) -> list[str]:
    """Paths of the anomalous images, smallest defect first."""
    rows = [i for i in run["images"] if i["label"] and i["anomalous_pixels"]]
    return [i["path"] for i in sorted(rows, key=lambda i: (i["anomalous_pixels"], i["path"]))]


def ranked_by_score(run: Run) -> list[str]:
    """Paths of the anomalous images, lowest score first: the misses."""
    return [i["path"] for i in sorted((i for i in run["images"] if i["label"]), key=lambda i: (i["score"], i["path"]))]


def typical(runs: list[Run]) -> Choice:
    """The defect of median size of each category; of a single category, defects from small to large."""
    if len(runs) == 1:
        ranked = ranked_by_area(runs[0])
        return [(runs[0]["config"]["category"], ranked[i]) for i in np.linspace(0, len(ranked) - 1, min(ROWS, len(ranked))).astype(int)]
    ranked = {r["config"]["category"]: ranked_by_area(r) for r in runs}
    return [(category, paths[len(paths) // 2]) for category, paths in ranked.items() if paths][:ROWS]


def smallest(runs: list[Run]) -> Choice:
    return _round_robin({r["config"]["category"]: ranked_by_area(r) for r in runs})


def largest(runs: list[Run]) -> Choice:
    return _round_robin({r["config"]["category"]: ranked_by_area(r)[::-1] for r in runs})


def misses(runs: list[Run]) -> Choice:
    return _round_robin({r["config"]["category"]: ranked_by_score(r) for r in runs})


def all_chosen(runs: list[Run]) -> set[tuple[str, str]]:
    """Every image that any figure shows of these runs."""
    return {pair for choose in (typical, smallest, largest, misses) for pair in choose(runs)}


def _round_robin(ranked: dict[str, list[str]]) -> Choice:
    """The first of every category, then the second of every category ..., up to ROWS."""
    longest = max(map(len, ranked.values()), default=0)
    return [(c, items[n]) for n in range(longest) for c, items in ranked.items() if n < len(items)][:ROWS]


# --- Figures ------------------------------------------------------------------------------------------------------


def against_conventional(kept: Kept, conventional: Kept) -> Figure:
    """Fig. 1: image | ground truth | conventional | reverse."""
    chosen = [(c, p) for c, p in typical(kept.runs) if c in conventional]
    return _grid(kept, chosen, {"conventional": conventional.map, "reverse (ours)": kept.map})


def chosen_grid(kept: Kept, choose: Callable[[list[Run]], Choice]) -> Figure:
    """Figs. 5 and 6: image | ground truth | anomaly map of the images that `choose` takes."""
    return _grid(kept, choose(kept.runs), {"reverse (ours)": kept.map})


def per_scale(kept: Kept) -> Figure:
    """Image | ground truth | M1 | M2 | M3 | sum."""
    scales = sorted({k for r in kept.runs for k in r["config"]["scales"]})
    return _grid(kept, typical(kept.runs), {f"M{k}": kept.scale_map(k) for k in scales} | {"sum": kept.map})


def histograms(runs: list[Run]) -> Figure:
    """Fig. 7, one panel per category."""
    rows = {r["config"]["category"]: r["images"] for r in runs}
    return plots.histogram_grid([(c, np.array([i["label"] for i in im]), np.array([i["score"] for i in im])) for c, im in rows.items()])


def pro_curves(runs: list[Run]) -> Figure:
    """PRO against false positive rate to 0.3, one line per category."""
    lines = {
        f"{r['config']['category']} ({100 * r['metrics']['au_pro']:.1f})": (r["pro_curve"]["fpr"], r["pro_curve"]["pro"])
        for r in runs
        if "pro_curve" in r
    }
    return plots.curves(lines, "false positive rate", "per-region overlap", (0, 0.3))


def _grid(kept: Kept, chosen: Choice, columns: dict[str, Source]) -> Figure:
    if not chosen:
        return plots.nothing()
    return plots.map_grid(
        images=[kept.image(*pair) for pair in chosen],
        masks=[kept.mask(*pair) for pair in chosen],
        maps={name: np.stack([source(*pair) for pair in chosen]) for name, source in columns.items()},
        titles=[f"{category}\n{path.split('/')[1]}" for category, path in chosen],
        note=plots.ATTRIBUTION[kept.runs[0]["config"]["dataset"]],
    )


def telling_images(result: dict[str, Any], each: int = 2) -> list[int]:
    """Test images worth looking at: the worst misses, the plainest finds, the normal ones with the highest score."""
    labels = np.array([i["label"] for i in result["images"]])
    order = np.argsort([i["score"] for i in result["images"]], kind="stable")
    anomalous, normal = order[labels[order] == 1], order[labels[order] == 0]
    return [*anomalous[:each].tolist(), *anomalous[::-1][:each].tolist(), *normal[::-1][:each].tolist()]


def save_figure(figure: Figure, stem: Path, formats: tuple[str, ...] = ("png",)) -> None:
    """Write the figure as `stem.png` (and `.pdf`), without dates, so that equal figures are equal files."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix in formats:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=150, metadata={"CreationDate": None} if suffix == "pdf" else {"Software": None})
        write_atomically(stem.with_suffix(f".{suffix}"), buffer.getvalue())
