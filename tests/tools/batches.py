"""What the tests of whole batches share: a project of symbolic links, `make reproduce` of two quick runs in it, kernels, numbers."""

import os
import subprocess
import sys

import psutil
from helpers import REPO

from rdlib.run import plan, record

RUNS = [i for i, p in plan.runs("demo").items() if p["dataset"] == "digits" and p.get("normal_class") in (3, 8)][:2]
OTHER = next(i for i in plan.runs("demo") if i not in RUNS)
TARGETS = [f"results/demo/runs/{run_id}/result.json" for run_id in RUNS]


def project(root):
    """The project as symbolic links, so that the repository's results are neither seen nor touched."""
    root.mkdir()
    for name in ("Snakefile", "notebooks", "rdlib", "pyproject.toml", "requirements.txt", "profiles"):
        (root / name).symlink_to(REPO / name)
    return root


def start(root, targets=TARGETS, where=("--cores", "2"), environment=os.environ, gpus="", checkpoint_s="", profile="demo", data="", **more):
    """`make reproduce` of these files only; what it prints is appended to log.txt. more: of Popen"""
    flags = ["--keep-going", "--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime"]
    flags += ["--config", f"profile={profile}", f"gpus={gpus}", "cost_threads=1", f"checkpoint_s={checkpoint_s}"]
    words = [sys.executable, "-m", "snakemake", *where, *flags, "--", *targets]
    environment = environment | {"DATA": data, "PYTHONPATH": str(REPO), "XDG_CACHE_HOME": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    with (root / "log.txt").open("a") as log:
        return subprocess.Popen(words, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT, **more)


def kernels(root):
    """The processes of the batch's notebook kernels."""
    found = psutil.process_iter(["cmdline", "cwd"])
    return [p for p in found if p.info["cwd"] == str(root) and "ipykernel_launcher" in " ".join(p.info["cmdline"] or [])]


def numbers(root):
    """Of each run what must not depend on how and where it was run."""
    return {r["run_id"]: numbers_of(r) for r in (record.read_run(root / target) for target in TARGETS)}


def numbers_of(result):
    return [result["status"], result["metrics"], result["losses"], result["images"]]
