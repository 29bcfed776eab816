"""Snakemake and kernels are killed in the middle of a batch; started again with the same command it ends with the same numbers."""

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_up_runs
import pandas as pd
import psutil
import pytest
from batches import RUNS, TARGETS, kernels, numbers, numbers_of, project, start
from helpers import PATIENCE, failures_of

from rdlib.batch import failure
from rdlib.errors import InputError
from rdlib.run import files, plan, record
from rdlib.run.checkpoint import Checkpoint

KILLS = 6


def trainings(root):
    """The kernels of runs that have a checkpoint to go on from, as their papermill's output says; waits a while for one."""
    for _ in range(100):
        begun = {path.parent.name for path in (root / "results/demo/runs").glob("*/checkpoint.pt")}
        found = [kernel for kernel in kernels(root) if begun & {Path(word).stem for word in words_of_parent(kernel)}]
        if found:
            return found
        time.sleep(0.1)
    return []


def words_of_parent(process):
    try:
        return process.parent().cmdline()
    except (psutil.NoSuchProcess, AttributeError):  # both have ended meanwhile
        return []


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A batch that was killed KILLS times, Snakemake and kernels in turn, and one that was not; both to the end."""
    root, quiet = (project(tmp_path_factory.mktemp("batches") / name) for name in ("killed", "quiet"))
    undisturbed = start(quiet)
    again = functools.partial(start, root, checkpoint_s="0")  # after every epoch, so that there is something to go on from
    rng, kills, process, seen = random.Random(0), {"snakemake": 0, "kernel": 0}, again(), []
    assert undisturbed.wait(PATIENCE) == 0
    started = time.monotonic()
    while sum(kills.values()) < KILLS and time.monotonic() - started < PATIENCE:
        time.sleep(rng.uniform(1, 5))
        seen += record.read_runs(root / "results/demo")  # at any moment whole or not there
        if process.poll() is not None:  # ended between two kills: what it made is removed and made again
            for target in TARGETS:
                (root / target).unlink(missing_ok=True)
            process = again()
        elif kills["snakemake"] <= kills["kernel"]:
            process.kill()
            process.wait()
            kills["snakemake"] += 1
            process = again()
        elif running := trainings(root):
            with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended by itself meanwhile
                rng.choice(running).kill()
                kills["kernel"] += 1
    process.wait(PATIENCE)
    last = again()
    code = last.wait(PATIENCE)
    seen += record.read_runs(root / "results/demo")
    yield {"code": code, "kills": kills, "killed": root, "quiet": quiet, "seen": seen}
    for orphan in kernels(root):
        orphan.kill()


def test_snakemake_and_kernels_were_killed(killed):
    assert sum(killed["kills"].values()) >= 5 and min(killed["kills"].values()) >= 2, killed["kills"]


def test_the_same_command_ends_the_batch_with_the_same_numbers(killed):
    assert killed["code"] == 0, (killed["killed"] / "log.txt").read_text()[-2000:]
    assert numbers(killed["killed"]) == numbers(killed["quiet"])


def test_a_killed_training_went_on_from_its_checkpoint_to_the_same_bits(killed):
    """As the run file says, of whichever of its attempts ended; each was read between two kills."""
    expected = numbers(killed["quiet"])
    assert any(r["provenance"]["resumed_from"] > 0 for r in killed["seen"])
    assert all(numbers_of(r) == expected[r["run_id"]] for r in killed["seen"])
    assert {record.read_run(killed["quiet"] / target)["provenance"]["resumed_from"] for target in TARGETS} == {0}


def test_a_batch_stopped_by_hand_has_no_failed_run_and_goes_on(tmp_path):
    """Ctrl-C reaches Snakemake and papermill, which stops its kernel; kernels are not of the terminal's group."""
    root = project(tmp_path / "project")
    usual = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  a suite in the background has it ignored
    batch = start(root, checkpoint_s="0", start_new_session=True, preexec_fn=usual)
    while not trainings(root):
        assert batch.poll() is None, (root / "log.txt").read_text()[-2000:]
    os.killpg(batch.pid, signal.SIGINT)
    assert batch.wait(PATIENCE) != 0
    assert failures_of(root / "results/demo") == []
    assert start(root, checkpoint_s="0").wait(PATIENCE) == 0
    assert any(r["provenance"]["resumed_from"] > 0 for r in record.read_runs(root / "results/demo"))
    assert failures_of(root / "results/demo") == []


