"""Figures of the data and metrics notebooks: arrays in, Figure out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from rdlib.report.plots import show_image

OUTLINE = "#00e5ff"


def gallery(rows: dict[str, Sequence[tuple[str, NDArray, NDArray | None]]], size: float = 1.7) -> Figure:
    """Rows of pictures, each with its title; the mask, if any, outlined just outside its edge so that it hides nothing.

    rows: row label -> (title, image (C, H, W) uint8, mask (H, W) bool or None); size: of a picture, inches
    """
    columns = max(map(len, rows.values()))
    fig = Figure(figsize=(size * columns, (size + 0.25) * len(rows)), layout="constrained")
    axes = fig.subplots(len(rows), columns, squeeze=False)
    for line, (label, pictures) in zip(axes, rows.items()):
        for ax, (title, image, mask) in zip(line, pictures):
            show_image(ax, image)
            ax.set_title(title, fontsize=8, parse_math=False)
            if mask is not None and mask.any():
                _outline(ax, mask)
        for ax in line[len(pictures) :]:
            ax.set_axis_off()
        line[0].set_ylabel(label, parse_math=False)  # a folder's name may hold $
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    return fig


def _outline(ax, mask: NDArray) -> None:
    wider = binary_dilation(mask, iterations=max(1, round(mask.shape[0] / 64)))
    ax.contour(wider, levels=[0.5], colors="black", linewidths=2.2)
    ax.contour(wider, levels=[0.5], colors=OUTLINE, linewidths=1.1)


def pro_curves(pooled: tuple[NDArray, NDArray], single: Sequence[tuple[NDArray, NDArray]], max_fpr: float) -> Figure:
    """Per-region overlap against false positive rate: all images pooled, and each anomalous image by itself.

    pooled: fpr, pro of (T,) each; single: the same per image; max_fpr: right edge of the shaded area
    """
    fig = Figure(figsize=(6, 3.4), layout="constrained")
    ax = fig.subplots()
    for i, (fpr, pro) in enumerate(single):
        ax.plot(fpr, pro, color="0.6", lw=0.8, label=None if i else f"each of {len(single)} anomalous images by itself")
    fpr, pro = pooled
    ax.plot(fpr, pro, lw=2, label="all test images pooled")
    inside = np.append(fpr[fpr <= max_fpr], max_fpr)
    ax.fill_between(inside, np.interp(inside, fpr, pro), alpha=0.25, label="area of the pooled curve that counts")
    ax.axvline(max_fpr, color="black", ls="--", lw=1)
    ax.annotate(f"FPR limit {max_fpr:g}", (max_fpr, 0.5), xytext=(4, 0), textcoords="offset points")
    ax.set(xlabel="false positive rate over normal pixels", ylabel="mean overlap per region", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend(loc="lower right")
    sns.despine(fig)
    return fig


def shares(values: NDArray, anomalous: NDArray, average: float, xlabel: str, ylabel: str) -> Figure:
    """A bar per image, coloured by what the image is, and a line at the average of all.

    values: (N,) in [0, 1]; anomalous: (N,) bool
    """
    fig = Figure(figsize=(6, 2.6), layout="constrained")
    ax = fig.subplots()
    for which, name, hatch in ((~anomalous, "normal image", ""), (anomalous, "anomalous image", "//")):
        ax.bar(np.flatnonzero(which), values[which], label=name, hatch=hatch, edgecolor="white")
    ax.axhline(average, color="black", ls="--", lw=1, label="all images together")
    ax.set(xlabel=xlabel, ylabel=ylabel, xticks=range(len(values)))
    ax.legend(fontsize=7)
    sns.despine(fig)
    return fig
