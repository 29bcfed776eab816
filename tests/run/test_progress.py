"""Progress of a batch from what lies on disk: done, running, left, failed, and about how long."""

import json
import os
import time

import pytest
from filelock import FileLock
from helpers import PATIENCE

import rdlib.run.progress as progress_module
from rdlib.run.progress import STARTED, progress

PLANNED = {f"run{i}" for i in range(10)}


def put(folder, run_id, status="finished", age=0.0):
    path = folder / "runs" / run_id / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"status": status}))
    os.utime(path, (time.time() - age,) * 2)


def test_nothing_yet(tmp_path):
    assert str(progress(tmp_path, PLANNED)) == "0 of 10 runs done, 0 running, 10 left, 0 failed"


def test_counts_and_the_time_left_of_this_batch(tmp_path):
    """Two of the four done runs are of an earlier batch; two took 100 s, so the five that are left take 250 s."""
    for run_id, age in (("run0", 5000), ("run1", 5000), ("run2", 50), ("run3", 1)):
        put(tmp_path, run_id, age=age)
    put(tmp_path, "run4", "diverged")
    put(tmp_path, "not planned")
    (tmp_path / STARTED).touch()
    os.utime(tmp_path / STARTED, (time.time() - 100,) * 2)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "run6").touch()  # of a run that was killed
    with FileLock(tmp_path / "locks" / "run5"):
        found = progress(tmp_path, PLANNED)
    assert (found.done, found.failed, found.running, found.left) == (4, 1, 1, 5) and abs(found.seconds_left - 250) < 5
    assert str(found) == "4 of 10 runs done, 1 running, 5 left (about 4 min), 1 failed"


def test_time_left_is_what_runs_took_and_not_how_long_ago_they_ended(tmp_path):
    """Three runs in the first minute of a batch that was begun a day ago and stopped."""
    (tmp_path / STARTED).touch()
    os.utime(tmp_path / STARTED, (time.time() - 86400,) * 2)
    for i in range(3):
        put(tmp_path, f"run{i}", age=86400 - 20 * (i + 1))
    assert abs(progress(tmp_path, PLANNED).seconds_left - 7 * 20) < 1
    assert str(progress(tmp_path, PLANNED)) == "3 of 10 runs done, 0 running, 7 left, 0 failed", "nothing runs: no end in sight"


def test_what_vanishes_or_cannot_be_locked_is_not_there(tmp_path, monkeypatch):
    (tmp_path / STARTED).touch()
    put(tmp_path, "run0", age=-1)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "run5").touch()

    def unsupported(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(progress_module, "FileLock", unsupported)
    read = progress_module._status
    monkeypatch.setattr(progress_module, "_status", lambda path: (read(path), path.unlink(missing_ok=True))[0])
    found = progress(tmp_path, PLANNED)
    assert (found.done, found.running, found.seconds_left) == (1, 0, None)


def test_it_is_told_when_a_run_has_ended_and_not_again(tmp_path, capfd):
    put(tmp_path, "run0")
    progress_module.tell(tmp_path, PLANNED, every_s=0.01)
    wait_until(lambda: "1 of 10" in (said := capfd.readouterr().err) and said.count("\n") == 1)
    time.sleep(0.1)
    assert capfd.readouterr().err == ""
    put(tmp_path, "run1")
    wait_until(lambda: "2 of 10 runs done" in capfd.readouterr().err)


def wait_until(what):
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("text", ["{", "{}", "[]", "null", "3"])
def test_a_damaged_result_is_left_to_do(tmp_path, text):
    put(tmp_path, "run0")
    (tmp_path / "runs/run0/result.json").write_text(text)
    assert progress(tmp_path, PLANNED).left == 10


def test_all_done_has_no_time_left(tmp_path):
    (tmp_path / STARTED).touch()
    for run_id in PLANNED:
        put(tmp_path, run_id, age=-1)
    assert str(progress(tmp_path, PLANNED)) == "10 of 10 runs done, 0 running, 0 left, 0 failed"
