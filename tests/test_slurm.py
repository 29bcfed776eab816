"""The same batch on one machine with two made-up GPUs, on a SLURM of one node, and there with a job and the node killed: same numbers."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
import slurm
from helpers import REPO

from rdlib import experiments, failure, results

RUNS = [i for i, p in experiments.runs("demo").items() if p["dataset"] == "digits" and p["normal_class"] in (3, 8)][:2]
OTHER = next(i for i in experiments.runs("demo") if i not in RUNS)
TARGETS = [f"results/demo/runs/{run_id}/result.json" for run_id in RUNS]
ARTEFACTS = REPO / "results" / "test-artifacts"
ON_SLURM = ["--workflow-profile", "profiles/slurm", "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"]
ON_SLURM += ["--set-resources", "run:gpu=1"]  # the demo asks for none
SECONDS = 400  # after which nothing more is to be hoped for

pytestmark = pytest.mark.skipif(not slurm.installed(), reason="needs apt-get install slurm-wlm munge")


@pytest.fixture(scope="module")
def cluster():
    folder = slurm.new_folder()
    slurm.start(folder)
    yield folder
    slurm.stop(folder)


BATCHES = []


@pytest.fixture(autouse=True)
def no_batch_outlives_its_test():
    yield
    for batch in BATCHES:
        batch.kill()
        batch.wait()
    BATCHES.clear()


def start(root, where, environment, gpus=""):
    """`make reproduce` of two runs, in a project of symbolic links."""
    root.mkdir()
    for name in ("Snakefile", "notebooks", "rdlib", "pyproject.toml", "requirements.txt", "profiles"):
        (root / name).symlink_to(REPO / name)
    flags = [
        "--keep-going",
        "--nolock",
        "--rerun-incomplete",
        "--rerun-triggers",
        "mtime",
        "--config",
        "profile=demo",
        "data=",
        f"gpus={gpus}",
    ]
    words = [sys.executable, "-m", "snakemake", *where, *flags, "cost_threads=1", "--", *TARGETS]
    environment = environment | {"PYTHONPATH": str(REPO), "XDG_CACHE_HOME": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    with (root / "log.txt").open("w") as log:
        BATCHES.append(subprocess.Popen(words, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT))
    return BATCHES[-1]


def kernels(root):
    """The kernels of a batch's runs: job number (none outside SLURM) -> device."""
    found = {}
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(root) and "ipykernel_launcher" in " ".join(process.info["cmdline"] or []):
            try:
                variables = process.environ()
            except psutil.NoSuchProcess:
                continue
            found[variables.get("SLURM_JOB_ID", process.pid)] = variables["CUDA_VISIBLE_DEVICES"]
    return found


def wait_for(what, batch):
    """The first true value of what(); the batch must not end before."""
    for _ in range(2 * SECONDS):
        if value := what():
            return value
        assert batch.poll() is None, "the batch ended too early"
        time.sleep(0.5)
    raise TimeoutError


def both(root, batch):
    """Both runs' kernels, once there are two."""
    return wait_for(lambda: len(found := kernels(root)) == 2 and found, batch)


def numbers(root):
    found = [results.read_run(root / target) for target in TARGETS]
    return {r["run_id"]: [r["status"], r["metrics"], r["losses"], r["images"]] for r in found}


def jobs(folder, root, name):
    """State -> how many of SLURM's jobs of this project ended so; the list is kept as an artefact."""
    wanted = ("JobId", "JobState", "StartTime", "EndTime", "NodeList", "Tres", "ExitCode")
    rows = [row for row in slurm.ended_jobs(folder) if row["WorkDir"] == str(root)]
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    (ARTEFACTS / f"slurm-{name}.txt").write_text("\n".join(" ".join(f"{k}={row[k]}" for k in wanted) for row in rows) + "\n")
    states = [row["JobState"] for row in rows]
    return {state: states.count(state) for state in states}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """On this machine, a device each."""
    root = tmp_path_factory.mktemp("local") / "project"
    batch = start(root, ["--cores", "2", "--resources", "gpu=2"], os.environ, gpus="4,5")
    devices = both(root, batch)
    assert batch.wait(SECONDS) == 0, (root / "log.txt").read_text()[-2000:]
    return {"devices": sorted(devices.values()), "numbers": numbers(root)}


def test_each_run_has_a_gpu_of_this_machine_for_itself(local):
    assert local["devices"] == ["4", "5"] and {status for status, *_ in local["numbers"].values()} == {"finished"}


def test_on_slurm_the_numbers_are_the_same(cluster, local, tmp_path):
    """And its jobs, which read the Snakefile anew, neither want the batch's lock nor forget failures."""
    root = tmp_path / "project"
    batch = start(root, ON_SLURM, slurm.environment(cluster))
    devices = both(root, batch)
    row = root / "results/demo/runs" / OTHER / "result.json"
    assert failure.record(row, root / "none.ipynb", experiments.runs("demo")[OTHER], attempt=3, most=3)
    assert batch.wait(SECONDS) == 0, (root / "log.txt").read_text()[-2000:]
    assert numbers(root) == local["numbers"]
    assert jobs(cluster, root, "undisturbed") == {"COMPLETED": 2}
    assert sorted(devices.values()) == ["0", "1"]


def test_a_job_and_then_the_node_are_killed_and_the_numbers_are_the_same(cluster, local, tmp_path):
    """The cancelled job is submitted again by Snakemake; after the node's failure SLURM itself starts both jobs again."""
    root = tmp_path / "project"
    batch = start(root, ON_SLURM, slurm.environment(cluster))
    first, second = both(root, batch)
    subprocess.run(["scancel", first], env=slurm.environment(cluster), check=True)
    wait_for(lambda: set(kernels(root)) - {first, second}, batch)
    assert slurm.kill_node(cluster) > 4 and not kernels(root)
    slurm.start_node(cluster)
    row = root / "results/demo/runs" / OTHER / "result.json"
    assert failure.record(row, root / "none.ipynb", experiments.runs("demo")[OTHER], attempt=3, most=3)
    assert batch.wait(SECONDS) == 0, (root / "log.txt").read_text()[-2000:]
    ended = jobs(cluster, root, "killed")
    assert ended["CANCELLED"] == 1 and ended["NODE_FAIL"] >= 1 and ended["COMPLETED"] == 2, ended
    assert numbers(root) == local["numbers"] and json.loads(row.read_text())["status"] == "failed"
