"""One function per figure: arrays in, Figure out. Nothing is shown, saved or computed here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import NDArray

sns.set_theme(context="paper", style="ticks", palette="colorblind")
MAP_COLOURS = "inferno"
SETTINGS = {"savefig.dpi": 150, "figure.dpi": 100}


def loss_curve(losses: Sequence[float]) -> Figure:
    """Mean training loss of each epoch."""
    fig = Figure(figsize=(5, 2.6), layout="constrained")
    ax = fig.subplots()
    ax.plot(range(1, len(losses) + 1), losses, marker=".")
    ax.set(xlabel="epoch", ylabel="loss (sum of 1 - cosine)", ylim=(0, None))
    sns.despine(fig)
    return fig


def map_grid(images: Sequence[NDArray], masks: Sequence[NDArray | None], maps: dict[str, NDArray], titles: Sequence[str]) -> Figure:
    """Rows: image | ground truth | one anomaly map per entry of `maps`. One colour scale per column of maps.

    images: N of (C, H, W) uint8; masks: N of (H, W) bool or None; maps: name -> (N, H, W)
    """
    count = len(images)
    fig = Figure(figsize=(2.0 * (2 + len(maps)) + 0.6, 2.0 * count + 0.3), layout="constrained")
    axes = fig.subplots(count, 2 + len(maps), squeeze=False)
    for row, (image, mask, title) in enumerate(zip(images, masks, titles)):
        show_image(axes[row, 0], image)
        axes[row, 0].set_ylabel(title, fontsize=8)
        axes[row, 1].imshow(np.zeros(image.shape[1:]) if mask is None else mask, cmap="gray", vmin=0, vmax=1)
    for column, (name, values) in enumerate(maps.items(), start=2):
        low, high = float(np.min(values)), float(np.max(values))
        for row in range(count):
            picture = axes[row, column].imshow(values[row], cmap=MAP_COLOURS, vmin=low, vmax=high)
        fig.colorbar(picture, ax=axes[:, column], shrink=min(1.0, 1.6 / count), aspect=12)
        axes[0, column].set_title(name)
    axes[0, 0].set_title("image")
    axes[0, 1].set_title("ground truth")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    return fig


def show_image(ax, image: NDArray) -> None:
    """image: (1 or 3, H, W) uint8"""
    ax.imshow(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0))


def score_histogram(labels: NDArray, scores: NDArray, title: str = "") -> Figure:
    """Histograms of the image scores of normal and anomalous test images (Fig. 7).

    labels: (N,) 0 or 1; scores: (N,)
    """
    fig = Figure(figsize=(5, 2.6), layout="constrained")
    ax = fig.subplots()
    draw_histogram(ax, labels, scores)
    ax.set(xlabel="image score", ylabel="test images", title=title)
    ax.legend()
    return fig


def draw_histogram(ax, labels: NDArray, scores: NDArray) -> None:
    bins = np.histogram_bin_edges(scores, 24)
    for label, name in ((0, "normal"), (1, "anomalous")):
        ax.hist(scores[labels == label], bins=bins, alpha=0.65, label=f"{name} ({int((labels == label).sum())})")
    sns.despine(ax=ax)
