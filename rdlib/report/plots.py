"""One function per figure: arrays in, Figure out. Nothing is shown, saved or computed here, and importing this changes nothing."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
import PIL.Image
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from rdlib.datasets import DATASETS, FURTHER_DATASETS

MAP_COLOURS = "inferno"
REGION_COLOUR, OUTLINE = (255, 40, 0), "#00e5ff"
LARGEST_PANEL = 480  # px of a photograph in a heat map
# For letters that DejaVu Sans, which comes with matplotlib, lacks: those of these fonts that are installed.
FALLBACK = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic"),
)
ATTRIBUTION = {
    "mvtec": "photographs: MVTec AD, © MVTec Software GmbH, CC BY-NC-SA 4.0 (Bergmann et al. 2019)",
    "demo": "photographs: scikit-image; defects are synthetic",
} | {name: f"photographs: {DATASETS[name].title}, licence: {DATASETS[name].licence}" for name in FURTHER_DATASETS if name != "folder"}


@contextmanager
def style() -> Iterator[None]:
    """Our settings for `with` or as a decorator `@style()`: matplotlib's defaults and ours, never the user's matplotlibrc.

    At the end the settings are what they were. A letter that no installed font has is drawn as a box, without a warning.
    """
    with matplotlib.style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        sns.set_theme(context="paper", style="ticks", palette="colorblind", color_codes=False)
        installed = set(fontManager.get_font_names())
        matplotlib.rcParams["font.family"] = ["DejaVu Sans", *(name for name in FALLBACK if name in installed)]
        yield


class Picture(Figure):
    """A Figure drawn in our style, which Jupyter shows once: where pyplot is not used, it shows no other Figure."""

    @style()
    def savefig(self, *args: Any, **options: Any) -> None:
        super().savefig(*args, **options)

    def _repr_png_(self) -> bytes:
        return png(self, 80, bbox_inches="tight")


def png(figure: Figure, dpi: float, **options: Any) -> bytes:
    """The figure as PNG, without dates: equal figures are equal bytes."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, **{"format": "png", "dpi": dpi, "metadata": {"Software": None}} | options)
    return buffer.getvalue()


def nothing() -> Figure:
    """What stands for a figure without any run to show: the batch expects its file, and a reader a word."""
    with style():
        fig = Picture(figsize=(4, 1))
        fig.text(0.5, 0.5, "no finished run to show (not run, or failed)", ha="center", va="center")
    return fig


@style()
def loss_curve(losses: Sequence[float]) -> Figure:
    """Mean training loss of each epoch."""
    fig = Picture(figsize=(5, 2.6), layout="constrained")
    ax = fig.subplots()
    ax.plot(range(1, len(losses) + 1), losses, marker=".")
    ax.set(xlabel="epoch", ylabel="loss (sum of 1 - cosine)", ylim=(0, None))
    sns.despine(fig)
    return fig


@style()
def map_grid(
    images: Sequence[NDArray],
    masks: Sequence[NDArray | None],
    maps: dict[str, NDArray],
    titles: Sequence[str],
    note: str = "",
    limits: Sequence[tuple[float, float]] | None = None,
) -> Figure:
    """Rows: image | ground truth | one anomaly map per entry of `maps`, with one colour scale and bar per row.

    images: N of (C, H, W) uint8; masks: N of (H, W) bool or None; maps: name -> (N, H, W)
    note: printed below, such as the photographs' `ATTRIBUTION`
    limits: N ends of the rows' colour scales; without them, the smallest and greatest value of all the maps here for every row
    """
    if not len(images):
        return nothing()
    count = len(images)
    limits = [(np.min(list(maps.values())), np.max(list(maps.values())))] * count if limits is None else limits
    fig = Picture(figsize=(1.9 * (2 + len(maps)) + 0.9, 1.9 * count + 0.3), layout="constrained")
    axes = fig.subplots(count, 2 + len(maps), squeeze=False)
    for row, (image, mask, title, (low, high)) in enumerate(zip(images, masks, titles, limits)):
        show_image(axes[row, 0], image)
        axes[row, 0].set_ylabel(title, fontsize=8, parse_math=False)  # a file name may hold $
        axes[row, 1].imshow(np.zeros(image.shape[1:]) if mask is None else mask, cmap="gray", vmin=0, vmax=1)
        for ax, values in zip(axes[row, 2:], maps.values()):
            drawn = ax.imshow(values[row], cmap=MAP_COLOURS, vmin=low, vmax=high)
        fig.colorbar(drawn, ax=axes[row], location="right", aspect=14, shrink=0.9, pad=0.02)
    for ax, name in zip(axes[0], ("image", "ground truth", *maps)):
        ax.set_title(name)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    if note:
        fig.supxlabel(note, fontsize=7)
    return fig


def show_image(ax, image: NDArray) -> None:
    """image: (1 or 3, H, W) uint8"""
    ax.imshow(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0))


@style()
def gallery(rows: dict[str, Sequence[tuple[str, NDArray, NDArray | None]]], size: float = 1.7) -> Figure:
    """Rows of pictures, each with its title; the mask, if any, outlined just outside its edge so that it hides nothing.

    rows: row label -> (title, image (C, H, W) uint8, mask (H, W) bool or None); size: of a picture, inches
    """
    columns = max(map(len, rows.values()))
    fig = Picture(figsize=(size * columns, (size + 0.25) * len(rows)), layout="constrained")
    axes = fig.subplots(len(rows), columns, squeeze=False)
    for line, (label, pictures) in zip(axes, rows.items()):
        for ax, (title, image, mask) in zip(line, pictures):
            show_image(ax, image)
            ax.set_title(title, fontsize=8, parse_math=False)
            if mask is not None and mask.any():
                wider = binary_dilation(mask, iterations=max(1, round(mask.shape[0] / 64)))
                ax.contour(wider, levels=[0.5], colors="black", linewidths=2.2)
                ax.contour(wider, levels=[0.5], colors=OUTLINE, linewidths=1.1)
        for ax in line[len(pictures) :]:
            ax.set_axis_off()
        line[0].set_ylabel(label, parse_math=False)  # a folder's name may hold $
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    return fig


@style()
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
    fig = Picture(figsize=(width + 0.9, 3.4))
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
