"""Looking into runs that kept their maps: pure functions (arrays in, arrays or Figure out), and the widgets around them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from ipyevents import Event
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import ndimage

from rdlib.errors import InputError
from rdlib.metrics import EIGHT_NEIGHBOURS
from rdlib.paths import resolve
from rdlib.report import figures, plots, runs

Run = dict[str, Any]
LEGEND = {"found": (86, 180, 233), "false": (213, 94, 0), "missed": (240, 228, 66)}  # told apart by colour-blind readers (Okabe & Ito)
STEP = 0.005  # of the threshold
DPI = 110


class Kept(figures.Kept):
    """What one run kept of its test images; `maps` sums the scales that are switched on."""

    @cached_property
    def usual(self) -> NDArray:
        """(K,), the median similarity of the normal pixels."""
        return np.array([1 - np.median(m[~self.masks]) for m in self.scale_maps])

    @cached_property
    def top(self) -> float:
        """End of the threshold's range, a multiple of STEP: no pixel of any kept image exceeds it."""
        return max(STEP * np.ceil(float(self.maps.max()) / STEP), STEP)


@dataclass(frozen=True)
class View:
    """What the widgets say. image: index; strength: of the overlay, in [0, 1]; row, column: the pixel that is looked at"""

    image: int
    threshold: float
    strength: float
    row: int
    column: int


# --- Numbers ------------------------------------------------------------------------------------------------------


def best_threshold(masks: NDArray, maps: NDArray, top: float) -> float:
    """The multiple of STEP in [0, top] with the largest F1 over all pixels; the lowest of equals.

    It is chosen with the ground truth: a place to start looking from, not a result.
    """
    thresholds = STEP * np.arange(round(top / STEP) + 1)
    found, false = (values.size - np.searchsorted(np.sort(values), thresholds, side="right") for values in (maps[masks], maps[~masks]))
    f1 = 2 * found / np.maximum(found + false + np.count_nonzero(masks), 1)
    return round(float(thresholds[np.argmax(f1)]), 3)  # no digits beyond those of STEP


def regions(mask: NDArray, above: NDArray) -> tuple[int, int, int]:
    """Defects (regions of the ground truth), defects without a pixel above the threshold, regions above that touch no defect.

    mask, above: (H, W) bool; pixels that share a corner are one region
    """
    (defects, count), (alarms, raised) = (ndimage.label(m, structure=EIGHT_NEIGHBOURS) for m in (mask, above))
    touched = mask & above
    return count, count - len(np.unique(defects[touched])), raised - len(np.unique(alarms[touched]))


def next_image(kept: Kept, view: View, wanted: str) -> int | None:
    """The next image with a false alarm, or with a miss, at this threshold; after the last one comes the first.

    wanted: "false alarm": a region above the threshold that touches no defect; "miss": a defect that nothing touches
    returns: index, or None if no other image has one
    """
    count = len(kept.maps)
    for index in ((view.image + step) % count for step in range(1, count)):
        _, misses, false = regions(kept.masks[index], kept.maps[index] > view.threshold)
        if {"miss": misses, "false alarm": false}[wanted]:
            return index
    return None


def table(kept: Kept, view: View) -> pd.DataFrame:
    """Precision and recall over pixels, of the image and of all kept images of the category, as text; of nothing there is no share."""
    above, cells = kept.maps > view.threshold, {}
    for name, images in {"this image": view.image, f"all {len(kept.maps)} kept images": slice(None)}.items():
        mask, alarm = kept.masks[images], above[images]
        found, false, missed = (np.count_nonzero(pixels) for pixels in (mask & alarm, alarm & ~mask, mask & ~alarm))
        shares = [f"{100 * found / total:.1f} %" if total else "–" for total in (found + false, found + missed)]
        cells[name] = [*shares, *(f"{count:,}" for count in (found, false, missed))]
    return pd.DataFrame.from_dict(cells, orient="index", columns=["precision", "recall", "pixels found", "false", "missed"])


def sentence(kept: Kept, view: View) -> str:
    """How many defects of this image are touched, and how many false alarms it has."""
    defects, misses, false = regions(kept.masks[view.image], kept.maps[view.image] > view.threshold)
    if not kept.scales:
        return "No scale is chosen: the map is empty."
    hit = f"{defects - misses} of {defects} defect{'s' * (defects != 1)} touched" if defects else "no defect in this image"
    return f"{hit}; {false or 'no'} region{'s' * (false != 1)} above the threshold away from any defect."


