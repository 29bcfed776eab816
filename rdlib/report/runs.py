"""The run files of a folder as one tidy table: a row per run. What the notebooks 04-09 and the page start from.

Metrics are in per cent, as the paper prints them (in the run files they are in [0, 1]).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from rdlib.config import MVTEC_COUNTS, Config
from rdlib.errors import InputError
from rdlib.evaluate import METRICS
from rdlib.run import record

SETTING = ["dataset", "teacher", "image_size", "epochs"]  # what all runs of a profile's own setting have in common
# What says which cell of a table and how big; every other value of a configuration is a factor that a variant changes.
_CELL = ("dataset", "category", "normal_class", "method", "teacher", "image_size", "epochs", "normalise", "seed", "experiment", "label")


def load(folder: Path) -> pd.DataFrame:
    """Every run below `folder/runs`, sorted by run id; one that failed or diverged is a row without metrics.

    returns: columns run_id, status ("finished", "failed" or "diverged"), reason, attempts (of a failed run), path; every value of
        the configuration (`scales` as text, "1,2,3"); `variant`, what departs from the data set's defaults, such as "loss=pixel" ("" if
        nothing does; teacher, size, epochs, method and normalisation are columns to choose by, and no variant); every metric in
        per cent, NaN where undefined; fit_s and score_s (seconds), peak_memory_mb (10^6 bytes), teacher_sha256, data_manifest,
        weights ("published", or what the file is instead); result, the run file itself, for what does not fit a column
    raises: InputError if there is no run, if a file is no valid result, or if runs of one data set or teacher were made from different files
    """
    rows = [_row(record.read_run(path), path) for path in sorted((folder / "runs").glob("*/result.json"))]
    if not rows:
        raise InputError(f"{folder}: no run files (runs/*/result.json); run `make reproduce` first or give another results_dir")
    runs = frame(rows)
    refuse_mixed(runs)
    return runs


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as the table of runs, with its types."""
    runs = pd.DataFrame(rows)
    return runs.astype(dict.fromkeys(METRICS, float) | {"normal_class": "Int64", "attempts": "Int64"})


def _row(result: dict[str, Any], path: Path) -> dict[str, Any]:
    config, timing, provenance = result["config"], result.get("timing", {}), result.get("provenance", {})
    return {
        "run_id": result["run_id"],
        "status": result["status"],
        "reason": result.get("reason", ""),
        "attempts": result.get("attempts"),
        "path": path,
        **config,
        "scales": ",".join(map(str, config["scales"])),
        "variant": _variant(config),
        **_per_cent(result.get("metrics", {})),
        "fit_s": timing.get("fit_s"),
        "score_s": timing.get("score_s"),
        "peak_memory_mb": result.get("peak_memory_mb"),
        "teacher_sha256": provenance.get("teacher_sha256"),
        "data_manifest": provenance.get("data_manifest"),
        "weights": provenance.get("weights", "published"),
        "result": result,
    }


def _per_cent(metrics: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if (value := metrics.get(name)) is None else 100 * value for name in METRICS}


def _variant(config: dict[str, Any]) -> str:
    plain = Config.create(**{k: config[k] for k in _CELL}).to_dict()
    return ", ".join(f"{k}={v}" for k, v in config.items() if k not in _CELL and v != plain[k])


def refuse_mixed(runs: pd.DataFrame) -> None:
    """Runs that tables put side by side must be of the same data and the same teacher.

    raises: InputError naming two runs of different data or weights under the same names
    """
    finished = runs[runs["status"] == "finished"]
    for name, what, same in (
        ("data_manifest", "data", ["dataset", "category"]),
        ("teacher_sha256", "teacher weights", ["teacher"]),
    ):
        for _, group in finished.groupby(same):
            one = group.drop_duplicates(name)
            if len(one) > 1:
                (first, second), (a, b) = one["run_id"].iloc[:2], one[name].iloc[:2]
                raise InputError(
                    f"{first} and {second} were made from different {what} ({name} {a[:12]} and {b[:12]}): remove the folders of the older "
                    "runs and run them again, so that no table mixes them"
                )


# --- Which runs a table is about ----------------------------------------------------------------------------------


def main_setting(runs: pd.DataFrame) -> dict[str, Any]:
    """Data set, teacher, resolution and epochs of the profile: those of the most runs on MVTec AD or, without any, on the demo set.

    Failed runs count: what was meant to be run decides. The larger images where as many runs have either.
    """
    own = runs.query("method == 'reverse' and variant == '' and experiment == 'main' and label == ''")
    dataset = "mvtec" if (runs["dataset"] == "mvtec").any() else "demo"
    counted = own.query("dataset == @dataset").groupby(SETTING).size().reset_index(name="runs")
    if counted.empty:
        return {"dataset": "mvtec", "teacher": "wide_resnet50_2", "image_size": 256, "epochs": 200}
    return counted.sort_values(["runs", "image_size"])[SETTING].iloc[-1].to_dict()


def of_setting(runs: pd.DataFrame, setting: dict[str, Any]) -> pd.DataFrame:
    """The runs that have these values: `runs.query` for a dictionary."""
    return runs[(runs[list(setting)] == pd.Series(setting)).all(axis=1)]


def in_order(categories: Iterable[str]) -> list[str]:
    """Categories once each: MVTec AD's in the order of the paper's tables, others by name."""
    order = list(MVTEC_COUNTS)
    return sorted(set(categories), key=lambda c: (order.index(c) if c in order else len(order), c))


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
    return frame(rows) if rows else runs.iloc[:0].assign(**{name: None})
