"""The report of a batch as one self-contained page: `python -m rdlib.report.page RESULTS_DIR [OUT.html] [--data FOLDERS]` (`make report`).

Read from disk only: run files, tables/*.html and figures/*.png, as the notebooks wrote them. What is not there is said to be missing.
Everything that comes from a file is plain text here and is escaped by the template (autoescape), and the page's own policy forbids
it to load or run anything else.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import hashlib
import io
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from rdlib.config import Config, defaults_of
from rdlib.errors import InputError, exit_in_words
from rdlib.paths import PACKAGE, resolve
from rdlib.report import figures, plots, runs
from rdlib.run import files, plan
from rdlib.run.progress import progress

Run = dict[str, Any]
TEMPLATE = PACKAGE / "report/template"
THUMBNAIL = 160  # pixels at the most, each side of a panel
LOSSLESS_BELOW = 120_000  # bytes of a PNG; charts are kept exactly, photographs need not be
WEBP_QUALITY = 82


def page(folder: Path, data: str = "") -> str:
    """The report as HTML text.

    folder: results/<profile>, whose name says which plan the runs belong to
    raises: InputError if there is neither a result nor a failed run, or if a table in it is not one that the notebooks write
    """
    table = runs.load(folder)
    finished = [run.result for run in table.itertuples() if run.status == "finished"]
    failed = table[table["status"] != "finished"].to_dict("records")
    planned = _planned(folder.name, data)
    sections = table_sections(folder, planned, table)
    script = "\n".join((TEMPLATE / name).read_text(encoding="utf-8").strip() for name in ("sortable.min.js", "report.js"))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(
        profile=folder.name,
        headline=headline(table),
        status=status(planned, table),
        progress=progress(folder, set().union(*planned.values())) if planned else None,
        failed=failed,
        sections=sections,
        verdicts=Counter(kind for s in sections for t in s["tables"] for kind in t["verdicts"]),
        figures=[figure(path) for path in figure_files(folder)],
        run_ids={run["run_id"] for run in finished},
        runs=[run_view(run, folder) for run in finished],
        hardware=hardware(finished),
        seconds=table[["fit_s", "score_s"]].sum().sum(),
        style=Markup((TEMPLATE / "report.css").read_text(encoding="utf-8")),  # our own file: not escaped
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


# --- The batch ----------------------------------------------------------------------------------------------------


def _planned(profile: str, data: str) -> dict[str, set[str]]:
    """Experiment -> ids of the runs it needs; none where the plan is not known (no profile, or cpu without its data)."""
    if profile not in plan.PROFILES or (profile == "cpu" and not data):
        return {}
    return {name: {plan.identity(p) for p in needed} for name, needed in plan.tables(profile, data).items()}


def status(planned: dict[str, set[str]], table: pd.DataFrame) -> dict[str, Any]:
    """Counts of planned, done, failed and left runs: of the whole batch and of each experiment; None without a plan."""
    there = set(table["run_id"])
    finished = set(table.loc[table["status"] == "finished", "run_id"])

    def counts(ids: set[str]) -> dict[str, int]:
        return {"planned": len(ids), "done": len(ids & finished), "failed": len(ids & there - finished), "left": len(ids - there)}

    if not planned:
        return counts(there) | {"planned": None, "left": None, "experiments": []}
    ids = set().union(*planned.values())
    return counts(ids) | {"other": len(there - ids), "experiments": [(_words(name), counts(ids)) for name, ids in planned.items()]}


def headline(table: pd.DataFrame) -> dict[str, Any] | None:
    """The image AUROC (per cent) of the profile's own setting, mean over categories or classes; None without a finished run of it."""
    own = table.query("status == 'finished' and method == 'reverse' and variant == '' and experiment == 'main' and label == ''")
    chosen = runs.of_setting(own, runs.main_setting(table))
    if chosen.empty and len(own):  # novelty alone: the setting of most runs
        chosen = runs.of_setting(own, dict(zip(runs.SETTING, own.groupby(runs.SETTING).size().idxmax())))
    if chosen.empty:
        return None
    means = chosen.groupby("category")["image_auroc"].mean()
    what = "categories" if chosen["normal_class"].isna().all() else "classes"
    return {"image_auroc": means.mean(), "categories": list(means.index), "what": what, "seeds": chosen["seed"].nunique()} | (
        chosen[runs.SETTING].iloc[0].to_dict()
    )


