"""The paper's tables beside ours: published, ours as mean +- std (n), difference and verdict, from run files only.

All values here are per cent. The rule of the verdict (`verdict`) is stated in every table notebook.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from rdlib.config import MVTEC_COUNTS, TEXTURES
from rdlib.metrics import image_auroc
from rdlib.paths import PACKAGE
from rdlib.results import write_atomically

NOT_RUN, NOT_PUBLISHED, DIFFERENT = "not run", "not published", "different setting"
AVERAGES = ("avg_textures", "avg_objects", "avg_total")
# Names of the metrics in published.csv -> in our run files. The paper's PRO is the per-image one of its code.
PAPER_METRICS = {"image_AUROC": "image_auroc", "pixel_AUROC": "pixel_auroc", "PRO": "au_pro_per_image"}
CONFIDENCE = 0.95
ROUNDING = 0.05  # the paper prints one decimal


def published() -> pd.DataFrame:
    """The paper's numbers in per cent, with their evidence: published, unverified (recalled) or derived."""
    return pd.read_csv(PACKAGE / "paper" / "published.csv")


def summarise(runs: Iterable[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """Mean and standard deviation over the runs (seeds) of one cell; None without runs or if the metric is undefined.

    runs: result.json dictionaries
    returns: mean, std (NaN for one run), n, half (half-width of the interval), runs (ids)
    """
    chosen = [r for r in runs if r["metrics"].get(metric) is not None]
    if not chosen:
        return None
    values = 100 * np.array([r["metrics"][metric] for r in chosen])
    std = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return {
        "mean": float(values.mean()),
        "std": std,
        "n": len(values),
        "half": half_width(chosen, metric, std),
        "runs": [r["run_id"] for r in chosen],
    }


def half_width(runs: list[dict[str, Any]], metric: str, std: float) -> float:
    """Half-width of the 95 % interval around the mean: seeds and, for image AUROC, test images.

    The two are independent, so their variances add. Pixel metrics have the seeds only: run files hold no pixels.
    returns: per cent; NaN if neither part is known (one run of a pixel metric)
    """
    parts = [std**2 / len(runs)] if len(runs) > 1 else []
    if metric == "image_auroc":
        parts.append(bootstrap_std(runs[0]) ** 2)
    return float(norm.ppf(0.5 + CONFIDENCE / 2) * np.sqrt(sum(parts))) if parts else float("nan")


def bootstrap_std(run: dict[str, Any], repeats: int = 200) -> float:
    """Standard deviation of a run's image AUROC (per cent) when its test images are drawn again with replacement.

    Normal and anomalous images are drawn separately, so that both are always there; seeded, so it is repeatable.
    """
    labels = np.array([i["label"] for i in run["images"]])
    scores = np.array([i["score"] for i in run["images"]])
    groups = [np.flatnonzero(labels == y) for y in (0, 1)]
    rng = np.random.default_rng(0)
    draws = [np.concatenate([rng.choice(g, len(g)) for g in groups]) for _ in range(repeats)]
    return float(np.std([100 * image_auroc(labels=labels[d], scores=scores[d]) for d in draws], ddof=1))


def verdict(paper: float | None, ours: dict[str, Any] | None, same_setting: bool) -> str:
    """agrees, higher or lower: whether the paper's value lies in our interval, widened by its rounding.

    Only a cell of the same data set, teacher and resolution gets a verdict.
    """
    if ours is None:
        return NOT_RUN
    if paper is None:
        return NOT_PUBLISHED
    if not same_setting:
        return DIFFERENT
    if np.isnan(ours["half"]):
        return "one seed: no verdict"
    difference = ours["mean"] - paper
    if abs(difference) <= ours["half"] + ROUNDING:
        return "agrees"
    return "higher" if difference > 0 else "lower"


def comparison_row(name: str, paper: pd.Series | None, ours: dict[str, Any] | None, same_setting: bool) -> dict[str, Any]:
    """One row of a comparison: numbers for the CSV, from which `display_table` makes text."""
    value = None if paper is None else float(paper["value"])
    return {
        "row": name,
        "paper": value,
        "evidence": "" if paper is None else paper["evidence"],
        "ours": ours and ours["mean"],
        "std": ours and ours["std"],
        "n": ours["n"] if ours else 0,
        "difference": ours["mean"] - value if ours and value is not None else None,
        "verdict": verdict(value, ours, same_setting),
        "runs": " ".join(ours["runs"]) if ours else "",
    }


def category_table(runs: list[dict[str, Any]], metric: str, *, dataset: str, resolution: int, teacher: str | None = None) -> pd.DataFrame:
    """Tables 1 and 2 for one metric: the paper's order of categories, then the averages over textures, objects, all.

    runs: of one method; those of this data set, resolution and teacher (None: any) are used
    metric: a column of published.csv: image_AUROC, pixel_AUROC or PRO
    """
    chosen = [
        r
        for r in runs
        if r["config"]["dataset"] == dataset and r["config"]["image_size"] == resolution and teacher in (None, r["config"]["teacher"])
    ]
    table = "Table 1" if metric == "image_AUROC" else "Table 2"
    paper = published().query("table == @table and metric == @metric and resolution == @resolution and method == 'Ours (RD4AD)'")
    paper = paper.set_index("category")
    categories = list(MVTEC_COUNTS) if dataset == "mvtec" else sorted({r["config"]["category"] for r in chosen})
    cells = {c: summarise([r for r in chosen if r["config"]["category"] == c], PAPER_METRICS[metric]) for c in categories}
    cells |= averages(cells)
    same = dataset == "mvtec" and all(r["config"]["teacher"] == "wide_resnet50_2" for r in chosen)
    find = paper.loc.__getitem__ if dataset == "mvtec" else lambda _: None
    rows = [comparison_row(c, find(c) if dataset == "mvtec" and c in paper.index else None, cell, same) for c, cell in cells.items()]
    return pd.DataFrame(rows)


def averages(cells: dict[str, dict[str, Any] | None]) -> dict[str, dict[str, Any] | None]:
    """The paper's averages over categories; None (not run) unless every category of the group is there."""
    groups = {
        "avg_textures": [c for c in cells if c in TEXTURES],
        "avg_objects": [c for c in cells if c not in TEXTURES],
        "avg_total": list(cells),
    }
    if not groups["avg_textures"]:  # the demo set
        groups = {"avg_total": groups["avg_total"]}
    return {name: _average([cells[c] for c in group]) for name, group in groups.items()}


def _average(cells: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Mean over categories; its spread is that of independent categories."""
    if not cells or any(c is None for c in cells):
        return None
    count = len(cells)
    return {
        "mean": float(np.mean([c["mean"] for c in cells])),
        "std": float(np.sqrt(np.sum([c["std"] ** 2 for c in cells])) / count),
        "n": min(c["n"] for c in cells),
        "half": float(np.sqrt(np.sum([c["half"] ** 2 for c in cells])) / count),
        "runs": [r for c in cells for r in c["runs"]],
    }


def display_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The comparison as a person reads it: one decimal, +- and n, a dagger where the paper's number is unverified."""
    return pd.DataFrame(
        {
            "": rows["row"],
            "paper": [paper_text(v, e) for v, e in zip(rows["paper"], rows["evidence"])],
            "ours": [ours_text(*cell) for cell in zip(rows["ours"], rows["std"], rows["n"])],
            "difference": ["" if pd.isna(d) else f"{d:+.1f}" for d in rows["difference"]],
            "verdict": rows["verdict"],
        }
    ).set_index("")


def paper_text(value: float | None, evidence: str) -> str:
    return NOT_PUBLISHED if value is None or pd.isna(value) else f"{value:.1f}" + ("†" if evidence == "unverified" else "")


def ours_text(mean: float | None, std: float, n: int) -> str:
    if not n:
        return NOT_RUN
    return f"{mean:.1f} (1)" if pd.isna(std) else f"{mean:.1f} ± {std:.1f} ({n})"


def write_table(folder: Path, name: str, rows: pd.DataFrame, caption: str) -> None:
    """Write `name` as CSV (numbers and run ids), Markdown, LaTeX and HTML (as displayed, HTML linking the run files)."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = display_table(rows)
    linked = shown.assign(runs=[" ".join(_link(i) for i in ids.split()) for ids in rows["runs"]])
    texts = {
        "csv": rows.to_csv(index=False, float_format="%.4f"),
        "md": f"{caption}\n\n{shown.to_markdown()}\n",
        "tex": shown.to_latex(caption=caption, escape=True),
        "html": f"<p>{caption}</p>\n{linked.to_html(escape=False)}\n",
    }
    for suffix, text in texts.items():
        write_atomically(folder / f"{name}.{suffix}", text)


def _link(run_id: str) -> str:
    """Run ids hold only letters, digits, '_', '.' and '-' (checked by Config and the schema): nothing to escape."""
    return f'<a href="../runs/{run_id}/result.json">{run_id.rsplit("-", 1)[-1]}</a>'


# --- Ours against the committed reference -----------------------------------------------------------------------------


def compare_runs(ours: list[dict[str, Any]], reference: list[dict[str, Any]]) -> pd.DataFrame:
    """Every metric of every run that both have: our value, the reference's, the difference (per cent).

    returns: run_id, metric, ours, reference, difference
    """
    known = {r["run_id"]: r for r in reference}
    rows = [
        {"run_id": r["run_id"], "metric": m, "ours": 100 * v, "reference": 100 * w, "difference": 100 * (v - w)}
        for r in ours
        if r["run_id"] in known
        for m, v in r["metrics"].items()
        if v is not None and (w := known[r["run_id"]]["metrics"].get(m)) is not None
    ]
    return pd.DataFrame(rows, columns=["run_id", "metric", "ours", "reference", "difference"])


def comparison_summary(ours: list[dict[str, Any]], reference: list[dict[str, Any]]) -> str:
    """In words: are our runs the reference's, to the bit, or within what another machine may change?

    Stated spread: another processor sums in another order, and training amplifies it to about what another seed does;
    so category means of image AUROC should lie within 3 standard deviations over the reference's seeds, or 3 points.
    """
    both = compare_runs(ours, reference)
    if both.empty:
        return "No run of the reference was repeated: nothing to compare."
    same = both.groupby("run_id")["difference"].apply(lambda d: bool((d == 0).all()))
    text = f"{same.sum()} of {len(same)} runs are identical to the committed reference in every metric."
    if same.all():
        return text
    worst = both.loc[both["difference"].abs().idxmax()]
    group = [json.dumps({k: v for k, v in r["config"].items() if k != "seed"}, sort_keys=True) for r in reference]
    spread = pd.DataFrame({"group": group, "value": [100 * r["metrics"]["image_auroc"] for r in reference]}).groupby("group")["value"].std()
    allowed = max(3.0, 3 * float(np.nan_to_num(spread.mean())))
    means = both.query("metric == 'image_auroc'")["difference"].mean()
    inside = "within" if abs(means) <= allowed else "OUTSIDE"
    return (
        f"{text} Largest difference: {worst['difference']:+.2f} points in {worst['metric']} of {worst['run_id']}. Mean image AUROC "
        f"differs by {means:+.2f} points, {inside} the stated spread of {allowed:.1f} (3 seed standard deviations, at least 3)."
    )