def test_a_second_batch_on_the_same_results_is_refused_and_a_dead_ones_lock_is_not(tmp_path):
    root = project(tmp_path / "two")
    code = (
        "import sys, time; from pathlib import Path; from filelock import FileLock; Path('results/demo').mkdir(parents=True);"
        "lock = FileLock('results/demo/.batch.lock'); lock.acquire(); print('held', flush=True); time.sleep(3600)"
    )
    first = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    assert start(root).wait(PATIENCE) != 0
    log = (root / "log.txt").read_text()
    assert "another batch is running on results/demo; wait for it or stop it" in log and "Traceback" not in log
    first.kill()
    first.wait()
    first.stdout.close()
    files.write_atomically(root / TARGETS[0], json.dumps(made_up_runs.run()))  # the third gets past the lock, and has nothing to do
    third = start(root, TARGETS[:1])
    assert third.wait(PATIENCE) == 0 and "Nothing to be done" in (root / "log.txt").read_text()


def test_one_bad_run_stops_no_other_and_a_table_says_failed(tmp_path, monkeypatch):
    """Its folder holds the checkpoint of another configuration, which the run refuses."""
    root = project(tmp_path / "project")
    out, (bad, good) = root / "results/demo", RUNS
    Checkpoint(out / "runs" / bad, {"lr": 1}).save({"losses": [0.5]})
    assert start(root).wait(PATIENCE) == 0, (root / "log.txt").read_text()[-2000:]
    (failure,), (finished,) = failures_of(out), record.read_runs(out)
    assert (failure["run_id"], failure["attempts"], finished["run_id"]) == (bad, 1, good)
    assert "its checkpoint was made with another " in failure["reason"] and "remove the folder" in failure["reason"]
    made_up_runs.execute("06_novelty", out, out, monkeypatch)
    verdicts = pd.read_csv(out / "tables/table4_classes.csv", dtype={"row": str}).set_index("row")["verdict"]
    classes = [str(plan.runs("demo")[i]["normal_class"]) for i in RUNS]
    assert verdicts[classes].tolist() == ["failed", "not published"] and (verdicts == "not run").sum() == 8
    assert pd.read_csv(out / "tables/failures.csv")["reason"].tolist() == [failure["reason"]]


def test_the_reason_is_not_one_of_an_earlier_batch(tmp_path):
    """Papermill dies before it writes; the notebook of last time, with another error, lies there."""
    root = project(tmp_path / "project")
    (root / "bin").mkdir()
    (root / "bin/papermill").write_text("#!/bin/sh\nexit 1\n")
    (root / "bin/papermill").chmod(0o755)
    old = root / "results/demo/executed/runs" / f"{RUNS[0]}.ipynb"
    old.parent.mkdir(parents=True)
    executed(old, ("InputError", "of last time"))
    path = f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}"
    assert start(root, TARGETS[:1], environment=os.environ | {"PATH": path}).wait(PATIENCE) == 0
    (row,) = failures_of(root / "results/demo")
    assert (row["reason"], row["attempts"]) == (failure.DIED, 3)


def test_results_that_cannot_be_written_are_a_sentence(tmp_path):
    root = project(tmp_path / "project")
    (root / "results").write_text("a file, not a folder")
    assert start(root, TARGETS[:1]).wait(PATIENCE) != 0
    log = (root / "log.txt").read_text()
    assert "results/demo: cannot be written (Not a directory); allow writing there" in log and "Traceback" not in log


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
    path = tmp_path / "runs" / plan.identity(PARAMETERS) / "result.json"
    assert failure.record(path, executed(tmp_path / "o.ipynb", error), PARAMETERS, attempt=1, most=3)
    (row,) = failures_of(tmp_path)
    assert (row["status"], row["reason"], row["attempts"], row["run_id"]) == (status, reason, 1, plan.identity(PARAMETERS))


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_run_that_was_stopped_by_hand_is_no_row(tmp_path, capsys, attempt):
    path = tmp_path / "runs" / "x" / "result.json"
    assert not failure.record(path, executed(tmp_path / "o.ipynb", ("KeyboardInterrupt", "")), PARAMETERS, attempt, most=3)
    assert not path.exists() and capsys.readouterr().err == "x: stopped; the same command goes on with it\n"


