"""The paper's tables beside ours: published, ours as mean +- std (n), difference and verdict, from run files only.

`runs` are finished and failed ones: a failed run has its row, and no average leaves it out. All values are per cent. A
table is a list of `Cell`s; `frame` makes the numbers (CSV), `display_table` what a person reads.
The rule of the verdict (`verdict`) is stated in every table notebook.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from rdlib.config import MVTEC_COUNTS, NOVELTY_DATASETS, TEXTURES, Config
from rdlib.metrics import image_auroc
from rdlib.paths import PACKAGE
from rdlib.run.files import write_atomically

NOT_RUN, NOT_PUBLISHED, DIFFERENT = "not run", "not published", "different setting"
# Names of the metrics in published.csv -> in our run files. The paper's PRO is the per-image one of its code.
PAPER_METRICS = {"image_AUROC": "image_auroc", "pixel_AUROC": "pixel_auroc", "PRO": "au_pro_per_image"}
PAPER_DATASETS = {"mvtec": "MVTec AD", "mnist": "MNIST", "fashion_mnist": "F-MNIST", "cifar10": "CIFAR-10"}
CONFIDENCE = 0.95
ROUNDING = 0.05  # the paper prints one decimal
FOOTNOTE = "† recalled, not seen in print (evidence `unverified` in rdlib/paper/published.csv)"
FEWER = "‡ over fewer seeds than planned: a run of this value failed (table `failures` says why)"

Run = dict[str, Any]
Get = Callable[[Run], float | None]


# --- One cell -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ours:
    """Our side of a cell: mean and standard deviation over seeds (or over categories' means), in per cent.

    std: NaN for one run; n: seeds; half: half-width of the 95 % interval, NaN if unknown; runs: ids
    """

    mean: float
    std: float
    n: int
    half: float
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One comparison. paper: per cent or None; evidence: of the paper's value; same: same data set, teacher, resolution

    failures: runs that did not finish and are why the value is missing, or is one over fewer seeds (see `failures_behind`)
    """

    row: str
    column: str
    ours: Ours | None
    paper: float | None = None
    evidence: str = ""
    same: bool = False
    failures: tuple[Run, ...] = ()

    @property
    def missing(self) -> str:
        """What stands there without our value: "not run", or "failed" or "diverged"."""
        return self.failures[0]["status"] if self.failures else NOT_RUN


def metric(name: str) -> Get:
    """Reads a metric of the run's own configuration."""
    return lambda run: run["metrics"].get(name)


def summarise(runs: Iterable[Run], get: Get, bootstrap: bool = False) -> Ours | None:
    """Mean and spread over seeds; None without finished runs or where the value is undefined in all of them.

    get: finished run -> fraction in [0, 1] or None
    bootstrap: add the uncertainty of the test images (image AUROC of the run's own scores only)
    """
    pairs = [(r, v) for r in finished(runs) if (v := get(r)) is not None]
    if not pairs:
        return None
    values = 100 * np.array([v for _, v in pairs])
    std = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    variances = [std**2 / len(values)] if len(values) > 1 else []
    variances += [bootstrap_std(pairs[0][0]) ** 2] if bootstrap else []
    half = float(norm.ppf(0.5 + CONFIDENCE / 2) * np.sqrt(sum(variances))) if variances else float("nan")
    return Ours(float(values.mean()), std, len(values), half, tuple(r["run_id"] for r, _ in pairs))


def finished(runs: Iterable[Run]) -> list[Run]:
    """Those that have numbers. Tables are given the failed ones too: what was meant to be run decides rows and averages."""
    return [r for r in runs if r["status"] == "finished"]


def failures_behind(runs: Sequence[Run], ours: Ours | None) -> tuple[Run, ...]:
    """Of the runs that a cell is made from, those that did not finish and so took something from it.

    A value lacks all of them. A missing value is missing for those categories or classes that have no finished run.
    """
    place = lambda r: (r["config"]["category"], r["config"]["normal_class"])  # noqa: E731
    there = {place(r) for r in finished(runs)} if ours is None else set()
    return tuple(r for r in runs if r["status"] != "finished" and place(r) not in there)


def bootstrap_std(run: Run, repeats: int = 200) -> float:
    """Standard deviation of a run's image AUROC (per cent) when its test images are drawn again with replacement.

    Normal and anomalous images are drawn separately, so that both are always there; seeded, so it is repeatable.
    """
    labels = np.array([i["label"] for i in run["images"]])
    scores = np.array([i["score"] for i in run["images"]])
    normal, anomalous = np.sort(scores[labels == 0]), scores[labels == 1]
    if len(normal) > 1000:  # a novelty test set: the closed form (Hanley & McNeil 1982) is as good and immediate
        auroc = image_auroc(labels=labels, scores=scores)
        q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
        variance = auroc * (1 - auroc) + (len(anomalous) - 1) * (q1 - auroc**2) + (len(normal) - 1) * (q2 - auroc**2)
        return float(100 * np.sqrt(variance / (len(normal) * len(anomalous))))
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(repeats):
        a, b = rng.choice(normal, len(normal)), rng.choice(anomalous, len(anomalous))
        draws.append(image_auroc(labels=np.repeat([0, 1], [len(a), len(b)]), scores=np.concatenate([a, b])))
    return float(100 * np.std(draws, ddof=1))


def average(cells: Sequence[Ours | None]) -> Ours | None:
    """Mean over categories; None unless all are there. The categories are independent, so their variances add."""
    if not cells or any(c is None for c in cells):
        return None
    spread = [float(np.sqrt(np.sum([getattr(c, name) ** 2 for c in cells])) / len(cells)) for name in ("std", "half")]
    return Ours(
        float(np.mean([c.mean for c in cells])), spread[0], min(c.n for c in cells), spread[1], tuple(r for c in cells for r in c.runs)
    )


def verdict(cell: Cell) -> str:
    """agrees, higher or lower: whether the paper's value lies in our interval, widened by its rounding.

    Only a cell of the same data set, teacher and resolution gets a verdict.
    """
    if cell.ours is None:
        return cell.missing
    if cell.paper is None:
        return NOT_PUBLISHED
    if not cell.same:
        return DIFFERENT
    if np.isnan(cell.ours.half):
        return "one seed: no verdict"
    difference = cell.ours.mean - cell.paper
    if abs(difference) <= cell.ours.half + ROUNDING:
        return "agrees"
    return "higher" if difference > 0 else "lower"


# --- The paper's numbers ------------------------------------------------------------------------------------------


@cache
def published() -> pd.DataFrame:
    """The paper's numbers in per cent, with their evidence: published, unverified (recalled) or derived."""
    return pd.read_csv(PACKAGE / "paper" / "published.csv")


def paper_value(**where: Any) -> tuple[float | None, str]:
    """Value and evidence of the one published number with these column values; (None, "") if it is missing."""
    rows = published()
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return (float(rows["value"].iloc[0]), rows["evidence"].iloc[0]) if len(rows) else (None, "")


def paper_methods(table: str, metric_name: str, resolution: int) -> pd.DataFrame:
    """The paper's table as printed: one row per category, one column per method, daggers where unverified."""
    rows = published().query("table == @table and metric == @metric_name and resolution == @resolution")
    shown = rows.assign(text=[paper_text(v, e) for v, e in zip(rows["value"], rows["evidence"])])
    wide = shown.pivot(index="category", columns="method", values="text")
    order = [c for c in (*MVTEC_COUNTS, "avg_textures", "avg_objects", "avg_total") if c in wide.index]
    return wide.loc[order, list(dict.fromkeys(rows["method"]))].fillna("–")


def other_reproductions(metric_name: str) -> pd.DataFrame:
    """Other people's RD4AD runs (per cent): one row per category, one column per source."""
    rows = pd.read_csv(PACKAGE / "paper" / "other_reproductions.csv").query("metric == @metric_name and dataset == 'MVTec AD'")
    wide = rows.pivot_table(index="category", columns="method", values="value", sort=False)
    return wide.loc[[c for c in MVTEC_COUNTS if c in wide.index]].map(lambda v: "–" if pd.isna(v) else f"{v:.1f}")


# --- Choosing runs ------------------------------------------------------------------------------------------------


# What says which cell and how big; everything else in a configuration is a factor that a variant changes.
CELL = ("dataset", "category", "normal_class", "method", "teacher", "image_size", "epochs", "seed", "experiment", "label")


def departures(run: Run) -> set[str]:
    """Factors in which a run departs from its data set's defaults (the paper's or the official code's values)."""
    config = run["config"]
    plain = Config.create(**{k: config[k] for k in CELL}).to_dict()
    return {k for k, v in config.items() if k not in CELL and v != plain[k]}


def choose(runs: Iterable[Run], **where: Any) -> list[Run]:
    """Runs with these configuration values that depart from the defaults in nothing else.

    Reverse distillation unless `method` is named. The cost runs of Table 3 (another experiment) are left out, and so is
    `normalise` from what counts as a departure: each profile sets it for its teacher.
    """
    where = {"method": "reverse", "experiment": "main", "label": ""} | where
    named = set(where) | {"normalise"}
    return [r for r in runs if all(r["config"][k] == v for k, v in where.items()) and not departures(r) - named]


def dataset_of(runs: Iterable[Run]) -> str:
    """ "mvtec" if there is any such run, failed or not, else "demo": what Tables 1-3 and 5-7 are about."""
    return "mvtec" if any(r["config"]["dataset"] == "mvtec" for r in runs) else "demo"


def main_setting(runs: list[Run]) -> dict[str, Any]:
    """Data set, teacher, resolution and epochs of the profile: those of the most runs on MVTec or the demo set."""
    names = ("teacher", "image_size", "epochs")
    dataset = dataset_of(runs)
    keys = [tuple(r["config"][n] for n in names) for r in choose(runs, dataset=dataset)]
    if not keys:
        return {"dataset": "mvtec", "teacher": "wide_resnet50_2", "image_size": 256, "epochs": 200}
    return {"dataset": dataset} | dict(zip(names, max(sorted(set(keys)), key=lambda k: (keys.count(k), k[1]))))


def categories_of(dataset: str, runs: Iterable[Run]) -> list[str]:
    """MVTec: the paper's order, run or not. Demo: those that were run, failed or not."""
    there = {r["config"]["category"] for r in runs if r["config"]["dataset"] == dataset}
    return list(MVTEC_COUNTS) if dataset == "mvtec" else sorted(there)


def over_categories(runs: list[Run], get: Get, categories: Collection[str], bootstrap: bool = False) -> Ours | None:
    """Average over these categories, so that rows of one table are about the same ones; None unless all were run."""
    return average([summarise([r for r in runs if r["config"]["category"] == c], get, bootstrap) for c in categories])


def _cell_over_categories(row: str, column: str, runs: list[Run], get: Get, categories: Collection[str], **paper: Any) -> Cell:
    ours = over_categories(runs, get, categories)
    behind = [r for r in runs if r["config"]["category"] in categories]
    return Cell(row, column, ours, failures=failures_behind(behind, ours), **paper)


# --- The tables ---------------------------------------------------------------------------------------------------


def category_table(runs: list[Run], paper_metric: str, *, dataset: str, resolution: int) -> list[Cell]:
    """Tables 1 and 2 for one metric: the paper's order of categories, then its averages.

    paper_metric: image_AUROC, pixel_AUROC or PRO
    """
    teacher, epochs = (main_setting(runs)[k] for k in ("teacher", "epochs"))
    chosen = choose(runs, dataset=dataset, image_size=resolution, teacher=teacher, epochs=epochs)
    name = PAPER_METRICS[paper_metric]
    behind = {c: [r for r in chosen if r["config"]["category"] == c] for c in categories_of(dataset, chosen)}
    ours = {c: summarise(found, metric(name), bootstrap=name == "image_auroc") for c, found in behind.items()}
    groups = {
        "avg_textures": [c for c in ours if c in TEXTURES] if dataset == "mvtec" else [],
        "avg_objects": [c for c in ours if c not in TEXTURES] if dataset == "mvtec" else [],
        "avg_total": list(ours),
    }
    behind |= {g: [r for c in members for r in behind[c]] for g, members in groups.items() if members}
    ours |= {g: average([ours[c] for c in members]) for g, members in groups.items() if members}
    table = "Table 1" if paper_metric == "image_AUROC" else "Table 2"
    cells = []
    for row, value in ours.items():
        where = {"table": table, "metric": paper_metric, "resolution": resolution, "method": "Ours (RD4AD)", "category": row}
        paper, evidence = paper_value(**where) if dataset == "mvtec" else (None, "")
        failures = failures_behind(behind[row], value)
        cells.append(Cell(row, f"{paper_metric} {resolution} px", value, paper, evidence, teacher == "wide_resnet50_2", failures))
    return cells


def methods_table(runs: list[Run]) -> list[Cell]:
    """Ours against conventional distillation, PaDiM and SPADE: same teacher, resolution, smoothing, metrics and images.

    Seed 0 of each, averaged over the categories that all four have run. No published numbers exist for this.
    """
    setting = main_setting(runs)
    epochs = {"padim": 0, "spade": 0}
    chosen = {m: choose(runs, method=m, seed=0, **setting | {"epochs": epochs.get(m, setting["epochs"])}) for m in METHOD_NAMES}
    shared = sorted(set.intersection(*[{r["config"]["category"] for r in found} for found in chosen.values()]))
    return [
        _cell_over_categories(METHOD_NAMES[m], name, found, metric(name), shared)
        for m, found in chosen.items()
        for name in ("image_auroc", "pixel_auroc", "au_pro_per_image", "au_pro")
    ]


METHOD_NAMES = {"reverse": "reverse distillation (ours)", "conventional": "conventional distillation", "padim": "PaDiM", "spade": "SPADE"}
COMPLEXITY_COLUMNS = {"reverse": "Ours (WResNet50)", "padim": "PaDiM (WResNet50)", "spade": "SPADE (WResNet50)"}


def ablation_rows(runs: list[Run]) -> dict[str, list[Cell]]:
    """Tables 5 (bottleneck), 6 (scales) and 7 (backbone), averaged over the categories that were run.

    Table 6 uses the maps of one trained model: no training of its own.
    """
    setting = main_setting(runs)
    dataset, teacher = setting["dataset"], setting["teacher"]
    main = choose(runs, **setting)
    bottlenecks = {"pre": "Pre (pre-trained bottleneck)", "oce": "Pre+OCE", "mff+oce": "Pre+OCE+MFF (full model)"}
    backbones = {"resnet18": "Ours, ResNet18", "resnet50": "Ours, ResNet50", "wide_resnet50_2": "Ours, WResNet50"}
    done = [c for c in categories_of(dataset, runs) if any(r["config"]["category"] == c for r in main)]
    same = {k: v for k, v in setting.items() if k != "teacher"}
    used = sorted({r["config"]["teacher"] for r in choose(runs, **same)})
    tables: dict[str, list[Cell]] = {"table5_bottleneck": [], "table6_scales": [], "table7_backbones": []}
    for paper_metric, name in PAPER_METRICS.items():
        for bottleneck, method in bottlenecks.items():
            found = choose(runs, **setting, bottleneck=bottleneck)
            tables["table5_bottleneck"].append(
                _average_cell(found, done, method, paper_metric, metric(name), "Table 5", method, teacher == "wide_resnet50_2")
            )
        for key in ("M1", "M2", "M3", "M2+M3", "M1+M2+M3"):
            method = "M1,M2,M3 (full model)" if key == "M1+M2+M3" else key.replace("+", ",")
            get = _scale_metric(key, name)
            tables["table6_scales"].append(
                _average_cell(main, done, key, paper_metric, get, "Table 6", method, teacher == "wide_resnet50_2")
            )
        for backbone in dict.fromkeys([*backbones, *used]):
            found = choose(runs, **same, teacher=backbone)
            method = backbones.get(backbone, "")
            tables["table7_backbones"].append(_average_cell(found, done, backbone, paper_metric, metric(name), "Table 7", method, True))
    return tables


def _scale_metric(key: str, name: str) -> Get:
    return lambda run: run["by_scales"].get(key, {}).get(name)


def _average_cell(
    found: list[Run], categories: list[str], row: str, column: str, get: Get, table: str, method: str, same_teacher: bool
) -> Cell:
    """A cell averaged over categories; the same setting only if all fifteen MVTec categories at 256 px are there."""
    paper, evidence = paper_value(table=table, metric=column, method=method)
    complete = set(categories) == set(MVTEC_COUNTS) and all(r["config"]["image_size"] == 256 for r in found)
    return _cell_over_categories(row, column, found, get, categories, paper=paper, evidence=evidence, same=same_teacher and complete)


def novelty_table(runs: list[Run]) -> list[Cell]:
    """Table 4: mean image AUROC over the ten classes for each data set, beside the paper's."""
    cells = []
    for dataset in (*PAPER_DATASETS.keys() & set(NOVELTY_DATASETS), "digits"):
        found = novelty_runs(runs, dataset)
        per_class = [summarise([r for r in found if r["config"]["normal_class"] == k], metric("image_auroc"), True) for k in range(10)]
        paper, evidence = paper_value(table="Table 4", dataset=PAPER_DATASETS.get(dataset, ""), method="Ours (RD4AD)")
        same = all(r["config"]["teacher"] == "resnet18" and r["config"]["image_size"] == 32 for r in found)
        ours = average(per_class)
        cells.append(Cell(dataset, "image_AUROC", ours, paper, evidence, same, failures_behind(found, ours)))
    return sorted(cells, key=lambda c: list((*PAPER_DATASETS, "digits")).index(c.row))


def novelty_runs(runs: list[Run], dataset: str) -> list[Run]:
    """The runs of Table 4 on one data set: those of the setting that most classes have."""
    found = choose(runs, dataset=dataset)
    setting = lambda r: (r["config"]["teacher"], r["config"]["image_size"], r["config"]["epochs"], r["config"]["normalise"])  # noqa: E731
    settings = [setting(r) for r in found]
    return [r for r in found if setting(r) == max(sorted(set(settings)), key=settings.count)]


def novelty_classes(runs: list[Run]) -> list[Cell]:
    """Each class of each novelty data set that was run (not published per class)."""
    cells = []
    for dataset in NOVELTY_DATASETS:
        found = novelty_runs(runs, dataset)
        for k in range(10) if found else ():
            behind = [r for r in found if r["config"]["normal_class"] == k]
            ours = summarise(behind, metric("image_auroc"), True)
            cells.append(Cell(str(k), dataset, ours, failures=failures_behind(behind, ours)))
    return cells


def cost_table(measured: dict[str, Run], broken: dict[str, str], keys: dict[str, str]) -> pd.DataFrame:
    """Table 3: a row per method, `keys` (name in `complexity` -> heading) as columns; a method whose cost run failed says so.

    measured: method -> its cost run; broken: method -> "failed" or "diverged"
    """
    rows = {METHOD_NAMES[m]: {text: r["complexity"][k] for k, text in keys.items()} for m, r in measured.items()}
    rows |= {METHOD_NAMES[m]: dict.fromkeys(keys.values(), status) for m, status in broken.items()}
    return pd.DataFrame.from_dict(rows, orient="index", dtype=object).infer_objects()


# --- What moves the number --------------------------------------------------------------------------------------------


def factor_effects(
    runs: list[Run], bases: list[Run], names: Sequence[str], leave: Sequence[str] = (), only: Sequence[str] = ()
) -> pd.DataFrame:
    """Each run that differs from a base run in exactly one value, minus that base: one factor at a time, paired.

    Pairs share data set, category and seed, and so their random numbers (`Config.torch_seed`).
    names: metrics; leave: configuration values that are no factors here; only: the only ones that are (if any)
    returns: factor ("loss = pixel"), metric, category, seed, effect (points), run, base
    """
    rows = []
    for base in finished(bases):
        for run in finished(runs):
            changed = [k for k, v in run["config"].items() if v != base["config"][k]]
            if len(changed) != 1 or changed[0] in ("dataset", "category", "normal_class", "seed", "experiment", "label", *leave):
                continue
            if only and changed[0] not in only:
                continue
            size = "" if changed[0] == "image_size" else f" (at {base['config']['image_size']} px)"
            for name in names:
                a, b = run["metrics"].get(name), base["metrics"].get(name)
                if a is not None and b is not None:
                    factor = f"{changed[0]} = {run['config'][changed[0]]}{size}"
                    rows.append(_effect(factor, name, base, 100 * (a - b), run["run_id"]))
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def free_effects(bases: list[Run]) -> pd.DataFrame:
    """Factors that need no training of their own: read from the same run.

    Image score by sum or mean instead of the run's rule; MVTec's AU-PRO instead of the per-image one; the epoch that is
    best on the test set instead of the last (optimistic by construction: it chooses with the test labels).
    """
    rows = []
    for base in finished(bases):
        own = base["metrics"]
        for rule, values in base["by_image_score"].items():
            if rule != base["config"]["image_score"] and None not in (values["image_auroc"], own["image_auroc"]):
                rows.append(_effect(f"image score = {rule}", "image_auroc", base, 100 * (values["image_auroc"] - own["image_auroc"])))
        if None not in (own.get("au_pro"), own.get("au_pro_per_image")):
            rows.append(_effect("PRO = MVTec's, pooled", "au_pro_per_image", base, 100 * (own["au_pro"] - own["au_pro_per_image"])))
        for name in ("image_auroc", "pixel_auroc", "au_pro_per_image"):
            looks = [v for h in base["history"] if (v := h["metrics"].get(name)) is not None]
            if looks and own.get(name) is not None:
                rows.append(_effect("best epoch on test, not last", name, base, max(0.0, 100 * (max(looks) - own[name]))))
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


EFFECT_COLUMNS = ["factor", "metric", "dataset", "category", "seed", "effect", "run", "base"]


def _effect(factor: str, name: str, base: Run, effect: float, run_id: str = "") -> dict[str, Any]:
    config = base["config"]
    return dict(
        zip(
            EFFECT_COLUMNS,
            (factor, name, config["dataset"], config["category"], config["seed"], effect, run_id or base["run_id"], base["run_id"]),
        )
    )


def seed_effects(bases: list[Run], names: Sequence[str]) -> pd.DataFrame:
    """Each seed's distance from the mean over the seeds of its category: the noise floor of every other effect."""
    rows = []
    for base in finished(bases):
        same = [r for r in finished(bases) if r["config"] | {"seed": 0} == base["config"] | {"seed": 0}]
        for name in names:
            values = [v for r in same if (v := r["metrics"].get(name)) is not None]
            if len(values) > 1 and base["metrics"].get(name) is not None:
                rows.append(_effect("another seed", name, base, 100 * (base["metrics"][name] - np.mean(values))))
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def effect_summary(effects: pd.DataFrame) -> pd.DataFrame:
    """factor x metric -> mean, smallest, largest effect (points) and number of pairs."""
    grouped = effects.groupby(["factor", "metric"], sort=False)["effect"]
    return grouped.agg(mean="mean", smallest="min", largest="max", n="count").reset_index()


# --- Numbers, text, files ------------------------------------------------------------------------------------------


def by_column(cells: Sequence[Cell]) -> list[Cell]:
    """The same cells one below the other, each row named by row and column: for a table of few rows."""
    return [replace(c, row=f"{c.row}, {c.column}", column="") for c in cells]


def failures_table(failures: Sequence[Run]) -> pd.DataFrame:
    """Runs that did not finish: run, status, attempts, reason."""
    return pd.DataFrame([{"run": f["run_id"], **{k: f[k] for k in ("status", "attempts", "reason")}} for f in failures])


def frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """The cells as numbers: row, column, paper, evidence, ours, std, n, half_width, difference, verdict, runs; failed if any did."""
    marked = any(c.failures for c in cells)  # a column of its own, only where there is something to tell
    rows = [
        {
            "row": c.row,
            "column": c.column,
            "paper": c.paper,
            "evidence": c.evidence,
            "ours": c.ours.mean if c.ours else None,
            "std": c.ours.std if c.ours else None,
            "n": c.ours.n if c.ours else 0,
            "half_width": c.ours.half if c.ours else None,
            "difference": c.ours.mean - c.paper if c.ours and c.paper is not None else None,
            "verdict": verdict(c),
            "runs": " ".join(c.ours.runs) if c.ours else "",
            **({"failed": " ".join(f["run_id"] for f in c.failures)} if marked else {}),
        }
        for c in cells
    ]
    return pd.DataFrame(rows)


def display_table(cells: Sequence[Cell], links: bool = False) -> pd.DataFrame:
    """What a person reads. One column of values: paper | ours | difference | verdict. Several: paper and ours of each.

    links: add a column with HTML links to the run files, and escape the rest
    """
    if links:
        cells = [replace(c, row=escape(c.row), column=escape(c.column), evidence=escape(c.evidence)) for c in cells]
    columns = list(dict.fromkeys(c.column for c in cells))
    several = len(columns) > 1
    published_at_all = any(c.paper is not None for c in cells)
    table: dict[str, dict[str, str]] = {}
    for c in cells:
        row = table.setdefault(c.row, {})
        prefix = f"{c.column} " if several else ""
        if published_at_all:
            row[f"{prefix}paper"] = paper_text(c.paper, c.evidence)
        row[f"{prefix}ours"] = ours_text(c.ours, c.missing) + ("‡" if c.ours and c.failures else "")
        if not several:
            row["difference"] = f"{c.ours.mean - c.paper:+.1f}" if c.ours and c.paper is not None else ""
        if published_at_all:
            row[f"{prefix}verdict"] = verdict(c)
        if links:
            row[f"{prefix}runs"] = " ".join(_link(i) for i in c.ours.runs) if c.ours else ""
    shown = pd.DataFrame.from_dict(table, orient="index")
    return shown.drop(columns=["difference"]) if "difference" in shown and not published_at_all else shown


def paper_text(value: float | None, evidence: str, digits: int = 1) -> str:
    return NOT_PUBLISHED if value is None or pd.isna(value) else f"{value:.{digits}f}" + ("†" if evidence == "unverified" else "")


def ours_text(ours: Ours | None, missing: str = NOT_RUN) -> str:
    if ours is None:
        return missing
    return f"{ours.mean:.1f} ({ours.n})" if np.isnan(ours.std) else f"{ours.mean:.1f} ± {ours.std:.1f} ({ours.n})"


def footnotes(shown: pd.DataFrame) -> str:
    """What the marks in a table mean, a paragraph for each; "" without marks."""
    text = "".join(map(str, shown.to_numpy().flat))
    return "\n\n".join(note for note in (FOOTNOTE, FEWER) if note[0] in text)


def write_table(folder: Path, name: str, cells: Sequence[Cell], caption: str) -> None:
    """Write `name` as CSV (numbers and run ids), Markdown, LaTeX and HTML (as displayed; HTML links the run files)."""
    write_frame(folder, name, frame(cells), display_table(cells), caption, display_table(cells, links=True))


def write_frame(
    folder: Path, name: str, numbers: pd.DataFrame, shown: pd.DataFrame, caption: str, linked: pd.DataFrame | None = None
) -> None:
    """Any table in four formats. numbers: for the CSV; shown: text; linked: for HTML, with links, already escaped."""
    folder.mkdir(parents=True, exist_ok=True)
    note = f"\n{notes}\n" if (notes := footnotes(shown)) else ""
    page = (escaped(shown) if linked is None else linked).to_html(escape=False)
    texts = {
        "csv": numbers.to_csv(index=False, float_format="%.4f"),
        "md": f"{caption}\n\n{shown.to_markdown(disable_numparse=True)}\n{note}",
        "tex": shown.to_latex(caption=_latex(caption), escape=True) + _latex(note),
        "html": f"<p>{escape(caption)}</p>\n{page}\n<p>{note.strip()}</p>\n",
    }
    for suffix, text in texts.items():
        write_atomically(folder / f"{name}.{suffix}", text)


def escape(text: Any) -> Any:
    """Text that may come from file names and run files, so that no markup in it acts; other values as they are."""
    return html.escape(text, quote=False) if isinstance(text, str) else text


def escaped(shown: pd.DataFrame) -> pd.DataFrame:
    """A table with `escape` applied to every cell and label."""
    return shown.map(escape).rename(index=escape, columns=escape)


def _latex(text: str) -> str:
    return re.sub(r"([%_&#$])", r"\\\1", text)


def _link(run_id: str) -> str:
    """Run ids hold only letters, digits, '_', '.' and '-' (checked by Config and the schema): nothing to escape."""
    return f'<a href="../runs/{run_id}/result.json">{run_id.rsplit("-", 1)[-1]}</a>'


def categories_with_runs(runs: list[Run], dataset: str) -> list[str]:
    """Categories that were run, in the paper's order."""
    there = {r["config"]["category"] for r in choose(runs, dataset=dataset)}
    return [c for c in categories_of(dataset, runs) if c in there]
