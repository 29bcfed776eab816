"""The run files of a folder as one tidy table, a row per run: what the notebooks 04-09, 12 and the page start from.

Metrics are in per cent, as the paper prints them (in the run files they are in [0, 1]).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rdlib.config import LATER, Config
from rdlib.datasets import MVTEC_COUNTS
from rdlib.errors import InputError
from rdlib.evaluate import METRICS
from rdlib.paths import resolve
from rdlib.run import record

SETTING = ["dataset", "teacher", "image_size", "epochs", "normalise"]  # what all runs of a profile's own setting have in common
PAIR = ["dataset", "category", "normal_class", "seed", "experiment", "label"]  # the same in two runs that are compared
# A table chooses by these; every other value is a variant's.
CELL = [*PAIR, "method", "teacher", "weights_id", "image_size", "epochs", "normalise"]

NOT_RUN = {"n": 0, "runs": "", "failed": "", "missing": "not run"}  # a cell of `runs.groupby(by)[metric]` and `traced` without any run


def load(folder: str | Path) -> pd.DataFrame:
    """Every run below `folder/runs`, sorted by run id; one that failed or diverged is a row without metrics.

    folder: absolute, or relative to the project's

    returns: columns
        run_id, status ("finished", "failed" or "diverged"), reason, attempts (of a failed run), path
        every value of the configuration (`scales` as text, "1,2,3")
        variant: what departs from the data set's defaults, such as "loss=pixel", beside the values that a table chooses by
            (method, teacher and its weights, image_size, epochs, normalise) and the profile's precision (fp32, or tf32 if
            more runs have it); "" if nothing does
        every metric in per cent, NaN where undefined
        fit_s, score_s (seconds), peak_memory_mb (10^6 bytes), teacher_sha256, data_manifest
        weights: "published", or what the teacher's file is instead
        result: the run file itself, for what does not fit a column
    raises: InputError if there is no run, a file is no valid result, or runs of one data set or teacher were made from different files
    """
    folder = resolve(folder)
    results = record.read_all(folder)
    if not results:
        raise InputError(f"{folder}: no run files (runs/*/result.json); run `make reproduce` first or give another results_dir")
    runs = frame(results, folder)
    refuse_mixed(runs)
    return runs


def frame(results: Iterable[dict[str, Any]], folder: Path = Path()) -> pd.DataFrame:
    """The table of `load` from the contents of run files that lie below `folder`."""
    results = list(results)
    own = max(("fp32", "tf32"), key=[result["config"]["precision"] for result in results].count)  # the profile's precision
    return _typed([_row(result, folder / "runs" / result["run_id"] / "result.json", own) for result in results])


def _typed(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype(dict.fromkeys(METRICS, float) | {"normal_class": "Int64", "attempts": "Int64"})


def _row(result: dict[str, Any], path: Path, precision: str) -> dict[str, Any]:
    config = LATER | result["config"]
    timing, provenance = result.get("timing", {}), result.get("provenance", {})
    return {
        "run_id": result["run_id"],
        "status": result["status"],
        "reason": result.get("reason", ""),
        "attempts": result.get("attempts"),
        "path": path,
        **config,
        "scales": _text(config["scales"]),
        "variant": _variant(config, precision),
        **_per_cent(result.get("metrics", {})),
        "fit_s": timing.get("fit_s"),
        "score_s": timing.get("score_s"),
        "peak_memory_mb": result.get("peak_memory_mb"),
        "teacher_sha256": provenance.get("teacher_sha256"),
        "data_manifest": provenance.get("data_manifest"),
        "weights": provenance.get("weights", "published"),
        "result": result,
    }


def _variant(config: dict[str, Any], precision: str) -> str:
    plain = LATER | Config.create(**{k: config[k] for k in CELL}, precision=precision).to_dict()
    return " ".join(f"{k}={_text(v)}" for k, v in config.items() if k not in CELL and v != plain[k])


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _per_cent(metrics: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if (value := metrics.get(name)) is None else 100 * value for name in METRICS}


def refuse_mixed(runs: pd.DataFrame) -> None:
    """raises: InputError naming two runs of different data or weights under the same names, which no table may put side by side"""
    finished = runs[runs["status"] == "finished"]
    for name, what, same in (("data_manifest", "data", ["dataset", "category"]), ("teacher_sha256", "teacher weights", ["teacher"])):
        for _, group in finished.groupby(same):
            one = group.drop_duplicates(name)
            if len(one) > 1:
                (first, second), (a, b) = one["run_id"].iloc[:2], one[name].iloc[:2]
                raise InputError(
                    f"{first} and {second} were made from different {what} ({name} {a[:12]} and {b[:12]}): remove the folders of the older "
                    "runs and run them again, so that no table mixes them"
                )


# --- Which runs a table is about ----------------------------------------------------------------------------------


def main_setting(runs: pd.DataFrame, dataset: str = "") -> dict[str, Any]:
    """The values of SETTING that the most runs on a data set have: the profile's own. Failed runs count: what was meant decides.

    dataset: "" = MVTec AD or, without any run on it, the demo set
    returns: the paper's setting of MVTec AD where there is no such run; the larger images where as many runs have either
    """
    dataset = dataset or ("mvtec" if (runs["dataset"] == "mvtec").any() else "demo")
    own = runs.query("dataset == @dataset and method == 'reverse' and variant == '' and experiment == 'main' and label == ''")
    counted = own.groupby(SETTING).size().reset_index(name="runs").sort_values(["runs", "image_size"], ascending=False, kind="stable")
    plain = Config.create(dataset="mvtec", category="any").to_dict()
    return counted[SETTING].iloc[0].to_dict() if len(counted) else {name: plain[name] for name in SETTING}


def of_setting(runs: pd.DataFrame, values: Mapping[str, Any]) -> pd.DataFrame:
    """The runs that have these values: `runs.query` for a dictionary."""
    return runs[(runs[list(values)] == pd.Series(values)).all(axis=1)]


def in_order(categories: Iterable[str]) -> list[str]:
    """Categories once each: MVTec AD's in the order of the paper's tables, others by name."""
    order = list(MVTEC_COUNTS)
    return sorted(set(categories), key=lambda c: (order.index(c) if c in order else len(order), c))


def traced(runs: pd.DataFrame, by: str | list[str], metric: str) -> pd.DataFrame:
    """Where the cells of `runs.groupby(by)[metric]` come from.

    returns: a row per group; runs: ids of the runs that have the value; failed: ids of those that did not finish and so took something
        from it; missing: what to say without a value ("failed", "diverged", or "undefined" where a run finished without it)
    """
    there = runs.assign(runs=runs["run_id"].where(runs[metric].notna()), failed=runs["run_id"].where(runs["status"] != "finished"))
    grouped = there.groupby(by)
    found = grouped[["runs", "failed"]].agg(lambda ids: " ".join(ids.dropna()))
    return found.assign(missing=grouped["status"].agg(lambda s: "undefined" if (s == "finished").any() else s.iloc[0]))


def paired(runs: pd.DataFrame, bases: pd.DataFrame) -> pd.DataFrame:
    """Each run that differs from a base run in exactly one value (a teacher and its weights are one), beside that base.

    Pairs share data set, category and seed, and so their random numbers (`Config.torch_seed`).
    returns: the columns of the run, those of its base with the suffix "_base", `changed` (the value's name) and `factor`
        ("loss = pixel (at 256 px)")
    """
    finished = [f[f["status"] == "finished"] for f in (bases, runs)]
    pairs = finished[0].merge(finished[1], on=PAIR, suffixes=("_base", ""))
    names = [n for n in Config.__dataclass_fields__ if n not in PAIR]
    differs = pd.DataFrame({n: pairs[n] != pairs[f"{n}_base"] for n in names})
    differs["weights_id"] &= ~differs["teacher"]
    pairs = pairs.assign(changed=differs.idxmax(axis=1))[differs.sum(axis=1) == 1]
    size = [f" (at {size} px)" if changed != "image_size" else "" for changed, size in zip(pairs["changed"], pairs["image_size"])]
    values = [row[row["changed"]] for row in pairs.to_dict("records")]
    return pairs.assign(factor=[f"{changed} = {value}{at}" for changed, value, at in zip(pairs["changed"], values, size)])


# --- What does not fit a column: the same table with more rows ----------------------------------------------------------


def by_scales(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per run and sum of scales: `summed` is "M1", "M2+M3" ..., the metrics are those of that sum (Table 6)."""
    return _longer(runs, "summed", lambda result: result.get("by_scales", {}))


def by_image_score(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per run and rule for the image score: `rule` is "max", "sum" or "mean", the metrics are those of that rule."""
    return _longer(runs, "rule", lambda result: result.get("by_image_score", {}))


def history(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per run and look at the test set during training: `epoch`, and the metrics of that epoch."""
    return _longer(runs, "epoch", lambda result: {h["epoch"]: h["metrics"] for h in result.get("history", [])})


def images(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per run and test image: run_id, category, seed, and path, label (1 = anomalous), score, anomalous_pixels (with masks)."""
    return pd.DataFrame(
        {"run_id": run.run_id, "category": run.category, "seed": run.seed} | image
        for run in runs.itertuples()
        for image in run.result.get("images", [])
    )


def _longer(runs: pd.DataFrame, name: str, parts: Callable[[dict[str, Any]], dict[Any, dict[str, float | None]]]) -> pd.DataFrame:
    rows = [row | {name: key} | _per_cent(metrics) for row in runs.to_dict("records") for key, metrics in parts(row["result"]).items()]
    return _typed(rows) if rows else runs.iloc[:0].assign(**{name: None})
