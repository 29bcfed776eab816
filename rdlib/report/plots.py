"""One function per figure: arrays in, Figure out. Nothing is shown, saved or computed here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
import seaborn as sns
from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

sns.set_theme(context="paper", style="ticks", palette="colorblind")
MAP_COLOURS = "inferno"
REGION_COLOUR = (255, 40, 0)
LARGEST_PANEL = 480  # px of a photograph in a heat map
ATTRIBUTION = {
    "mvtec": "photographs: MVTec AD, © MVTec Software GmbH, CC BY-NC-SA 4.0 (Bergmann et al. 2019)",
    "demo": "photographs: scikit-image; defects are synthetic",
}


def _show_in_notebooks() -> None:
    """Let Jupyter show a Figure as PNG. pyplot would do so by itself, and once more for every figure still open."""
    shell = get_ipython()
    if shell is not None:
        select_figure_formats(shell, {"png"}, dpi=80)


_show_in_notebooks()


def loss_curve(losses: Sequence[float]) -> Figure:
    """Mean training loss of each epoch."""
    fig = Figure(figsize=(5, 2.6), layout="constrained")
    ax = fig.subplots()
    ax.plot(range(1, len(losses) + 1), losses, marker=".")
    ax.set(xlabel="epoch", ylabel="loss (sum of 1 - cosine)", ylim=(0, None))
    sns.despine(fig)
    return fig


def map_grid(
    images: Sequence[NDArray], masks: Sequence[NDArray | None], maps: dict[str, NDArray], titles: Sequence[str], note: str = ""
) -> Figure:
    """Rows: image | ground truth | one anomaly map per entry of `maps`. One colour scale per column of maps.

    images: N of (C, H, W) uint8; masks: N of (H, W) bool or None; maps: name -> (N, H, W)
    note: printed below, such as the photographs' `ATTRIBUTION`
    """
    if not len(images):
        return nothing()
    count = len(images)
    fig = Figure(figsize=(2.0 * (2 + len(maps)) + 0.6, 2.0 * count + 0.3), layout="constrained")
    axes = fig.subplots(count, 2 + len(maps), squeeze=False)
    for row, (image, mask, title) in enumerate(zip(images, masks, titles)):
        show_image(axes[row, 0], image)
        axes[row, 0].set_ylabel(title, fontsize=8, parse_math=False)  # a file name may hold $
        axes[row, 1].imshow(np.zeros(image.shape[1:]) if mask is None else mask, cmap="gray", vmin=0, vmax=1)
    for column, (name, values) in enumerate(maps.items(), start=2):
        low, high = float(np.min(values)), float(np.max(values))
        for row in range(count):
            picture = axes[row, column].imshow(values[row], cmap=MAP_COLOURS, vmin=low, vmax=high)
        fig.colorbar(picture, ax=axes[:, column], location="bottom", aspect=14, shrink=0.9)
        axes[0, column].set_title(name)
    axes[0, 0].set_title("image")
    axes[0, 1].set_title("ground truth")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    if note:
        fig.supxlabel(note, fontsize=7)
    return fig


def nothing() -> Figure:
    """What stands for a figure without any run to show: the batch expects its file, and a reader a word."""
    fig = Figure(figsize=(4, 1))
    fig.text(0.5, 0.5, "no finished run to show (not run, or failed)", ha="center", va="center")
    return fig


def show_image(ax, image: NDArray) -> None:
    """image: (1 or 3, H, W) uint8"""
    ax.imshow(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0))


def heat_map(photo: PIL.Image.Image, map: NDArray, threshold: float, title: str) -> Figure:
    """One photograph: image | heat map | thresholded region.

    The colour scale runs from 0 to twice the threshold, so that it is one for all photographs of a detector and the
    threshold is always its middle; what exceeds it has the brightest colour.

    photo: RGB; map: (H, W) at its size
    """
    small = photo.copy()
    small.thumbnail((LARGEST_PANEL, LARGEST_PANEL))
    map = np.asarray(PIL.Image.fromarray(map).resize(small.size, PIL.Image.Resampling.BILINEAR))
    grey = np.repeat(np.asarray(small.convert("L"))[..., None] // 2 + 64, 3, axis=2)
    grey[map > threshold] = grey[map > threshold] // 2 + np.array(REGION_COLOUR, np.uint8) // 2
    width = 3 * 2.6 * min(max(small.width / small.height, 0.7), 2.5)
    fig = Figure(figsize=(width + 0.9, 3.4))
    right = 1 - 0.8 / (width + 0.9)  # the colour bar takes the same inches whatever the photograph's shape
    axes = fig.subplots(1, 3, gridspec_kw={"left": 0.01, "right": right, "top": 0.78, "bottom": 0.02, "wspace": 0.04})
    axes[0].imshow(small)
    drawn = axes[1].imshow(map, cmap=MAP_COLOURS, vmin=0, vmax=2 * threshold)
    axes[2].imshow(grey)
    for ax, name in zip(axes, ("image", "heat map", "above the threshold")):
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=9)
    bar = fig.colorbar(drawn, cax=fig.add_axes((right + 0.1 / (width + 0.9), 0.06, 0.12 / (width + 0.9), 0.66)), extend="max")
    bar.ax.axhline(threshold, color="white", lw=1.5)
    bar.set_ticks([0, threshold, 2 * threshold], labels=["0", f"{threshold:.2f}", f"{2 * threshold:.2f}"], fontsize=8)
    fig.suptitle(title, fontsize=10, parse_math=False)  # a file name may hold $
    return fig


def draw_histogram(ax, labels: NDArray, scores: NDArray) -> None:
    bins = np.histogram_bin_edges(scores, 24)
    for label, name in ((0, "normal"), (1, "anomalous")):
        ax.hist(scores[labels == label], bins=bins, alpha=0.65, label=f"{name} ({int((labels == label).sum())})")
    sns.despine(ax=ax)


def method_bars(rows: Sequence[tuple[str, float | None, float | None, float]]) -> Figure:
    """Per-category bars, the paper's value (if any is published) beside ours with its standard deviation over seeds.

    rows: (category, paper or None, ours or None, std or NaN), per cent
    """
    if all(v is None for _, *values, _ in rows for v in values):
        return nothing()
    names, paper, ours, std = ([np.nan if v is None else v for v in column] for column in zip(*rows))
    fig = Figure(figsize=(max(4.0, 0.5 * len(rows) + 1.5), 3.0), layout="constrained")
    ax = fig.subplots()
    x, shift = np.arange(len(rows)), 0.2 if np.isfinite(paper).any() else 0.0
    if shift:
        ax.bar(x - shift, paper, 0.4, label="paper", color="0.75")
    spread = " (error bar: std over seeds)" if np.isfinite(std).any() else ""
    ax.bar(x + shift, ours, 0.4, label=f"ours{spread}", yerr=std if spread else None, capsize=2)
    low = np.nanmin([*paper, *ours])
    ax.set(xticks=x, ylabel="image AUROC, %", ylim=(max(0, 10 * np.floor(low / 10 - 0.5)), 101))
    ax.set_xticklabels(names, rotation=45, ha="right")
    fig.legend(loc="outside upper right", ncols=2, frameon=False)
    sns.despine(fig)
    return fig


def histogram_grid(panels: Sequence[tuple[str, NDArray, NDArray]]) -> Figure:
    """Histograms of image scores, normal against anomalous, one panel per category (Fig. 7).

    panels: (title, labels (N,), scores (N,))
    """
    if not panels:
        return nothing()
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    fig = Figure(figsize=(3.2 * columns, 2.3 * lines), layout="constrained")
    axes = fig.subplots(lines, columns, squeeze=False)
    for ax, (title, labels, scores) in zip(axes.flat, panels):
        draw_histogram(ax, labels, scores)
        ax.set(title=title, xlabel="image score")
        ax.legend(fontsize=7)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("test images")
    return fig


def curves(lines: dict[str, tuple[NDArray, NDArray]], xlabel: str, ylabel: str, xlim: tuple[float, float] | None = None) -> Figure:
    """Named lines in one plot. lines: name -> (x, y)"""
    if not lines:
        return nothing()
    fig = Figure(figsize=(5, 3.2), layout="constrained")
    ax = fig.subplots()
    for (name, (x, y)), style in zip(lines.items(), ["-", "--", "-.", ":"] * len(lines)):
        ax.plot(x, y, style, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    if xlim:
        ax.set_xlim(*xlim)
    ax.legend(fontsize=7, loc="best")
    sns.despine(fig)
    return fig


def effect_chart(effects: Sequence[tuple[str, str, float, float, float]]) -> Figure:
    """What moves the number: one row per factor, one panel per metric; dot = mean effect, line = smallest to largest.

    effects: (factor, metric, mean, smallest, largest), points
    """
    if not effects:
        return nothing()
    metrics = list(dict.fromkeys(e[1] for e in effects))
    factors = sorted(dict.fromkeys(e[0] for e in effects), key=lambda f: max(abs(e[2]) for e in effects if e[0] == f))
    fig = Figure(figsize=(3.0 + 2.6 * len(metrics), 0.32 * len(factors) + 1.1), layout="constrained")
    axes = fig.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for ax, metric in zip(axes, metrics):
        chosen = [e for e in effects if e[1] == metric]
        y = [factors.index(e[0]) for e in chosen]
        ax.hlines(y, [e[3] for e in chosen], [e[4] for e in chosen], lw=2, alpha=0.5)
        ax.plot([e[2] for e in chosen], y, "o", ms=5)
        ax.axvline(0, color="0.5", lw=0.8)
        ax.set(title=metric, xlabel="change, points", yticks=range(len(factors)))
        ax.set_yticklabels(factors)
        ax.grid(axis="y", lw=0.3)
    sns.despine(fig, left=True)
    return fig


def growth(factors: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """Seconds against the size of the problem, both axes logarithmic; the dashed line is proportional growth.

    factors: `growth` of bench.json, factor -> size -> median_s, q1_s, q3_s
    """
    fig = Figure(figsize=(3.4 * len(factors), 3.2), layout="constrained")
    for ax, (name, points) in zip(fig.subplots(1, len(factors)), factors.items()):
        sides = "resolution" in name  # cost goes with pixels, the ticks say pixels per side
        x = [int(n) ** (2 if sides else 1) for n in points]
        y, low, high = ([p[key] for p in points.values()] for key in ("median_s", "q1_s", "q3_s"))
        error = np.abs(np.array([low, high]) - y)
        ax.plot(x, [y[-1] * v / x[-1] for v in x], "--", color="0.5", label="proportional")
        ax.errorbar(x, y, yerr=error, marker="o", capsize=3, color=sns.color_palette()[0], label="median, quartiles")
        ax.set(xscale="log", yscale="log", title=name, ylabel="seconds", xlabel="pixels per side" if sides else "number")
        ax.set_xticks(x, list(points))
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_locator(NullLocator())
        ax.legend(loc="upper left")
    return fig