def test_a_kernel_that_died_is_tried_again_so_many_times(tmp_path):
    path = tmp_path / "runs" / "x" / "result.json"
    for notebook in (executed(tmp_path / "o.ipynb"), tmp_path / "absent.ipynb"):
        assert not failure.record(path, notebook, PARAMETERS, attempt=2, most=3) and not path.exists()
        assert failure.record(path, notebook, PARAMETERS, attempt=3, most=3)
        assert record.read_run(path)["reason"] == failure.DIED
        path.unlink()


@pytest.mark.parametrize("damage", ["{", "{}", "[]", "null", "3"])
def test_the_next_batch_tries_failures_again_and_keeps_results(tmp_path, damage):
    paths = {s: tmp_path / "runs" / s / "result.json" for s in ("finished", "failed", "damaged")}
    for path in paths.values():
        path.parent.mkdir(parents=True)
    failure.record(paths["failed"], executed(tmp_path / "o.ipynb", ("InputError", "x")), PARAMETERS, 1, 3)
    paths["finished"].write_text('{"status": "finished"}')
    paths["damaged"].write_text(damage)
    failure.forget(tmp_path)
    assert [s for s, p in paths.items() if p.exists()] == ["finished", "damaged"]
    with pytest.raises(InputError, match="remove the run's folder"):
        record.read_runs(tmp_path)


def test_a_finished_run_stays_finished_whatever_fails_after_it(tmp_path, capsys):
    """A figure that cannot be drawn, or a kernel that dies over it."""
    made = made_up_runs.run()
    path = tmp_path / "runs" / made["run_id"] / "result.json"
    files.write_atomically(path, json.dumps(made))
    assert failure.record(path, executed(tmp_path / "o.ipynb", ("OSError", "disk")), PARAMETERS, attempt=1, most=3)
    assert failure.record(path, tmp_path / "absent.ipynb", PARAMETERS, attempt=1, most=3)
    assert json.loads(path.read_text()) == made and f"{made['run_id']}: finished, but then: OSError: disk" in capsys.readouterr().err
    path.write_text("{}")
    assert failure.record(path, executed(tmp_path / "o.ipynb", ("OSError", "disk")), PARAMETERS, attempt=1, most=3)
    assert record.read_run(path)["status"] == "failed"


# --- Snakemake and what is there already ------------------------------------------------------------------------------


def place(root, made):
    path = root / "results/demo/runs" / made["run_id"] / "result.json"
    files.write_atomically(path, json.dumps(made))
    return path


def test_what_only_looks_changes_nothing(tmp_path):
    """Failed rows stay, and no lock is taken."""
    root = project(tmp_path / "project")
    path = place(root, made_up_runs.failed(dataset="demo", category="brick", epochs=12))
    for words in (["-np"], ["--summary"], ["--dag", "dot"], ["--lint"]):
        start(root, [], [*words, "--cores", "1"]).wait(PATIENCE)
        assert path.exists() and not list((root / "results/demo").glob(".batch*")), words
    files.write_atomically(root / TARGETS[0], json.dumps(made_up_runs.run()))
    assert start(root, TARGETS[:1]).wait(PATIENCE) == 0 and not path.exists(), "a batch does forget it"


def test_a_finished_result_marked_incomplete_is_neither_removed_nor_made_again(tmp_path):
    """As after a kill of Snakemake whose orphaned kernel finished: Snakemake's own way is to remove the file and train anew."""
    root = project(tmp_path / "my project")
    target = TARGETS[0]
    first = start(root, [target])
    assert first.wait(PATIENCE) == 0
    before = (root / target).stat().st_ino, (root / target).read_bytes()
    (marker,) = [p for p in (root / ".snakemake/metadata").iterdir() if "metadata" in str(p)]
    shutil.copy(marker, root / ".snakemake/incomplete" / marker.name)
    assert start(root, [target]).wait(PATIENCE) == 0
    assert ((root / target).stat().st_ino, (root / target).read_bytes()) == before
    log = (root / "log.txt").read_text()
    assert log.count("rule run:") == 2, "it was looked at"
    assert "1 of 1 steps (100%) done" in log, "progress is told in the terminal"
