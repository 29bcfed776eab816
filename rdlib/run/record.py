"""Run files: written whole or not at all, checked by a schema, each number with its provenance; read back as tables."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import math
import os
import platform
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastjsonschema
import numpy as np
import pandas as pd
from filelock import FileLock
from numpy.typing import NDArray

from rdlib.config import Config
from rdlib.errors import InputError
from rdlib.evaluate import evaluate_run, why_undefined
from rdlib.paths import PACKAGE, project_root
from rdlib.run.files import write_atomically

if TYPE_CHECKING:  # not at run time: reading results must not load torch
    from rdlib.score import Scores

FORMAT = 1
NUMERICS = 2  # raise it when the same configuration trains or scores to other bits; 2: since 0.2.0 (memory layout, fused Adam)
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "scikit-image", "pandas", "pillow", "efficientnet-lite-pytorch")


# --- Writing ------------------------------------------------------------------------------------------------------


def run_folder(out_dir: Path, cfg: Config) -> Path:
    return out_dir / "runs" / cfg.run_id


def claim(out_dir: Path, cfg: Config) -> FileLock:
    """The right to write this run's folder, for as long as the process lives: another process on the same run waits.

    Removes what a killed process left half-written.
    """
    folder = run_folder(out_dir, cfg)
    lock = FileLock(out_dir / "locks" / cfg.run_id, is_singleton=True)  # a notebook may be run again in its kernel
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{out_dir}: cannot be written ({error.strerror}); give another out_dir or allow writing there") from None
    return lock


def identity(cfg: Config, *, teacher_sha256: str, data_manifest: str) -> dict[str, Any]:
    """What must be the same for two files to belong to one run."""
    return cfg.to_dict() | {"teacher_sha256": teacher_sha256, "data_manifest": data_manifest}


def finished(out_dir: Path, cfg: Config, *, teacher_sha256: str, data_manifest: str) -> dict[str, Any] | None:
    """The result of this run if it is there and did not fail.

    raises: InputError if a result with the same id has another configuration, data, weights or format
    """
    path = run_folder(out_dir, cfg) / "result.json"
    if not path.is_file() or "metrics" not in (result := read_run(path)):
        return None
    there = result["config"] | {k: result["provenance"][k] for k in ("teacher_sha256", "data_manifest")}
    wanted = identity(cfg, teacher_sha256=teacher_sha256, data_manifest=data_manifest)
    different = sorted(k for k in there.keys() | wanted.keys() if there.get(k) != wanted.get(k))
    if different:
        raise InputError(f"{path}: was made with another {', '.join(different)}; remove it or give another label")
    return result


def made_otherwise(result: dict[str, Any], hardware: dict[str, Any]) -> str:
    """A sentence on how this run would not give a finished result's bits any more; "" if it would.

    hardware: of this process, from `fit.describe_hardware`
    """
    there = result["provenance"]
    before = 2 if "shared" in there else 1  # of results from before this was written down
    now = {"numerics": NUMERICS, "threads": hardware["threads"], "device": hardware["device"].split(":")[0]}
    was = {"numerics": there.get("numerics", before), "threads": there["threads"], "device": there["device"].split(":")[0]}
    other = [f"{name} {was[name]} (now {now[name]})" for name in was if was[name] != now[name]]
    return f"This result was made with {', '.join(other)}: training again (overwrite) may differ in rounding." if other else ""


def write_failure(path: Path, cfg: Config, *, status: str, reason: str, attempts: int) -> None:
    """A run that did not finish, as a row that tables can show.

    path: the run's result.json; status: "failed" or "diverged"; attempts: how often it was tried
    """
    config = {"config": cfg.to_dict(), "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    result = {"format": FORMAT, "run_id": cfg.run_id, "status": status, "reason": reason, "attempts": attempts, **config}
    validate(result)
    write_atomically(path, json.dumps(result, indent=1) + "\n")


def write_run(
    out_dir: Path,
    cfg: Config,
    *,
    scores: Scores,
    losses: list[float],
    history: list[dict[str, Any]],
    data: dict[str, Any],
    model: dict[str, Any],
    timing: dict[str, float],
    provenance: dict[str, Any],
    pictures: NDArray | None = None,
    complexity: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate, validate and write `out_dir/runs/<run id>/result.json`, whole or not at all.

    pictures: (N, C, H, W) uint8 test images, to keep with their maps in `maps.npz`; None keeps no maps

    returns: what was written
    raises: fastjsonschema.JsonSchemaValueException if the result does not fit `result.schema.json`
    """
    with Stopwatch(timing, "metrics_s"):
        found = evaluate_run(scores, cfg)
    result = {
        "format": FORMAT,
        "run_id": cfg.run_id,
        "status": "finished",
        "config": cfg.to_dict(),
        "losses": losses,
        "metrics": found.metrics,
        "undefined": why_undefined(found.metrics, scores, found.without_pro),
        "by_scales": found.by_scales,
        "by_image_score": found.by_image_score,
        "history": history,
        "images": _image_rows(scores, found.per_image),
        "data": data,
        "model": model,
        "timing": {k: round(v, 3) for k, v in timing.items()},
        **({"complexity": complexity} if complexity else {}),
        **({"pro_curve": found.pro_curve} if found.pro_curve else {}),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "provenance": provenance,
    }
    result = _without_nan(result)
    validate(result)
    folder = run_folder(out_dir, cfg)
    folder.mkdir(parents=True, exist_ok=True)
    if pictures is not None:
        save_maps(folder, scores, pictures)
    write_atomically(folder / "result.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _image_rows(scores: Scores, per_image: NDArray) -> list[dict[str, Any]]:
    rows = [{"path": p, "label": int(y), "score": float(s)} for p, y, s in zip(scores.paths, scores.labels, per_image)]
    if scores.masks is not None:
        for row, mask in zip(rows, scores.masks):
            row["anomalous_pixels"] = int(mask.sum())
    return rows


def save_maps(folder: Path, scores: Scores, pictures: NDArray) -> None:
    """`maps.npz`: images, masks and per-scale maps (float16, smoothed) of the whole test set, for the figures."""
    masks = np.zeros((0,), bool) if scores.masks is None else scores.masks
    buffer = io.BytesIO()
    np.savez_compressed(buffer, scale_maps=scores.scale_maps.astype(np.float16), images=pictures, masks=masks, paths=np.array(scores.paths))
    write_atomically(folder / "maps.npz", buffer.getvalue())


def thin_maps(source: Path, target: Path, paths: set[str]) -> None:
    """Copy `maps.npz` from one run folder to another with only these images."""
    kept = load_maps(source)
    chosen = [i for i, p in enumerate(kept["paths"]) if str(p) in paths]
    buffer = io.BytesIO()
    arrays = {k: kept[k][chosen] for k in ("images", "masks", "paths")}
    np.savez_compressed(buffer, scale_maps=kept["scale_maps"][:, chosen].astype(np.float16), **arrays)
    write_atomically(target / "maps.npz", buffer.getvalue())


def load_maps(folder: Path) -> dict[str, NDArray] | None:
    """What `save_maps` kept of a run (`scale_maps` as float32), or None if the run kept no maps.

    raises: InputError naming the file if it is damaged or holds anything but arrays
    """
    path = folder / "maps.npz"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            kept = {name: file[name] for name in ("scale_maps", "images", "masks", "paths")}
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        # NumPy's own words advise to allow pickles.
        raise InputError(f"{path}: damaged, or holds something else than arrays; remove it and run again") from None
    return kept | {"scale_maps": kept["scale_maps"].astype(np.float32)}


def _without_nan(value: Any) -> Any:
    """NaN becomes null: JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


class Stopwatch:
    """`with Stopwatch(timing, "fit_s"): ...` puts the seconds into the dictionary."""

    def __init__(self, timing: dict[str, float], name: str) -> None:
        self.timing, self.name = timing, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.timing[self.name] = time.perf_counter() - self.start


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def provenance(
    cfg: Config, *, hardware: dict[str, Any], teacher_sha256: str, data_manifest: str, shared: dict[str, str], resumed_from: int = 0
) -> dict[str, Any]:
    """Everything needed to trace a number: code, packages, machine, weights, data.

    hardware: device, gpu and threads, from `fit.describe_hardware`
    shared: what came from the store of shared arrays, its `log`
    resumed_from: epoch of the checkpoint that training went on from; 0 = in one go, so its `fit_s` is the whole training
    """
    root = project_root()
    lock = root / "requirements.txt"
    return {
        "git_revision": _git(root, "rev-parse", "HEAD"),
        "git_dirty": bool(_git(root, "status", "--porcelain")),
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "",
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_name(),
        **hardware,
        "seed": cfg.seed,
        "torch_seed": cfg.torch_seed,
        "teacher_sha256": teacher_sha256,
        "data_manifest": data_manifest,
        "shared": shared,
        "numerics": NUMERICS,
        "resumed_from": resumed_from,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _git(root: Path, *words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    )
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


# --- Reading ------------------------------------------------------------------------------------------------------


@cache
def _validator() -> Callable[[Any], Any]:
    return fastjsonschema.compile(json.loads((PACKAGE / "run/result.schema.json").read_text()))


def validate(result: dict[str, Any]) -> None:
    """raises: fastjsonschema.JsonSchemaValueException if `result` does not fit `result.schema.json`"""
    _validator()(result)


def read_run(path: Path) -> dict[str, Any]:
    """One result.json.

    raises: InputError naming the file if it is no valid result
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        validate(result)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}); remove the run's folder and run it again") from None
    except fastjsonschema.JsonSchemaValueException as error:
        raise InputError(
            f"{path}: not a result of this version ({error.message[:200]}); remove the run's folder and run it again"
        ) from None
    return result


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Every finished result below `folder/runs`, sorted by run id."""
    return [result for result in _read_all(folder) if result["status"] == "finished"]


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """Every run below `folder/runs` that failed or diverged, with its reason, sorted by run id."""
    return [result for result in _read_all(folder) if result["status"] != "finished"]


def _read_all(folder: Path) -> list[dict[str, Any]]:
    return [read_run(path) for path in sorted((folder / "runs").glob("*/result.json"))]


def refuse_mixed(runs: list[dict[str, Any]]) -> None:
    """Runs that tables put side by side must be of the same data and the same teacher.

    raises: InputError naming two runs of different data or weights under the same names
    """
    for name, what, same in (
        ("data_manifest", "data", ("dataset", "category", "normal_class")),
        ("teacher_sha256", "teacher weights", ("teacher",)),
    ):
        first: dict[tuple, dict[str, Any]] = {}
        for run in runs:
            other = first.setdefault(tuple(run["config"].get(k) for k in same), run)
            if other["provenance"][name] != run["provenance"][name]:
                raise InputError(
                    f"{other['run_id']} and {run['run_id']} were made from different {what} ({name} {other['provenance'][name][:12]} and "
                    f"{run['provenance'][name][:12]}): remove the folders of the older runs and run them again, so that no table mixes them"
                )


def metrics_table(result: dict[str, Any]) -> pd.DataFrame:
    """The metrics of one run in per cent, rounded for reading."""
    values = {name: "undefined" if v is None else f"{100 * v:.2f}" for name, v in result["metrics"].items()}
    return pd.DataFrame({"%": values})