def hardware(finished: list[Run]) -> dict[str, Any]:
    """Machines, packages and revisions that the runs name, each with its number of runs; greatest memory."""
    found = [run["provenance"] for run in finished]
    machines = Counter((p["cpu"], p["gpu"] or "none", p["device"], p["threads"], p["os"], p["python"]) for p in found)
    return {
        "machines": machines.most_common(),
        "packages": sorted(Counter(pair for p in found for pair in p["packages"].items()).items()),
        "revisions": Counter((p["git_revision"] or "unknown", bool(p["git_dirty"])) for p in found).most_common(),
        "memory_mb": max((run["peak_memory_mb"] for run in finished), default=0),
    }


# --- Tables and figures -------------------------------------------------------------------------------------------


def table_sections(folder: Path, planned: dict[str, set[str]], table: pd.DataFrame) -> list[dict[str, Any]]:
    """The tables of each notebook under its heading, the names of those not made yet, and how many of their runs are done."""
    there = {p.stem: p for p in sorted((folder / "tables").glob("*.html")) if p.stem != "failures"}  # the batch's section has that one
    done = set(table.loc[table["status"] == "finished", "run_id"])
    sections = []
    for made in plan.REPORTS.values():
        found = [read_table(there[name]) for name in made.tables if name in there]
        missing = [_words(name) for name in made.tables if name not in made.sometimes and name not in there]
        ids = set().union(*(planned.get(name, ()) for name in made.needs))
        if found or missing:
            counts = {"missing": missing, "planned": len(ids), "done": len(ids & done)}
            sections.append({"id": _slug(made.heading), "heading": made.heading, "tables": found} | counts)
    known = {name for made in plan.REPORTS.values() for name in made.tables}
    if others := [read_table(path) for name, path in there.items() if name not in known]:
        other = {"tables": others, "missing": [], "planned": 0, "done": 0}
        sections.append({"id": "other-tables", "heading": "Other tables"} | other)
    return sections


ELEMENTS = {"table", "caption", "thead", "tbody", "tr", "th", "td", "p", "a", "span", "sup"}
# "style": as pandas writes it. Nothing but the class of a span and the run of a link goes into the page.
ATTRIBUTES = {"class": r"[\w -]*", "scope": "row|col", "href": r"\.\./runs/[\w.-]+/result\.json", "style": "text-align: right;"}


def read_table(path: Path) -> dict[str, Any]:
    """One tables/<name>.html, taken apart into text: heads, and rows of cells with what they are sorted by ("" goes last).

    raises: InputError naming the file if it is no table that the notebooks write
    """
    try:
        root = ElementTree.fromstring(f"<main>{path.read_text(encoding='utf-8')}</main>")
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise _not_ours(path, str(error)) from None
    for element in root.findall(".//*"):
        odd = [name for name, value in element.items() if not re.fullmatch(ATTRIBUTES.get(name, "(?!)"), value)]
        if element.tag not in ELEMENTS or odd:
            raise _not_ours(path, f"<{' '.join([element.tag, *odd])}>")
    head, body = (root.findall(f"table/{part}/tr") for part in ("thead", "tbody"))
    if not head or len({len(row) for row in head + body}) > 1:
        raise _not_ours(path, "no whole table")
    heads = ["".join(_content(row[n]) for row in head) for n in range(len(head[0]))]  # a second row names the index
    columns = [[_content(row[n]) for row in body] for n in range(len(heads))]
    numbers = [any(map(_number, column)) for column in columns]
    kinds = [span.get("class", "") for span in root.iter("span")]
    return {
        "id": f"table-{_slug(path.stem)}",
        "caption": _content(root.find("table/caption")) or _words(path.stem),
        "notes": [_content(note) for note in root.findall("p")],
        "heads": list(zip(heads, numbers)),
        "rows": [(_content(row[0]), [_cell(cell, number) for cell, number in zip(row[1:], numbers[1:])]) for row in body],
        "verdicts": [kind.removeprefix("verdict-").replace("-", " ") for kind in kinds if kind.startswith("verdict-")],
    }


