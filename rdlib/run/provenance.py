"""Everything needed to trace a number: code, packages, machine, weights, data."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rdlib.config import SAME_FUNCTION, Config
from rdlib.paths import project_root
from rdlib.run.files import NUMERICS

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "scikit-image", "pandas", "pillow", "efficientnet-lite-pytorch")


def provenance(cfg: Config, *, hardware: dict[str, Any], same_function: bool = False, **more: Any) -> dict[str, Any]:
    """What a run file says of where its numbers come from.

    hardware: device, gpu and threads, from `inference.describe_hardware`
    same_function: a teacher file that is not the published one computes the same function
    more: teacher_sha256, data_manifest; of `train_on=all` also train_manifests (category -> manifest of all that was trained on) and
        model (`session.Run.model`); shared: the store's `log`: what came from it, where features lie, what a step is; resumed_from:
        epoch of the checkpoint that training went on from, 0 = in one go, so its `fit_s` is the whole training
    """
    root = project_root()
    lock = root / "requirements.txt"
    return {
        **revision(root),
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "",
        "packages": {name: version(name) for name in (*PACKAGES, *["timm"] * cfg.teacher.startswith("timm/"))},
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        **hardware,
        "seed": cfg.seed,
        "torch_seed": cfg.torch_seed,
        "weights": ("same function" if same_function or cfg.weights_id in SAME_FUNCTION else "own") if cfg.weights_id else "published",
        "numerics": NUMERICS,
        **more,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def revision(root: Path) -> dict[str, Any]:
    """git_revision and git_dirty of the project; "" and False where it is no repository of its own.

    Unpacked inside another repository, git would answer with that one's revision.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    ours = bool(top) and Path(top).samefile(root)
    return {
        "git_revision": _git(root, "rev-parse", "HEAD") if ours else "",
        "git_dirty": ours and bool(_git(root, "status", "--porcelain")),
    }


def _git(root: Path, *words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} cores"
