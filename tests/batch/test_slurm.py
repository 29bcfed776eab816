"""The same batch on one machine with two made-up GPUs, on a SLURM of one node, and there with a job and the node killed: same numbers."""

import json
import os
import subprocess
import time

import batches
import pandas as pd
import psutil
import pytest
import slurm
from helpers import PATIENCE, REPO

from rdlib.batch import failure
from rdlib.run import plan

ARTEFACTS = REPO / "results" / "test-artifacts"
ON_SLURM = ["--workflow-profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "2"]
ON_SLURM += ["--set-resources", "run:gpu=1"]  # the demo asks for none


@pytest.fixture(scope="module")
def cluster():
    if not slurm.installed():
        pytest.skip("needs apt-get install slurm-wlm munge")
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
    BATCHES.append(batches.start(batches.project(root), where=where, environment=environment, gpus=gpus))
    return BATCHES[-1]


def kernels(root):
    """The kernels of a batch's runs: job number (none outside SLURM) -> device."""
    found = {}
    for process in batches.kernels(root):
        try:
            variables = process.environ()
        except psutil.NoSuchProcess:
            continue
        found[variables.get("SLURM_JOB_ID", process.pid)] = variables["CUDA_VISIBLE_DEVICES"]
    return found


def wait_for(what, batch):
    """The first true value of what(); the batch must not end before."""
    for _ in range(2 * PATIENCE):
        if value := what():
            return value
        assert batch.poll() is None, "the batch ended too early"
        time.sleep(0.5)
    raise TimeoutError


def both(root, batch):
    """Both runs' kernels, once there are two."""
    return wait_for(lambda: len(found := kernels(root)) == 2 and found, batch)


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
    assert batch.wait(PATIENCE) == 0, (root / "log.txt").read_text()[-2000:]
    return {"devices": sorted(devices.values()), "numbers": batches.numbers(root)}


def test_each_run_has_a_gpu_of_this_machine_for_itself(local):
    assert local["devices"] == ["4", "5"] and {status for status, *_ in local["numbers"].values()} == {"finished"}


def test_the_committed_list_of_jobs_is_a_whole_demo():
    """That of 0.3.0: every run and table notebook was completed once; `python tests/tools/slurm.py jobs` makes such a list."""
    listed = pd.read_csv(REPO / "docs" / "slurm_demo_jobs.csv")
    done = listed.loc[listed["state"] == "COMPLETED", "run or notebook"]
    reports = [name for name in done if name.startswith("report_")]
    assert len(set(done)) == len(done) == 84 + len(reports) and len(reports) == 6
    assert all((REPO / "notebooks" / f"{name.removeprefix('report_')}.ipynb").is_file() for name in reports)


def test_on_slurm_the_numbers_are_the_same(cluster, local, tmp_path):
    """And its jobs, which read the Snakefile anew, neither want the batch's lock nor forget failures."""
    root = tmp_path / "project"
    batch = start(root, ON_SLURM, slurm.environment(cluster))
    devices = both(root, batch)
    row = root / "results/demo/runs" / batches.OTHER / "result.json"
    assert failure.record(row, root / "none.ipynb", plan.runs("demo")[batches.OTHER], attempt=3, most=3)
    assert batch.wait(PATIENCE) == 0, (root / "log.txt").read_text()[-2000:]
    assert batches.numbers(root) == local["numbers"]
    assert jobs(cluster, root, "undisturbed") == {"COMPLETED": 2}
    assert sorted(devices.values()) == ["0", "1"]
    listed = slurm.jobs_table(cluster, root)
    assert sorted(listed["run or notebook"]) == sorted(batches.RUNS) and (listed["seconds"] > 0).all() and listed["start_s"].min() == 0


def test_a_job_and_then_the_node_are_killed_and_the_numbers_are_the_same(cluster, local, tmp_path):
    """The cancelled job is submitted again by Snakemake; after the node's failure SLURM itself starts both jobs again."""
    root = tmp_path / "project"
    batch = start(root, ON_SLURM, slurm.environment(cluster))
    first, second = both(root, batch)
    subprocess.run(["scancel", first], env=slurm.environment(cluster), check=True)
    wait_for(lambda: set(kernels(root)) - {first, second}, batch)
    assert slurm.kill_node(cluster) > 4 and not kernels(root)
    slurm.start_node(cluster)
    row = root / "results/demo/runs" / batches.OTHER / "result.json"
    assert failure.record(row, root / "none.ipynb", plan.runs("demo")[batches.OTHER], attempt=3, most=3)
    assert batch.wait(PATIENCE) == 0, (root / "log.txt").read_text()[-2000:]
    ended = jobs(cluster, root, "killed")
    assert ended["CANCELLED"] == 1 and ended["NODE_FAIL"] >= 1 and ended["COMPLETED"] == 2, ended
    assert batches.numbers(root) == local["numbers"] and json.loads(row.read_text())["status"] == "failed"