def alarms(run: Run, scales: Sequence[int], threshold: float) -> str:
    """How many images of the whole test set raise an alarm; their scores are those of the run's own scales."""
    if run["config"]["image_score"] != "max" or list(scales) != list(run["config"]["scales"]):
        return ""
    raised = [[i["score"] > threshold for i in run["images"] if i["label"] == label] for label in (1, 0)]
    bad, good = (f"{sum(r)} of {len(r)}" for r in raised)
    return f"Whole test set at this threshold: {bad} anomalous and {good} normal images have a pixel above it."


# --- Pictures -----------------------------------------------------------------------------------------------------


def marked(image: NDArray, mask: NDArray, above: NDArray, strength: float) -> NDArray:
    """The photograph in grey, with what was found, falsely marked and missed in three colours.

    image: (C, H, W) uint8; mask, above: (H, W) bool; strength: 0 = photograph only, 1 = full colour
    returns: (H, W, 3) uint8
    """
    picture = np.repeat(image.mean(0)[..., None], 3, axis=2) / 2 + 64  # paler, so that colours stand out from dark and bright
    for region, colour in zip((mask & above, above & ~mask, mask & ~above), LEGEND.values()):
        picture[region] = (1 - strength) * picture[region] + strength * np.array(colour)
    return picture.round().astype(np.uint8)


@plots.style()
def draw(kept: Kept, view: View, note: str = "") -> Figure:
    """Image | found, false, missed | anomaly map | similarity of teacher and student at one pixel, per scale."""
    image, mask, map = kept.images[view.image], kept.masks[view.image], kept.maps[view.image]
    fig = plots.Picture(figsize=(11, 3.4))
    grid = {"left": 0.005, "right": 0.975, "top": 0.91, "bottom": 0.16, "wspace": 0.06, "width_ratios": [1, 1, 1, 0.38, 0.8]}
    first, second, third, gap, last = fig.subplots(1, 5, gridspec_kw=grid)
    plots.show_image(first, image)
    second.imshow(marked(image, mask, map > view.threshold, view.strength))
    drawn = third.imshow(map, cmap=plots.MAP_COLOURS, vmin=0, vmax=kept.top)
    if map.min() < view.threshold < map.max():
        third.contour(map, levels=[view.threshold], colors="white", linewidths=1)
    summed = f"anomaly map {' + '.join(f'M{k}' for k in kept.scales)}" if kept.scales else "no scale chosen"
    for ax, title in zip((first, second, third), ("image", "found, false, missed", summed)):
        ax.set(xticks=[], yticks=[])
        ax.set_title(title, fontsize=10)
        ax.plot(view.column, view.row, "+", color="black", ms=13, mew=3.5)
        ax.plot(view.column, view.row, "+", color="white", ms=12, mew=1.5)
    gap.set_axis_off()
    box = gap.get_position()  # the bar must not take room from the pictures, whose places clicks are compared with
    bar = fig.colorbar(drawn, cax=fig.add_axes((box.x0, box.y0, 0.012, box.height)))
    bar.ax.axhline(view.threshold, color="white", lw=2)
    bar.ax.tick_params(labelsize=8)
    _similarity_bars(last, kept, view)
    handles = [Patch(color=np.array(colour) / 255, label=name) for name, colour in LEGEND.items()]
    below_second, below_third = (float(np.mean(ax.get_position().intervalx)) for ax in (second, third))
    place = {"loc": "lower center", "bbox_to_anchor": (below_second, 0.02), "frameon": False, "fontsize": 9}
    fig.legend(handles=handles, **place, ncols=3, handlelength=1, handletextpad=0.4, columnspacing=1.2)
    fig.text(below_third, 0.065, f"white line: threshold {view.threshold:.3f}", fontsize=9, ha="center")
    fig.text(0.005, 0.065, textwrap.fill(note, 50), fontsize=6.5, va="center")
    return fig


def _similarity_bars(ax, kept: Kept, view: View) -> None:
    """1 - M^k at the pixel, beside what is usual for a normal pixel."""
    similarity = 1 - kept.scale_maps[:, view.image, view.row, view.column]
    places, scales = np.arange(len(similarity)), range(1, len(similarity) + 1)
    ax.barh(places, similarity, color=["#0072B2" if k in kept.scales else "0.75" for k in scales], height=0.6)
    ax.plot(kept.usual, places, "|", color="black", ms=28, mew=2)
    ax.set(yticks=places, xlim=(min(0, float(similarity.min())), 1), ylim=(len(similarity) - 0.5, -0.5))
    ax.set_yticklabels([f"M{k}\n{value:.2f}" for k, value in zip(scales, similarity)], fontsize=9)
    ax.tick_params(axis="x", labelsize=8, pad=1)
    ax.set_title(f"pixel in row {view.row}, column {view.column}", fontsize=10)
    ax.set_xlabel("similarity (cosine) of teacher and student\nblack line: median of normal pixels", fontsize=8, labelpad=1)


