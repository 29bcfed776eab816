"""Run files: written whole or not at all, checked by a schema; read back. And the maps that some runs keep beside them."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastjsonschema
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rdlib.config import Config
from rdlib.errors import InputError
from rdlib.paths import PACKAGE
from rdlib.run.files import FORMAT, NUMERICS, write_atomically

if TYPE_CHECKING:  # not at run time: reading results must not load torch
    from rdlib.score import Scores


IMAGES = "images.csv.gz"  # path, label, score and anomalous_pixels of each test image; result.json has its sha256


def run_folder(out_dir: Path, cfg: Config) -> Path:
    return out_dir / "runs" / cfg.run_id


# --- Which run ----------------------------------------------------------------------------------------------------


def identity(config: dict[str, Any], *, teacher_sha256: str, data_manifest: str, train_manifests: Any = None, **_: Any) -> dict[str, Any]:
    """What must be the same for two files to belong to one run: its configuration, the weights and the data.

    config: `Config.to_dict()`; the rest may be the whole provenance of a run file
    """
    same = {"teacher_sha256": teacher_sha256, "data_manifest": data_manifest}
    return config | same | ({"train_manifests": train_manifests} if train_manifests else {})


def finished(out_dir: Path, cfg: Config, **same: Any) -> dict[str, Any] | None:
    """The result of this run if it is there and did not fail.

    same: of `identity`
    raises: InputError if a result with the same id has another configuration, data, weights or format
    """
    path = run_folder(out_dir, cfg) / "result.json"
    if not path.is_file() or "metrics" not in (result := read_run(path)):
        return None
    there = identity(result["config"], **result["provenance"])
    wanted = identity(cfg.to_dict(), **same)
    different = sorted(k for k in there.keys() | wanted.keys() if there.get(k) != wanted.get(k))
    if different:
        raise InputError(f"{path}: was made with another {', '.join(different)}; remove it or give another label")
    return result


def made_otherwise(result: dict[str, Any], hardware: dict[str, Any]) -> str:
    """A sentence on how this run would not give a finished result's bits any more; "" if it would.

    hardware: of this process, from `inference.describe_hardware`
    """
    there = result["provenance"]
    before = 2 if "shared" in there else 1  # of results from before this was written down
    now = {"numerics": NUMERICS, "threads": hardware["threads"], "device": hardware["device"].split(":")[0]}
    was = {"numerics": there.get("numerics", before), "threads": there["threads"], "device": there["device"].split(":")[0]}
    other = [f"{name} {was[name]} (now {now[name]})" for name in was if was[name] != now[name]]
    return f"This result was made with {', '.join(other)}: training again (overwrite) may differ in rounding." if other else ""


# --- Writing ------------------------------------------------------------------------------------------------------


def write(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Validate and write `folder/result.json` and, for what it says of each test image, IMAGES beside it; each whole or not at all.

    result: NaN becomes null, JSON has none
    returns: what was written
    raises: fastjsonschema.JsonSchemaValueException if the result does not fit `result.schema.json`
    """
    result = _without_nan(result)
    validate(result)
    beside = {}
    if "images" in result:
        packed = _packed(result["images"])
        write_atomically(folder / IMAGES, packed)
        beside = {"images": hashlib.sha256(packed).hexdigest()}
    write_atomically(folder / "result.json", json.dumps(result | beside, indent=1, allow_nan=False) + "\n")
    return result


def _packed(images: list[dict[str, Any]]) -> bytes:
    """The test images as a table, gzipped: 10,000 scores of Table 4 are 90 kB. The same rows are the same bytes."""
    return gzip.compress(pd.DataFrame(images).to_csv(index=False).encode(), mtime=0)


def write_failure(path: Path, cfg: Config, *, status: str, reason: str, attempts: int) -> None:
    """A run that did not finish, as a row that tables can show.

    path: the run's result.json; status: "failed" or "diverged"; attempts: how often it was tried
    """
    config = {"config": cfg.to_dict(), "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    write(path.parent, {"format": FORMAT, "run_id": cfg.run_id, "status": status, "reason": reason, "attempts": attempts, **config})


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


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
        if isinstance(result, dict) and isinstance(result.get("images"), str):
            result["images"] = _read_images(path.with_name(IMAGES), result["images"])
        validate(result)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}); remove the run's folder and run it again") from None
    except fastjsonschema.JsonSchemaValueException as error:
        raise InputError(
            f"{path}: not a result of this version ({error.message[:200]}); remove the run's folder and run it again"
        ) from None
    return result


def _read_images(path: Path, sha256: str) -> list[dict[str, Any]]:
    """The rows that `write` left beside a result.

    raises: InputError naming the file if it is not the one that the result was written with
    """
    packed = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise InputError(
            f"{path}: not there, or another than result.json beside it was written with; remove the run's folder and run it again"
        )
    table = pd.read_csv(io.BytesIO(gzip.decompress(packed)), dtype={"path": str}, keep_default_na=False)
    return table.to_dict("records")


def read_if_whole(path: Path) -> dict[str, Any] | None:
    """One result.json; None if it is not there or no valid result. For folders that other processes write to meanwhile."""
    try:
        return read_run(path)
    except (OSError, InputError):
        return None


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Every run file below `folder/runs`, sorted by run id."""
    return [read_run(path) for path in sorted((folder / "runs").glob("*/result.json"))]


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Those that are finished."""
    return [result for result in read_all(folder) if result["status"] == "finished"]


# --- Maps ---------------------------------------------------------------------------------------------------------


def save_maps(folder: Path, scores: Scores, pictures: NDArray) -> None:
    """`maps.npz`: images (N, C, H, W), masks and per-scale maps (float16, smoothed) of the whole test set, for the figures."""
    masks = np.zeros((0,), bool) if scores.masks is None else scores.masks
    _write_maps(folder, scale_maps=scores.scale_maps, images=pictures, masks=masks, paths=np.array(scores.paths))


def thin_maps(source: Path, target: Path, paths: set[str]) -> None:
    """Copy `maps.npz` from one run folder to another with only these images."""
    kept = load_maps(source)
    chosen = [i for i, p in enumerate(kept["paths"]) if str(p) in paths]
    _write_maps(target, scale_maps=kept.pop("scale_maps")[:, chosen], **{name: values[chosen] for name, values in kept.items()})


def _write_maps(folder: Path, scale_maps: NDArray, **arrays: NDArray) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, scale_maps=scale_maps.astype(np.float16), **arrays)
    write_atomically(folder / "maps.npz", buffer.getvalue())


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
        # NumPy's own message advises to allow pickles.
        raise InputError(f"{path}: damaged, or holds something else than arrays; remove it and run again") from None
    return kept | {"scale_maps": kept["scale_maps"].astype(np.float32)}
