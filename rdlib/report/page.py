"""The report of a batch as one self-contained page: `python -m rdlib.report.page RESULTS_DIR [OUT.html] [--data FOLDERS]` (`make report`).

Read from disk only: run files, tables/*.csv, figures/*.png. What is not there is said to be missing. Everything that comes from
a file is escaped by the template (autoescape), and the page's own policy forbids it to load or run anything else.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import hashlib
import io
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from rdlib.report import figures, plots, tables
from rdlib.run import files, plan, record
from rdlib.run.progress import progress

Run = dict[str, Any]
TEMPLATE = PACKAGE / "report/template"
THUMBNAIL = 160  # pixels at the most, each side of a panel
LOSSLESS_BELOW = 120_000  # bytes of a PNG; charts are kept exactly, photographs need not be
WEBP_QUALITY = 82

# Heading, the experiments (of `plan.tables`) whose runs it needs, its tables with the caption while there is no file,
# and the beginning of the names of those that exist only sometimes.
SECTIONS = [
    ("Demo set", ["mvtec"], {}, "demo_"),
    (
        "Tables 1 and 2: MVTec AD",
        ["mvtec"],
        {
            "table1_run": "",
            "table1_256": "Table 1, MVTec AD at 256 px: image AUROC, %",
            "table1_128": "Table 1, MVTec AD at 128 px: image AUROC, %",
            "table2_pixel_auroc": "Table 2, MVTec AD at 256 px: pixel AUROC, %",
            "table2_pro": "Table 2, MVTec AD at 256 px: PRO, %",
        },
        "",
    ),
    ("Same teacher, other methods", ["mvtec", "baselines"], {"same_teacher": "Same teacher: four methods, %"}, "same_teacher_"),
    (
        "Table 3: cost",
        ["complexity"],
        {
            "table3_accuracy": "Accuracy under equal conditions, %",
            "table3_size": "Table 3, size and arithmetic",
            "table3_timing": "Table 3, cost at batch 1",
        },
        "speed_",
    ),
    (
        "Table 4: one-class novelty",
        ["novelty"],
        {"table4": "Table 4, one-class novelty: image AUROC, %", "table4_classes": "Each normal class: image AUROC, %"},
        "table4_",
    ),
    (
        "Tables 5 to 7: ablations",
        ["mvtec", "bottleneck", "backbones"],
        {"table5": "Table 5, bottleneck, %", "table6": "Table 6, scales, %", "table7": "Table 7, backbone, %"},
        "table",
    ),
    ("What moves the number", ["deviations"], {"deviations": "Change against the profile's own setting, points"}, ""),
]
# What the ids of a table's runs hold, where it needs only some of its experiments' runs.
ONLY = {
    "table1_run": ("-mvtec-",),
    "table1_256": ("-mvtec-", ".256px."),
    "table1_128": ("-mvtec-", ".128px."),
    "table2_pixel_auroc": ("-mvtec-", ".256px."),
    "table2_pro": ("-mvtec-", ".256px."),
}
EXPERIMENTS = {
    "mvtec": "Tables 1, 2 and 6: own setting",
    "baselines": "Same teacher: other methods",
    "complexity": "Table 3: cost",
    "novelty": "Table 4: novelty",
    "novelty_sweep": "Table 4: sensitivity",
    "bottleneck": "Table 5: bottleneck",
    "backbones": "Table 7: backbone",
    "deviations": "What moves the number",
}
# Heading and what the figure shows, for those who cannot see it.
FIGURES = {
    "fig1_conventional_vs_reverse": (
        "Fig. 1: conventional against reverse distillation",
        "Rows of test images, each with its ground truth mask and the anomaly maps of conventional and of reverse distillation",
    ),
    "category_bars": (
        "Image AUROC by category",
        "Bars of image AUROC for each category, the paper's beside ours where one is published; the numbers are in the tables above",
    ),
    "fig5_small": ("Fig. 5: the smallest defects", "Rows of test images with the smallest defects, their ground truth and anomaly map"),
    "fig6_large": ("Fig. 6: the largest defects", "Rows of test images with the largest defects, their ground truth and anomaly map"),
    "failures": (
        "Failures: the lowest scores of anomalous images",
        "Rows of anomalous test images that got the lowest scores, their ground truth and anomaly map",
    ),
    "scales": ("Each scale by itself", "Rows of test images with ground truth, the distance map of each scale M1, M2, M3 and their sum"),
    "fig7_histograms": (
        "Fig. 7: histograms of image scores",
        "Histograms of image scores, normal against anomalous test images, one panel for each category",
    ),
    "novelty_classes": (
        "Novelty: image AUROC by normal class",
        "Bars of image AUROC for each normal class; the numbers are in the table of classes",
    ),
    "loss_curves": ("Training loss", "Lines of training loss against epoch, one for each category; all values are in the run files"),
    "pro_curves": ("PRO curves", "Lines of per-region overlap against false positive rate up to 0.3, one for each category"),
    "deviations": ("What moves the number", "Dots of mean change and lines from smallest to largest, one row for each factor, as tabled"),
    "growth": ("How cost grows", "Measured seconds or memory against size, as tabled under Table 3"),
}
VERDICT_KINDS = {
    "agrees": "agrees",
    "higher": "higher",
    "lower": "lower",
    tables.DIFFERENT: "different",
    tables.NOT_RUN: "missing",
    tables.NOT_PUBLISHED: "plain",
    "failed": "failed",
    "diverged": "failed",
}


def write(folder: Path, out: Path, data: str = "") -> None:
    """Write the report of one results folder as one HTML file.

    data: the batch's DATA, which the plan of the profiles cpu and paper depends on
    raises: InputError if there is neither a result nor a failed run
    """
    files.write_atomically(out, page(folder, data))


def page(folder: Path, data: str = "") -> str:
    """The report as HTML text.

    folder: results/<profile>, whose name says which plan the runs belong to
    raises: InputError if there is neither a result nor a failed run
    """
    runs = record.read_runs(folder)
    record.refuse_mixed(runs)
    done = {r["run_id"] for r in runs}
    failed = record.read_failures(folder)
    if not runs and not failed:
        raise InputError(f"{folder}: no run files (runs/*/result.json); run `make reproduce PROFILE={folder.name}` first")
    plan = planned(folder.name, data)
    first = headline(runs + failed)
    sections = table_sections(folder, plan, done)
    script = "\n".join((TEMPLATE / name).read_text(encoding="utf-8").strip() for name in ("sortable.min.js", "report.js"))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(
        profile=folder.name,
        headline=first,
        setting=next((r["config"] for r in runs if first["first"] and r["run_id"] in first["first"].ours.runs), None),
        status=status(plan, done, failed),
        progress=progress(folder, set().union(*plan.values())) if plan else None,
        failed=failed,
        sections=sections,
        verdicts=verdict_counts(sections),
        not_run=[t for s in sections for t in s["tables"] if t["missing"]],
        figures=[figure(folder / "figures", stem) for stem in figure_stems(folder)],
        runs=[run_view(r, folder) for r in runs],
        hardware=hardware(runs),
        seconds=sum(r["timing"]["fit_s"] + r["timing"]["score_s"] for r in runs),
        footnote=tables.FOOTNOTE,
        fewer=tables.FEWER,
        verdict_kinds=VERDICT_KINDS,
        style=Markup((TEMPLATE / "report.css").read_text(encoding="utf-8")),  # our own file: not escaped
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


# --- The batch ----------------------------------------------------------------------------------------------------


def planned(profile: str, data: str) -> dict[str, set[str]] | None:
    """Experiment -> ids of the runs it needs; None where the plan is not known (no profile, or cpu without its data)."""
    if profile not in plan.PROFILES or (profile == "cpu" and not data):
        return None
    return {name: {plan.identity(p) for p in needed} for name, needed in plan.tables(profile, data).items()}


def status(plan: dict[str, set[str]] | None, done: set[str], failed: list[Run]) -> dict[str, Any]:
    """Counts of planned, done, failed and left runs: of the whole batch and of each experiment."""
    bad = {f["run_id"] for f in failed}

    def counts(ids: set[str]) -> dict[str, int]:
        return {"planned": len(ids), "done": len(ids & done), "failed": len(ids & bad), "left": len(ids - done - bad)}

    whole = {"planned": None, "done": len(done), "failed": len(bad), "left": None, "other": 0}
    if plan is not None:
        ids = set().union(*plan.values())
        whole |= counts(ids) | {"other": len((done | bad) - ids)}
    return whole | {"experiments": [(EXPERIMENTS.get(name, name), counts(ids)) for name, ids in (plan or {}).items()]}


def headline(runs: list[Run]) -> dict[str, Any]:
    """The profile's own setting in one table: its average, or the categories that were run while there is no average.

    Novelty data sets that were run follow.
    """
    setting = tables.main_setting(runs)
    cells = []
    for paper_metric in tables.PAPER_METRICS:
        own = tables.category_table(runs, paper_metric, dataset=setting["dataset"], resolution=setting["image_size"])
        average = [c for c in own if c.row == "avg_total" and c.ours]
        cells += average or [c for c in own if c.ours]
    novelty = [c for c in tables.novelty_table(runs) if c.ours]
    name = {"mvtec": "MVTec AD", "demo": "Demo set"}[setting["dataset"]]
    shown = [dataclasses.replace(c, row=f"{name}, {'average' if c.row == 'avg_total' else c.row}", column=_words(c.column)) for c in cells]
    shown += [dataclasses.replace(c, row=f"{c.row}, mean of ten classes", column=_words(c.column)) for c in novelty]
    if not shown:
        return {"table": None, "first": None}
    caption = "Ours beside the paper's value, %" if any(c.paper is not None for c in shown) else "Our numbers, %; none is published"
    table = comparison("glance", caption, tables.frame(tables.by_column(shown)))
    return {"table": table, "first": shown[0]}


def verdict_counts(sections: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """How often each verdict occurs in all tables, most telling first."""
    found = Counter(v for s in sections for t in s["tables"] for v in t["verdicts"])
    return [(v, found[v]) for v in VERDICT_KINDS if found[v]] + [(v, n) for v, n in found.items() if v not in VERDICT_KINDS]


def hardware(runs: list[Run]) -> dict[str, Any]:
    """Machines, packages and revisions that the runs name, each with its number of runs; greatest memory."""
    machines = Counter(
        (p["cpu"], p["gpu"] or "none", p["device"], p["threads"], p["os"], p["python"]) for p in (r["provenance"] for r in runs)
    )
    packages = Counter((name, number) for r in runs for name, number in r["provenance"]["packages"].items())
    revisions = Counter((p["git_revision"] or "unknown", bool(p["git_dirty"])) for p in (r["provenance"] for r in runs))
    return {
        "machines": machines.most_common(),
        "packages": sorted(packages.items()),
        "revisions": revisions.most_common(),
        "memory_mb": max((r["peak_memory_mb"] for r in runs), default=0),
    }


# --- Tables -------------------------------------------------------------------------------------------------------


def table_sections(folder: Path, plan: dict[str, set[str]] | None, done: set[str]) -> list[dict[str, Any]]:
    """Every table of tables/*.csv under its heading; of the expected ones without a file, why there is none."""
    left = {p.stem: p for p in sorted((folder / "tables").glob("*.csv")) if p.stem != "failures"}  # the batch's section has that one
    sections = []
    for heading, needs, expected, prefix in SECTIONS:
        names = [*expected, *(n for n in left if prefix and n.startswith(prefix) and n not in _all_expected())]
        found = []
        for name in names:
            if name in left:
                found.append(read_table(left.pop(name)))
            elif expected.get(name):
                found.append(_absent(name, expected[name], needs, plan, done))
        if found:
            sections.append({"id": _slug(heading), "heading": heading, "tables": found})
    if left:
        sections.append({"id": "other-tables", "heading": "Other tables", "tables": [read_table(p) for p in left.values()]})
    return sections


def _all_expected() -> set[str]:
    return {name for _, _, expected, _ in SECTIONS for name in expected}


def _absent(name: str, caption: str, needs: list[str], plan: dict[str, set[str]] | None, done: set[str]) -> dict[str, Any]:
    """A table without a file: `not run`, or which of its runs are there already."""
    planned = set().union(*(plan.get(n, set()) for n in needs)) if plan else set()
    ids = {i for i in planned if all(part in i for part in ONLY.get(name, ()))}
    have = len(ids & done)
    why = f"not made yet: {have} of its {len(ids)} runs are done" if have else tables.NOT_RUN
    return _table(name, caption, [], [], [], missing=[why]) | {"why": why}


def read_table(path: Path) -> dict[str, Any]:
    """One tables/<name>.csv; its caption is the first line of the Markdown beside it.

    raises: InputError if the file is no table
    """
    try:
        numbers = pd.read_csv(path, dtype=dict.fromkeys(("row", "column", "evidence", "runs"), str), keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a table ({error}); remove it and run `make reproduce` again") from None
    text = path.with_suffix(".md")
    caption = text.read_text(encoding="utf-8").split("\n", 1)[0].strip() if text.is_file() else ""
    for metric in tables.PAPER_METRICS:
        caption = caption.replace(metric, _words(metric))
    build = comparison if {"row", "column", "ours", "verdict"} <= set(numbers) else plain
    return build(path.stem, caption or _words(path.stem), numbers)


def comparison(name: str, caption: str, numbers: pd.DataFrame) -> dict[str, Any]:
    """Paper | ours | difference | verdict from what `tables.frame` wrote; several columns become groups."""
    columns = list(dict.fromkeys(numbers["column"].fillna("")))
    several, published = len(columns) > 1, bool(numbers["paper"].notna().any())
    rows: dict[str, dict[str, Any]] = {}
    missing, daggers = {}, False
    for values in numbers.to_dict("records"):
        column = "" if pd.isna(values["column"]) else values["column"]
        row = rows.setdefault(str(values["row"]), {"head": str(values["row"]), "groups": {}, "runs": []})
        entries, ids = _compared(values, published, several)
        row["groups"][column] = entries
        row["runs"] += [i for i in ids if i not in row["runs"]]
        daggers |= values["evidence"] == "unverified"
        if pd.isna(values["ours"]):
            missing[row["head"] if values["verdict"] == tables.NOT_RUN else f"{row['head']} ({values['verdict']})"] = None
    labels = ["paper", "ours", "diff."] if several else ["paper", "ours", "difference", "verdict"]
    labels = labels if published else ["ours"]
    blank = [_entry("", "")] * len(labels)
    body = [
        {"head": r["head"], "entries": [e for c in columns for e in r["groups"].get(c, blank)], "runs": named(r["runs"])}
        for r in rows.values()
    ]
    heads = [{"label": label, "text": label == "verdict"} for _ in columns for label in labels]
    groups = [(_words(c), len(labels)) for c in columns] if several and published else []
    if several and not published:
        heads = [{"label": _words(c), "text": False} for c in columns]
    verdicts = [v for v in numbers["verdict"] if published or v != tables.NOT_PUBLISHED]
    judged = {e["verdict"] for r in body for e in r["entries"]} - {""}
    table = _table(name, caption, groups, heads, body, list(missing), verdicts, daggers)
    fewer = "failed" in numbers and bool((numbers["failed"].notna() & numbers["ours"].notna()).any())
    return table | {
        "fewer": fewer,
        "empty": bool((numbers["verdict"] == tables.NOT_RUN).all()),
        "alike": judged.pop() if len(judged) == 1 else "",
    }


def named(ids: list[str]) -> list[tuple[str, str]]:
    """Ids of runs, each with what its link says: the seed, and the category before it where there are several."""
    parts = {i: i.split("-") for i in ids}  # experiment, data set, category, variant, seed
    several = len({p[2] for p in parts.values() if len(p) > 2}) > 1
    return [(i, f"{p[2]} {p[-1]}" if several and len(p) > 2 else p[-1]) for i, p in parts.items()]


def _compared(record: dict[str, Any], published: bool, several: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """The entries of one comparison, and its run ids."""
    judged, ours, ids = record["verdict"], None, []
    if not pd.isna(record["ours"]):
        ids = [] if pd.isna(record["runs"]) else record["runs"].split()
        ours = tables.Ours(record["ours"], record["std"], int(record["n"]), float("nan"), tuple(ids))
    kind = VERDICT_KINDS.get(judged, "different")
    fewer = "" if pd.isna(record.get("failed", np.nan)) else tables.FEWER[0]
    own = _entry(tables.ours_text(ours) + fewer if ours else judged, record["ours"], "" if ours else kind)
    if not published:
        return [own], ids
    paper = _entry(tables.paper_text(record["paper"], record["evidence"]), record["paper"], "" if not pd.isna(record["paper"]) else "plain")
    difference = _entry("" if pd.isna(record["difference"]) else f"{record['difference']:+.1f}", record["difference"])
    if several:  # no room for a column of verdicts in each group
        return [paper, own, difference | {"verdict": judged if difference["text"] else "", "kind": kind}], ids
    return [paper, own, difference, _entry(judged, judged, kind, False)], ids


def plain(name: str, caption: str, numbers: pd.DataFrame) -> dict[str, Any]:
    """Any other table: the first column names the row; changes (columns smallest and largest) are written with their sign."""
    signed = {"mean", "smallest", "largest"} if {"smallest", "largest"} <= set(numbers) else set()
    columns = list(numbers)[1:]
    figured = {c for c in columns if pd.api.types.is_numeric_dtype(numbers[c]) or c.startswith("paper")}
    rows = [
        {"head": str(head), "entries": [_entry(_shown(v, c in signed), v, "", c in figured) for c, v in zip(columns, values)], "runs": []}
        for head, *values in numbers.itertuples(index=False, name=None)
    ]
    heads = [{"label": _words(c), "text": c not in figured} for c in columns]
    daggers = any("†" in e["text"] for r in rows for e in r["entries"])
    table = _table(name, caption, [], heads, rows, [] if rows else [tables.NOT_RUN], [], daggers)
    return table | {"first": _words(str(numbers.columns[0])), "why": "" if rows else tables.NOT_RUN}


def _table(name, caption, groups, heads, rows, missing=(), verdicts=(), daggers=False) -> dict[str, Any]:
    """What the template knows of a table.

    missing: rows without our value; why: what to say instead of the table; alike: the one verdict that all its groups have
    """
    about = {"id": f"table-{_slug(name)}", "caption": caption, "first": "row", "why": "", "empty": False, "alike": ""}
    about |= {"daggers": daggers, "fewer": False}
    return about | {
        "groups": groups,
        "heads": heads,
        "rows": rows,
        "missing": list(missing),
        "verdicts": list(verdicts),
        "linked": any(r["runs"] for r in rows),
    }


def _entry(text: str, sort: Any, kind: str = "", number: bool = True) -> dict[str, Any]:
    """One cell. sort: what it is sorted by; "" goes last. kind: its colour; number: of a column of numbers"""
    value = "" if sort is None or (isinstance(sort, float) and np.isnan(sort)) else str(sort)
    return {"text": text, "sort": value.rstrip("†"), "kind": kind, "number": number, "verdict": ""}


def _shown(value: Any, signed: bool) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return ""
    if isinstance(value, float) and signed:
        return f"{value:+.2f}"
    return f"{value:,.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:.4g}"


def _words(name: str) -> str:
    """A name of code as words: image_AUROC -> image AUROC."""
    return name.replace("_", " ")


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split())


# --- Figures ------------------------------------------------------------------------------------------------------


def figure_stems(folder: Path) -> list[str]:
    """The figures that are there: known ones in their order, then any others."""
    there = {p.stem for p in (folder / "figures").glob("*.png")}
    return [s for s in FIGURES if s in there] + sorted(there - set(FIGURES))


def figure(folder: Path, stem: str) -> dict[str, Any]:
    """One figure as a data address, with heading, alternative text and size in pixels."""
    path = folder / f"{stem}.png"
    heading, alt = FIGURES.get(stem, (_words(stem), f"Figure {_words(stem)}, which has no description"))
    with Image.open(path) as picture:
        small = path.stat().st_size < LOSSLESS_BELOW
        source = address(picture.convert("RGB"), lossless=small)
        return {"id": f"figure-{_slug(stem)}", "heading": heading, "alt": alt, "source": source, "size": picture.size}


def address(picture: Image.Image, lossless: bool = False) -> str:
    """The picture as a `data:` address, WebP."""
    buffer = io.BytesIO()
    picture.save(buffer, "webp", lossless=lossless, quality=WEBP_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# --- Runs ---------------------------------------------------------------------------------------------------------


def run_view(run: Run, folder: Path) -> dict[str, Any]:
    """What the drill-down of one run shows."""
    config = run["config"]
    usual = {f.name: f.default for f in dataclasses.fields(Config)} | defaults_of(config["dataset"], config.get("method", "reverse"))
    parameters = [(_words(k), _text(v), k not in IDENTITY and v != _as_json(usual.get(k, v))) for k, v in config.items()]
    return {
        "id": run["run_id"],
        "config": config,
        "variant": run["run_id"].rsplit("-", 2)[1],
        "metrics": [(_words(k), v, run["undefined"].get(k, "")) for k, v in run["metrics"].items()],
        "by_scales": [(k, v.get("image_auroc"), v.get("pixel_auroc")) for k, v in run["by_scales"].items()],
        "parameters": parameters,
        "data": [(_words(k), v) for k, v in run["data"].items()],
        "timing": [(_words(k.removesuffix("_s")), v) for k, v in run["timing"].items()],
        "fit_s": run["timing"]["fit_s"],
        "peak_memory_mb": run["peak_memory_mb"],
        "provenance": [(_words(k), _text(v)) for k, v in run["provenance"].items()],
        "curve": loss_curve(run["losses"]),
        "images": worst_images(run, folder),
        "note": plots.ATTRIBUTION.get(config["dataset"], ""),
    }


IDENTITY = ("dataset", "category", "normal_class", "seed", "experiment", "label")  # these say which run it is


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
    if isinstance(value, list):
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
    kept = record.load_maps(folder / "runs" / run["run_id"])
    pair = figures.Kept([run], lambda _: kept)
    category, rows = run["config"]["category"], run["images"]
    if kept is not None:  # the committed reference keeps only the images that figures show
        there = set(map(str, kept["paths"]))
        rows = [i for i in rows if i["path"] in there]
    chosen = [rows[i] for i in dict.fromkeys(figures.telling_images({"images": rows}))] if rows else []
    maps = {i["path"]: pair.map(category, i["path"]) for i in chosen} if kept is not None else {}
    low, high = (min(m.min() for m in maps.values()), max(m.max() for m in maps.values())) if maps else (0.0, 0.0)
    shown = [i | {"strip": "", "width": 0, "height": 0} for i in chosen]
    for row in shown if maps else ():
        mask = pair.mask(category, row["path"]) if "anomalous_pixels" in row else None
        strip = _strip(pair.image(category, row["path"]), mask, maps[row["path"]], low, high)
        row |= {"strip": address(strip), "width": strip.width, "height": strip.height}
    return {"rows": shown, "kept": bool(maps), "all": len(rows) == len(run["images"]), "low": low, "high": high}


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
    parser = argparse.ArgumentParser(
        prog="python -m rdlib.report.page", description="Write the report of a results folder as one HTML file."
    )
    parser.add_argument("folder", help="results/<profile>")
    parser.add_argument("out", nargs="?", help="default: report.html in the folder")
    parser.add_argument("--data", default="", help="the batch's DATA, which the plan of the profiles cpu and paper depends on")
    given = parser.parse_args(words)
    folder = resolve(given.folder)
    out = resolve(given.out) if given.out else folder / "report.html"
    with exit_in_words():
        write(folder, out, given.data)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