def pixel_at(figure: Figure, x: float, y: float) -> tuple[int, int] | None:
    """Row and column of the picture's pixel at a place of `draw`'s figure.

    x, y: in [0, 1], from the left and from the top
    returns: None beside the pictures
    """
    place = figure.transFigure.transform((x, 1 - y))
    for ax in figure.axes[:3]:  # those that show a picture
        ax.apply_aspect()  # else done when drawing
        if ax.bbox.contains(*place):
            height, width = ax.images[0].get_size()
            column, row = np.round(ax.transData.inverted().transform(place)).astype(int)
            return int(np.clip(row, 0, height - 1)), int(np.clip(column, 0, width - 1))
    return None


# --- Widgets ------------------------------------------------------------------------------------------------------


class Explorer(widgets.VBox):
    """The widgets. Their values are the only state; `kept` and `view` read them, `figure`, `table` and `text` follow.

    runs: with kept maps and masks, one per setting (the id without its category) and category; load: run -> what it kept
    """

    def __init__(self, runs: Sequence[Run], load: Callable[[Run], Kept]) -> None:
        self._runs = {(r["run_id"].replace(f"-{r['config']['category']}-", "-", 1), r["config"]["category"]): r for r in runs}
        self._load = lru_cache(maxsize=2)(lambda *key: load(self._runs[key]))  # reading takes time; nothing else is remembered
        self._kept = lru_cache(maxsize=2)(lambda key, scales: replace(self._load(*key), scales=scales))
        self._settling = False
        settings = list(dict.fromkeys(setting for setting, _ in self._runs))
        whole = {"width": "auto", "max_width": "calc(100% - 4px)"}  # less its margin
        self.run = widgets.Dropdown(description="run", options=settings, layout=whole)
        self.category = widgets.Dropdown(description="category", layout={"width": "220px"})
        self.image = widgets.Dropdown(description="image", layout={"width": "260px"})
        self.threshold = widgets.FloatSlider(description="threshold", max=STEP, step=STEP, readout_format=".3f", layout={"width": "520px"})
        self.strength = widgets.FloatSlider(description="overlay", value=0.7, max=1.0, step=0.05, readout_format=".2f")
        own = runs[0]["config"]["scales"]
        self.scales = [widgets.Checkbox(description=f"M{k}", value=k in own, indent=False, layout={"width": "56px"}) for k in (1, 2, 3)]
        self.row, self.column = widgets.IntSlider(description="row"), widgets.IntSlider(description="column")
        self.best = _button("best F1", "threshold with the best F1 over the pixels of all kept images")
        self.next_false = _button("next false alarm", "next image with a region above the threshold that touches no defect")
        self.next_miss = _button("next miss", "next image with a defect that nothing above the threshold touches")
        # No tooltip: ipywidgets 8.1 then fails to show an Image.
        self.picture = widgets.Image(format="png", layout={"width": "100%", "max_width": "1210px"})
        self.numbers, self.message = widgets.HTML(), widgets.HTML()
        rows = [
            (self.run, self.category),
            (self.image, self.next_false, self.next_miss, self.message),
            (self.threshold, self.best),
            (self.strength, widgets.Label("scales", layout={"margin": "2px 12px 2px 24px"}), *self.scales),
            (self.picture,),
            (self.row, self.column, widgets.Label("or click a pixel of a picture")),
            (self.numbers,),
        ]
        wrap = {"flex_flow": "row wrap", "align_items": "center"}
        super().__init__([widgets.HBox(row, layout=wrap) if len(row) > 1 else row[0] for row in rows])
        self.add_class("rd-explorer")
        for widget in (self.run, self.category, *self.scales):
            widget.observe(lambda _: self._settle(anew=True), "value")
        for widget in (self.image, self.threshold, self.strength, self.row, self.column):
            widget.observe(lambda _: self._settle(), "value")
        self.best.on_click(lambda _: self._settle(anew=True))
        self.next_false.on_click(lambda _: self._go("false alarm"))
        self.next_miss.on_click(lambda _: self._go("miss"))
        self.clicks = Event(source=self.picture, watched_events=["click"])
        self.clicks.on_dom_event(self._click)
        self._settle(anew=True)
        shown = self.kept().maps[self.image.index]
        self.row.value, self.column.value = map(int, np.unravel_index(shown.argmax(), shown.shape))

    def __repr__(self) -> str:  # what is shown where widgets are not
        return "The explorer needs a running JupyterLab; the figure in this notebook shows its first choice."

    @property
    def chosen(self) -> Run:
        return self._runs[self.run.value, self.category.value]

    def kept(self) -> Kept:
        return self._kept((self.run.value, self.category.value), tuple(k for k, t in enumerate(self.scales, 1) if t.value))

    def view(self) -> View:
        return View(self.image.index, self.threshold.value, self.strength.value, self.row.value, self.column.value)

    def figure(self) -> Figure:
        """What the picture shows, as a Figure."""
        return draw(self.kept(), self.view(), plots.ATTRIBUTION[self.chosen["config"]["dataset"]])

    def table(self) -> pd.DataFrame:
        return table(self.kept(), self.view())

    def text(self) -> str:
        """What is above the threshold, in sentences."""
        kept, view, run = self.kept(), self.view(), self.chosen
        some = f"{len(kept.paths)} of {len(run['images'])} test images kept their maps."
        return " ".join([sentence(kept, view), some, alarms(run, kept.scales, view.threshold)]).strip()

    def _settle(self, anew: bool = False) -> None:
        """Bring the widgets in line with each other, then draw once.

        anew: set the threshold to the best F1 of the category, since that of other maps means nothing
        """
        if self._settling:  # a change made below
            return
        self._settling = True
        try:
            _offer(self.category, [(c, c) for s, c in self._runs if s == self.run.value])
            kept = self.kept()
            _offer(self.image, [(path.removeprefix("test/"), path) for path in kept.paths])
            self.row.max, self.column.max = (n - 1 for n in kept.maps.shape[-2:])
            if anew:
                self.threshold.value, self.threshold.max = 0, kept.top  # in this order: the value never exceeds the range
                self.threshold.value = best_threshold(kept.masks, kept.maps, kept.top)
            self.picture.value, self.message.value = plots.png(self.figure(), DPI), ""
            content = f"{self.table().to_html(border=0)}<p>{escape(self.text())}</p>"
            self.numbers.value = f'<div class="jp-RenderedHTMLCommon">{content}</div>'  # JupyterLab's look of tables
        except InputError as error:  # a damaged file: no old picture may stand beside the new choice
            self.picture.value, self.numbers.value, self.message.value = b"", escape(str(error)), ""
        finally:
            self._settling = False

    def _go(self, wanted: str) -> None:
        index = next_image(self.kept(), self.view(), wanted)
        if index is None:
            self.message.value = f"No other kept image has a {wanted} at this threshold."
        else:
            self.image.index, self.message.value = index, ""

    def _click(self, event: dict[str, Any]) -> None:
        x, y = event["relativeX"] / event["boundingRectWidth"], event["relativeY"] / event["boundingRectHeight"]
        pixel = pixel_at(self.figure(), x, y)
        if pixel:
            self.row.value, self.column.value = pixel


def _button(name: str, tooltip: str) -> widgets.Button:
    return widgets.Button(description=name, tooltip=tooltip, layout={"width": "auto"})


def _offer(dropdown: widgets.Dropdown, options: list[tuple[str, str]]) -> None:
    """Other options; the same value if it is among them, else the first."""
    if list(dropdown.options) != options:
        value = dropdown.value
        dropdown.options = options
        dropdown.value = value if value in [v for _, v in options] else options[0][1]


def explore(results_dir: str) -> Explorer:
    """The widgets for every run that kept the maps of images with masks, cosine distances only: of others 1 - M^k is no similarity.

    results_dir: folder that holds runs/
    raises: InputError if no run there did
    """
    folder = resolve(results_dir)
    cosine = runs.load(folder).query("method in ('reverse', 'conventional') and au_pro.notna()")
    kept = [run.result for run in cosine.itertuples() if run.path.with_name("maps.npz").is_file()]
    if not kept:
        raise InputError(
            f"{results_dir}: no run there kept maps of images with masks; give results/reference/demo or make a batch (make reproduce)"
        )
    return Explorer(kept, lambda run: Kept.of(folder, run))