def _not_ours(path: Path, what: str) -> InputError:
    return InputError(f"{path}: not a table that the notebooks write ({what}); remove it and run `make reproduce` again")


def _content(element: ElementTree.Element | None) -> str:
    return "" if element is None else " ".join("".join(element.itertext()).split())


def _cell(cell: ElementTree.Element, number: bool) -> dict[str, Any]:
    """pieces: text, kind (class of its element) and run (that it links to); number: of a column of numbers"""
    pieces = [{"text": cell.text or "", "kind": "", "run": ""}]
    for inner in cell:
        pieces.append({"text": _content(inner), "kind": inner.get("class", ""), "run": inner.get("href", "///").split("/")[2]})
        pieces.append({"text": inner.tail or "", "kind": "", "run": ""})
    return {"pieces": pieces, "number": number, "sort": _number(_content(cell)) if number else _content(cell)}


def _number(text: str) -> str:
    """The number that a cell begins with, to sort by; "" without one."""
    found = re.match(r"[-+]?(\d[\d,]*(\.\d+)?|\.\d+)(e[-+]?\d+)?", text)
    return found[0].replace(",", "").lstrip("+") if found else ""


def figure_files(folder: Path) -> list[Path]:
    """The figures that are there: the notebooks' in their order, then any others."""
    there = {path.stem: path for path in sorted((folder / "figures").glob("*.png"))}
    known = [name for made in plan.REPORTS.values() for name in made.figures if name in there]
    return [there[name] for name in dict.fromkeys([*known, *there])]


def figure(path: Path) -> dict[str, Any]:
    """One figure as a data address, with the heading and the alternative text that it was saved with, and its size in pixels."""
    with Image.open(path) as picture:
        heading = picture.info.get("Title") or _words(path.stem)
        alt = picture.info.get("Description") or f"Figure {_words(path.stem)}, which has no description"
        source = address(picture.convert("RGB"), lossless=path.stat().st_size < LOSSLESS_BELOW)
        return {"id": f"figure-{_slug(path.stem)}", "heading": heading, "alt": alt, "source": source, "size": picture.size}


