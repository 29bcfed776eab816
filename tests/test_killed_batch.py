"""Snakemake and kernels are killed in the middle of a batch; started again with the same command it ends with the same numbers."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from batches import TARGETS, kernels, numbers, project, start

from rdlib import experiments, failure, results
from rdlib.errors import InputError

KILLS = 6


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A batch that was killed KILLS times, Snakemake and kernels in turn, and one that was not; both to the end."""
    root, quiet = (project(tmp_path_factory.mktemp("batches") / name) for name in ("killed", "quiet"))
    undisturbed = start(quiet)
    rng, kills, process = random.Random(0), {"snakemake": 0, "kernel": 0}, start(root)
    assert undisturbed.wait(300) == 0
    started = time.monotonic()
    while sum(kills.values()) < KILLS and time.monotonic() - started < 240:
        time.sleep(rng.uniform(1, 5))
        if process.poll() is not None:  # ended between two kills: what it made is removed and made again
            for target in TARGETS:
                (root / target).unlink(missing_ok=True)
            process = start(root)
        elif kills["snakemake"] <= kills["kernel"]:
            process.kill()
            process.wait()
            kills["snakemake"] += 1
            process = start(root)
        elif running := kernels(root):
            rng.choice(running).send_signal(signal.SIGKILL)
            kills["kernel"] += 1
    process.wait(300)
    last = start(root)
    code = last.wait(300)
    yield {"code": code, "kills": kills, "killed": root, "quiet": quiet}
    for orphan in kernels(root):
        orphan.kill()


def test_snakemake_and_kernels_were_killed(killed):
    assert sum(killed["kills"].values()) >= 5 and min(killed["kills"].values()) >= 2, killed["kills"]


def test_the_same_command_ends_the_batch_with_the_same_numbers(killed):
    assert killed["code"] == 0, (killed["killed"] / "log.txt").read_text()[-2000:]
    assert numbers(killed["killed"]) == numbers(killed["quiet"])


def test_nothing_half_written_is_left(killed):
    files = [p.name for p in (killed["killed"] / "results/demo/runs").rglob("*") if p.is_file()]
    assert set(files) <= {"result.json", "loss.png", "maps.png", "maps.npz"}, files


def test_a_second_batch_on_the_same_results_is_refused_and_a_dead_ones_lock_is_not(tmp_path):
    root = project(tmp_path / "two")
    code = (
        "import sys, time; from pathlib import Path; from filelock import FileLock; Path('results/demo').mkdir(parents=True);"
        "lock = FileLock('results/demo/.batch.lock'); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    second = start(root)
    assert second.wait(60) != 0 and "another batch is running on results/demo; wait for it or stop it" in (root / "log.txt").read_text()
    first.kill()
    first.wait()
    first.stdout.close()
    third = start(root, ["no_such_file"])  # gets past the lock, then has nothing to make
    assert third.wait(60) != 0 and "MissingRuleException" in (root / "log.txt").read_text()


# --- Failures as rows -------------------------------------------------------------------------------------------------

PARAMETERS = {"dataset": "demo", "category": "brick", "epochs": 1, "seed": 0, "evaluate_every": 4}


def executed(path, *errors):
    outputs = [{"output_type": "error", "ename": name, "evalue": text, "traceback": []} for name, text in errors]
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": outputs}]}))
    return path


@pytest.mark.parametrize(
    "error, status, reason",
    [
        (("InputError", "data_root is empty"), "failed", "data_root is empty"),
        (("FloatingPointError", "loss is nan in epoch 2"), "diverged", "FloatingPointError: loss is nan in epoch 2"),
        (("KeyError", "'x'"), "failed", "KeyError: 'x'"),
    ],
)
def test_an_error_becomes_a_row_at_once(tmp_path, error, status, reason):
    path = tmp_path / "runs" / experiments.identity(PARAMETERS) / "result.json"
    assert failure.record(path, executed(tmp_path / "o.ipynb", error), PARAMETERS, attempt=1, most=3)
    (row,) = results.read_failures(tmp_path)
    assert (row["status"], row["reason"], row["attempts"], row["run_id"]) == (status, reason, 1, experiments.identity(PARAMETERS))


def test_a_kernel_that_died_is_tried_again_so_many_times(tmp_path):
    path = tmp_path / "runs" / "x" / "result.json"
    for notebook in (executed(tmp_path / "o.ipynb"), tmp_path / "absent.ipynb"):
        assert not failure.record(path, notebook, PARAMETERS, attempt=2, most=3) and not path.exists()
        assert failure.record(path, notebook, PARAMETERS, attempt=3, most=3)
        assert results.read_run(path)["reason"] == failure.DIED
        path.unlink()


def test_the_next_batch_tries_failures_again_and_keeps_results(tmp_path):
    paths = {s: tmp_path / "runs" / s / "result.json" for s in ("finished", "failed", "damaged")}
    for path in paths.values():
        path.parent.mkdir(parents=True)
    failure.record(paths["failed"], executed(tmp_path / "o.ipynb", ("InputError", "x")), PARAMETERS, 1, 3)
    paths["finished"].write_text('{"status": "finished"}')
    paths["damaged"].write_text("{")
    failure.forget(tmp_path)
    assert [s for s, p in paths.items() if p.exists()] == ["finished", "damaged"]
    with pytest.raises(InputError, match="remove the run's folder"):
        results.read_runs(tmp_path)