def address(picture: Image.Image, lossless: bool = False) -> str:
    """The picture as a `data:` address, WebP."""
    buffer = io.BytesIO()
    picture.save(buffer, "webp", lossless=lossless, quality=WEBP_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _words(name: str) -> str:
    """A name of code as words: table4_classes -> table4 classes."""
    return name.replace("_", " ")


def _slug(text: str) -> str:
    return "-".join(re.findall("[a-z0-9]+", text.lower()))


# --- Runs ---------------------------------------------------------------------------------------------------------

IDENTITY = ("dataset", "category", "normal_class", "seed", "experiment", "label")  # these say which run it is


def run_view(run: Run, folder: Path) -> dict[str, Any]:
    """What the drill-down of one run shows."""
    config = run["config"]
    usual = {f.name: f.default for f in dataclasses.fields(Config)} | defaults_of(config["dataset"], config.get("method", "reverse"))
    return {
        "id": run["run_id"],
        "config": config,
        "variant": run["run_id"].rsplit("-", 2)[1],
        "metrics": [(_words(k), v, run["undefined"].get(k) or _at(run, k)) for k, v in run["metrics"].items()],
        "by_scales": [(k, v.get("image_auroc"), v.get("pixel_auroc")) for k, v in run["by_scales"].items()],
        "parameters": [(_words(k), _text(v), k not in IDENTITY and _text(v) != _text(usual.get(k, v))) for k, v in config.items()],
        "data": [(_words(k), v) for k, v in run["data"].items()],
        "timing": [(_words(k.removesuffix("_s")), v) for k, v in run["timing"].items()],
        "fit_s": run["timing"]["fit_s"],
        "provenance": [(_words(k), _text(v)) for k, v in run["provenance"].items()],
        "curve": loss_curve(run["losses"]),
        "images": worst_images(run, folder),
        "note": plots.ATTRIBUTION.get(config["dataset"], ""),
    }


def _at(run: Run, metric: str) -> str:
    threshold = run.get("thresholds", {}).get(metric)
    return "" if threshold is None else f"at score {threshold:.4g}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in ("", None) else str(value)


def loss_curve(losses: Sequence[float], width: int = 300, height: int = 110) -> dict[str, Any] | None:
    """Points of the training loss in a box of width x height, from zero to the greatest loss; None if nothing was trained."""
    if not losses:
        return None
    top = max(losses) or 1.0
    step = width / max(1, len(losses) - 1)
    points = [(round(i * step, 1), round(height * (1 - loss / top), 1)) for i, loss in enumerate(losses)]
    return {"points": points, "width": width, "height": height, "epochs": len(losses), "top": top, "first": losses[0], "last": losses[-1]}


def worst_images(run: Run, folder: Path) -> dict[str, Any]:
    """The images worth looking at, with picture strips if the run kept its maps.

    returns: rows of path, label, score and strip (address or ""); low and high: the one colour scale of the run's maps
    """
    kept, rows = figures.Kept.of(folder, run), run["images"]
    if kept is not None:  # the committed reference keeps only the images that figures show
        rows = [i for i in rows if i["path"] in kept.paths]
    chosen = [rows[i] for i in dict.fromkeys(figures.telling_images({"images": rows}))] if rows else []
    shown = [i | {"strip": ""} for i in chosen]
    at = [kept.paths.index(i["path"]) for i in chosen] if kept is not None else []
    low, high = (float(kept.maps[at].min()), float(kept.maps[at].max())) if at else (0.0, 0.0)
    for row, n in zip(shown, at):
        strip = _strip(kept.images[n], kept.masks[n] if len(kept.masks) else None, kept.maps[n], low, high)
        row |= {"strip": address(strip), "width": strip.width, "height": strip.height}
    return {"rows": shown, "kept": bool(at), "all": len(rows) == len(run["images"]), "low": low, "high": high}


def _strip(image: NDArray, mask: NDArray | None, values: NDArray, low: float, high: float) -> Image.Image:
    """Image | ground truth (if there is one) | anomaly map, side by side.

    image: (1 or 3, H, W) uint8; mask: (H, W) bool; values: (H, W), coloured from low to high
    """
    photograph = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
    heat = colormaps[plots.MAP_COLOURS]((values - low) / max(high - low, 1e-9), bytes=True)[..., :3]
    panels = [photograph, *([] if mask is None else [np.repeat(mask[..., None], 3, axis=2) * np.uint8(255)]), heat]
    gap = np.full((image.shape[1], 4, 3), 255, np.uint8)
    strip = Image.fromarray(np.hstack([part for panel in panels for part in (panel, gap)][:-1]))
    strip.thumbnail((THUMBNAIL * len(panels), THUMBNAIL))
    return strip


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("python -m rdlib.report.page", description="Write the report of a results folder as one HTML file.")
    parser.add_argument("folder", help="results/<profile>")
    parser.add_argument("out", nargs="?", help="default: report.html in the folder")
    parser.add_argument("--data", default="", help="the batch's DATA, which the plan of the profiles cpu and paper depends on")
    given = parser.parse_args(words)
    folder = resolve(given.folder)
    out = resolve(given.out) if given.out else folder / "report.html"
    with exit_in_words():
        files.write_atomically(out, page(folder, given.data))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
